"""What the signing server takes for a request, and what it says to one that it cannot serve.

The bridge is the far end of a memory stream, the inner session one without TLS (tests/wire.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import os
import resource
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigul_stack.config.server import ServerSettings
from sigul_stack.config.shared import NSSSettings
from sigul_stack.errors import (
    PeerClosed,
    ProtocolError,
    RequestRefused,
    SigulError,
    Status,
)
from sigul_stack.evidence.leaf import Content, Leaf
from sigul_stack.protocol.chunks import Stream
from sigul_stack.protocol.codec import Fields
from sigul_stack.protocol.messages import UnknownVersion, bridge_refusal, read_reply_header
from sigul_stack.protocol.operations import OPERATIONS
from sigul_stack.protocol.versions import LATEST
from sigul_stack.server import request as request_module
from sigul_stack.server.decisions import Decision
from sigul_stack.server.handlers import NEEDS_BYTES
from sigul_stack.server.payload import Intake
from sigul_stack.server.request import (
    MAX_REFUSED_PAYLOAD,
    Answer,
    Refused,
    Request,
    receive,
    send_answer,
    send_error,
)
from sigul_stack.server.spool import Spool, scratch_memory
from sigul_stack.transport import memory
from sigul_stack.transport.chunked import ChunkedStream
from sigul_stack.transport.memory import MemoryStream
from sigul_stack.transport.rate import TooSlow
from tests.wire import (
    INNER_END,
    KEYS,
    LIST_USERS,
    SIGN_RPMS,
    SampleRequest,
    field_map,
    in_background,
    inner,
    of_stream,
    outer,
    parse_prefix,
    plain_inner,
    reply,
    reply_parts,
    sha512,
    sign_text,
    u32,
    u64,
)

#: The largest payload kept in memory here, and the limit on all, in bytes.
IN_MEMORY, IN_FILE = 1000, 3_000_000
INTAKE = Intake(NEEDS_BYTES)
LIMITS = ServerSettings(
    bridge_hostname="bridge.example.org",
    nss=NSSSettings(directory="sql:/nonexistent"),
    max_file_payload_size=IN_FILE,
    max_memory_payload_size=IN_MEMORY,
    spool_directory=None,
    idle_timeout=5.0,
)


@contextlib.contextmanager
def bridge(*sent: bytes, split: int | None = None) -> Iterator[tuple[ChunkedStream, MemoryStream]]:
    """The server's stream with `sent` and then the connection's end on it, and its far end."""
    near, far = memory.pair()
    near.split = split
    far.write(b"".join(sent), 1)
    far.end_writing()
    yield ChunkedStream(near, 1), far


def wire(request: SampleRequest, inner_fields: Mapping[str, bytes] | None = None) -> bytes:
    """A request's chunks, with other inner fields where given."""
    hidden = request.inner if inner_fields is None else field_map(inner_fields)
    return (
        outer(request.head) + (outer(request.payload) if request.payload else b"") + inner(hidden)
    )


