"""The server's side of `sign-rpms`, on streams in memory, with a signer of the tests' own."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from sigul_stack.config.server import ServerSettings
from sigul_stack.config.shared import NSSSettings
from sigul_stack.errors import KeystoreError, ProtocolError, RequestRefused, SigulError, Status
from sigul_stack.protocol.operations import OPERATIONS
from sigul_stack.protocol.versions import LATEST
from sigul_stack.server.batch import (
    PLACES_A_THREAD,
    Batch,
    Ledger,
    RefusedSubrequest,
    Subrequest,
)
from sigul_stack.server.spool import Spool
from sigul_stack.transport.chunked import ChunkedStream
from sigul_stack.transport.memory import MemoryStream, pair
from tests.wire import (
    SUBREPLY_KEYS,
    SUBREQUEST_KEYS,
    THREAD_SECONDS,
    eventually,
    outer,
    sub_parts,
    u32,
)

SETTINGS = ServerSettings(
    bridge_hostname="bridge.example.org",
    nss=NSSSettings(directory="sql:/nonexistent"),
    idle_timeout=THREAD_SECONDS,
)
END = outer(b"")


def request(number: int, payload: bytes = b"rpm", **fields: bytes) -> bytes:
    """A subrequest whose id is its number."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return b"".join(sub_parts(number, {"id": u32(number), **named}, payload, SUBREQUEST_KEYS))


def reply(number: int, fields: Mapping[str, bytes], payload: bytes = b"") -> bytes:
    """A subreply as it must look."""
    return b"".join(sub_parts(number, fields, payload, SUBREPLY_KEYS))


def echo(subrequest: Subrequest) -> BinaryIO:
    """Signs by saying who is signed, and what."""
    assert subrequest.authenticated
    return io.BytesIO(b"signed " + subrequest.payload.read())


class Kept(Ledger):
    """Keeps what it is told; says no to RPMs that are `full`."""

    def __init__(self) -> None:
        self.done_with: list[bytes] = []
        self.refused_with: list[tuple[bytes, int, str]] = []

    def done(self, subrequest: Subrequest, output: BinaryIO) -> Mapping[str, bytes]:
        output.seek(0)
        if b"full" in output.read():
            raise SigulError("no room")
        assert subrequest.content is not None
        self.done_with.append(subrequest.fields["id"])
        return {"log-1": subrequest.content.sha256[:8].encode()}

    def refused(
        self,
        received: Subrequest | RefusedSubrequest,
        refused: RequestRefused,
        error: Exception,
    ) -> None:
        found = "" if received.content is None else received.content.sha256[:8]
        self.refused_with.append((received.fields["id"], refused.status, found))


def batch(
    sign: Callable[[Subrequest], BinaryIO], ledger: Ledger | None = None, **settings: object
) -> Batch:
    """A batch with these settings."""
    return Batch(
        replace(SETTINGS, **settings),  # type: ignore[arg-type]
        LATEST,
        OPERATIONS["sign-rpms"],
        subrequests=SUBREQUEST_KEYS,
        subreplies=SUBREPLY_KEYS,
        sign=sign,
        ledger=ledger,
    )


@contextmanager
def served(
    sign: Callable[[Subrequest], BinaryIO], **settings: object
) -> Iterator[tuple[MemoryStream, threading.Thread, list[BaseException]]]:
    """A batch that runs in a thread: the client's end, the thread, and what it raised."""
    with running(batch(sign, **settings)) as parts:
        yield parts


@contextmanager
def running(made: Batch) -> Iterator[tuple[MemoryStream, threading.Thread, list[BaseException]]]:
    """As `served`, for a batch that is there."""
    near, far = pair()
    raised: list[BaseException] = []

    def run() -> None:
        chunked = ChunkedStream(near, THREAD_SECONDS)
        try:
            made.run(chunked)
            chunked.end()
        except SigulError as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield far, thread, raised
    thread.join(THREAD_SECONDS)
    assert not thread.is_alive()


def said(far: MemoryStream) -> bytes:
    """All that the server says, up to its end."""
    chunked, found = ChunkedStream(far, THREAD_SECONDS), b""
    while piece := chunked.read(1 << 20):
        found += piece
    return found


def exchange(
    sent: bytes, sign: Callable[[Subrequest], BinaryIO] = echo, **settings: object
) -> bytes:
    """The answer to what is sent, one thread signing, so that the order is kept."""
    settings.setdefault("signing_threads", 1)
    with served(sign, **settings) as (far, _, raised):
        far.write((outer(sent) if sent else b"") + END, THREAD_SECONDS)
        found = said(far)
    assert raised == []
    return found


OK = {"status": u32(0)}


