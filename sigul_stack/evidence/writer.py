"""The process that writes the signing log for all workers of a server, and their way to it.

A worker sends one message, with one end of a socket pair of its own for the answer:

    message   u8 kind, u8 number, as often u8[4] key ID and u64 size, leaf (`leaf.Leaf.encode`)
    answer    u8 0, evidence (`evidence.Evidence.encode`) or nothing; or u8 1, problem, 00, cure

Invariants: there is one writer, and it alone has the log open. It answers when the leaf is durable,
each on its own socket, so that nobody hears another's answer. Whatever waits shares one append. A
worker parses what hostile peers send, so its messages are hostile too: the writer never waits for a
worker, keeps nothing of one, and says no to what is malformed. Where the disk fails it says so, and
opens the log anew for the next message. It ends when nobody is left who could send one.
"""

from __future__ import annotations

import array
import contextlib
import enum
import logging
import os
import select
import socket
import stat
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import SigulError
from ..formats.merkle_tree import NotProven
from ..logevents import tell
from ..system.signals import wait
from .evidence import Evidence
from .leaf import LOG_RESTORED, LOG_START, Leaf
from .log_events import EvidenceLog
from .log_files import CHECKPOINT
from .signing_log import SigningLog

log = logging.getLogger(__name__)

#: Seconds that a worker waits for its leaf to be durable; a disk that is busy takes some of them.
LOG_SECONDS: Final = 30.0
#: Largest leaf that a worker may send, in bytes: the log adds the time to it.
MAX_LEAF_BYTES: Final = 32 * 1024
#: Most leaves that one append takes.
MAX_GROUP: Final = 64
#: Most logs of which one message names the size.
MAX_SEEN: Final = 16
#: Shortest time between two words to the supervisor about the log's size, in seconds.
TOLD_SECONDS: Final = 1.0

_HEAD: Final = struct.Struct("!BB")
_SEEN: Final = struct.Struct("!4sQ")
_MAX_MESSAGE: Final = _HEAD.size + MAX_SEEN * _SEEN.size + MAX_LEAF_BYTES
#: Largest answer: evidence with the largest leaf, note and proofs.
_MAX_ANSWER: Final = 128 * 1024
_OK, _PROBLEM = b"\0", b"\1"
_DISK_CURE: Final = "have the server's administrator see to the disk of signing-log"
_CURE: Final = "look at the disk of signing-log at the server; its log says more"


class LogUnavailable(SigulError):
    """The signing log could not be written; what it was to hold is not known to be in it."""


class _Kind(enum.IntEnum):
    RECORD = 1  # append a leaf
    APPEND = 2  # append a leaf, and answer with evidence of it
    CHECKPOINT = 3  # answer with evidence of the checkpoint


# --------------------------------------------------------------------------------- the worker's end


