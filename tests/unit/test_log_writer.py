"""The process that writes the signing log for all workers: a real one, its channel and its log."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import signal
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sigul_stack.evidence import signing_log
from sigul_stack.evidence.leaf import LOG_RESTORED, LOG_START, Content, Leaf, Result
from sigul_stack.evidence.log_reader import LogReader, verify_log
from sigul_stack.evidence.signing_log import AppendStep, SigningLog
from sigul_stack.evidence.writer import (
    MAX_GROUP,
    MAX_LEAF_BYTES,
    LogChannel,
    LogUnavailable,
    Writer,
    write_log,
)
from sigul_stack.formats.merkle_tree import verify_consistency
from sigul_stack.formats.signed_note import Checkpoint
from tests.site import wait_until

#: Seconds for whatever is waited for here.
SECONDS = 20.0


def leaf(user: str = "ann", **more: object) -> Leaf:
    """A decision."""
    return Leaf(op="sign-data", result=Result.OK, user=user, **more)  # type: ignore[arg-type]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A new log."""
    found = tmp_path / "log"
    signing_log.create(found, "server.example")
    return found


@pytest.fixture
def channel() -> Iterator[LogChannel]:
    """The channel, both ends of which are here."""
    found = LogChannel()
    yield found
    found.forget()


def forked(channel: LogChannel, work: Callable[[], None]) -> int:
    """A child that is the writer: it has the receiving end alone."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        channel.keep_receiver()
        work()
        code = 0
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """The exit code of a child, which has `SECONDS` to end."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("the writer has not ended")


def start(channel: LogChannel, directory: Path) -> int:
    """Fork the writer of a log."""
    return forked(channel, lambda: write_log(channel.receiver, directory, lambda _size, _at: None))


def leaves(directory: Path) -> list[Leaf]:
    """All leaves of a log but the first, once all of it is verified."""
    reader = LogReader.open(directory)
    key = reader.public_key
    assert key is not None
    verify_log(reader, key)
    return [Leaf.parse(entry) for entry in reader.entries(1, reader.size)]


@contextlib.contextmanager
def in_thread(writer: Writer) -> Iterator[None]:
    """Run a writer here, until its channel has no sending end any more."""
    thread = threading.Thread(target=writer.run, daemon=True)
    thread.start()
    yield
    thread.join(SECONDS)
    assert not thread.is_alive()


# -------------------------------------------------------------------------------------- its service


def test_leaves_are_written_and_proven(channel: LogChannel, directory: Path) -> None:
    pid, client = start(channel, directory), channel.client()
    first = client.append(leaf("ann"), {})
    second = client.append(leaf("bob"), {})
    client.record(leaf("carl"))
    key = SigningLogKey(directory)
    assert [first.index, second.index] == [1, 2]
    for evidence, user in ((first, "ann"), (second, "bob")):
        assert evidence.proof.verify(key.public).size == evidence.index + 1
        assert Leaf.parse(evidence.entry).user == user
    newest = client.checkpoint({})
    assert newest.entry == b""
    assert Checkpoint.of(newest.checkpoint).size == 4
    client.close()
    assert ended(pid) == 0
    assert [item.user for item in leaves(directory)] == ["ann", "bob", "carl"]


class SigningLogKey:
    """The public key of a log."""

    def __init__(self, directory: Path) -> None:
        found = LogReader.open(directory).public_key
        assert found is not None
        self.public = found


def test_what_was_seen_of_this_log_is_proven_to_be_extended(
    channel: LogChannel, directory: Path
) -> None:
    pid, client = start(channel, directory), channel.client()
    key = SigningLogKey(directory).public
    old = Checkpoint.of(client.append(leaf(), {}).checkpoint)
    others: Mapping[bytes, int] = {bytes([number] * 4): number for number in range(5)}
    found = client.append(leaf(), {**others, key.id: old.size})
    new = Checkpoint.of(found.checkpoint)
    assert found.old_size == old.size
    verify_consistency(old.size, old.root, new.size, new.root, found.consistency)
    assert client.append(leaf(), others).old_size == 0
    assert client.append(leaf(), {key.id: 99}).old_size == 0
    assert client.checkpoint({key.id: 1}).old_size == 1
    client.close()
    assert ended(pid) == 0