def test_each_rpm_is_written_down_before_its_answer() -> None:
    """What cannot be is not answered; what fails is written down, too."""
    ledger = Kept()
    sent = request(0, b"rpm") + request(1, b"full") + request(2, b"fails") + request(3, b"x" * 99)

    def sign(subrequest: Subrequest) -> BinaryIO:
        signed = echo(subrequest)
        if signed.read().endswith(b"fails"):
            raise RequestRefused(Status.CORRUPT_RPM)
        return signed

    made = batch(sign, ledger, signing_threads=1, max_file_payload_size=50)
    with running(made) as (far, _, raised):
        far.write(outer(sent) + END, THREAD_SECONDS)
        found = said(far)
    assert raised == []
    assert found.startswith(reply(0, {"id": u32(0), **OK, "log-1": sha256(b"rpm")}, b"signed rpm"))
    assert b"signed full" not in found
    assert ledger.done_with == [u32(0)]
    assert ledger.refused_with == [
        (u32(1), Status.UNKNOWN_ERROR, sha256(b"full").decode()),
        (u32(2), Status.CORRUPT_RPM, sha256(b"fails").decode()),
        (u32(3), Status.UNKNOWN_ERROR, ""),
    ]


def sha256(data: bytes) -> bytes:
    """The first digits of a digest."""
    return hashlib.sha256(data).hexdigest()[:8].encode()


def test_no_subrequest_at_all() -> None:
    assert exchange(b"") == b""


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_each_is_answered_under_the_keys_of_its_number(size: int, tmp_path: Path) -> None:
    payloads = [b"a" * size, b"b" * (3 * size), b"c"]
    sent = b"".join(request(number, payload) for number, payload in enumerate(payloads))
    assert exchange(sent, max_memory_payload_size=10, spool_directory=tmp_path) == b"".join(
        reply(number, {"id": u32(number), **OK}, b"signed " + payload)
        for number, payload in enumerate(payloads)
    )


def test_a_reply_comes_before_the_next_request() -> None:
    with served(echo) as (far, _, raised):
        chunked = ChunkedStream(far, THREAD_SECONDS)
        for number in range(5):
            chunked.write(request(number))
            wanted = reply(number, {"id": u32(number), **OK}, b"signed rpm")
            assert chunked.read_exactly(len(wanted)) == wanted
        chunked.end()
        assert chunked.read(1) == b""
    assert raised == []


def test_failures_cost_their_rpm_and_are_counted() -> None:
    errors = [
        RequestRefused(Status.CORRUPT_RPM, "why"), RequestRefused(Status.UNAUTHENTICATED_RPM),
        KeystoreError("/var/lib/x failed", "do this"), OSError(28, "No space"), ValueError("no"),
    ]  # fmt: skip
    left = list(errors)

    def sign(subrequest: Subrequest) -> BinaryIO:
        if left:
            raise left.pop(0)
        return echo(subrequest)

    found = exchange(b"".join(request(number) for number in range(6)), sign)
    # Who has come so far has proved his right, and is told the causes.
    told = [
        b"x failed; do this",
        b"the server's system refuses: No space; have the server's administrator look at disk,"
        b" memory and limits; its log says where",
        b"this was not foreseen; the server's log has it, for a bug report",
    ]
    answers = [
        {"status": u32(11), "message": b"why"}, {"status": u32(12)},
        *({"status": u32(9), "message": text} for text in told),
    ]  # fmt: skip
    # The good one first: clients of 1.2 read no further than the first failure.
    assert found == reply(0, {"id": u32(5), **OK}, b"signed rpm") + b"".join(
        reply(number + 1, {"id": u32(number), **fields}) for number, fields in enumerate(answers)
    )


