"""The supervisor: keeps worker processes waiting at the bridge, one forked for each one taken.

Invariant: it has every module imported, so that a fork is cheap, and never touches NSS, a request
or a key: a process that forks may not have opened NSS, and one that lives on should know no secret.
(The one exception is an NSS password typed at start, which its workers could not ask for.)

    worker: "started" ─▶ attached ─▶ busy (both told through its pipe) ─▶ gone (reaped)
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NoReturn, Protocol

from .. import __version__
from ..errors import SigulError
from ..metrics import Counters, ServerCount
from ..protocol.status import MAX_LISTED, AttachedWorker, ServerStatus
from ..transport.status import StatusSocket
from .news import Event, News, Reporter, read_news

log = logging.getLogger(__name__)

#: Pause before another worker is forked where the last ones ended without having served, in
#: seconds; doubled up to the longest.
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
#: How long a worker that was taken stays unreplaced while others still wait, in seconds: the
#: replacement's start would take its processor from the request that has just come.
REFILL_DELAY_SECONDS: Final = 0.3
#: Seconds for a worker that was told to end, before it is killed.
KILL_AFTER_SECONDS: Final = 5.0
#: How often the supervisor looks at its workers while it ends, in seconds.
_REAP_SECONDS: Final = 0.05

#: A worker's work: gets the lifeline's descriptor and what to tell the supervisor with.
Serve = Callable[[int, Reporter], None]
#: What a child process does once it is one: gets the descriptor of its pipe to the supervisor.
_Work = Callable[[int], None]


class Stopper(Protocol):
    """Tells when to stop; see `cli.daemon.Stop`."""

    def fileno(self) -> int:
        """A descriptor that is readable from then on."""
        ...

    def release(self) -> None:
        """In a child: put the former signal handlers back."""
        ...


@dataclass(slots=True)
class _Child:
    pid: int
    news: int
    busy: bool = False
    #: Since when it waits at the bridge (`time.monotonic`); None where it does not.
    attached_at: float | None = None
    handshake_seconds: float = 0.0


class Supervisor:
    """Keeps `workers` processes waiting while at most `max_requests` others are busy.

    `repair` is run, in a child as well, after a worker crashed in the middle of a request.
    """

    def __init__(
        self,
        serve: Serve,
        *,
        repair: Callable[[], None],
        workers: int,
        max_requests: int,
        shutdown_timeout: float,
    ) -> None:
        self._serve = serve
        self._repair = repair
        self._workers = workers
        self._max_requests = max_requests
        self._shutdown_timeout = shutdown_timeout
        self._children: dict[int, _Child] = {}
        self._counters = Counters(ServerCount)
        self._started = datetime.now(UTC)
        self._status: StatusSocket | None = None
        self._pause = FIRST_PAUSE_SECONDS
        self._fork_at = 0.0
        self._taken_at = -REFILL_DELAY_SECONDS
        self._lifeline_read, self._lifeline_write = os.pipe()

    def status(self) -> ServerStatus:
        """What the server is doing at this moment."""
        now = time.monotonic()
        idle = [child for child in self._children.values() if not child.busy]
        attached = [
            AttachedWorker(
                child.pid, round(now - child.attached_at, 3), round(child.handshake_seconds, 6)
            )
            for child in idle
            if child.attached_at is not None
        ]
        return ServerStatus(
            version=__version__,
            pid=os.getpid(),
            started=self._started.isoformat(timespec="seconds"),
            workers_attached=len(attached),
            workers_dialling=len(idle) - len(attached),
            workers_busy=len(self._children) - len(idle),
            workers=tuple(attached[:MAX_LISTED]),
            totals=self._counters.values(),
        )

    def run(self, stop: Stopper, status: StatusSocket | None = None) -> None:
        """Serve until `stop` is readable; then let busy workers finish, up to a limit.

        Who asks at `status`, if it is given, is answered as well.
        """
        self._status = status
        # What is imported stays for good: not looking at it again keeps its pages shared.
        gc.collect()
        gc.freeze()
        try:
            while True:
                wait = self._fill(stop)
                if self._wait(stop, wait):
                    break
        finally:
            self._end()

    def _fill(self, stop: Stopper) -> float | None:
        """Fork what is missing; seconds until more should be tried, None where nothing is due."""
        busy = sum(child.busy for child in self._children.values())
        waiting = len(self._children) - busy
        missing = min(self._workers - waiting, self._workers + self._max_requests - waiting - busy)
        if missing <= 0:
            return None
        early = self._fork_at - time.monotonic()
        if early > 0:
            return early
        rest = self._taken_at + REFILL_DELAY_SECONDS - time.monotonic()
        if rest > 0 and 2 * waiting > self._workers:
            return rest
        for _ in range(missing):
            self._fork(stop, self._be_worker)
        return None

    def _be_worker(self, news: int) -> None:
        self._serve(self._lifeline_read, Reporter(news))

    def _fork(self, stop: Stopper, work: _Work, *, busy: bool = False) -> None:
        news_read, news_write = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(news_read)
            os.close(news_write)
            log.error("Starting a worker failed: %s", error.strerror)
            self._slow_down()
            return
        if pid == 0:
            self._be_child(stop, work, news_read, news_write)
        os.close(news_write)
        self._children[news_read] = _Child(pid, news_read, busy)
        self._counters.add(ServerCount.WORKERS_STARTED)

    def _be_child(self, stop: Stopper, work: _Work, news_read: int, news_write: int) -> NoReturn:
        """The child's process: never returns into the supervisor's code."""
        code = 1
        try:
            stop.release()
            # Signals for the supervisor's group are the supervisor's business: the lifeline tells
            # workers what they mean.
            for number in (signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, signal.SIG_IGN)
            os.close(news_read)
            os.close(self._lifeline_write)
            for other in self._children:
                os.close(other)
            if self._status is not None:
                self._status.forget()
            work(news_write)
            code = 0
        except SigulError as error:
            log.error("%s", error)
        except Exception:
            log.exception("The worker failed in an unforeseen way")
        finally:
            logging.shutdown()
            # Not sys.exit: what the supervisor had set up to run at its end is the supervisor's.
            os._exit(code)

    def _wait(self, stop: Stopper, seconds: float | None) -> bool:
        """Wait for news of the workers; whether it is time to stop."""
        poll = select.poll()
        poll.register(stop.fileno(), select.POLLIN)
        for descriptor in (*self._children, *([self._status.fileno()] if self._status else [])):
            poll.register(descriptor, select.POLLIN)
        ready = {
            descriptor
            for descriptor, _events in poll.poll(None if seconds is None else seconds * 1000)
        }
        for descriptor in ready & set(self._children):
            self._read_news(stop, self._children[descriptor])
        if self._status is not None and self._status.fileno() in ready:
            self._status.answer()
        return stop.fileno() in ready

    def _read_news(self, stop: Stopper, child: _Child) -> None:
        news = read_news(child.news)
        if news is not None:
            self._note(child, news)
            return
        # The pipe closes when the process ends, whatever ended it.
        os.close(child.news)
        del self._children[child.news]
        _pid, status = os.waitpid(child.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            self._counters.add(ServerCount.WORKERS_CRASHED)
            log.error(
                "Worker %d was ended by signal %d%s; the server goes on",
                child.pid,
                -code,
                " in the middle of a request" if child.busy else "",
            )
            if child.busy:
                self._fork(stop, lambda _news: self._repair(), busy=True)
        if not child.busy:
            self._slow_down()

    def _note(self, child: _Child, news: News) -> None:
        now = time.monotonic()
        if news.event is Event.ATTACHED:
            child.attached_at, child.handshake_seconds = now, news.seconds
            self._counters.add(ServerCount.ATTACHED)
        elif news.event is Event.DETACHED:
            child.attached_at = None
        else:
            child.busy = True
            self._taken_at = now
            self._pause = FIRST_PAUSE_SECONDS
            self._counters.add(ServerCount.REQUESTS)

    def _slow_down(self) -> None:
        """Workers that end without having served must not be forked in a tight loop."""
        self._fork_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def _end(self) -> None:
        os.close(self._lifeline_write)
        busy = sum(child.busy for child in self._children.values())
        if busy:
            log.info("Waiting up to %g s for %d requests", self._shutdown_timeout, busy)
        if not self._reap(self._shutdown_timeout if busy else KILL_AFTER_SECONDS):
            self._signal(signal.SIGTERM)
            if not self._reap(KILL_AFTER_SECONDS):
                self._signal(signal.SIGKILL)
                self._reap(KILL_AFTER_SECONDS)
        os.close(self._lifeline_read)

    def _reap(self, seconds: float) -> bool:
        """Collect workers that end within `seconds`; whether all have."""
        end = time.monotonic() + seconds
        while self._children and time.monotonic() < end:
            for child in list(self._children.values()):
                try:
                    pid, _status = os.waitpid(child.pid, os.WNOHANG)
                except OSError as error:
                    if error.errno != errno.ECHILD:
                        raise
                    pid = child.pid
                if pid:
                    os.close(child.news)
                    del self._children[child.news]
            if self._children:
                time.sleep(_REAP_SECONDS)
        return not self._children

    def _signal(self, number: int) -> None:
        for child in self._children.values():
            log.warning("Worker %d did not end in time and gets signal %d", child.pid, number)
            os.kill(child.pid, number)
