"""Processes that a daemon forks: one child that does a piece of work, or a family that serves.

Work that needs NSS, lower privileges or secrets is done in a child, so that the process that forks
stays without them. A parent and a child of its family have two pipes between them (`pipes`): events
go from the child to the parent, commands through the control pipe from the parent to the child.

Invariants: a child never returns into its parent's code. The end of the events is the end of the
child; the end of the control pipe is the end of the parent, or of its interest in the child. What
a child sends is hostile input: one that breaks a rule of its pipes is killed, and nothing that it
does keeps its parent waiting.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from ..errors import SigulError
from ..logevents import tell
from .log_events import SystemLog
from .pipes import FAILED, BadEvent, EventReader, ParentPipes, send_event, write_command
from .signals import SignalPipe, wait

log = logging.getLogger(__name__)

#: First (after one that is at once, where so wanted) and longest pause before another child is
#: started where the last one failed, in seconds; doubled in between.
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
#: Seconds for a child that was told to end, or was killed, before no more is expected of it.
KILL_AFTER_SECONDS: Final = 5.0

#: Seconds between looks whether a child has ended that is to end just now.
_REAP_SECONDS: Final = 0.01
#: Reads that take all that a pipe can hold.
_LAST_READS: Final = 17
#: Seconds for a piece of work in a child of its own: repairing what a crash left takes longest.
WORK_SECONDS: Final = 300.0


# -------------------------------------------------------------------------------------- one child


def fork(work: Callable[[], None], events: int, *, ignore: Iterable[signal.Signals]) -> int:
    """Fork a child that does `work` and ends; returns its process number. Raises OSError.

    In the child every `SignalPipe` is released, and `ignore` are ignored: signals for the whole
    process group that are the parent's business. A `SigulError` of the work is sent to the
    descriptor `events`; after any error the child's exit code is 1.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        SignalPipe.release_all()
        for number in ignore:
            signal.signal(number, signal.SIG_IGN)
        work()
        code = 0
    except SigulError as error:
        send_event(events, FAILED, str(error).encode("utf-8", "backslashreplace"))
    except Exception:  # noqa: BLE001 - it is logged
        tell(log, SystemLog.CHILD_CRASHED, exc_info=True)
    finally:
        logging.shutdown()
        # Not sys.exit: what the parent had set up to run at its end is the parent's.
        os._exit(code)


def reap(pid: int, seconds: float) -> int | None:
    """The exit code of a child, -N where signal N ended it; None: it has not ended in `seconds`."""
    end = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(_REAP_SECONDS)


def kill_and_reap(pid: int, patience: float = 0.0) -> int:
    """End a child that has not ended in `patience` seconds; its exit code, -N for signal N."""
    code = reap(pid, patience)
    if code is None:
        os.kill(pid, signal.SIGKILL)
        # One that waits for a disk ends once that has answered: it is not waited for.
        code = reap(pid, KILL_AFTER_SECONDS)
    return -signal.SIGKILL if code is None else code


def run_in_child(work: Callable[[], None], what: str, seconds: float = WORK_SECONDS) -> None:
    """Do `work` in a child process and wait for it, at most `seconds`.

    Raises `SigulError` with the child's error.
    """
    descriptor, writer = os.pipe()
    reader = EventReader(descriptor)
    pid = fork(work, writer, ignore=[signal.SIGHUP])
    os.close(writer)
    event, reason = None, ""
    try:
        event = reader.first(seconds)
        if event is not None and event[0] != FAILED:
            reason = "its process said what it may not"
    except TimeoutError:
        reason = f"it was not done in {seconds:g} s"
    except BadEvent as error:
        reason = f"its process broke the rules of its pipe: {error}"
    finally:
        os.close(descriptor)
        code = kill_and_reap(pid, 0.0 if reason else KILL_AFTER_SECONDS)
    if reason:
        raise SigulError(f"{what} failed: {reason}", "the log above may say why")
    if event is not None:
        raise SigulError(event[1].decode("utf-8", "replace"))
    if code != 0:
        raise SigulError(f"{what} failed (exit code {code})", "the log above may say why")


# -------------------------------------------------------------------------------------- a family


