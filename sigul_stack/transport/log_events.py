"""The events that the transport logs (`logevents`)."""

from __future__ import annotations

from ..logevents import INFO, LogEvent


class TransportLog(LogEvent):
    """Events of connections, in client, bridge and server."""

    #: Ties the id that a connection's lines had before to the one that they have from here on.
    REQUEST_ID = "request-id", INFO, "Request {request} is on connection {connection}"
