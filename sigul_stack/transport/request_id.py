"""A request's id, from the inner session's bytes into the log's lines.

Whoever moves those bytes, from the client's side to the server's, feeds a `RequestWatch` with them.
It never changes, keeps or refuses any.
"""

from __future__ import annotations

import logging

from ..logcontext import current
from ..logevents import tell
from ..protocol.hello import HelloWatch
from .log_events import TransportLog

log = logging.getLogger(__name__)


class RequestWatch:
    """Looks for a request's id in what its client sends in the inner session."""

    def __init__(self) -> None:
        self._hello = HelloWatch()

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come of it: the id is known, or there is none."""
        context = current()
        return self._hello.is_over or context is None or bool(context.request)

    def feed(self, data: bytes) -> None:
        """Look at the next bytes; where they have the id, this thread's `LogContext` gets it.

        One line of the log ties it to the connection's then.
        """
        request = self._hello.feed(data)
        context = current()
        if request is None or context is None or context.request:
            return
        context.request = request
        tell(log, TransportLog.REQUEST_ID, request=request, connection=context.connection)
