"""Signals as descriptors, for loops that wait for descriptors.

Python acts on a signal between two of its own steps: one that comes just before `poll` begins to
wait, or that another thread is given, would wait until something else happens. The kernel's handler
writes to a pipe of its own as well (`signal.set_wakeup_fd`), which `wait` looks at.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from types import FrameType


class SignalPipe:
    """A pipe that is readable once one of `signals` has come.

    Made in the main thread. A child process that goes on working calls `release_all` first.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        self._reader, self._writer = _pipe()
        _wakeup.hold(self)
        self._old = {number: signal.signal(number, self._handle) for number in signals}

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"x")

    def fileno(self) -> int:
        """The descriptor that is readable once a signal has come; nobody else may read it."""
        return self._reader

    def clear(self) -> None:
        """Take note of the signals that have come, so that the pipe is no longer readable."""
        _drain(self._reader)

    def release(self) -> None:
        """Put the signals' former handlers back and close the descriptors; once is enough."""
        if self._old:
            for number, handler in self._old.items():
                signal.signal(number, handler)
            self._old = {}
            os.close(self._reader)
            os.close(self._writer)
            _wakeup.let_go(self)

    @staticmethod
    def release_all() -> None:
        """Release all that there are: a child shares their descriptors with its parent."""
        for item in list(_wakeup.holders):
            item.release()


class _Wakeup:
    """The pipe that every signal with a handler writes to, as long as anybody holds it."""

    def __init__(self) -> None:
        self.holders: list[SignalPipe] = []
        self.reader = -1
        self._writer = -1
        self._old = -1

    def hold(self, holder: SignalPipe) -> None:
        if not self.holders:
            self.reader, self._writer = _pipe()
            self._old = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self.holders.append(holder)

    def let_go(self, holder: SignalPipe) -> None:
        self.holders.remove(holder)
        if not self.holders:
            signal.set_wakeup_fd(self._old)
            os.close(self.reader)
            os.close(self._writer)


_wakeup = _Wakeup()


def wait(poll: select.poll, seconds: float | None) -> set[int]:
    """The descriptors of `poll` that are ready; waits for one, at most `seconds`, or for a signal.

    A signal's `SignalPipe` is among them, if `poll` has it, whenever the signal came.
    """
    milliseconds = None if seconds is None else max(0.0, seconds) * 1000 + 1
    if not _wakeup.holders:
        return {descriptor for descriptor, _events in poll.poll(milliseconds)}
    poll.register(_wakeup.reader, select.POLLIN)
    found = {descriptor for descriptor, _events in poll.poll(milliseconds)}
    poll.unregister(_wakeup.reader)
    if _wakeup.reader in found:
        _drain(_wakeup.reader)
        # Python's own handlers have run by now.
        found = {descriptor for descriptor, _events in poll.poll(0)}
    return found


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return reader, writer


def _drain(reader: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while len(os.read(reader, select.PIPE_BUF)) == select.PIPE_BUF:
            pass