def test_what_waits_shares_an_append_up_to_a_bound(channel: LogChannel, directory: Path) -> None:
    """Counted by the steps of the log, one of which is at each append."""
    appends: list[AppendStep] = []

    def count(step: AppendStep) -> None:
        if step is AppendStep.CHECKPOINT_WRITTEN:
            appends.append(step)

    client, number = channel.client(), 2 * MAX_GROUP + 1
    with ThreadPoolExecutor(number) as pool:
        asked = [pool.submit(client.append, leaf(f"{i:03}"), {}) for i in range(number)]
        size = number * len(message(leaf("000")))
        wait_until(lambda: waiting(channel) == size, SECONDS, "all messages")
        opened = lambda: SigningLog.open(directory, on_step=count)  # noqa: E731
        with in_thread(Writer(channel.receiver, opened)):
            found = [item.result(SECONDS) for item in asked]
            client.close()
    assert len(appends) == 3
    assert sorted(item.index for item in found) == list(range(1, number + 1))
    users = [item.user for item in leaves(directory)]
    for i, evidence in enumerate(found):
        assert users[evidence.index - 1] == f"{i:03}"


def waiting(channel: LogChannel) -> int:
    """How many bytes of messages wait at the receiving end."""
    found = array.array("i", [0])
    fcntl.ioctl(channel.receiver, termios.FIONREAD, found)
    return found[0]


