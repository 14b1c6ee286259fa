"""The client library's events of the log: see `logevents`. A name, once there, stays."""

from __future__ import annotations

from ..logevents import INFO, WARNING, LogEvent

# Each event in few lines: ruff would have five of each.
# fmt: off


class ClientLog(LogEvent):
    """The client library's lines."""

    INNER_TLS_BEGINS = "inner-tls-begins", INFO, "[DOUBLE_TLS] Starting TLS handshake"
    INNER_TLS_COMPLETED = "inner-tls-completed", INFO, (
        "[DOUBLE_TLS] TLS handshake completed successfully"
    )
    SERVER_WARNING = "server-warning", WARNING, "the server warns: {why!t}"
    OUTPUT_HAS_LINKS = "output-has-links", WARNING, (
        "{path!q} had {count} more names (hard links): what they name is as it was; copy it "
        "there"
    )
    EXTENSIONS_KNOWN = "extensions-known", INFO, (
        "The server knows {server!t}; the bridge {bridge!t}"
    )
    TRAILER_IGNORED = "trailer-ignored", INFO, (
        "What the bridge says behind the reply is passed over: {why!t}"
    )
    TRYING_AGAIN = "request-tried-again", WARNING, (
        "nothing was done yet: {cause!t}; next attempt in {seconds} s"
    )
    GAVE_UP = "request-given-up", WARNING, (
        "gave up after attempt {tries}: the limit of {seconds:g} s is over (retry-seconds)"
    )