def outcome(
    chunked: ChunkedStream,
    limits: ServerSettings,
    open_descriptors: list[int] | None = None,
    intake: Intake = INTAKE,
) -> Refused | Request | SigulError:
    """The request that comes on `chunked`, or why it is none.

    Nothing that the server has left open outlives this, so that only the test that asks for
    `open_descriptors` (their number is added to it) has to do with it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return receive(chunked, plain_inner, limits, intake=intake)
        except SigulError as error:
            if open_descriptors is not None:
                open_descriptors.append(count_descriptors())
            reason = error.with_traceback(None)
            reason.__context__ = None
        return reason


def count_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@contextlib.contextmanager
def received(
    data: bytes, limits: ServerSettings = LIMITS, split: int | None = None
) -> Iterator[tuple[Request, MemoryStream]]:
    """The request in `data`, and what the bridge has heard."""
    with bridge(data, INNER_END, split=split) as (chunked, far):
        request = outcome(chunked, limits)
        assert isinstance(request, Request), request
        with request.payload:
            yield request, far


def rejected(data: bytes, limits: ServerSettings = LIMITS) -> tuple[SigulError, list[bytes]]:
    """Why the server takes `data` for no request, and the outer chunks that it answers with."""
    with bridge(data) as (chunked, far):
        reason = outcome(chunked, limits)
        assert isinstance(reason, SigulError)
        return reason, of_stream(heard(far), Stream.OUTER)


def refused(request: SampleRequest, limits: ServerSettings = LIMITS) -> RequestRefused:
    """What the server would answer to `request`, authenticated."""
    with bridge(wire(request), INNER_END) as (chunked, _far):
        found = outcome(chunked, limits)
        assert isinstance(found, Refused), found
        assert found.keys == KEYS
        return found.reason


def heard(far: MemoryStream) -> bytes:
    """All that the server has said so far."""
    data = b""
    while far.has_input():
        data += far.read(100_000, 1)
    return data


@contextlib.contextmanager
def disk_with_room_for(size: int) -> Iterator[None]:
    """No file of this process may become larger than `size` bytes meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# ----------------------------------------------------------------------------- requests as they are


@pytest.mark.parametrize("split", [None, 1, 4096])
@pytest.mark.parametrize("size", [0, 1, IN_MEMORY, IN_MEMORY + 1, 100_000])
def test_a_request_is_received(size: int, split: int | None, tmp_path: Path) -> None:
    payload = os.urandom(size)
    limits = dataclasses.replace(LIMITS, spool_directory=tmp_path)
    with received(wire(sign_text(payload)), limits, split) as (request, far):
        assert request.op == "sign-text"
        assert request.operation == OPERATIONS["sign-text"]
        assert request.text("key") == "k1"
        assert request.optional_text("absent") is None
        assert request.flag("absent") is None
        assert request.client_name == "root"
        assert request.secret("passphrase").reveal() == b"secret"
        assert request.optional_secret("password") is None
        assert request.keys == KEYS
        assert request.payload.length == size
        assert request.payload.file.read() == payload
        assert heard(far) == INNER_END
        # A payload's file has no name, so that nothing can be left behind.
        assert list(tmp_path.iterdir()) == []


def test_a_request_without_a_secret_is_refused_by_its_name() -> None:
    with (
        received(wire(LIST_USERS)) as (request, _far),
        pytest.raises(RequestRefused, match="lacks 'new-passphrase'"),
    ):
        request.secret("new-passphrase")


@settings(max_examples=30)
@given(
    payload=st.binary(max_size=2000),
    cuts=st.lists(st.integers(1, 2000), max_size=6),
    hidden_after=st.integers(0, 7),
    split=st.integers(1, 500),
)
def test_chunks_may_be_cut_and_mixed_in_any_way(
    payload: bytes, cuts: list[int], hidden_after: int, split: int
) -> None:
    request = sign_text(payload)
    offsets = sorted({0, len(request.outer), *(cut for cut in cuts if cut < len(request.outer))})
    chunks = [outer(request.outer[start:end]) for start, end in itertools.pairwise(offsets)]
    chunks.insert(min(hidden_after, len(chunks)), inner(request.inner[:50], request.inner[50:]))
    with received(b"".join(chunks), split=split) as (found, _far):
        assert found.payload.file.read() == payload


def test_a_request_that_is_cut_off_anywhere_is_none() -> None:
    data = wire(sign_text(b"a text"))
    for end in range(len(data)):
        reason, answer = rejected(data[:end])
        assert isinstance(reason, PeerClosed)
        assert answer == []


