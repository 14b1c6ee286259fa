"""Time limits, the watchdog, and the in-memory twin of the TLS connections."""

from __future__ import annotations

import gc
import hashlib
import io
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from sigul_stack.errors import DeadlineExceeded, PeerClosed
from sigul_stack.protocol.chunks import Stream
from sigul_stack.transport import memory, watchdog
from sigul_stack.transport.chunked import ChunkedStream
from sigul_stack.transport.payload import payload_pieces, send_pieces
from sigul_stack.transport.stream import Deadline
from sigul_stack.transport.watchdog import Watchdog
from tests.wire import eventually, in_background, inner, of_stream, outer, u32

LONG = 10.0


# ---------------------------------------------------------------------------------------- deadlines


def test_a_deadline_counts_all_steps_together() -> None:
    now = [100.0]
    deadline = Deadline(2.5, "tying shoes", clock=lambda: now[0])
    assert deadline.remaining() == 2.5
    now[0] += 2.0
    assert deadline.remaining() == 0.5
    now[0] += 0.5
    for _ in range(2):
        with pytest.raises(DeadlineExceeded, match=r"tying shoes took longer than .* 2\.5 s"):
            deadline.remaining()
        now[0] += 10


# ----------------------------------------------------------------------------------------- watchdog


class Call:
    """A connection, as the watchdog sees it."""

    def __init__(self, *, read: float | None = None, write: float | None = None) -> None:
        self.read_due = None if read is None else time.monotonic() + read
        self.write_due = None if write is None else time.monotonic() + write
        self.expired = threading.Event()

    def expire(self) -> None:
        """See `Guarded.expire`."""
        self.expired.set()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watchdog]:
    """A watchdog that looks often."""
    monkeypatch.setattr(watchdog, "PERIOD_SECONDS", 0.02)
    found = Watchdog()
    yield found
    found.stop()


@pytest.mark.parametrize("late", [{"read": 0.05}, {"write": 0.05}, {"read": 0.05, "write": LONG}])
def test_a_late_call_is_ended(quick: Watchdog, late: dict[str, float]) -> None:
    call = Call(**late)
    quick.guard(call)
    assert call.expired.wait(LONG)


def test_calls_that_are_not_late_go_on(quick: Watchdog) -> None:
    idle, busy, late = Call(), Call(read=LONG, write=LONG), Call(read=-1)
    for call in (idle, busy, late):
        quick.guard(call)
    assert late.expired.wait(LONG)
    assert not idle.expired.is_set()
    assert not busy.expired.is_set()


def test_a_connection_that_nobody_holds_is_forgotten(quick: Watchdog) -> None:
    call = Call(read=LONG)
    quick.guard(call)
    forgotten = weakref.ref(call)
    del call

    def is_gone() -> bool:
        gc.collect()
        return forgotten() is None

    assert eventually(is_gone)


def test_a_stopped_watchdog_ends_its_thread(quick: Watchdog) -> None:
    quick.guard(Call())
    thread = quick._thread
    assert thread is not None
    quick.stop()
    assert not thread.is_alive()
    Watchdog().stop()


# ------------------------------------------------------------------------------------------- memory


def test_what_one_end_writes_the_other_reads() -> None:
    near, far = memory.pair(memory.nobody("left"), memory.nobody("right"))
    assert (near.peer.common_name, far.peer.common_name) == ("left", "right")
    near.write(b"there", 1)
    far.write(b"and back", 1)
    assert far.read(100, 1) == b"there"
    assert near.read(3, 1) == b"and"
    assert near.has_input()
    assert near.read(100, 1) == b" back"
    assert not near.has_input()


def test_reads_are_cut_as_a_test_wants_it() -> None:
    near, far = memory.pair()
    near.split = 2
    far.write(b"abcde", 1)
    assert [near.read(100, 1) for _ in range(3)] == [b"ab", b"cd", b"e"]


def test_a_read_waits_up_to_its_limit() -> None:
    near, far = memory.pair()
    with pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
        near.read(1, 0.05)

    def write_later() -> None:
        assert eventually(lambda: len(near._in.changed._waiters) == 1)  # type: ignore[attr-defined]
        far.write(b"x", 1)

    with in_background(write_later):
        assert near.read(1, LONG) == b"x"


def test_an_orderly_end_comes_after_the_data_and_stays() -> None:
    near, far = memory.pair()
    far.write(b"x", 1)
    far.end_writing()
    assert [near.read(9, 1), near.read(9, 1), near.read(9, 1)] == [b"x", b"", b""]
    near.write(b"still open", 1)
    assert far.read(100, 1) == b"still open"
    with pytest.raises(PeerClosed):
        far.write(b"x", 1)