@pytest.mark.parametrize("most", [1, 2, 100])
def test_no_more_failures_are_kept_than_there_may_be(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("sigul_stack.server.batch.MAX_KEPT_FAILURES", most)

    def sign(subrequest: Subrequest) -> BinaryIO:
        if subrequest.fields["id"] != u32(2):
            raise RequestRefused(Status.CORRUPT_RPM)
        return echo(subrequest)

    order = {1: [0, 1, 2, 3], 2: [0, 1, 2, 3], 100: [2, 0, 1, 3]}[most]
    assert exchange(b"".join(map(request, range(4))), sign) == b"".join(
        reply(place, {"id": u32(2), **OK}, b"signed rpm")
        if number == 2
        else reply(place, {"id": u32(number), "status": u32(11)})
        for place, number in enumerate(order)
    )


def test_where_the_right_has_ended_nothing_is_kept() -> None:
    def sign(subrequest: Subrequest) -> BinaryIO:
        number = int.from_bytes(subrequest.fields["id"], "big")
        raise RequestRefused(Status.AUTHENTICATION_FAILED if number else Status.CORRUPT_RPM)

    with served(sign, signing_threads=1) as (far, _, raised):
        chunked = ChunkedStream(far, THREAD_SECONDS)
        chunked.write(request(0) + request(1))
        wanted = reply(0, {"id": u32(0), "status": u32(11)}) + reply(
            1, {"id": u32(1), "status": u32(3)}
        )
        assert chunked.read_exactly(len(wanted)) == wanted
        chunked.end()
        assert chunked.read(1) == b""
    assert raised == []


@pytest.mark.parametrize(("start", "kept"), [("x", 125), ("xx", 125)])
def test_a_long_message_is_cut_where_a_character_ends(start: str, kept: int) -> None:
    def sign(_subrequest: Subrequest) -> BinaryIO:
        raise RequestRefused(Status.CORRUPT_RPM, start + "ü" * 200)

    message = (start + "ü" * kept + "...").encode()
    assert exchange(request(0), sign) == reply(
        0, {"id": u32(0), "status": u32(11), "message": message}
    )


def test_a_wrong_payload_code_is_told_to_the_signer_alone() -> None:
    seen = []

    def sign(subrequest: Subrequest) -> BinaryIO:
        seen.append((subrequest.authenticated, subrequest.fields.get("rpm-sigmd5")))
        return io.BytesIO(b"x")

    sent = request(0)[:-1] + b"?" + request(1, rpm_sigmd5=bytes(16)) + request(2)
    exchange(sent, sign)
    assert seen == [(False, None), (True, bytes(16)), (True, None)]


@pytest.mark.parametrize(
    "wrong",
    [
        b"".join(sub_parts(1, {"id": u32(0)}, b"rpm", SUBREQUEST_KEYS)),  # another's number
        b"".join(sub_parts(0, {"rpm-name": b"n"}, b"rpm", SUBREQUEST_KEYS)),
        request(0)[:-1],
        request(0)[:3],
    ],
)
def test_what_is_wrong_with_the_stream_ends_it(wrong: bytes) -> None:
    with served(echo) as (far, _, raised):
        far.write(outer(wrong) + END, THREAD_SECONDS)
    assert len(raised) == 1
    with pytest.raises(SigulError):
        said(far)


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        ({"other": b"1"}, b"a subrequest has no field 'other'"),
        (
            {"rpm-arch": b"\n"},
            b"field 'rpm-arch' holds an unprintable character or one beyond ASCII"
            b" (U+000A): the protocol allows printable ASCII here, nothing else",
        ),
    ],
)
def test_odd_fields_cost_the_rpm_that_has_them(odd: dict[str, bytes], told: bytes) -> None:
    subrequests = [({}, 80), (odd, 90), ({}, 20)]
    sent = b"".join(
        b"".join(
            sub_parts(number, {"id": u32(number), **fields}, bytes(size), SUBREQUEST_KEYS)
        )
        for number, (fields, size) in enumerate(subrequests)
    )  # fmt: skip
    # Its content is read past, and does not count.
    assert exchange(sent, max_rpms_payloads_size=100) == b"".join(
        [
            reply(0, {"id": u32(0), **OK}, b"signed " + bytes(80)),
            reply(1, {"id": u32(2), **OK}, b"signed " + bytes(20)),
            reply(2, {"id": u32(1), "status": u32(9), "message": told}),
        ]
    )


def test_limits_cost_the_rpm_that_is_over_them() -> None:
    sent = b"".join(request(number, bytes(size)) for number, size in enumerate((60, 51, 50, 30)))
    found = exchange(sent, max_rpms_payloads_size=100, max_file_payload_size=55)
    # Over a file's limit; then within both; over both together; and the last one fits again.
    assert found == b"".join(
        [
            reply(0, {"id": u32(1), **OK}, b"signed " + bytes(51)),
            reply(1, {"id": u32(3), **OK}, b"signed " + bytes(30)),
            reply(2, {"id": u32(0), **refusal(60, "max-file-payload-size", 55)}),
            reply(3, {"id": u32(2), **refusal(50, "max-rpms-payloads-size", 100)}),
        ]
    )


def refusal(size: int, name: str, limit: int) -> dict[str, bytes]:
    """The fields of an answer for an RPM over a limit."""
    text = f"with its {size} bytes it is over the server's {name} of {limit} bytes"
    return {"status": u32(9), "message": text.encode()}


def test_several_are_signed_at_once_and_few_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, count = 3, 40
    places = PLACES_A_THREAD * threads
    started: list[int] = []
    held: list[Spool] = []
    go = threading.Event()

    def sign(subrequest: Subrequest) -> BinaryIO:
        started.append(1)
        assert go.wait(THREAD_SECONDS)
        return echo(subrequest)

    class Counted(Spool):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            held.append(self)

    monkeypatch.setattr("sigul_stack.server.batch.Spool", Counted)
    made = batch(sign, signing_threads=threads)
    with running(made) as (far, _, raised):
        for number in range(count):
            far.write(outer(request(number)), THREAD_SECONDS)
        far.write(END, THREAD_SECONDS)
        assert eventually(lambda: len(started) == threads)
        # The reading thread waits for a place: it has taken what it will.
        assert eventually(lambda: len(made._places._cond._waiters) == 1)
        assert (len(started), len(held)) == (threads, places)
        go.set()
        found = said(far)
    assert raised == []
    assert len(started) == len(held) == count
    assert len(found) == sum(
        len(reply(number, {"id": u32(number), **OK}, b"signed rpm")) for number in range(count)
    )


def test_a_client_that_leaves_ends_the_batch() -> None:
    with served(echo) as (far, _, raised):
        far.write(outer(request(0)), THREAD_SECONDS)
        far.abort()
    assert len(raised) == 1
    assert not isinstance(raised[0], ProtocolError)