@settings(max_examples=150)
@given(at=st.integers(0, 10_000), value=st.integers(0, 255), change=st.sampled_from(["set", "cut"]))
def test_a_damaged_request_is_refused_or_served_as_it_was_meant(
    at: int, value: int, change: str
) -> None:
    sample = sign_text(b"a text")
    data = bytearray(wire(sample))
    at %= len(data)
    data[at : at + 1] = bytes([value]) if change == "set" else b""
    with bridge(bytes(data)) as (chunked, _far):
        request = outcome(chunked, LIMITS)
    if isinstance(request, SigulError):
        return
    assert isinstance(request, Request)
    with request.payload:
        # Only secrets carry no hash: the inner session's own TLS protects them.
        assert request.fields == sample.fields
        assert request.payload.file.read() == b"a text"


# ----------------------------------------------------------------------- requests without an answer


@pytest.mark.parametrize(
    ("version", "spoken"), [(0, (1,)), (1, (0,)), (2, (0, 1)), (2**32 - 1, (0, 1))]
)
def test_an_unknown_version_is_answered_in_four_bytes(
    version: int, spoken: tuple[int, ...]
) -> None:
    request = dataclasses.replace(LIST_USERS, version=version)
    reason, answer = rejected(wire(request), dataclasses.replace(LIMITS, protocol_versions=spoken))
    assert isinstance(reason, UnknownVersion)
    assert answer == [u32(1), b""]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"header-auth-sha512": sha512(b"another header")}, "the request's header"),
        ({"payload-auth-sha512": sha512(b"another payload")}, "the request's payload"),
        ({"header-auth-sha512": b"short"}, "'header-auth-sha512' has 5 bytes"),
        ({"payload-auth-sha512": b""}, "'payload-auth-sha512' has 0 bytes"),
        ({"header-auth-key": b"k" * 63}, "'header-auth-key' has 63 bytes"),
        ({"payload-auth-key": b"k" * 63}, "'payload-auth-key' has 63 bytes"),
        ({"header-auth-sha512": None}, "'header-auth-sha512' is missing"),
        ({"payload-auth-sha512": None}, "'payload-auth-sha512' is missing"),
        ({"header-auth-key": None}, "'header-auth-key' is missing"),
        ({"payload-auth-key": None}, "'payload-auth-key' is missing"),
    ],
)
@pytest.mark.parametrize("request_", [LIST_USERS, sign_text(b"a text"), sign_text(bytes(2000))])
def test_an_invalid_request_gets_no_answer(
    request_: SampleRequest, changes: dict[str, bytes | None], told: str
) -> None:
    fields = {**request_.inner_fields(), **changes}
    given = {name: value for name, value in fields.items() if value is not None}
    reason, answer = rejected(wire(request_, given))
    assert isinstance(reason, ProtocolError)
    assert told in str(reason)
    assert answer == []


def test_a_header_that_the_bridge_changed_is_noticed() -> None:
    request = sign_text(b"a text")
    changed = dataclasses.replace(request, fields={**request.fields, "key": b"k2"})
    reason, _answer = rejected(wire(changed, request.inner_fields()))
    assert isinstance(reason, ProtocolError)
    assert "the request's header does not match" in str(reason)


def test_a_request_without_its_inner_session_is_none() -> None:
    reason, _answer = rejected(outer(LIST_USERS.outer) + INNER_END)
    assert isinstance(reason, PeerClosed)
    assert "inner session" in str(reason)