def test_an_abort_is_no_orderly_end_and_wakes_whoever_waits() -> None:
    near, far = memory.pair()
    far.write(b"x", 1)

    def waits() -> None:
        assert near.read(9, LONG) == b"x"
        with pytest.raises(PeerClosed):
            near.read(9, LONG)

    with in_background(waits):
        assert eventually(lambda: not near.has_input())
        far.abort()
    for end in (near, far):
        with pytest.raises(PeerClosed):
            end.write(b"x", 1)


def test_what_is_written_can_be_watched() -> None:
    near, far = memory.pair()
    seen: list[bytes] = []
    near.on_write = seen.append
    near.write(b"a", 1)
    near.write(b"b", 1)
    assert seen == [b"a", b"b"]
    assert far.read(9, 1) == b"ab"


# ---------------------------------------------------------------------------------- `ChunkedStream`


def test_head_and_data_go_out_in_one_write() -> None:
    near, _far = memory.pair()
    seen: list[bytes] = []
    near.on_write = seen.append
    chunked = ChunkedStream(near, 1)
    chunked.write(b"data")
    chunked.write(b"")
    chunked.write_inner(b"hidden")
    chunked.end()
    assert seen == [outer(b"data"), inner(b"hidden"), outer(b"")]


def test_long_data_go_out_in_chunks_of_a_limited_size() -> None:
    near, far = memory.pair()
    chunked = ChunkedStream(near, 1)
    source = io.BytesIO(bytes(1_000_000))
    send_pieces(chunked, payload_pieces(source, 1_000_000), hashlib.sha512())
    pieces = of_stream(far.read(2**21, 1), Stream.OUTER)
    assert b"".join(pieces) == bytes(1_000_000)
    assert max(map(len, pieces)) <= 2**20


def test_all_steps_of_a_parse_share_a_deadline() -> None:
    near, far = memory.pair()
    chunked = ChunkedStream(near, LONG)
    now = [0.0]
    deadline = Deadline(3, "the header", clock=lambda: now[0])
    for byte in u32(1000):
        far.write(outer(bytes([byte])), 1)
    near.split = 5

    def slow_count() -> bytes:
        found = b""
        for _ in range(4):
            found += chunked.read_exactly(1, deadline)
            now[0] += 1
        return found

    with pytest.raises(DeadlineExceeded, match="the header"):
        slow_count()


def test_a_stream_that_ends_before_its_first_byte_has_not_begun() -> None:
    near, far = memory.pair()
    far.end_writing()
    assert not ChunkedStream(near, 1).begin(Deadline(1, "the header"))


def test_what_begins_a_stream_is_not_lost() -> None:
    near, far = memory.pair()
    far.write(outer(b"abcd")[:-1], 1)
    chunked = ChunkedStream(near, 1)
    assert chunked.begin(Deadline(1, "the header"))
    far.write(b"d", 1)
    assert chunked.read_exactly(4) == b"abcd"
    with pytest.raises(DeadlineExceeded, match="the header"):
        chunked.begin(Deadline(0.05, "the header"))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "ended the connection where more"),
        (outer(b"ab"), "ended the connection where more"),
        (outer(b"abcd")[:-1], "in the middle of a chunk"),
        (b"\0\0", "in the middle of a chunk"),
        (outer(b"ab", b""), "ended its outer stream"),
    ],
)
def test_an_early_end_says_where_it_was(data: bytes, told: str) -> None:
    near, far = memory.pair()
    far.write(data, 1)
    far.end_writing()
    with pytest.raises(PeerClosed, match=told):
        ChunkedStream(near, 1).read_exactly(4)


def test_what_is_hidden_can_be_dropped_now_and_from_now_on() -> None:
    near, far = memory.pair()
    chunked = ChunkedStream(near, 1)
    far.write(inner(b"early") + outer(b"a"), 1)
    assert chunked.read(1) == b"a"
    chunked.drop_inner()
    far.write(inner(bytes(2**20), bytes(2**20)) + inner(b"", b"later") + outer(b"b"), 1)
    assert chunked.read(1) == b"b"
    assert chunked.take_inner() == b""
    assert chunked.inner_ended


def test_reading_empties_what_was_kept_so_that_more_may_come() -> None:
    near, far = memory.pair()
    chunked = ChunkedStream(near, 1)
    for _ in range(5):
        far.write(inner(bytes(2**19)) + outer(bytes(2**18)), 1)
        assert chunked.read_exactly(2**18) == bytes(2**18)
        while chunked.take_inner():
            pass
    assert not chunked.outer_waiting


def test_waiting_for_the_peer_to_close_ends_either_way() -> None:
    near, far = memory.pair()
    far.write(b"rest", 1)
    far.end_writing()
    ChunkedStream(near, 1).wait_for_close(LONG)
    assert not near.read(1, 1)

    near, far = memory.pair()
    far.abort()
    ChunkedStream(near, 1).wait_for_close(LONG)

    near, _far = memory.pair()
    ChunkedStream(near, 1).wait_for_close(0.05)