def test_it_ends_when_nobody_is_left_who_could_send(channel: LogChannel, directory: Path) -> None:
    """What was sent before is written: a worker may end right behind its last message."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client = channel.client()
    with near, far:
        client._send(message(leaf()), far.fileno(), time.monotonic() + SECONDS)
        client.close()
        pid = start(channel, directory)
        assert ended(pid) == 0
        far.close()
        assert near.recv(1) == b"\0"
    assert len(leaves(directory)) == 1


def test_the_supervisor_hears_of_the_size(channel: LogChannel, directory: Path) -> None:
    told: list[tuple[int, float]] = []
    client = channel.client()
    with in_thread(
        Writer(
            channel.receiver,
            lambda: SigningLog.open(directory),
            lambda size, when: told.append((size, when)),
        )
    ):
        wait_until(lambda: told, SECONDS, "the first size")
        for _ in range(20):
            client.record(leaf())
        wait_until(lambda: told[-1][0] == 21, SECONDS, "the last size")
        client.close()
    assert len(told) < 5
    assert abs(told[-1][1] - time.time()) < SECONDS


# --------------------------------------------------------------------------------- when it is ended


@pytest.mark.parametrize("step", AppendStep)
def test_killed_at_each_step_it_costs_the_request_under_way_alone(
    channel: LogChannel, directory: Path, step: AppendStep
) -> None:
    """Whatever was answered is in the log; what waited is served by the next writer."""
    reach = 255 if step in UPPER else 1
    client = channel.client()

    def killed_at_the_step() -> None:
        kill = False

        def on_step(found: AppendStep) -> None:
            if found is step and kill:
                os.kill(os.getpid(), signal.SIGKILL)

        opened = SigningLog.open(directory, on_step=on_step)
        opened.append([leaf("before")] * reach)
        kill = True
        Writer(channel.receiver, lambda: opened).run()

    pid = forked(channel, killed_at_the_step)
    with pytest.raises(LogUnavailable, match="ended before it answered"):
        client.append(leaf("lost"), {})
    assert ended(pid) == -signal.SIGKILL
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.append, leaf("waited"), {})
        pid = start(channel, directory)
        assert Leaf.parse(asked.result(SECONDS).entry).user == "waited"
    client.close()
    assert ended(pid) == 0
    users = [item.user for item in leaves(directory)]
    assert users[:reach] == ["before"] * reach
    assert users[reach:] in (["waited"], ["lost", "waited"])


UPPER = (
    *(AppendStep.BUNDLE_WRITTEN, AppendStep.TILE_WRITTEN, AppendStep.UPPER_TILE_WRITTEN),
    *(AppendStep.TAIL_BEGUN, AppendStep.OLD_TILES_REMOVED, AppendStep.INDEXED),
)


def test_a_client_waits_no_longer_than_it_may(channel: LogChannel) -> None:
    client, begin = channel.client(), time.monotonic()
    with pytest.raises(LogUnavailable, match=r"has not answered in 0\.2 s"):
        client.append(leaf(), {}, 0.2)
    assert time.monotonic() - begin < 5


def test_where_no_room_is_left_for_messages_it_is_the_same(channel: LogChannel) -> None:
    client = channel.client()
    large = leaf(reason="x" * 20_000)
    with pytest.raises(LogUnavailable, match="has not answered"):
        for _ in range(1000):
            client.append(large, {}, 0.01)
    with pytest.raises(LogUnavailable, match="has not answered"):
        client.record(large, 0.05)


def test_a_client_without_a_writer_hears_at_once(channel: LogChannel) -> None:
    channel.keep_sender()
    with pytest.raises(LogUnavailable, match="cannot be reached"):
        channel.client().record(leaf())


# ------------------------------------------------------------------------------ when the disk fails


def test_a_failure_of_the_disk_is_told_and_the_next_leaf_is_written(
    channel: LogChannel, directory: Path
) -> None:
    full = True

    def on_step(_step: AppendStep) -> None:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    client = channel.client()
    with in_thread(Writer(channel.receiver, lambda: SigningLog.open(directory, on_step=on_step))):
        for _ in range(3):
            with pytest.raises(LogUnavailable, match="No space left on device") as told:
                client.append(leaf("lost"), {})
            assert told.value.cure
        full = False
        assert Leaf.parse(client.append(leaf("kept"), {}).entry).user == "kept"
        client.close()
    assert leaves(directory)[-1].user == "kept"


def test_a_log_that_cannot_be_opened_is_told_and_looked_for_again(
    channel: LogChannel, directory: Path
) -> None:
    away = directory.with_name("away")
    directory.rename(away)
    client = channel.client()
    with in_thread(Writer(channel.receiver, lambda: SigningLog.open(directory))):
        with pytest.raises(LogUnavailable, match="there is no signing log"):
            client.append(leaf(), {})
        away.rename(directory)
        assert client.append(leaf(), {}).index == 1
        client.close()


def test_an_unforeseen_failure_ends_nothing(channel: LogChannel, directory: Path) -> None:
    def on_step(_step: AppendStep) -> None:
        raise ZeroDivisionError

    logs = iter([SigningLog.open(directory, on_step=on_step)])
    client = channel.client()
    opened = lambda: next(logs, None) or SigningLog.open(directory)  # noqa: E731
    with in_thread(Writer(channel.receiver, opened)):
        with pytest.raises(LogUnavailable, match="unforeseen"):
            client.record(leaf())
        client.record(leaf("next"))
        client.close()
    assert leaves(directory)[-1].user == "next"


# ---------------------------------------------------------------------------------- hostile workers


def message(found: Leaf, kind: int = 1, seen: bytes = b"", count: int | None = None) -> bytes:
    """A message as a worker sends it."""
    number = len(seen) // 12 if count is None else count
    return bytes([kind, number]) + seen + found.encode()


BAD = {
    "nothing at all": b"",
    "half a head": b"\x01",
    "no leaf": b"\x01\x00",
    "an unknown kind": b"\x09\x00" + leaf().encode(),
    "no JSON": b"\x01\x00{",
    "JSON that is no leaf": b'\x01\x00{"v":1}',
    "deep JSON": b"\x01\x00" + b"[" * 30_000,
    "a name that is none": message(leaf()).replace(b'"user":"ann"', b'"user":{"a":1}'),
    "an object that is none": message(leaf(objects={"key": "k"})).replace(b'"k"', b"7"),
    "a number that is none": message(leaf(status=5)).replace(b":5", b":NaN"),
    "a large number": message(leaf(status=5)).replace(b":5", b":" + b"5" * 40),
    "a truth for a number": message(leaf(status=5)).replace(b":5", b":true"),
    "not canonical": b"\x01\x00 " + leaf().encode(),
    "another version": message(leaf()).replace(b'"v":1', b'"v":2'),
    "more sizes than there are": message(leaf(), count=3),
    "too many sizes": message(leaf(), seen=bytes(12 * 17)),
    "a checkpoint with a leaf": message(leaf(), kind=3),
    "the log's own first leaf": message(Leaf(op=LOG_START, result=Result.OK)),
    "the log's own word": message(Leaf(op=LOG_RESTORED, result=Result.OK)),
    "another log's checkpoint": message(leaf(previous="x")),
    "a time": message(leaf(time="2001-01-01T00:00:00.000Z")),
    "a leaf that is too large": message(leaf(reason="x" * MAX_LEAF_BYTES)),
    "a message that is too large": b"\x01\x00" + bytes(150_000),
    "bytes": bytes(range(256)),
}


def ask(channel: LogChannel, data: bytes) -> bytes:
    """The answer to a message that need not be one."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near:
        with far:
            channel.client()._send(data, far.fileno(), time.monotonic() + SECONDS)
        near.settimeout(SECONDS)
        return near.recv(1000)


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_message_is_refused_and_ends_nothing(
    channel: LogChannel, directory: Path, bad: str
) -> None:
    with in_thread(Writer(channel.receiver, lambda: SigningLog.open(directory))):
        assert not ask(channel, BAD[bad]).startswith(b"\0")
        channel.client().record(leaf("good"))
        channel.client().close()
    assert [item.user for item in leaves(directory)] == ["good"]


