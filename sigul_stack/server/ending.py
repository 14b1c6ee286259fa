"""The end of a request before its time, because its rights have ended or somebody wants it.

A thread of the worker watches while a request is under way: each second it asks the database
whether the rights that let the request in are there still, wherever a server of the site has
changed that; it hears the supervisor's commands; and it sees that the connection is over, so that
nothing is worked on for a client that has left. Where the request is to end:

    no reply has begun    the client is answered, authenticated, with the reason
    a reply has begun     what is under way in it has a moment to be refused, then it is cut off

and the process ends, its programs before it. Invariant: nobody begins a reply behind the thread's
back, and it ends no request whose reply is complete.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Final

from ..database import Database
from ..errors import DatabaseError, RequestRefused, Status, quoted
from ..logcontext import LogContext, current, request_id, work_for
from ..system import programs
from ..system.pipes import ParentPipes
from ..transport.chunked import ChunkedStream
from ..transport.stream import readable
from .decisions import Decision
from .events import WorkerCommand, WorkerEvent, encode_client
from .request import Request, send_error
from .rights import Granted, require_still

log = logging.getLogger(__name__)

#: Pause between looks at the rights, in seconds.
LOOK_SECONDS: Final = 1.0
#: The time for which a request goes on while the database cannot be read, in seconds.
UNREADABLE_SECONDS: Final = 60.0
#: The time that a reply under way has to refuse what is under way in it, in seconds.
REFUSAL_SECONDS: Final = 0.5
#: Seconds for the supervisor to find out whether a certificate is good.
STALE_SECONDS: Final = 30.0
#: Seconds for the refusal to be in the signing log before it is told.
LOG_SECONDS: Final = 2.0
#: Seconds for the bridge to close after a refusal.
CLOSE_SECONDS: Final = 2.0
#: The exit code of a worker whose request was ended.
ENDED: Final = 3

_REFUSALS: Final = {
    WorkerCommand.END: RequestRefused(
        Status.UNKNOWN_ERROR, "the request was ended by whoever runs the server; ask them why"
    ),
    WorkerCommand.DISTRUSTED: RequestRefused(Status.AUTHENTICATION_FAILED),
}
_LEFT: Final = RequestRefused(Status.UNKNOWN_ERROR, "the client has left")
_REASONS: Final = {
    WorkerCommand.END: "somebody at this server wants its end",
    WorkerCommand.DISTRUSTED: "its client's certificate is no longer good",
}


class Watch:
    """Watches the request that `chunked` carries, from `begin` to `finish`."""

    def __init__(self, chunked: ChunkedStream, parent: ParentPipes, database: Database) -> None:
        self._chunked = chunked
        self._parent = parent
        self._database = database
        self._request: Request | None = None
        self._decision: Decision | None = None
        self._what = ""
        #: Held while rights are looked at, or changed by the request itself.
        self._looking = threading.Lock()
        self._has_changed = False
        self._granted: Granted | None = None
        self._unreadable_since: float | None = None
        #: Held while one of the two threads decides what becomes of the reply.
        self._deciding = threading.Lock()
        self._replying = False
        self._finished = threading.Event()
        self._refusal: RequestRefused | None = None

    # ----------------------------------------------------------------------- the request's thread

    def begin(self, request: Request, decision: Decision | None = None) -> None:
        """Begin to watch a request that has come completely, and tell the supervisor whose it is.

        Whether its rights last is looked at once they are `add`ed. `decision` is told where it is
        refused from here. Raises `RequestRefused` where the supervisor does not let it begin.
        """
        user = request.text("user")
        self._request, self._decision = request, decision
        self._what = f"Request {quoted(request.op)} of user {quoted(user)}"
        told = encode_client(request.client_name, user, request.op, request_id())
        self._parent.send(WorkerEvent.CLIENT, told)
        self._wait_where_stale()
        threading.Thread(target=self._run, args=(current(),), name="watch", daemon=True).start()

    def _wait_where_stale(self) -> None:
        """Wait until the client's certificate is found good, where this process cannot tell.

        Its NSS is as old as the process. A client that had itself connected before its certificate
        was distrusted would else be served by it.
        """
        control = [self._parent.fileno()]
        seconds = 0.0
        while readable(control, seconds):
            content = self._parent.command()
            if not content:
                return  # the server ends; its requests may finish
            command = WorkerCommand(content)
            if command is WorkerCommand.GOOD:
                return
            if command is not WorkerCommand.STALE:
                log.warning("%s: %s; it does not begin", self._what, _REASONS[command])
                raise _REFUSALS[command]
            seconds = STALE_SECONDS
        if seconds:
            raise RequestRefused(
                Status.UNKNOWN_ERROR,
                "the server could not look at your certificate in time; its log says why",
            )

    def add(self, granted: Granted) -> None:
        """Watch rights that the request goes on with."""
        self._granted = granted

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Have the block change the database, and look at no rights from then on.

        The change itself looks at them, and may be what ends them.
        """
        with self._looking:
            yield
            self._has_changed = True

    @property
    def is_ending(self) -> bool:
        """Whether the request is being ended."""
        return self._refusal is not None

    def check(self) -> None:
        """Raise `RequestRefused` where the request is being ended."""
        if self._refusal is not None:
            raise self._refusal

    def begin_reply(self) -> None:
        """To be called before anything of a reply is sent; never returns where one was sent."""
        with self._deciding:
            self._replying = True

    def finish(self) -> None:
        """Stop watching: the reply is complete, or nothing more can come of it."""
        self._finished.set()
        with self._deciding:  # whoever ends it just now does not go on with that
            pass

    # --------------------------------------------------------------------------- the watching one

    def _run(self, context: LogContext | None) -> None:
        work_for(context)
        control = {self._parent.fileno()}
        while not self._finished.is_set():
            if readable(control, LOOK_SECONDS):
                content = self._parent.command()
                if not content:
                    control.clear()  # the server ends; its requests may finish
                    continue
                command = WorkerCommand(content)
                if command in _REFUSALS:
                    self._end(_REFUSALS[command], _REASONS[command])
                continue
            if self._chunked.stream.is_broken() and not self._has_changed:
                self._end(_LEFT, "its client has left, or the bridge has")
                return
            try:
                self._look()
            except RequestRefused as refused:
                self._end(refused, "the rights that it was let in with have ended")
            except Exception:
                log.exception("Watching the request failed in an unforeseen way")
                self._end(RequestRefused(Status.UNKNOWN_ERROR), "it cannot be watched")

    def _look(self) -> None:
        """Raise `RequestRefused` where the rights have ended, or cannot be told for too long."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            if self._granted is not None and not self._has_changed:
                require_still(self._granted, self._database)
        except DatabaseError as error:
            now = time.monotonic()
            if self._unreadable_since is None:
                self._unreadable_since = now
                log.warning("Whether the request's rights last cannot be told just now: %s", error)
            elif now - self._unreadable_since > UNREADABLE_SECONDS:
                raise RequestRefused(
                    Status.UNKNOWN_ERROR,
                    "the server could not look at your rights for too long; its log says why",
                ) from error
        else:
            self._unreadable_since = None
        finally:
            self._looking.release()

    def _end(self, refused: RequestRefused, why: str) -> None:
        """End the request, and this process, unless the reply is complete by then."""
        with self._deciding:
            self._refusal = refused
            if self._finished.is_set():
                return
            log.warning("%s: %s; the request is ended", self._what, why)
            programs.end_all()
            try:
                if not self._replying:
                    self._refuse(refused)
                elif self._finished.wait(REFUSAL_SECONDS):
                    return
            except Exception as error:  # noqa: BLE001 - it ends whatever comes
                log.info("The client did not hear why: %s", error)
            self._chunked.stream.abort()
            # The other threads may be anywhere; nothing of theirs is to go on.
            os._exit(ENDED)

    def _refuse(self, refused: RequestRefused) -> None:
        assert self._request is not None  # noqa: S101 - set before the thread starts
        if self._decision is not None:
            self._decision.refused(refused, refused, LOG_SECONDS)
        send_error(self._chunked, self._request, refused)
        self._chunked.stream.end_writing()
        self._chunked.wait_for_close(CLOSE_SECONDS)
