"""Events of the signing log and of its witnesses: see `logevents`. A name, once there, stays."""

from __future__ import annotations

from ..logevents import ERROR, INFO, WARNING, LogEvent

# Each event in few lines: ruff would have five of each.
# fmt: off


_FORGETS = (
    "What is known of the server's signing log is not kept: {path!q} is no directory of user"
    " {user_id} alone that it can write to; set signing-log-state to a file in one"
)


class EvidenceLog(LogEvent):
    """The signing log's and witnesses' lines."""

    INDEX_UNUSABLE = "index-unusable", WARNING, (
        "The index {path!p} cannot be used, the log is read instead: {why!t}"
    )
    INDEX_NOT_UPDATED = "index-not-updated", WARNING, (
        "The index {path!p} was not brought up to date: {why!t}"
    )
    SIGNING_LOG_ADOPTED = "signing-log-adopted", INFO, (
        "The signing log of {server!q} is taken as known: {origin!q}, key {key!p}"
    )
    SIGNING_LOG_INDEX_NOT_UPDATED = "signing-log-index-not-updated", WARNING, (
        "The index of the signing log was not brought up to date: {why!t}"
    )
    SIGNING_LOG_UNOPENED = "signing-log-unopened", ERROR, (
        "The signing log cannot be opened, and nothing is signed: {why!t}"
    )
    LOG_MESSAGE_UNANSWERABLE = "log-message-unanswerable", WARNING, (
        "A worker has sent the signing log what cannot be answered"
    )
    SIGNING_LOG_UNWRITTEN = "signing-log-unwritten", ERROR, (
        "The signing log was not written: {why!t}"
    )
    SIGNING_LOG_CRASHED = "signing-log-crashed", ERROR, (
        "Writing the signing log failed in an unforeseen way"
    )
    SIGNING_LOG_UNPROVEN = "signing-log-unproven", ERROR, (
        "The signing log cannot be proven: {why!t}"
    )
    LOG_MESSAGE_INVALID = "log-message-invalid", WARNING, (
        "A worker has sent the signing log what is no message"
    )
    SIGNING_LOG_COMPLETED = "signing-log-completed", WARNING, (
        "The signing log {path!p} was not closed in order: {leaves} leaves behind its"
        " checkpoint are taken in"
    )
    SIGNING_LOG_CUT = "signing-log-cut", WARNING, (
        "The signing log {path!p} was not closed in order: {leaves} leaves behind its"
        " checkpoint are taken in, and half of one is cut off"
    )
    WITNESS_FORGETS = "witness-forgets", WARNING, _FORGETS
    #: Where that is usual.
    WITNESS_WITHOUT_STATE = "witness-without-state", INFO, _FORGETS
