"""The supervisor: keeps worker processes waiting at the bridge, one forked for each one taken.

Invariant: it has every module imported, so that a fork is cheap, and never touches NSS, a request
or a key: a process that forks may not have opened NSS, and one that lives on should know no secret.
(The one exception is an NSS password typed at start, which its workers could not ask for.)

    worker: "started" ─▶ attached ─▶ busy (both told through its pipe) ─▶ gone (reaped)

To take new certificates and settings into use (`Plan`), workers of the new plan are forked beside
those of the old one, and each that has attached lets an old one that still waits end. So the bridge
always has one to give a request to; where new ones cannot attach, the old ones go on.
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
from typing import Final

from .. import __version__
from ..children import Reloader, Stopper, fork
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
#: What a child process does once it is one: gets its ends of the pipes from and to the supervisor.
_Work = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How to serve, from one reading of the configuration. All is run in child processes.

    `workers` processes wait while at most `max_requests` others are busy. `check` raises
    `SigulError` where workers could not serve; `repair` is run after one crashed in the middle of
    a request. `shutdown_timeout` is in seconds.
    """

    serve: Serve
    check: Callable[[], None]
    repair: Callable[[], None]
    workers: int
    max_requests: int
    shutdown_timeout: float


@dataclass(slots=True)
class _Child:
    pid: int
    news: int
    #: Its end tells an idle worker to end; it has the other one. None once that is done.
    lifeline: int | None
    #: What it serves by, or looks at where it is the `check` of that.
    plan: Plan
    #: Whether it serves a request, or does anything else that is not to be interrupted.
    busy: bool = False
    is_check: bool = False
    #: Since when it waits at the bridge (`time.monotonic`); None where it does not.
    attached_at: float | None = None
    handshake_seconds: float = 0.0


