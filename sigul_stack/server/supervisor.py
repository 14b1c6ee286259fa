"""The supervisor: keeps worker processes waiting at the bridge, one forked for each one taken.

Invariant: it has every module imported, so that a fork is cheap, and never touches NSS, a request
or a key: a process that forks may not have opened NSS, and one that lives on should know no secret.
(The one exception is an NSS password typed at start, which its workers could not ask for.)

    worker: "started" ─▶ attached ─▶ busy (both told through its pipe) ─▶ gone (reaped)

To take new certificates and settings into use (`ServerPlan`), workers of the new plan are forked
beside those of the old one, and each that has attached lets an old one that still waits end. So the
bridge always has one to give a request to; where new ones cannot attach, the old ones go on. What
the old ones serve is looked at with the new certificates, too (`Look`), and ended where those do
not take it.

One more child writes the signing log for all workers (`evidence.writer`). It stays whatever plan is
taken, and a new one comes where it has ended. At the end it outlives the workers.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Final

from .. import __version__
from ..errors import SigulError, quoted
from ..evidence.writer import LogChannel
from ..logcontext import LogContext, about
from ..logevents import tell
from ..metrics import Counters, ServerCount
from ..observe.exposition import Samples, text
from ..protocol.status import MAX_LISTED, AttachedWorker, RequestUnderWay, ServerStatus
from ..system.pipes import ParentPipes, require
from ..system.processes import (
    FIRST_PAUSE_SECONDS,
    KILL_AFTER_SECONDS,
    BackOff,
    Child,
    ProcessFamily,
    run_in_child,
)
from ..system.signals import SignalPipe
from ..transport.nss_certificates import LOOK_SECONDS, TOLD_BYTES, Look
from ..transport.status_socket import StatusSocket
from .ending import ENDED
from .events import (
    VERSION_OF,
    WorkerCommand,
    WorkerEvent,
    decode_client,
    decode_count,
    decode_handshake,
    decode_logged,
)
from .log_events import ServerLog
from .measures import WRITE_SECONDS, FileTurns, ServerMeasures
from .phases import UNKNOWN, decode
from .slots import Slots

log = logging.getLogger(__name__)

#: Delay before a worker that was taken is replaced while others still wait, in seconds: the
#: replacement's start would take its processor from the request that has just come.
REFILL_DELAY_SECONDS: Final = 0.3
#: A writer of the signing log that has lived for so many seconds is replaced at once, others with
#: growing pauses.
SOUND_SECONDS: Final = 10.0
#: Seconds for a worker to end its request once it was told to, before it is killed.
END_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """A configuration as one reading of it gave it. All of its work is run in child processes.

    `workers` processes wait while at most `max_requests` others are busy. `check` raises
    `SigulError` where workers could not serve; `repair` is run after one crashed or was ended in
    the middle of a request; `look` opens NSS and tells which certificates are good.
    `shutdown_timeout` is in seconds.
    """

    serve: Callable[[ParentPipes], None]
    check: Callable[[], None]
    look: Callable[[Look, Callable[[bytes], None]], None]
    repair: Callable[[], None]
    workers: int
    max_requests: int
    shutdown_timeout: float
    #: Writes the signing log until no worker is left. Only that of the first plan counts.
    write_log: Callable[[ParentPipes], None] | None = None
    #: Digests of the files that it was read from, by their paths.
    loaded: Mapping[str, str] = field(default_factory=dict)
    #: Writes the metrics' file; None: there is none.
    write_metrics: Callable[[Samples], None] | None = None
    #: Whether metrics may have users' names.
    metrics_names: bool = False
    #: Bytes that may be in the spool; None: as many as there is room for.
    spool_limit: int | None = None


@dataclass(slots=True, eq=False)
class WorkerChild(Child):
    """A worker, or another child that works for the server: a check of a plan, a repair, a look."""

    #: The plan by which it serves, or of which it is the check.
    plan: ServerPlan
    #: It serves a request, or does anything else that is not to be interrupted.
    busy: bool = False
    is_check: bool = False
    #: It writes the signing log.
    is_writer: bool = False
    #: It writes the metrics' file.
    is_metrics: bool = False
    #: Its slot in what workers share.
    slot: int = 0
    #: The time at which it attached to the bridge (`time.monotonic`); None where it has not.
    attached_at: float | None = None
    handshake_seconds: float = 0.0
    #: The certificate of its request's client, in DER; the name in that, the user, the operation,
    #: and the request's id.
    certificate: bytes = field(default=b"", repr=False)
    client: tuple[str, str, str, str] | None = None
    #: The time at which its request came (`time.monotonic`).
    busy_since: float = 0.0
    #: The version of the protocol that its request is of, as far as that is known.
    version: str = UNKNOWN
    #: It has told what became of its request.
    is_measured: bool = False
    #: It was told to end its request.
    is_ended: bool = False
    #: The plan that the certificate was last found good by.
    seen_by: ServerPlan | None = None
    #: What it looks at, where it is there for that.
    look: Look | None = None

    @property
    def context(self) -> LogContext | None:
        """The context of lines about it: its request, once it has told of one."""
        return LogContext(f"w{self.pid}", self.client[3]) if self.client else None


class Supervisor(ProcessFamily[ServerPlan, WorkerChild]):
    """Keeps workers of the newest plan that works; see `ProcessFamily` for the rest."""

    def __init__(
        self,
        plan: ServerPlan,
        renew: Callable[[], ServerPlan],
        *,
        stop: SignalPipe,
        reload: SignalPipe,
        slots: Slots | None = None,
        channel: LogChannel | None = None,
    ) -> None:
        """`channel` is what workers and the signing log's writer share."""
        super().__init__(
            plan, renew, stop=stop, reload=reload, back_off=BackOff(first=FIRST_PAUSE_SECONDS)
        )
        self._counters = Counters(ServerCount)
        self._measures = ServerMeasures()
        self._metrics_file = FileTurns()
        self._started = datetime.now(UTC)
        self._status: StatusSocket | None = None
        self._slots = slots or Slots()
        self._taken_at = -REFILL_DELAY_SECONDS
        self._channel = channel or LogChannel()
        self._write_log = plan.write_log
        self._writer: WorkerChild | None = None
        self._writer_since = 0.0
        self._writer_back_off = BackOff(first=0.0)
        self._logged: tuple[int, datetime] | None = None

    def status(self) -> ServerStatus:
        """Describe what the server is doing at this moment."""
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
            workers_busy=sum(
                item.busy
                and item.look is None
                and not (item.is_check or item.is_writer or item.is_metrics)
                for item in self._children.values()
            ),
            workers=tuple(attached[:MAX_LISTED]),
            requests=self._requests(now),
            totals=self._counters.values(),
            loaded=self._plan.loaded,
            signing_log_size=self._logged[0] if self._logged else 0,
            signing_log_time=(
                self._logged[1].isoformat(timespec="seconds") if self._logged else ""
            ),
        )

    def samples(self) -> Samples:
        """The server's metrics at this moment."""
        return self._measures.samples(
            self.status(),
            spooled=self._slots.spooled,
            spool_limit=self._plan.spool_limit,
            names=self._plan.metrics_names,
        )

    def metrics(self) -> bytes:
        """The same as text, for who asks the status socket."""
        try:
            return text(self.samples())
        except ImportError as error:
            # Loaded by the first who asks: a package that is replaced just now ends no server.
            tell(log, ServerLog.METRICS_FAIL, reason=str(error))
            return b""

    def _requests(self, now: float) -> tuple[RequestUnderWay, ...]:
        """List what is under way at `now`, the oldest first, up to MAX_LISTED."""
        known = [child for child in self._children.values() if child.client is not None]
        return tuple(
            RequestUnderWay(
                *child.client[:3], round(now - child.busy_since, 3), request=child.client[3]
            )
            for child in sorted(known, key=lambda child: child.busy_since)[:MAX_LISTED]
            if child.client is not None
        )

    def end(self, name: str) -> int:
        """End what is under way of a user or a certificate's name; how many requests that were."""
        theirs = [
            child
            for child in self._children.values()
            if child.client is not None and name in child.client[:2] and not child.is_ended
        ]
        for child in theirs:
            self._end_request(child, WorkerCommand.END)
        log.warning("%d requests of %s are ended, as was asked for", len(theirs), quoted(name))
        return len(theirs)

    def _end_request(self, child: WorkerChild, command: WorkerCommand) -> None:
        self._counters.add(ServerCount.REQUESTS_ENDED)
        child.is_ended = True
        child.deadline = time.monotonic() + END_SECONDS
        child.command(command)

    def run(self, status: StatusSocket | None = None) -> None:
        """Serve until it is time to stop; then let busy workers finish, up to a limit.

        Who asks at `status`, if it is given, is answered as well.
        """
        self._status = status
        if status is not None:
            self._watched[status.fileno()] = status.answer
        with self._running():
            while not self._wait(
                self._due(self._keep_writer(), self._fill(), self._keep_metrics())
            ):
                if status is not None:
                    status.answer()
                self._look_again()
        self._write_last_metrics()

    def _due(self, *seconds: float | None) -> float | None:
        """The time to wait for something to happen: the least, or less where somebody asks."""
        asked = None if self._status is None else self._status.due()
        return min((item for item in (*seconds, asked) if item is not None), default=None)

    def _keep_writer(self) -> float | None:
        """Fork the signing log's writer where there is none; seconds until that is to be tried."""
        if self._write_log is None or self._writer is not None:
            return None
        if early := self._writer_back_off.remaining():
            return early
        child = WorkerChild(self._plan, busy=True, is_writer=True)
        if not self._fork(child, self._write_log, self._channel.keep_receiver):
            self._writer_back_off.failed()
            return self._writer_back_off.remaining()
        self._writer, self._writer_since = child, time.monotonic()
        return None

    def _keep_metrics(self) -> float | None:
        """Have the metrics' file written where that is due; seconds until it is again.

        By a child, which has the rights of the server's user: a disk that does not answer keeps
        nobody else waiting.
        """
        write = self._plan.write_metrics
        if write is None:
            return None
        under_way = any(child.is_metrics for child in self._children.values())
        if self._metrics_file.is_due() and not under_way:
            samples = self.samples()
            child = WorkerChild(self._plan, busy=True, is_metrics=True)
            child.deadline = time.monotonic() + WRITE_SECONDS
            self._fork(child, lambda _parent: write(samples))
        return self._metrics_file.remaining()

    def _write_last_metrics(self) -> None:
        write = self._plan.write_metrics
        if write is not None:
            samples = self.samples()
            try:
                run_in_child(lambda: write(samples), "writing the metrics", WRITE_SECONDS)
            except SigulError as error:
                self._metrics_file.ended(str(error))

    def _count_busy(self) -> int:
        """Count the children that are busy with something that has an end of its own."""
        return sum(
            child.busy and not (child.is_writer or child.is_metrics)
            for child in self._children.values()
        )

    def _fill(self) -> float | None:
        """Fork what is missing; seconds until more should be tried, None where nothing is due."""
        plan = self._plan
        busy = self._count_busy()
        waiting = sum(child.plan is plan for child in self._idle())
        missing = min(plan.workers - waiting, plan.workers + plan.max_requests - waiting - busy)
        if missing <= 0:
            return None
        if early := self._back_off.remaining():
            return early
        rest = self._taken_at + REFILL_DELAY_SECONDS - time.monotonic()
        if rest > 0 and 2 * waiting > plan.workers:
            return rest
        for _ in range(missing):
            if not self._fork(WorkerChild(plan), plan.serve, self._channel.keep_sender):
                return self._back_off.remaining()
            self._counters.add(ServerCount.WORKERS_STARTED)
        return None

    def _idle(self) -> list[WorkerChild]:
        return [child for child in self._children.values() if not child.busy]

    def _fork(
        self,
        child: WorkerChild,
        work: Callable[[ParentPipes], None],
        keep: Callable[[], None] | None = None,
    ) -> bool:
        """Fork a child, which keeps the end that is its own of the channel to the log's writer."""
        child.slot = self._slots.take()
        keep = keep or self._channel.forget

        def run(parent: ParentPipes) -> None:
            keep()
            self._slots.own = child.slot
            if self._status is not None:
                self._status.forget()
            work(parent)

        started = self._start(child, run)
        if not started:
            self._slots.clear(child.slot)
        return started

    def _reap(self, child: WorkerChild) -> int | None:
        code = super()._reap(child)
        if code is not None:
            # Whatever it held is gone with it, however it ended.
            self._slots.clear(child.slot)
        return code

    def _try_plan(self, plan: ServerPlan) -> None:
        """Have a child look whether workers could serve by `plan`."""
        self._fork(WorkerChild(plan, busy=True, is_check=True), lambda _parent: plan.check())

    def _is_settled(self) -> bool:
        return not any(child.is_check for child in self._children.values())

    def _look_again(self) -> None:
        """Have the certificates that old workers serve looked at as the newest plan has them."""
        plan = self._plan
        unseen = [
            child.certificate
            for child in self._children.values()
            if child.client is not None and child.plan is not plan and child.seen_by is not plan
        ]
        if unseen and not any(child.look is not None for child in self._children.values()):
            look = Look.at(unseen)
            child = WorkerChild(plan, busy=True, look=look)
            child.deadline = time.monotonic() + LOOK_SECONDS
            self._fork(
                child,
                lambda parent: plan.look(look, partial(parent.send, WorkerEvent.GOOD)),
            )

    def _take_look(self, plan: ServerPlan, look: Look) -> None:
        """End what is under way with certificates that `look` has not found good."""
        for child in self._children.values():
            number = hashlib.sha256(child.certificate).digest()
            if child.client is None or number not in look.asked or child.plan is plan:
                continue
            child.seen_by = plan
            if number in look.good:
                child.command(WorkerCommand.GOOD)
            elif not child.is_ended:
                with about(child.context):
                    log.warning("The certificate of %s is no longer good", quoted(child.client[0]))
                self._end_request(child, WorkerCommand.DISTRUSTED)

    def _retire_for(self, attached: WorkerChild) -> None:
        """Dismiss an old worker that still waits, now that one of the newest plan has attached.

        All of them, once as many as the plan wants have.
        """
        if attached.plan is not self._plan:
            return
        idle = self._idle()
        old = sorted(
            (item for item in idle if item.plan is not self._plan and item.control is not None),
            key=lambda item: item.attached_at is not None,  # those that do not wait yet first
        )
        new = sum(item.plan is self._plan and item.attached_at is not None for item in idle)
        for child in old if new >= self._plan.workers else old[:1]:
            child.close_control()

    def _handle_event(self, child: WorkerChild, code: bytes, body: bytes) -> None:
        now = time.monotonic()
        attached, serves = child.attached_at is not None, child.busy_since > 0
        if code == WorkerEvent.GOOD:
            require(child.look, "it was not asked to look at certificates")
            assert child.look is not None  # noqa: S101 - just required
            require(child.look.found_good(body), "it was not asked to look at this certificate")
        elif code == WorkerEvent.ATTACHED:
            require(not attached and not child.busy, "it cannot attach now")
            child.handshake_seconds = decode_handshake(body)
            child.attached_at = now
            self._counters.add(ServerCount.ATTACHED)
            self._measures.attached(child.handshake_seconds)
            self._retire_for(child)
        elif code == WorkerEvent.DETACHED:
            require(attached and not child.busy, "it is not attached")
            child.attached_at = None
        elif code == WorkerEvent.BUSY:
            require(attached and not child.busy, "no request can have come to it")
            child.busy = True
            child.busy_since = now
            if child.plan is not self._plan:
                child.command(WorkerCommand.STALE)
            self._taken_at = now
            self._back_off.reset()
            self._counters.add(ServerCount.REQUESTS)
        elif code == WorkerEvent.COUNTED:
            require(serves, "it serves no request that it could count for")
            count = decode_count(body)
            self._counters.add(count)
            child.version = VERSION_OF.get(count, child.version)
        elif code == WorkerEvent.MEASURED:
            require(serves and not child.is_measured, "it has no request to tell of now")
            measured = decode(body)
            child.is_measured = True
            self._measures.request(measured, "" if child.client is None else child.client[1])
            if measured.unlogged:
                self._counters.add(ServerCount.LOG_FAILURES)
        elif code == WorkerEvent.CERTIFICATE:
            require(serves and child.client is None, "it has no certificate to tell now")
            child.certificate += body
            require(len(child.certificate) <= TOLD_BYTES, "it tells too much of a certificate")
        elif code == WorkerEvent.CLIENT:
            require(serves and child.client is None, "it has no client to tell now")
            child.client = decode_client(body)
        elif code == WorkerEvent.LOGGED:
            require(child.is_writer, "it does not write the signing log")
            self._logged = decode_logged(body)
        else:
            require(False, "there is no such event")

    def _handle_end(self, child: WorkerChild, code: int) -> None:
        if child.is_check:
            if code == 0:
                log.info("The configuration is taken; new workers take the old ones' places")
                self._plan = child.plan
                self._metrics_file.soon()
                self._back_off.reset()
                for other in self._children.values():
                    if other.busy_since and other.client is None:
                        other.command(WorkerCommand.STALE)
            else:
                self._keep_plan(child.failure or f"its check ended with exit code {code}")
            return
        if child.is_metrics:
            self._metrics_file.ended(child.failure or f"exit code {code}" if code else "")
            return
        if child.failure:
            log.error("%s", child.failure)
        if child.is_writer:
            self._handle_writers_end(code)
            return
        if child.look is not None:
            if child.broke_rules:
                child.look.good.clear()
            self._take_look(child.plan, child.look)
            return
        was_ended = code == ENDED or (code < 0 and child.is_ended)
        if child.busy_since and not child.is_measured:
            op = UNKNOWN if child.client is None else child.client[2]
            self._measures.lost(op, child.version, ended=was_ended)
        if was_ended:
            if not child.is_ended:
                self._counters.add(ServerCount.REQUESTS_ENDED)
            self._repair()
        elif code < 0:
            self._counters.add(ServerCount.WORKERS_CRASHED)
            with about(child.context):
                log.error(
                    "Worker %d was ended by signal %d%s; the server goes on",
                    child.pid,
                    -code,
                    " in the middle of a request" if child.busy else "",
                )
            if child.busy:
                self._repair()
        if not child.busy and child.plan is self._plan:
            self._back_off.failed()

    def _handle_writers_end(self, code: int) -> None:
        """Have another writer come; messages that it had not taken are still there for that."""
        self._writer = None
        if time.monotonic() - self._writer_since > SOUND_SECONDS:
            self._writer_back_off.reset()
        self._writer_back_off.failed()
        log.error(
            "The signing log's process has ended (%s); another one is started, and a request that"
            " it was just writing down is refused",
            f"signal {-code}" if code < 0 else f"exit code {code}",
        )
        if code == 0:
            # It has heard that nobody can send any more, which is not so: somebody who may not has
            # ended that. Who waits with the old channel is replaced.
            self._channel.renew()
            for child in self._idle():
                child.close_control()

    def _repair(self) -> None:
        plan = self._plan
        self._fork(WorkerChild(plan, busy=True), lambda _parent: plan.repair())

    def _dismiss(self, child: WorkerChild) -> float:
        # A worker that waits ends when its control pipe does; one that is busy, after its request.
        child.close_control()
        limit = self._plan.shutdown_timeout if self._count_busy() else KILL_AFTER_SECONDS
        # It ends behind the last worker.
        return limit + KILL_AFTER_SECONDS if child.is_writer else limit

    def _end(self) -> None:
        self._channel.keep_receiver()
        busy = self._count_busy()
        if busy:
            log.info("Waiting up to %g s for %d requests", self._plan.shutdown_timeout, busy)
        super()._end()