@pytest.mark.parametrize(
    ("request_", "length"),
    [
        (LIST_USERS, 1),
        (sign_text(b""), IN_FILE + 1),
        (sign_text(b""), 2**64 - 1),
        (SIGN_RPMS, 1),
        (SampleRequest({"op": b"no-such-op", "user": b"root"}), MAX_REFUSED_PAYLOAD + 1),
    ],
)
def test_a_payload_over_its_limit_is_refused_before_any_of_it_is_read(
    request_: SampleRequest, length: int, tmp_path: Path
) -> None:
    limits = dataclasses.replace(LIMITS, spool_directory=tmp_path / "does not exist")
    reason, answer = rejected(outer(request_.header + u64(length), b"payload"), limits)
    assert isinstance(reason, ProtocolError)
    assert str(length) in str(reason)
    # Without proof, for the keys would come behind the payload; of an operation that there is.
    assert answer == ([*bridge_refusal(str(reason), LATEST), b""] if "over" in str(reason) else [])
    assert ("max-file-payload-size" in str(reason)) == (length == IN_FILE + 1)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (outer(sign_text(b"").header + u64(IN_FILE + 1)), "over the limit"),
        (wire(dataclasses.replace(LIST_USERS, version=2)), "version 2"),
    ],
    ids=["too large", "unknown version"],
)
def test_the_reason_stays_where_the_bridge_does_not_wait_for_all_of_the_answer(
    sent: bytes, told: str
) -> None:
    """As it does where its client would not hear of it."""
    near, far = memory.pair()
    far.write(sent, 1)
    near.on_write = lambda _data: far.abort()
    assert told in str(outcome(ChunkedStream(near, 1), LIMITS))


def test_without_a_configured_limit_the_operations_own_holds() -> None:
    limits = dataclasses.replace(LIMITS, max_file_payload_size=None)
    reason, _answer = rejected(outer(sign_text(b"").header + u64(1024**3 + 1)), limits)
    assert isinstance(reason, ProtocolError)
    assert "limit of 1073741824 bytes" in str(reason)


def test_a_payload_that_trickles_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each byte comes well within the limit on one wait, but all of them would take 20 s.
    monkeypatch.setattr(request_module, "SERVER_FIRST_SECONDS", 0.3)
    near, far = memory.pair()
    request = sign_text(bytes(1000))
    stop = threading.Event()

    def trickle() -> None:
        far.write(outer(request.head), 1)
        while not stop.wait(0.02):
            far.write(outer(b"x"), 1)

    with in_background(trickle):
        reason = outcome(ChunkedStream(near, 5.0), LIMITS)
        stop.set()
    assert isinstance(reason, TooSlow)
    assert "the request's payload came slower than 16384 bytes/s" in str(reason)


def test_a_request_that_is_none_leaves_nothing_open(tmp_path: Path) -> None:
    limits = dataclasses.replace(LIMITS, spool_directory=tmp_path)
    request = sign_text(bytes(2000))
    fields = {**request.inner_fields(), "payload-auth-sha512": bytes(64)}
    after: list[int] = []
    before = count_descriptors()
    for data in (wire(request, fields), wire(request)[:1000]):
        with bridge(data) as (chunked, _far):
            assert isinstance(outcome(chunked, limits, after), SigulError)
    # Told while the error, and with it the frames that it came through, was still there.
    assert after == [before, before]


# ---------------------------------------------------------------------- requests that are answered


@pytest.mark.parametrize(
    ("fields", "status", "told"),
    [
        ({"op": b"no-such-op", "user": b"root"}, Status.UNKNOWN_OP, None),
        ({"op": b"", "user": b"root"}, Status.UNKNOWN_OP, None),
        ({"user": b"root"}, Status.UNKNOWN_ERROR, "'op' is missing"),
        ({"op": b"list-users"}, Status.UNKNOWN_ERROR, "'user' is missing"),
        ({"op": b"sign-text", "user": b"root"}, Status.UNKNOWN_ERROR, "'key' is missing"),
        (
            {"op": b"list-users", "user": b"root", "key": b"k1"},
            Status.UNKNOWN_ERROR,
            "has no field 'key'",
        ),
        (
            {"op": b"new-user", "user": b"root", "name": b"bob", "admin": b"yes"},
            Status.UNKNOWN_ERROR,
            "'admin' is not a boolean",
        ),
        ({"op": b"list-users", "user": b"\xff"}, Status.UNKNOWN_ERROR, "'user' is not UTF-8"),
        ({"op": b"\xff", "user": b"root"}, Status.UNKNOWN_ERROR, "'op' is not UTF-8"),
        ({"op": b"list\nusers", "user": b"root"}, Status.UNKNOWN_ERROR, "'op' holds"),
        ({}, Status.UNKNOWN_ERROR, "'op' is missing"),
    ],
)
@pytest.mark.parametrize("payload", [b"", b"p" * 2000], ids=["no payload", "payload"])
def test_what_can_be_answered_is(
    fields: dict[str, bytes], status: Status, told: str | None, payload: bytes
) -> None:
    refusal = refused(SampleRequest(fields, payload))
    assert refusal.status == status
    if told is None:
        assert refusal.message is None
    else:
        assert told in str(refusal.message)