class LogClient:
    """A worker's way to the writer. Safe to use from threads."""

    def __init__(self, sender: socket.socket) -> None:
        self._sender = sender

    def append(
        self, leaf: Leaf, seen: Mapping[bytes, int], seconds: float = LOG_SECONDS
    ) -> Evidence:
        """Have `leaf` written, and return evidence of it once it is durable.

        `seen` are sizes at which others saw logs, by the IDs of their keys. Raises `LogUnavailable`
        where that is not known to be so after `seconds`.
        """
        return _evidence(self._ask(_Kind.APPEND, leaf.encode(), seen, seconds))

    def record(self, leaf: Leaf, seconds: float = LOG_SECONDS) -> None:
        """As `append`, for whom nobody wants evidence."""
        self._ask(_Kind.RECORD, leaf.encode(), {}, seconds)

    def checkpoint(self, seen: Mapping[bytes, int], seconds: float = LOG_SECONDS) -> Evidence:
        """Evidence of the log's newest checkpoint. Raises `LogUnavailable`."""
        return _evidence(self._ask(_Kind.CHECKPOINT, b"", seen, seconds))

    def close(self) -> None:
        """Close this process's end."""
        self._sender.close()

    def _ask(self, kind: _Kind, leaf: bytes, seen: Mapping[bytes, int], seconds: float) -> bytes:
        end = time.monotonic() + seconds
        some = list(seen.items())[:MAX_SEEN]
        message = b"".join(
            (_HEAD.pack(kind, len(some)), *(_SEEN.pack(*item) for item in some), leaf)
        )
        if len(leaf) > MAX_LEAF_BYTES:
            raise LogUnavailable(f"a leaf of {len(leaf)} bytes is over {MAX_LEAF_BYTES}")
        try:
            near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with near:
                with far:
                    self._send(message, far.fileno(), end)
                _await(near, select.POLLIN, end)
                answer = near.recv(_MAX_ANSWER)
        except TimeoutError:
            raise LogUnavailable(
                f"the signing log has not answered in {seconds:g} s", _CURE
            ) from None
        except OSError as error:
            raise LogUnavailable(
                f"its process cannot be reached ({error.strerror or error})", _CURE
            ) from None
        if not answer:
            raise LogUnavailable("its process has ended before it answered", _CURE)
        if answer[:1] != _OK:
            problem, _, cure = answer[1:].decode("utf-8", "replace").partition("\0")
            raise LogUnavailable(problem, cure)
        return answer[1:]

    def _send(self, message: bytes, answer: int, end: float) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [answer]))]
        while True:
            # All workers have one socket, and so one setting of whether its calls wait.
            with contextlib.suppress(BlockingIOError):
                self._sender.sendmsg([message], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                return
            _await(self._sender, select.POLLOUT, end)


def _await(end: socket.socket, what: int, until: float) -> None:
    poll = select.poll()
    poll.register(end, what)
    left = until - time.monotonic()
    if left <= 0 or not wait(poll, left):
        raise TimeoutError


def _evidence(data: bytes) -> Evidence:
    try:
        return Evidence.parse(data)
    except NotProven as error:
        raise LogUnavailable(str(error)) from None


class LogChannel:
    """The socket pair between workers and writer, made before either is forked.

    Each process keeps the end that is its own: the writer ends when no sending end is left.
    """

    def __init__(self) -> None:
        self._receiver, self._sender = _pair()

    def renew(self) -> None:
        """Make a new pair: the former one was closed by a process that may not."""
        self.forget()
        self._receiver, self._sender = _pair()

    def keep_sender(self) -> None:
        """In a worker: keep the sending end alone."""
        self._receiver.close()

    def keep_receiver(self) -> None:
        """In the writer: keep the receiving end alone. In the supervisor: no worker will follow."""
        self._sender.close()

    def forget(self) -> None:
        """Keep neither."""
        self._receiver.close()
        self._sender.close()

    def client(self) -> LogClient:
        """The worker's way to the writer."""
        return LogClient(self._sender)

    @property
    def receiver(self) -> socket.socket:
        """The writer's end."""
        return self._receiver


def _pair() -> tuple[socket.socket, socket.socket]:
    receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Nothing is ever said the other way, so nobody can.
    receiver.shutdown(socket.SHUT_WR)
    return receiver, sender


# --------------------------------------------------------------------------------- the writer's end


@dataclass(slots=True)
class _Message:
    """A worker's request, and the socket for its answer."""

    answer: socket.socket
    kind: _Kind
    seen: Mapping[bytes, int]
    leaf: Leaf | None = None

    def reply(self, data: bytes) -> None:
        """Answer, without waiting: one who does not read has the fault to itself."""
        with contextlib.suppress(OSError):
            self.answer.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def refuse(self, error: SigulError) -> None:
        """Answer that it was not done, and why."""
        self.reply(_PROBLEM + f"{error.problem}\0{error.cure}".encode("utf-8", "backslashreplace"))


class Writer:
    """Writes what comes from `receiver`.

    `open_log` is called at the start and after each failure. `tell` hears of the log's size and of
    the time of its last checkpoint (s since 1970), once a second at most.
    """

    def __init__(
        self,
        receiver: socket.socket,
        open_log: Callable[[], SigningLog],
        tell: Callable[[int, float], None] = lambda _size, _when: None,
    ) -> None:
        self._receiver = receiver
        self._open_log = open_log
        self._tell = tell
        self._log: SigningLog | None = None
        self._told = -1
        self._told_at = float("-inf")

    def run(self) -> None:
        """Serve until no sending end is left. Raises nothing that one message could cause."""
        try:
            # So that what a crash left is put in order before the first worker has to wait for it.
            self._open()
        except SigulError as error:
            tell(log, EvidenceLog.SIGNING_LOG_UNOPENED, why=str(error))
        try:
            while True:
                self._wait()
                group, ended = self._take()
                if group:
                    self._serve(group)
                if ended:
                    return
        finally:
            self._close()

    def _wait(self) -> None:
        """Wait for a message or the end; tell of the log's size meanwhile."""
        poll = select.poll()
        poll.register(self._receiver, select.POLLIN)
        while True:
            left = None
            if self._log is not None and self._log.size != self._told:
                left = self._told_at + TOLD_SECONDS - time.monotonic()
                if left <= 0:
                    self._told, self._told_at, left = self._log.size, time.monotonic(), None
                    with contextlib.suppress(OSError):
                        when = (self._log.directory / CHECKPOINT).stat().st_mtime
                        self._tell(self._told, when)
            if wait(poll, left):
                return

    # ------------------------------------------------------------------------------------ messages

    def _take(self) -> tuple[list[_Message], bool]:
        """Take the messages that wait, up to `MAX_GROUP`; True: no more can come."""
        found: list[_Message] = []
        for _ in range(MAX_GROUP):
            try:
                data, rights, flags, _ = self._receiver.recvmsg(
                    _MAX_MESSAGE + 1,
                    socket.CMSG_SPACE(4 * array.array("i").itemsize),
                    socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC,
                )
            except BlockingIOError:
                break
            answer = _answer_socket(rights)
            if not data and not rights:
                # The end of all senders, or an empty message of one: the kernel tells by a hang-up.
                if _hung_up(self._receiver):
                    return found, True
                continue
            if answer is None:
                tell(log, EvidenceLog.LOG_MESSAGE_UNANSWERABLE)
                continue
            whole = not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
            message = _parse(data if whole else b"", answer)
            if message is not None:
                found.append(message)
        return found, False

    # -------------------------------------------------------------------------------------- serving

    def _serve(self, group: list[_Message]) -> None:
        """Append what a group has in one, and answer each."""
        with contextlib.ExitStack() as sockets:
            for message in group:
                sockets.callback(message.answer.close)
            try:
                opened = self._open()
                leaves = [message.leaf for message in group if message.leaf is not None]
                appended = iter(opened.append(leaves) if leaves else ())
            except SigulError as error:
                tell(log, EvidenceLog.SIGNING_LOG_UNWRITTEN, why=str(error))
                self._failed(group, _in_short(error))
            except Exception:  # noqa: BLE001 - it is logged
                tell(log, EvidenceLog.SIGNING_LOG_CRASHED, exc_info=True)
                self._failed(group, SigulError("it failed in an unforeseen way", _CURE))
            else:
                for message in group:
                    index = -1 if message.leaf is None else next(appended).index
                    _answer(opened, message, index)

    def _open(self) -> SigningLog:
        if self._log is None:
            self._log = self._open_log()
        return self._log

    def _close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _failed(self, group: list[_Message], error: SigulError) -> None:
        """Tell all of a group; the next one finds the log opened anew, as its disk has it."""
        self._close()
        for message in group:
            message.refuse(error)


def _in_short(error: SigulError) -> SigulError:
    """The error for clients, who need no more than the system's own word for it, if there is one.

    They know that it is about the signing log, and have little room.
    """
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        return SigulError(cause.strerror, _DISK_CURE)
    return error


def _answer(opened: SigningLog, message: _Message, index: int) -> None:
    """Answer with the evidence that is asked for; `index` is that of the message's leaf."""
    key = opened.public_key.id
    old_size = message.seen.get(key, 0)
    # Who knows other logs is told whether this one names what was known of those.
    introduced = bool(message.seen) and key not in message.seen
    try:
        if message.kind is _Kind.RECORD:
            message.reply(_OK)
        elif message.leaf is None:
            found = opened.checkpoint_evidence(old_size, introduced=introduced)
            message.reply(_OK + found.encode())
        else:
            found = opened.evidence(index, old_size, introduced=introduced)
            message.reply(_OK + found.encode())
    except (SigulError, OSError) as error:
        # Of what was written before: it costs who asks for it, and nobody else.
        tell(log, EvidenceLog.SIGNING_LOG_UNPROVEN, why=str(error))
        message.refuse(SigulError(f"it cannot be proven ({error})", _CURE))


def _answer_socket(rights: list[tuple[int, int, bytes]]) -> socket.socket | None:
    """The socket that came with a message; None where it came with none, or with other things.

    What is no use is closed, and never so that closing it has to wait.
    """
    descriptors = array.array("i")
    for level, kind, data in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    sockets = []
    for descriptor in descriptors:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            continue
        end = socket.socket(fileno=descriptor)
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
        sockets.append(end)
    if len(sockets) == 1 and sockets[0].family == socket.AF_UNIX:
        return sockets[0]
    for end in sockets:
        end.close()
    return None


def _hung_up(receiver: socket.socket) -> bool:
    poll = select.poll()
    poll.register(receiver, select.POLLIN | select.POLLRDHUP)
    return any(events & (select.POLLHUP | select.POLLRDHUP) for _, events in poll.poll(0))


def _parse(data: bytes, answer: socket.socket) -> _Message | None:
    """The message in `data`; None, and `answer` told and closed, where it is none."""
    try:
        kind, count = _HEAD.unpack_from(data)
        start = _HEAD.size + count * _SEEN.size
        seen = dict(_SEEN.iter_unpack(data[_HEAD.size : start]))
        message = _Message(answer, _Kind(kind), seen)
        body = data[start:]
        if count > MAX_SEEN or len(seen) > count or len(body) > MAX_LEAF_BYTES:
            raise ValueError
        if message.kind is not _Kind.CHECKPOINT:
            message.leaf = _leaf(body)
        elif body:
            raise ValueError
    except (ValueError, struct.error, NotProven):
        tell(log, EvidenceLog.LOG_MESSAGE_INVALID)
        refusal = _Message(answer, _Kind.RECORD, {})
        refusal.refuse(SigulError("the signing log takes no such message"))
        answer.close()
        return None
    return message


def _leaf(data: bytes) -> Leaf:
    """The leaf of a decision. Raises `NotProven`, and `ValueError` for what is the log's own."""
    leaf = Leaf.parse(data)
    if leaf.op in (LOG_START, LOG_RESTORED) or leaf.previous or leaf.time:
        raise ValueError
    return leaf


def write_log(receiver: socket.socket, directory: Path, tell: Callable[[int, float], None]) -> None:
    """The writer's work: write the log in `directory` until no worker is left."""
    Writer(receiver, lambda: SigningLog.open(directory), tell).run()