@dataclass(slots=True, eq=False)
class Child:
    """A process of a family, as its parent sees it. `ProcessFamily.start` sets what it is."""

    pid: int = field(default=0, init=False)
    #: Its events, and the descriptor of its control pipe, which is None once that is closed.
    events: EventReader = field(init=False)
    control: int | None = field(default=None, init=False)
    #: Descriptor that is readable once the process has ended, whoever else has its pipes.
    end: int = field(default=-1, init=False)
    #: The time at which it is killed (`time.monotonic`); None: never.
    deadline: float | None = field(default=None, init=False)
    #: The error that ended its work.
    failure: str = field(default="", init=False)
    #: Nothing more of it is heard: it ends just now.
    is_over: bool = field(default=False, init=False)
    #: It broke a rule, and nothing that it said is to be believed.
    broke_rules: bool = field(default=False, init=False)

    def command(self, command: bytes) -> None:
        """Send a command; a child that has ended is no error, one that reads none is killed."""
        if self.is_over or self.control is None:
            return
        if not write_command(self.control, command):
            self.kill_for("it does not read its commands")

    def kill_for(self, reason: str) -> None:
        """Kill it because it broke a rule. Its end is then as any other."""
        tell(log, SystemLog.CHILD_KILLED, process=self.pid, reason=reason)
        self.broke_rules = True
        self.kill()

    def kill(self) -> None:
        """Kill it, if that was not done. Its number is nobody else's before it is reaped."""
        if not self.is_over:
            self.is_over = True
            self.deadline = None
            os.kill(self.pid, signal.SIGKILL)

    def close_control(self) -> None:
        """End the control pipe, once: no command will follow."""
        if self.control is not None:
            os.close(self.control)
            self.control = None

    def close(self) -> None:
        """Close both pipes."""
        self.close_control()
        os.close(self.events.fileno())
        os.close(self.end)


class BackOff:
    """The pause before another child is started where the last ones failed.

    `first` is the first pause in seconds; the next ones double, up to the longest.
    """

    def __init__(self, first: float) -> None:
        self._first = first
        self.reset()

    def reset(self) -> None:
        """All is well: nothing is to be waited for, and the next pause is the first."""
        self._pause = self._first
        self._due = 0.0

    def failed(self) -> None:
        """Begin a pause: a child that ends at once must not be started in a tight loop."""
        self._due = time.monotonic() + self._pause
        self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)

    def remaining(self) -> float:
        """Seconds until another child may be started; 0 where it may."""
        return max(0.0, self._due - time.monotonic())


PlanT = TypeVar("PlanT")
ChildT = TypeVar("ChildT", bound=Child)


