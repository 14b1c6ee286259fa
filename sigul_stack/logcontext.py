"""The subject of the log's lines of this moment: a connection, and the request that comes on it.

One `LogContext` belongs to one connection; all threads that work for it share that one object, so
that a thread which was begun before the request's id was known has it as soon as the others do. A
new thread starts without one: whoever starts it hands it on (`contextvars.copy_context`, or
`work_for`). Imports nothing of the package.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from .records import dataclass


@dataclass(slots=True)
class LogContext:
    """Ids that stand in the lines of a log.

    `connection` is this process's own and says nothing elsewhere. `request` is the same in client,
    bridge and server (`protocol.hello`), and empty until it is known. It is chosen by the client,
    so two requests may share one: it is never a key to anything.
    """

    connection: str
    request: str = ""

    def __str__(self) -> str:
        return self.request or self.connection


_CURRENT: ContextVar[LogContext | None] = ContextVar("sigul_log_context", default=None)


def current() -> LogContext | None:
    """The context that this thread works for; None where that is no connection."""
    return _CURRENT.get()


def work_for(context: LogContext | None) -> None:
    """Have this thread's lines be about `context` from now on; None: about no connection."""
    _CURRENT.set(context)


@contextlib.contextmanager
def about(context: LogContext | None) -> Iterator[LogContext | None]:
    """Have this thread's lines be about `context` in the block, and about what they were behind."""
    token = _CURRENT.set(context)
    try:
        yield context
    finally:
        _CURRENT.reset(token)


def request_id() -> str:
    """The id of the request that this thread works for; empty where there is none, or none yet."""
    context = _CURRENT.get()
    return "" if context is None else context.request
