"""Processes that a daemon forks: one child that does a piece of work, or a family that serves.

Work that needs NSS, lower privileges or secrets is done in a child, so that the process that forks
stays without them. A parent and a child of its family have two pipes between them: events go from
the child to the parent, commands through the control pipe from the parent to the child.

    event:    code (1 byte), length of the body (2 bytes, network order), body
    command:  1 byte

Invariants: a child never returns into its parent's code. An event is written in one piece of at
most PIPE_BUF bytes, so a reader never sees half of one. The end of the events is the end of the
child; the end of the control pipe is the end of the parent, or of its interest in the child.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Final, Generic, TypeVar

from ..errors import SigulError

log = logging.getLogger(__name__)

#: First (after one that is at once, where so wanted) and longest pause before another child is
#: started where the last one failed, in seconds; doubled in between.
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
#: Seconds for a child that was told to end, or was killed, before no more is expected of it.
KILL_AFTER_SECONDS: Final = 5.0

#: Event of a child whose work raised a `SigulError`, whose text is the body.
FAILED: Final = b"!"

_EVENT_HEAD: Final = struct.Struct("!cH")
_MAX_BODY: Final = select.PIPE_BUF - _EVENT_HEAD.size


class SignalPipe:
    """A pipe that is readable once one of `signals` has come.

    Made in the main thread; a child process that goes on working calls `release` first.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._old = {number: signal.signal(number, self._handle) for number in signals}

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"x")

    def fileno(self) -> int:
        """The descriptor that is readable once a signal has come; nobody else may read it."""
        return self._reader

    def clear(self) -> None:
        """Take note of the signals that have come, so that the pipe is no longer readable."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, select.PIPE_BUF)

    def release(self) -> None:
        """Put the signals' former handlers back and close the descriptors; once is enough."""
        if self._old:
            for number, handler in self._old.items():
                signal.signal(number, handler)
            self._old = {}
            os.close(self._reader)
            os.close(self._writer)


# -------------------------------------------------------------------------------------- the pipes


def send_event(descriptor: int, code: bytes, body: bytes = b"") -> None:
    """Send an event; what is too long is cut. A parent that has ended is no error."""
    body = body[:_MAX_BODY]
    with contextlib.suppress(BrokenPipeError):
        os.write(descriptor, _EVENT_HEAD.pack(code, len(body)) + body)


def receive_event(descriptor: int) -> tuple[bytes, bytes] | None:
    """Code and body of the next event; None once the child has ended. Waits for either."""
    head = os.read(descriptor, _EVENT_HEAD.size)
    if len(head) < _EVENT_HEAD.size:
        return None
    code, length = _EVENT_HEAD.unpack(head)
    return code, os.read(descriptor, length) if length else b""


@dataclass(frozen=True, slots=True)
class ParentPipes:
    """A child's ends of the pipes to its parent, as descriptors."""

    control: int
    events: int

    def fileno(self) -> int:
        """The control pipe: readable when a command has come, or the parent has ended."""
        return self.control

    def command(self) -> bytes:
        """The next command; empty at the end of the control pipe. Waits for either."""
        return os.read(self.control, 1)

    def send(self, code: bytes, body: bytes = b"") -> None:
        """Send an event."""
        send_event(self.events, code, body)

    def send_parts(self, code: bytes, body: bytes) -> None:
        """Send as many events as `body` takes, if it is not empty."""
        for start in range(0, len(body), _MAX_BODY):
            send_event(self.events, code, body[start : start + _MAX_BODY])


# -------------------------------------------------------------------------------------- one child


def fork(
    work: Callable[[], None], events: int, *, stop: SignalPipe, ignore: Iterable[signal.Signals]
) -> int:
    """Fork a child that does `work` and ends; returns its process number. Raises OSError.

    In the child, `stop` is released, and `ignore` are ignored: signals for the whole process group
    that are the parent's business. A `SigulError` of the work is sent to the descriptor `events`;
    after any error the child's exit code is 1.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        stop.release()
        for number in ignore:
            signal.signal(number, signal.SIG_IGN)
        work()
        code = 0
    except SigulError as error:
        send_event(events, FAILED, str(error).encode("utf-8", "backslashreplace"))
    except Exception:
        log.exception("A process of this daemon failed in an unforeseen way")
    finally:
        logging.shutdown()
        # Not sys.exit: what the parent had set up to run at its end is the parent's.
        os._exit(code)


def run_in_child(work: Callable[[], None], what: str, *, stop: SignalPipe) -> None:
    """Do `work` in a child process and wait for it. Raises `SigulError` with the child's error."""
    reader, writer = os.pipe()
    pid = fork(work, writer, stop=stop, ignore=[signal.SIGHUP])
    os.close(writer)
    try:
        failure = receive_event(reader)
        _pid, status = os.waitpid(pid, 0)
    finally:
        os.close(reader)
    if failure is not None:
        raise SigulError(failure[1].decode("utf-8", "replace"))
    if status != 0:
        code = os.waitstatus_to_exitcode(status)
        raise SigulError(f"{what} failed (exit code {code})", "the log above may say why")