class ProcessFamily(ABC, Generic[PlanT, ChildT]):
    """A parent and its children, which serve by `plan`, the newest that works.

    `renew` makes a plan of the configuration as it is when `reload` comes; it raises `SigulError`
    where that is invalid, and then everything stays as it is. A subclass says what its children
    are for: it starts them, and decides on what their events and their ends mean.

    The parent is one thread. It must not have opened NSS, and should know no secret.
    """

    #: Signals that children ignore, because the parent tells them what those mean.
    ignored: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)

    def __init__(
        self,
        plan: PlanT,
        renew: Callable[[], PlanT],
        *,
        stop: SignalPipe,
        reload: SignalPipe,
        back_off: BackOff,
    ) -> None:
        self._plan = plan
        self._renew = renew
        self._stop = stop
        self._reload = reload
        self._reload_due = False
        self._back_off = back_off
        #: By the descriptors of their events.
        self._children: dict[int, ChildT] = {}
        #: Functions to call when descriptors of others are readable.
        self._watched: dict[int, Callable[[], None]] = {}

    # ------------------------------------------------------------------------- a subclass's policy

    @abstractmethod
    def _try_plan(self, plan: PlanT) -> None:
        """Begin to go over to a new plan. Raises `SigulError` where that is impossible."""

    @abstractmethod
    def _is_settled(self) -> bool:
        """Tell whether no former change of the plan is under way any more."""

    @abstractmethod
    def _handle_event(self, child: ChildT, code: bytes, body: bytes) -> None:
        """Act on an event of a child. Raises `BadEvent` where it may not send that, or not now."""

    @abstractmethod
    def _handle_end(self, child: ChildT, code: int) -> None:
        """Act on a child's end. `code` is its exit code; -N where signal N ended it."""

    @abstractmethod
    def _dismiss(self, child: ChildT) -> float:
        """Tell a child to end; returns how many seconds it has for that before it is killed."""

    # --------------------------------------------------------------------------------- the machine

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Be the parent while the block lasts; all children have ended afterwards."""
        # What is imported stays for good: not looking at it again keeps its pages shared.
        gc.collect()
        gc.freeze()
        try:
            yield
        finally:
            self._end()

    def _start(self, child: ChildT, work: Callable[[ParentPipes], None]) -> bool:
        """Fork `child`; False, with an error in the log, where there can be no process."""
        ends: list[int] = []
        try:
            for _ in range(2):
                ends += os.pipe()
        except OSError as error:
            for end in ends:
                os.close(end)
            tell(log, SystemLog.CHILD_NOT_STARTED, why=error.strerror)
            return False
        events, child_events, child_control, control = ends
        os.set_blocking(control, False)

        def run() -> None:
            # A pipe ends only when nobody has its other end any more.
            os.close(events)
            os.close(control)
            for other in self._children.values():
                other.close()
            work(ParentPipes(child_control, child_events))

        try:
            pid = fork(run, child_events, ignore=self.ignored)
        except OSError as error:
            os.close(events)
            os.close(control)
            tell(log, SystemLog.CHILD_NOT_STARTED, why=error.strerror)
            self._back_off.failed()
            return False
        finally:
            os.close(child_events)
            os.close(child_control)
        child.pid, child.events, child.control = pid, EventReader(events), control
        child.end = os.pidfd_open(pid)
        self._children[events] = child
        return True

    def _wait(self, seconds: float | None) -> bool:
        """Wait for something to happen, at most `seconds`, and act on it; True: it is time to stop.

        What may happen is a signal, a child's event, end or deadline, or input for the watched.
        """
        ready = self._poll(seconds, self._stop.fileno(), self._reload.fileno(), *self._watched)
        for child in self._among(ready):
            self._hear(child)
        for child in list(self._children.values()):
            if child.end in ready:
                self._hear_last(child)
            if child.is_over and (code := self._reap(child)) is not None:
                self._handle_end(child, code)
        for descriptor in ready & self._watched.keys():
            self._watched[descriptor]()
        self._kill_late()
        if self._reload.fileno() in ready:
            self._reload.clear()
            self._reload_due = True
        if self._reload_due and self._is_settled():
            self._reload_due = False
            tell(log, SystemLog.CONFIGURATION_READ_AGAIN)
            try:
                self._try_plan(self._renew())
            except SigulError as error:
                self._keep_plan(str(error))
        return self._stop.fileno() in ready

    def _keep_plan(self, reason: str) -> None:
        tell(log, SystemLog.CONFIGURATION_NOT_TAKEN, reason=reason)

    def _poll(self, seconds: float | None, *others: int) -> set[int]:
        """Wait for children or `others`, until `seconds` or a deadline are over; the readable."""
        now = time.monotonic()
        children = self._children.values()
        limits = [child.deadline - now for child in children if child.deadline is not None]
        limits += [_REAP_SECONDS for child in children if child.is_over]
        if seconds is not None:
            limits.append(seconds)
        poll = select.poll()
        for descriptor in others:
            poll.register(descriptor, select.POLLIN)
        for descriptor, child in self._children.items():
            if not child.is_over:
                poll.register(descriptor, select.POLLIN)
                poll.register(child.end, select.POLLIN)
        return wait(poll, min(limits, default=None))

    def _among(self, ready: set[int]) -> list[ChildT]:
        """The children whose pipes are among these descriptors."""
        return [self._children[descriptor] for descriptor in ready & self._children.keys()]

    def _hear(self, child: ChildT) -> None:
        """Act on the events that have come from a child, or on the end of its pipe."""
        try:
            events = child.events.read()
            if events is None:
                # It has ended, or will not be heard again: whatever lives there is not waited for.
                child.kill()
                return
            for code, body in events:
                if code == FAILED:
                    child.failure = body.decode("utf-8", "replace")
                else:
                    self._handle_event(child, code, body)
        except BadEvent as error:
            child.kill_for(f"it broke the rules of its pipe: {error}")

    def _hear_last(self, child: ChildT) -> None:
        """Act on what a child that has ended has sent before; what comes later is another's."""
        for _ in range(_LAST_READS):
            if child.is_over:
                return
            self._hear(child)
        child.is_over = True

    def _reap(self, child: ChildT) -> int | None:
        """Forget a child that has ended, and close its pipes; None where it has not ended yet.

        Returns its exit code, or -N where signal N ended it.
        """
        code = reap(child.pid, 0)
        if code is not None:
            del self._children[child.events.fileno()]
            child.close()
        return code

    def _kill_late(self) -> None:
        for child in self._children.values():
            if child.deadline is not None and time.monotonic() > child.deadline:
                tell(log, SystemLog.CHILD_TOO_SLOW, process=child.pid)
                child.kill()

    def _end(self) -> None:
        """End all children: each is told, has its time, and is killed."""
        now = time.monotonic()
        limits = [0.0]
        for child in self._children.values():
            limits.append(self._dismiss(child))
            if not child.is_over:
                child.deadline = now + limits[-1]
        end = now + max(limits) + KILL_AFTER_SECONDS
        while self._children and (left := end - time.monotonic()) > 0:
            for child in self._among(self._poll(left)):
                if child.events.read() is None:
                    child.kill()
            for child in list(self._children.values()):
                self._reap(child)
            self._kill_late()