def sent(channel: LogChannel, descriptors: list[int], data: bytes | None = None) -> None:
    """Send a message with these descriptors."""
    channel.client()._sender.sendmsg(
        [message(leaf("odd")) if data is None else data],
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))],
    )


def test_what_comes_instead_of_a_socket_for_the_answer_holds_nobody_up(
    channel: LogChannel, directory: Path
) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    reader, writer = os.pipe()
    lingering, other = tcp_pair()
    lingering.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    lingering.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            lingering.send(bytes(65536))
    full, unread = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    full.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            full.send(bytes(1000))
    with in_thread(Writer(channel.receiver, lambda: SigningLog.open(directory))):
        sent(channel, [])
        sent(channel, [writer])
        sent(channel, [lingering.fileno()])
        lingering.close()
        sent(channel, [full.fileno()])
        sent(channel, [full.fileno(), unread.fileno()])
        sent(channel, [reader] * 50)
        sent(channel, [full.fileno()], b"")
        channel.client()._sender.send(b"")
        begin = time.monotonic()
        channel.client().record(leaf("good"))
        assert time.monotonic() - begin < 5
        channel.client().close()
    for end in (full, unread, other):
        end.close()
    os.close(reader)
    os.close(writer)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    # The one whose answer could not be delivered was a decision all the same.
    assert [item.user for item in leaves(directory)] == ["odd", "good"]


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


def test_nobody_hears_anothers_answer(channel: LogChannel, directory: Path) -> None:
    """Each of many at once has the evidence of its own leaf."""
    client = channel.client()
    pid = start(channel, directory)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda i: client.append(leaf(str(i)), {}), range(200)))
    for number, evidence in enumerate(found):
        assert Leaf.parse(evidence.entry).user == str(number)
    client.close()
    assert ended(pid) == 0


def test_the_largest_leaf_is_written(channel: LogChannel, directory: Path) -> None:
    room = MAX_LEAF_BYTES - len(leaf(reason="x").encode())
    large = leaf(reason="x" * (room + 1), input=None)
    assert len(large.encode()) == MAX_LEAF_BYTES
    pid, client = start(channel, directory), channel.client()
    # Evidence of it does not fit the fields of a reply: they are left out.
    assert client.append(large, {}).fields() == {}
    with pytest.raises(LogUnavailable, match="is over"):
        client.append(leaf(reason="x" * (room + 2)), {})
    assert client.append(leaf(input=Content("0" * 64, 1)), {}).fields()
    client.close()
    assert ended(pid) == 0