def test_a_refused_request_is_still_checked() -> None:
    request = SampleRequest({"op": b"no-such-op", "user": b"root"})
    fields = {**request.inner_fields(), "header-auth-sha512": bytes(64)}
    reason, answer = rejected(wire(request, fields))
    assert isinstance(reason, ProtocolError)
    assert answer == []


@pytest.mark.parametrize("size", [IN_MEMORY, 2_000_000])
def test_a_full_disk_is_told_to_the_client(size: int, tmp_path: Path) -> None:
    limits = dataclasses.replace(LIMITS, spool_directory=tmp_path)
    with disk_with_room_for(size // 2):
        refusal = refused(sign_text(os.urandom(size)), limits)
    assert refusal.status == Status.UNKNOWN_ERROR
    assert "cannot store the payload" in str(refusal.message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["missing", "a file"])
def test_a_spool_directory_that_cannot_be_used_is_told_to_the_client(
    where: str, tmp_path: Path
) -> None:
    (tmp_path / "a file").touch()
    limits = dataclasses.replace(LIMITS, spool_directory=tmp_path / where)
    refusal = refused(sign_text(bytes(2000)), limits)
    assert refusal.status == Status.UNKNOWN_ERROR
    assert "cannot store the payload" in str(refusal.message)


# ---------------------------------------------------------------- payloads without a hash of theirs


def without_payload_hash(op: bytes, **fields: bytes) -> bytes:
    """A request for `op` with a payload, whose hash is left out."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    request = SampleRequest({"op": op, "user": b"root", "key": b"k1", **named}, b"an RPM")
    inner_fields = request.inner_fields()
    del inner_fields["payload-auth-sha512"]
    return wire(request, inner_fields)


@pytest.mark.parametrize("fields", [{"rpm_sigmd5": bytes(16)}, {}])
def test_sign_rpm_may_leave_the_payloads_hash_out_for_the_signer_to_judge(
    fields: dict[str, bytes],
) -> None:
    with received(without_payload_hash(b"sign-rpm", **fields)) as (request, _far):
        assert not request.payload_authenticated
        assert request.payload.file.read() == b"an RPM"


@pytest.mark.parametrize(
    "data",
    [
        without_payload_hash(b"sign-text"),
        without_payload_hash(b"sign-text", rpm_sigmd5=bytes(16)),
        without_payload_hash(b"no-such-op", rpm_sigmd5=bytes(16)),
    ],
)
def test_no_other_request_may(data: bytes) -> None:
    reason, _answer = rejected(data)
    assert isinstance(reason, ProtocolError)
    assert "'payload-auth-sha512' is missing" in str(reason)


def test_a_payload_hash_that_is_given_counts_with_a_sigmd5_too() -> None:
    request = SampleRequest(
        {"op": b"sign-rpm", "user": b"root", "key": b"k1", "rpm-sigmd5": bytes(16)}, b"an RPM"
    )
    fields = {**request.inner_fields(), "payload-auth-sha512": bytes(64)}
    reason, _answer = rejected(wire(request, fields))
    assert isinstance(reason, ProtocolError)
    assert "the request's payload" in str(reason)


# ------------------------------------------------------------------------------------------ replies


def said(answer: Answer | RequestRefused) -> bytes:
    """The outer chunks with which the server gives this answer."""
    near, far = memory.pair()
    chunked = ChunkedStream(near, 1)
    request = Refused(LATEST, "any", KEYS, RequestRefused(Status.UNKNOWN_OP))
    if isinstance(answer, Answer):
        send_answer(chunked, request, answer)
    else:
        send_error(chunked, request, answer)
    return heard(far)


def test_an_answer_is_a_whole_reply() -> None:
    data = of_stream(said(Answer({"num-users": 2, "admin": True}, b"a\0b\0")), Stream.OUTER)
    fields = {"num-users": u32(2), "admin": b"\1"}
    assert data == [*reply_parts(0, fields, b"a\0b\0"), b""]


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
@pytest.mark.parametrize("kind", ["bytes", "buffer", "scratch file"])
def test_an_answers_payload_may_be_bytes_or_a_file_wherever_it_stands(size: int, kind: str) -> None:
    payload = os.urandom(size)
    with contextlib.ExitStack() as stack:
        if kind == "bytes":
            answer = Answer(payload=payload)
        else:
            file = stack.enter_context(io.BytesIO() if kind == "buffer" else scratch_memory())
            file.write(payload)
            answer = Answer(payload=file)
        pieces = of_stream(said(answer), Stream.OUTER)
    assert pieces[-1] == b""
    assert b"".join(pieces) == reply(payload=payload)
    assert pieces.count(b"") == 1


@pytest.mark.parametrize("message", [None, "", "the file is not an RPM", "ü"])
def test_an_error_is_a_whole_reply_with_an_empty_payload(message: str | None) -> None:
    data = said(RequestRefused(Status.CORRUPT_RPM, message))
    fields = {} if message is None else {"message": message.encode()}
    header, length, _payload, code = reply_parts(11, fields)
    assert of_stream(data, Stream.OUTER) == [header, length, code, b""]


@pytest.mark.parametrize("message", ["x" * 400, "ü" * 200, "x" + "ü" * 200, "€" * 100])
def test_a_long_message_is_cut_where_a_character_ends(message: str) -> None:
    data = b"".join(of_stream(said(RequestRefused(Status.UNKNOWN_ERROR, message)), Stream.OUTER))
    header, _rest = parse_prefix(read_reply_header(LATEST), data)
    header.verify(KEYS.header)
    told = header.fields.string("message")
    assert told.endswith("...")
    assert message.startswith(told.removesuffix("..."))
    assert 250 <= len(told.encode()) <= 255


# -------------------------------------------------------------------------------------------- spool


@given(pieces=st.lists(st.binary(max_size=300), max_size=10), in_memory_limit=st.integers(0, 2000))
def test_a_spool_gives_back_what_it_was_given_and_its_hash(
    pieces: list[bytes], in_memory_limit: int
) -> None:
    data = b"".join(pieces)
    spool = Spool(len(data), in_memory_limit=in_memory_limit, directory=None)
    with spool.file:
        for piece in pieces:
            spool.write(piece)
        assert spool.finish() == sha512(data)
        assert spool.failure is None
        assert spool.file.read() == data


def test_a_spool_that_has_failed_hashes_on_and_holds_nothing(tmp_path: Path) -> None:
    spool = Spool(3000, in_memory_limit=10, directory=tmp_path)
    with spool.file, disk_with_room_for(1500):
        for _ in range(3):
            spool.write(b"x" * 1000)
        assert spool.failure is not None
        assert spool.finish() == sha512(b"x" * 3000)
        assert os.fstat(spool.file.fileno()).st_size == 0


# -------------------------------------------------------------------- the bridge's own, and the log

CHECKPOINT = SampleRequest({"op": b"log-checkpoint", "user": b"bridge"}, secrets={})


def from_client(
    request: SampleRequest, bridge_name: str | None, inner_fields: Mapping[str, bytes] | None = None
) -> tuple[Refused | Request | SigulError, Decision]:
    """What becomes of a request of the client `root`, at a bridge of that name."""
    decision = Decision()
    with bridge(wire(request, inner_fields), INNER_END) as (chunked, _far):
        try:
            found = receive(chunked, plain_inner, LIMITS, None, decision, bridge_name, INTAKE)
        except SigulError as error:
            return error, decision
    if isinstance(found, Request):
        found.payload.close()
    return found, decision


def test_the_bridge_may_ask_for_the_checkpoint_and_for_nothing_else() -> None:
    found, _ = from_client(CHECKPOINT, "root")
    assert isinstance(found, Request)
    assert found.op == "log-checkpoint"
    for request in (LIST_USERS, sign_text(b"x"), SIGN_RPMS):
        error, _ = from_client(request, "root")
        assert isinstance(error, ProtocolError)
        assert "the bridge itself: refused" in str(error)
    unknown, _ = from_client(SampleRequest({"op": b"no-such", "user": b"bridge"}), "root")
    assert isinstance(unknown, ProtocolError)


@pytest.mark.parametrize("bridge_name", [None, "bridge.example.org"])
def test_to_clients_the_bridges_operation_is_unknown(bridge_name: str | None) -> None:
    found, _ = from_client(CHECKPOINT, bridge_name)
    assert isinstance(found, Refused)
    assert found.reason.status == Status.UNKNOWN_OP


def test_what_the_log_gets_of_a_request() -> None:
    request = sign_text(b"payload")
    said = {**request.inner_fields(), "file-name": b"/tmp/a.tar", "log-seen": b"00000000 5"}
    _, decision = from_client(request, None, {**said, "knows": b"log"})
    leaf = decision.leaf
    assert (leaf.op, leaf.user, leaf.file) == ("sign-text", "root", "a.tar")
    assert leaf.objects == {"key": "k1"}
    assert leaf.input == Content(hashlib.sha256(b"payload").hexdigest(), 7)
    assert leaf.client is not None
    assert leaf.client.name == "root"
    assert decision.seen == {bytes(4): 5}
    assert decision.wants_evidence
    _, decision = from_client(request, None)
    assert not decision.wants_evidence


def test_who_has_not_shown_a_certificate_is_not_known() -> None:
    decision = Decision()
    with bridge(outer(LIST_USERS.head)) as (chunked, _far), pytest.raises(SigulError):
        receive(chunked, plain_inner, LIMITS, None, decision, None)
    assert decision.is_known  # plain_inner shows one at once
    decision = Decision()
    with bridge(outer(LIST_USERS.head[:10])) as (chunked, _far), pytest.raises(SigulError):
        receive(chunked, plain_inner, LIMITS, None, decision, None)
    assert not decision.is_known


def test_an_invalid_request_is_known_by_its_client() -> None:
    bad = {**LIST_USERS.inner_fields(), "header-auth-sha512": bytes(64)}
    error, decision = from_client(LIST_USERS, None, bad)
    assert isinstance(error, ProtocolError)
    assert decision.is_known
    assert decision.leaf.op == "list-users"


@given(st.dictionaries(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1,
                               max_size=20), st.binary(max_size=255), max_size=20))  # fmt: skip
def test_whatever_a_request_says_its_leaf_is_small_and_canonical(fields: dict[str, bytes]) -> None:
    decision = Decision()
    decision.header(Fields({"op": b"sign-pe", "key": b"\xff" * 255, **fields}),
                    OPERATIONS["sign-pe"])  # fmt: skip
    decision.came_from("\0\n" * 5000, "0" * 64)
    decision.inner({}, "x" * 255, wants_evidence=False)
    entry = decision.leaf.encode()
    assert len(entry) < 8192
    assert Leaf.parse(entry) == decision.leaf
