"""The states of a request that a bridge forwards, and what leads from one to the next: a table."""

from __future__ import annotations

import enum
import threading
from collections.abc import Collection
from typing import Final


class RequestState(enum.Enum):
    """The stage that a request has reached."""

    #: The inner session is open: the server waits for the client's secrets.
    INNER_SESSION = enum.auto()
    #: The server has, or needs, no more secrets: it works, or replies.
    WORKING = enum.auto()
    #: The reply is complete; the client may still read, and be late with its inner end.
    REPLIED = enum.auto()
    #: The client has closed after its reply.
    CLOSED = enum.auto()
    FAILED = enum.auto()


class RequestEvent(enum.Enum):
    """An observation of either thread that may change the state."""

    INNER_END = enum.auto()
    #: A piece of the reply. Some servers never end their inner stream; none replies before it has
    #: heard all.
    REPLY = enum.auto()
    REPLY_END = enum.auto()
    CLIENT_END = enum.auto()
    ERROR = enum.auto()


#: The next state; an event that is not listed changes nothing. After its reply, nothing that a
#: client does is a failure any more.
TRANSITIONS: Final = {
    (RequestState.INNER_SESSION, RequestEvent.INNER_END): RequestState.WORKING,
    (RequestState.INNER_SESSION, RequestEvent.REPLY): RequestState.WORKING,
    (RequestState.INNER_SESSION, RequestEvent.REPLY_END): RequestState.REPLIED,
    (RequestState.INNER_SESSION, RequestEvent.ERROR): RequestState.FAILED,
    (RequestState.WORKING, RequestEvent.REPLY_END): RequestState.REPLIED,
    (RequestState.WORKING, RequestEvent.ERROR): RequestState.FAILED,
    (RequestState.REPLIED, RequestEvent.CLIENT_END): RequestState.CLOSED,
}
#: States of a request whose reply is complete, and those of one that is over.
WELL: Final = frozenset({RequestState.REPLIED, RequestState.CLOSED})
OVER: Final = WELL | {RequestState.FAILED}


class Progress:
    """The state of a request, shared by two threads."""

    def __init__(self) -> None:
        self._state = RequestState.INNER_SESSION
        self._changed = threading.Condition()

    @property
    def state(self) -> RequestState:
        """The present state."""
        return self._state

    def advance(self, event: RequestEvent) -> bool:
        """Take note of an event; True where that changes the state."""
        with self._changed:
            state = TRANSITIONS.get((self._state, event))
            if state is not None:
                self._state = state
                self._changed.notify_all()
            return state is not None

    def wait_for(self, states: Collection[RequestState], seconds: float | None) -> bool:
        """Wait for one of `states`; False after `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._state in states, seconds)
