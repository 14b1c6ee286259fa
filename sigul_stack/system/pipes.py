"""Pipes between a parent and a child process: events in one, commands in the other.

    event:    code (1 byte), length of the body (2 bytes, network order), body
    command:  1 byte, or as many as the command's receiver knows of

An event is written in one piece of at most PIPE_BUF bytes, so a reader never sees half of one.

A child parses what hostile peers send, so whatever comes from it is hostile input, too. Invariant:
a parent never waits in a read or a write, and keeps no more of a child than the head of one event.
What is no event is a `BadEvent`: whoever reads then ends the child.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .signals import wait

#: Event of a child whose work raised a `SigulError`, whose text is the body.
FAILED: Final = b"!"

_EVENT_HEAD: Final = struct.Struct("!cH")
_MAX_BODY: Final = select.PIPE_BUF - _EVENT_HEAD.size

#: Code and body.
Event = tuple[bytes, bytes]


class BadEvent(Exception):
    """A child has sent what it may not; the text is the reason, and holds nothing of the child's.

    It goes no further than the loop that reads events.
    """


def require(condition: object, reason: str) -> None:
    """Raise `BadEvent` with this reason unless the condition holds."""
    if not condition:
        raise BadEvent(reason)


class EventBuffer:
    """Bytes of an events pipe in, whole events out. No I/O."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes, *, is_all: bool) -> Iterator[Event]:
        """The events that are whole once `data` has come.

        Raises `BadEvent` for a body longer than any event's, and for half an event where `is_all`:
        the pipe had no more than `data` at that moment.
        """
        self._data += data
        while len(self._data) >= _EVENT_HEAD.size:
            code, length = _EVENT_HEAD.unpack_from(self._data)
            require(length <= _MAX_BODY, "an event is longer than any is")
            end = _EVENT_HEAD.size + length
            if len(self._data) < end:
                break
            body, self._data = self._data[_EVENT_HEAD.size : end], self._data[end:]
            yield code, body
        require(not (self._data and is_all), "it wrote less than a whole event")


class EventReader:
    """The parent's end of an events pipe, which it never waits at."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._buffer = EventBuffer()

    def fileno(self) -> int:
        """The descriptor that is readable when something has come, or the pipe has ended."""
        return self._descriptor

    def read(self) -> Iterator[Event] | None:
        """The events that have come, of which there may be none; None at the pipe's end.

        A part of a long queue, so that who fills its pipe keeps nobody else waiting. Going through
        them raises `BadEvent`.
        """
        try:
            data = os.read(self._descriptor, select.PIPE_BUF)
        except BlockingIOError:
            return iter(())
        if not data:
            return None
        return self._buffer.feed(data, is_all=len(data) < select.PIPE_BUF)

    def first(self, seconds: float, *others: int) -> Event | None:
        """The first event; None at the pipe's end. For who waits for one child and nothing else.

        Raises `BadEvent`, and `TimeoutError` where nothing comes in `seconds`, or before one of
        `others` is readable.
        """
        end = time.monotonic() + seconds
        poll = select.poll()
        for descriptor in (self._descriptor, *others):
            poll.register(descriptor, select.POLLIN)
        while (left := end - time.monotonic()) > 0:
            ready = wait(poll, left)
            if self._descriptor in ready:
                events = self.read()
                if events is None:
                    return None
                for event in events:
                    return event
            elif ready:
                break
        raise TimeoutError


def write_command(descriptor: int, command: bytes) -> bool:
    """Write a command; False where the child has left so many unread that there is no room.

    A child that has ended is no error. The descriptor does not block.
    """
    with contextlib.suppress(BrokenPipeError):
        try:
            os.write(descriptor, command)
        except BlockingIOError:
            return False
    return True


# ------------------------------------------------------------------------------------- in the child


def send_event(descriptor: int, code: bytes, body: bytes = b"") -> None:
    """Send an event; what is too long is cut. A parent that has ended is no error."""
    body = body[:_MAX_BODY]
    with contextlib.suppress(BrokenPipeError):
        os.write(descriptor, _EVENT_HEAD.pack(code, len(body)) + body)


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
