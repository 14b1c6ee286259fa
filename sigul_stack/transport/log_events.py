"""The transport's events of the log: see `logevents`. A name, once there, stays."""

from __future__ import annotations

from ..logevents import INFO, WARNING, LogEvent

# Each event in few lines: ruff would have five of each.
# fmt: off


class TransportLog(LogEvent):
    """The transport's lines."""

    BRIDGE_SILENT = "bridge-silent", WARNING, (
        "{address!t} has accepted the connection but does not begin its TLS handshake; bridges "
        "of 1.x begin it when a client comes. Waiting up to {seconds:g} s"
    )
    CERTIFICATES_AMBIGUOUS = "certificates-ambiguous", WARNING, (
        "{count} certificates in {path!p} have the nickname {nickname!q}; used is the one with "
        "the serial number {serial}, valid until {until!t}; remove the others: sigul-stack pki "
        "remove --others"
    )
    ANSWER_CUT_OFF = "answer-cut-off", WARNING, "An answer of {bytes} bytes was cut off: too long"
    STATUS_COMMAND_UNKNOWN = "status-command-unknown", WARNING, (
        "Somebody asks the status socket for what it does not have"
    )
    #: Ties the id that a connection's lines had before to the one that they have from here on.
    REQUEST_ID = "request-id", INFO, "Request {request} is on connection {connection}"
