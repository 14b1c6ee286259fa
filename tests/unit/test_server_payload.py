"""Payloads that are hashed as they come and not kept: what a handler has of one, and what it costs.

Here a signature's way from a hash begins, so what is not what the client sent must not get one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from sigul_stack.config.server import ServerSettings
from sigul_stack.config.shared import NSSSettings
from sigul_stack.errors import PeerClosed, ProtocolError, SigulError
from sigul_stack.protocol.operations import OPERATIONS
from sigul_stack.server.decisions import Decision
from sigul_stack.server.handlers import HANDLERS, NEEDS_BYTES
from sigul_stack.server.payload import ONLY_HASHED, Intake, Payload
from sigul_stack.server.request import Refused, Request, receive
from sigul_stack.server.slots import Slots
from sigul_stack.server.spool import Account, Spool, SpoolLimits
from sigul_stack.transport import memory
from sigul_stack.transport.chunked import ChunkedStream
from tests.wire import (
    INNER_END,
    SampleRequest,
    field_map,
    inner,
    outer,
    payload_of,
    plain_inner,
    sha512,
    u64,
)

LIMITS = ServerSettings(
    bridge_hostname="bridge.example.org",
    nss=NSSSettings(directory="sql:/nonexistent"),
    max_file_payload_size=3_000_000,
    max_memory_payload_size=1000,
    spool_directory=Path("/nonexistent"),  # a file there could not be made
    idle_timeout=5.0,
)


def sign_data(payload: bytes, **fields: bytes) -> SampleRequest:
    """A request for a detached signature."""
    named = {"op": b"sign-data", "user": b"root", "key": b"k1", **fields}
    return SampleRequest(named, payload)


def wire(request: SampleRequest, fields: Mapping[str, bytes] | None = None) -> bytes:
    """The request's chunks; with those in the inner session, where given."""
    hidden = request.inner if fields is None else field_map(fields)
    return outer(request.head) + outer(request.payload) + inner(hidden) + INNER_END


@contextlib.contextmanager
def sent(data: bytes, split: int | None = None) -> Iterator[ChunkedStream]:
    """The server's stream with `data` and then the connection's end on it."""
    near, far = memory.pair()
    near.split = split
    far.write(data, 1)
    far.end_writing()
    yield ChunkedStream(near, 1)


@pytest.mark.parametrize("size", [0, 1, 5000, 1_000_000])
@pytest.mark.parametrize("split", [None, 777])
def test_what_nobody_needs_is_hashed_and_not_kept(size: int, split: int | None) -> None:
    data = os.urandom(size)
    account = Account(SpoolLimits(max_spool_size=1), Slots(1))
    with sent(wire(sign_data(data)), split) as chunked:
        before = len(list(Path("/proc/self/fd").iterdir()))
        found = receive(
            chunked, plain_inner, LIMITS, account, intake=Intake(hashes=("sha384", "sha1"))
        )
        assert isinstance(found, Request)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    payload = found.payload
    assert payload.length == payload.content.bytes == size
    assert payload.content.sha256 == hashlib.sha256(data).hexdigest()
    for name in ("sha512", "sha256", "sha384", "sha1"):
        assert payload.state(name).digest() == hashlib.new(name, data).digest()
    with pytest.raises(LookupError):
        _ = payload.file
    with pytest.raises(LookupError):
        payload.state("md5")
    # Neither a limit nor the missing directory has a part in it.
    assert account.slots.spooled == 0
    payload.close()


def test_a_state_is_a_copy() -> None:
    payload = payload_of(b"data")
    with payload:
        payload.state().update(b"and more")
        assert payload.state().digest() == sha512(b"data")
        assert payload.file.read() == b"data"
    assert payload.file.closed


def refused(data: bytes) -> SigulError:
    """Why the server takes `data`, whose payload it would not keep, for no request."""
    decision = Decision()
    with sent(data) as chunked, pytest.raises(SigulError) as raised:
        receive(chunked, plain_inner, LIMITS, None, decision, intake=ONLY_HASHED)
    return raised.value


@pytest.mark.parametrize("at", [0, 77_777, 199_999])
def test_a_flipped_bit_makes_no_request_of_a_hashed_payload(at: int) -> None:
    data = bytearray(os.urandom(200_000))
    request = sign_data(bytes(data))
    data[at] ^= 1
    flipped = wire(sign_data(bytes(data)), request.inner_fields())
    reason = refused(flipped)
    assert isinstance(reason, ProtocolError)
    assert "the request's payload does not match" in str(reason)


@pytest.mark.parametrize("left", [0, 1, 100_000, 199_999])
def test_a_payload_that_is_cut_makes_no_request(left: int) -> None:
    request = sign_data(os.urandom(200_000))
    short = request.payload[:left]
    # The connection ends, or the outer stream does, or all else comes.
    assert isinstance(refused(outer(request.head) + outer(short)), PeerClosed)
    ended = outer(request.head) + (outer(short) if short else b"") + bytes(4)
    assert isinstance(refused(ended + inner(request.inner)), PeerClosed)
    shorter = outer(request.header + u64(left)) + (outer(short) if short else b"")
    assert isinstance(refused(shorter + inner(request.inner) + INNER_END), ProtocolError)


def test_a_size_over_the_limit_makes_no_request() -> None:
    request = sign_data(b"x")
    reason = refused(outer(request.header + u64(3_000_001)) + outer(b"x") + inner(request.inner))
    assert "max-file-payload-size" in str(reason)


def test_a_payload_without_its_hash_makes_no_request_where_it_is_not_kept() -> None:
    request = sign_data(b"data", **{"rpm-sigmd5": bytes(16)})
    fields = request.inner_fields()
    del fields["payload-auth-sha512"]
    with sent(wire(sign_data(b"data"), fields)) as chunked, pytest.raises(ProtocolError):
        receive(chunked, plain_inner, LIMITS, intake=ONLY_HASHED)


def test_what_is_not_authenticated_has_no_state_to_make_a_signature_from() -> None:
    spool = Spool(4, in_memory_limit=10, directory=None)
    spool.write(b"data")
    spool.finish()
    with Payload.received(spool, authenticated=False) as payload:
        assert payload.content.sha256 == hashlib.sha256(b"data").hexdigest()
        assert payload.file.read() == b"data"
        for name in ("sha512", "sha256"):
            with pytest.raises(LookupError):
                payload.state(name)


def test_nothing_is_kept_of_an_operation_that_is_unknown() -> None:
    request = SampleRequest({"op": b"no-such-op", "user": b"root"}, bytes(100_000))
    with sent(wire(request)) as chunked:
        found = receive(chunked, plain_inner, LIMITS, intake=Intake(NEEDS_BYTES))
    assert isinstance(found, Refused)


def test_those_are_declared_to_need_bytes_that_can_have_some() -> None:
    with_payload = {name for name, row in OPERATIONS.items() if row.max_payload}
    needing = {name for name in HANDLERS if name in NEEDS_BYTES}
    assert needing <= with_payload
    assert with_payload - needing <= {"sign-data"}
