"""The signers' events of the log: see `logevents`. A name, once there, stays."""

from __future__ import annotations

from ..logevents import INFO, WARNING, LogEvent

# Each event in few lines: ruff would have five of each.
# fmt: off


class SigningEvents(LogEvent):
    """The signers' lines."""

    CONTAINER_WARNING = "container-warning", WARNING, "sign-container: {why!t}"
    DECRYPTION_FAILED = "decryption-failed", INFO, "cannot decrypt with key {fingerprint}: {said!q}"
    RPM_DIGEST_WEAK = "rpm-digest-weak", WARNING, (
        "Only rpm-sigmd5, which its own header holds, speaks for the RPM's head"
    )
    RPM_REFUSED = "rpm-refused", INFO, "rpmkeys refuses the RPM: {said!q}"
    RPM_KEY_UNKNOWN = "rpm-key-unknown", WARNING, (
        "what rpm takes of key {fingerprint} is not known: {why!t}"
    )
    RPM_KEY_REMARK = "rpm-key-remark", INFO, "key {fingerprint} signs RPMs: {remark!t}"