# -------------------------------------------------------------------------------------- a family


@dataclass(slots=True, eq=False)
class Child:
    """A process of a family, as its parent sees it. `ProcessFamily.start` sets what it is."""

    pid: int = field(default=0, init=False)
    #: Descriptors of its events, and of its control pipe, which is None once that is closed.
    events: int = field(default=-1, init=False)
    control: int | None = field(default=None, init=False)
    #: The time at which it is killed (`time.monotonic`); None: never.
    deadline: float | None = field(default=None, init=False)
    #: The error that ended its work.
    failure: str = field(default="", init=False)

    def command(self, command: bytes) -> None:
        """Send a command; a child that has ended is no error."""
        if self.control is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self.control, command)

    def close_control(self) -> None:
        """End the control pipe, once: no command will follow."""
        if self.control is not None:
            os.close(self.control)
            self.control = None

    def close(self) -> None:
        """Close both pipes."""
        self.close_control()
        os.close(self.events)


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
        """Act on an event of a child."""

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
        events, child_events = os.pipe()
        child_control, control = os.pipe()

        def run() -> None:
            # A pipe ends only when nobody has its other end any more.
            os.close(events)
            os.close(control)
            for other in self._children.values():
                other.close()
            work(ParentPipes(child_control, child_events))

        try:
            pid = fork(run, child_events, stop=self._stop, ignore=self.ignored)
        except OSError as error:
            os.close(events)
            os.close(control)
            log.error("No process can be started: %s", error.strerror)
            self._back_off.failed()
            return False
        finally:
            os.close(child_events)
            os.close(child_control)
        child.pid, child.events, child.control = pid, events, control
        self._children[events] = child
        return True

    def _wait(self, seconds: float | None) -> bool:
        """Wait for something to happen, at most `seconds`, and act on it; True: it is time to stop.

        What may happen is a signal, a child's event, end or deadline, or input for the watched.
        """
        ready = self._poll(seconds, self._stop.fileno(), self._reload.fileno(), *self._watched)
        for descriptor in ready & self._children.keys():
            child = self._children[descriptor]
            event = receive_event(descriptor)
            if event is None:
                self._handle_end(child, self._reap(child))
            elif event[0] == FAILED:
                child.failure = event[1].decode("utf-8", "replace")
            else:
                self._handle_event(child, *event)
        for descriptor in ready & self._watched.keys():
            self._watched[descriptor]()
        self._kill_late()
        if self._reload.fileno() in ready:
            self._reload.clear()
            self._reload_due = True
        if self._reload_due and self._is_settled():
            self._reload_due = False
            log.info("Reading configuration and certificates again")
            try:
                self._try_plan(self._renew())
            except SigulError as error:
                self._keep_plan(str(error))
        return self._stop.fileno() in ready

    def _keep_plan(self, reason: str) -> None:
        log.error("The new configuration is not taken, the former one stays: %s", reason)

    def _poll(self, seconds: float | None, *others: int) -> set[int]:
        """Wait for children or `others`, until `seconds` or a deadline are over; the readable."""
        now = time.monotonic()
        limits = [child.deadline - now for child in self._children.values() if child.deadline]
        if seconds is not None:
            limits.append(seconds)
        poll = select.poll()
        for descriptor in (*others, *self._children):
            poll.register(descriptor, select.POLLIN)
        milliseconds = max(0.0, min(limits)) * 1000 + 1 if limits else None
        return {descriptor for descriptor, _events in poll.poll(milliseconds)}

    def _reap(self, child: ChildT) -> int:
        """Close the pipes of a child that has ended; returns its exit code, or -N for signal N."""
        child.close()
        del self._children[child.events]
        _pid, status = os.waitpid(child.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def _kill_late(self) -> None:
        for child in self._children.values():
            if child.deadline is not None and time.monotonic() > child.deadline:
                log.error("Process %d did not do what it was told in time; it is killed", child.pid)
                child.deadline = None
                os.kill(child.pid, signal.SIGKILL)

    def _end(self) -> None:
        """End all children: each is told, has its time, and is killed."""
        now = time.monotonic()
        limits = [0.0]
        for child in self._children.values():
            limits.append(self._dismiss(child))
            child.deadline = now + limits[-1]
        end = now + max(limits) + KILL_AFTER_SECONDS
        while self._children and (left := end - time.monotonic()) > 0:
            for descriptor in self._poll(left):
                if receive_event(descriptor) is None:
                    self._reap(self._children[descriptor])
            self._kill_late()