class Supervisor:
    """Keeps workers of the newest plan that works. `renew` reads the configuration again.

    `renew` raises `SigulError` where that is invalid; then everything stays as it is.
    """

    def __init__(self, plan: Plan, renew: Callable[[], Plan]) -> None:
        self._plan = plan
        self._renew = renew
        self._reload_again = False
        self._children: dict[int, _Child] = {}
        self._counters = Counters(ServerCount)
        self._started = datetime.now(UTC)
        self._status: StatusSocket | None = None
        self._pause = FIRST_PAUSE_SECONDS
        self._fork_at = 0.0
        self._taken_at = -REFILL_DELAY_SECONDS

    def status(self) -> ServerStatus:
        """What the server is doing at this moment."""
        now = time.monotonic()
        idle = self._idle()
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
            workers_busy=sum(item.busy and not item.is_check for item in self._children.values()),
            workers=tuple(attached[:MAX_LISTED]),
            totals=self._counters.values(),
        )

    def run(self, stop: Stopper, reload: Reloader, status: StatusSocket | None = None) -> None:
        """Serve until `stop` is readable; then let busy workers finish, up to a limit.

        When `reload` is readable, go over to what the configuration says then. Who asks at
        `status`, if it is given, is answered as well.
        """
        self._status = status
        # What is imported stays for good: not looking at it again keeps its pages shared.
        gc.collect()
        gc.freeze()
        try:
            while True:
                wait = self._fill(stop)
                if self._wait(stop, reload, wait):
                    break
        finally:
            self._end()

    def _fill(self, stop: Stopper) -> float | None:
        """Fork what is missing; seconds until more should be tried, None where nothing is due."""
        plan = self._plan
        busy = sum(child.busy for child in self._children.values())
        waiting = sum(child.plan is plan for child in self._idle())
        missing = min(plan.workers - waiting, plan.workers + plan.max_requests - waiting - busy)
        if missing <= 0:
            return None
        early = self._fork_at - time.monotonic()
        if early > 0:
            return early
        rest = self._taken_at + REFILL_DELAY_SECONDS - time.monotonic()
        if rest > 0 and 2 * waiting > plan.workers:
            return rest
        for _ in range(missing):
            self._fork(stop, lambda lifeline, news: plan.serve(lifeline, Reporter(news)))
            self._counters.add(ServerCount.WORKERS_STARTED)
        return None

    def _idle(self) -> list[_Child]:
        return [child for child in self._children.values() if not child.busy]

    def _fork(self, stop: Stopper, work: _Work, *, busy: bool = False) -> _Child | None:
        news_read, news_write = os.pipe()
        lifeline_read, lifeline_write = os.pipe()

        def be_child() -> None:
            # A pipe ends only when nobody has its other end any more.
            for descriptor in (news_read, lifeline_write, *self._descriptors()):
                os.close(descriptor)
            if self._status is not None:
                self._status.forget()
            work(lifeline_read, news_write)

        try:
            # Signals for the supervisor's group are the supervisor's business: the lifeline tells
            # workers what they mean.
            ignore = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
            pid = fork(be_child, stop=stop, ignore=ignore)
        except OSError as error:
            for descriptor in (news_read, lifeline_write):
                os.close(descriptor)
            log.error("Starting a worker failed: %s", error.strerror)
            self._slow_down()
            return None
        finally:
            os.close(news_write)
            os.close(lifeline_read)
        child = self._children[news_read] = _Child(
            pid, news_read, lifeline_write, self._plan, busy=busy
        )
        return child

    def _descriptors(self) -> list[int]:
        """What the supervisor has open for its children."""
        every = [(child.news, child.lifeline) for child in self._children.values()]
        return [item for pair in every for item in pair if item is not None]

    def _wait(self, stop: Stopper, reload: Reloader, seconds: float | None) -> bool:
        """Wait for news of the workers; whether it is time to stop."""
        poll = select.poll()
        others = (stop.fileno(), reload.fileno())
        for descriptor in (
            *others,
            *self._children,
            *([self._status.fileno()] if self._status else []),
        ):
            poll.register(descriptor, select.POLLIN)
        ready = {
            descriptor
            for descriptor, _events in poll.poll(None if seconds is None else seconds * 1000)
        }
        for descriptor in ready & set(self._children):
            self._read_news(stop, self._children[descriptor])
        if self._status is not None and self._status.fileno() in ready:
            self._status.answer()
        if reload.fileno() in ready:
            reload.take()
            self._reload_again = True
        if self._reload_again and not any(child.is_check for child in self._children.values()):
            self._reload_again = False
            self._check_new_plan(stop)
        return stop.fileno() in ready

    def _check_new_plan(self, stop: Stopper) -> None:
        """Read the configuration again, and have a child look whether workers could serve so."""
        log.info("Reading configuration and certificates again")
        try:
            plan = self._renew()
        except SigulError as error:
            log.error("The new configuration is not taken, the former one stays: %s", error)
            return
        child = self._fork(stop, lambda _lifeline, _news: plan.check(), busy=True)
        if child is not None:
            child.plan = plan
            child.is_check = True

    def _take_plan(self, plan: Plan) -> None:
        log.info("The configuration is taken; new workers take the old ones' places")
        self._plan = plan
        self._pause, self._fork_at = FIRST_PAUSE_SECONDS, 0.0

    def _retire_for(self, newcomer: _Child) -> None:
        """Let an old worker that still waits end, now that one of the newest plan has attached.

        All of them, once as many as the plan wants have.
        """
        if newcomer.plan is not self._plan:
            return
        idle = self._idle()
        old = [item for item in idle if item.plan is not self._plan and item.lifeline is not None]
        old.sort(key=lambda item: item.attached_at is not None)  # those that do not wait yet first
        attached = sum(item.plan is self._plan and item.attached_at is not None for item in idle)
        for child in old if attached >= self._plan.workers else old[:1]:
            self._let_go(child)

    def _let_go(self, child: _Child) -> None:
        if child.lifeline is not None:
            os.close(child.lifeline)
            child.lifeline = None

    def _forget(self, child: _Child) -> None:
        self._let_go(child)
        os.close(child.news)
        del self._children[child.news]

    def _read_news(self, stop: Stopper, child: _Child) -> None:
        news = read_news(child.news)
        if news is not None:
            self._note(child, news)
            return
        # The pipe closes when the process ends, whatever ended it.
        self._forget(child)
        _pid, status = os.waitpid(child.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if child.is_check:
            if code == 0:
                self._take_plan(child.plan)
            else:
                log.error("The new configuration is not taken, the former one stays")
            return
        if code < 0:
            self._counters.add(ServerCount.WORKERS_CRASHED)
            log.error(
                "Worker %d was ended by signal %d%s; the server goes on",
                child.pid,
                -code,
                " in the middle of a request" if child.busy else "",
            )
            if child.busy:
                self._fork(stop, lambda _lifeline, _news: self._plan.repair(), busy=True)
        if not child.busy and child.plan is self._plan:
            self._slow_down()

    def _note(self, child: _Child, news: News) -> None:
        now = time.monotonic()
        if news.event is Event.ATTACHED:
            child.attached_at, child.handshake_seconds = now, news.seconds
            self._counters.add(ServerCount.ATTACHED)
            self._retire_for(child)
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
        for child in self._children.values():
            self._let_go(child)
        busy = sum(child.busy for child in self._children.values())
        if busy:
            log.info("Waiting up to %g s for %d requests", self._plan.shutdown_timeout, busy)
        if not self._reap(self._plan.shutdown_timeout if busy else KILL_AFTER_SECONDS):
            self._signal(signal.SIGTERM)
            if not self._reap(KILL_AFTER_SECONDS):
                self._signal(signal.SIGKILL)
                self._reap(KILL_AFTER_SECONDS)

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
                    self._forget(child)
            if self._children:
                time.sleep(_REAP_SECONDS)
        return not self._children

    def _signal(self, number: int) -> None:
        for child in self._children.values():
            log.warning("Worker %d did not end in time and gets signal %d", child.pid, number)
            os.kill(child.pid, number)
