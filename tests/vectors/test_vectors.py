"""Every recorded exchange of a 1.2 site, in both directions (tests/data/exchanges/README.md).

So is every computed exchange of protocol 0 (tests/data/exchanges-protocol-0/README.md). A file put
into a directory is tested by itself. The hashes and codes are computed here from the formulas of
docs/protocol.md, and verified with the package's own functions too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from sigul_stack.errors import ProtocolError, status_text
from sigul_stack.protocol import messages
from sigul_stack.protocol.chunks import ChunkDecoder, Stream
from sigul_stack.protocol.codec import (
    Fields,
    encode_fields,
    read_fields,
)
from sigul_stack.protocol.messages import (
    ChainKeys,
    InnerFields,
    ReplyHeader,
    SubHeader,
    UnknownVersion,
)
from sigul_stack.protocol.operations import Operation, check_subrequest, operation_of
from sigul_stack.protocol.versions import LATEST, VERSIONS, Version
from tests.held_data import held
from tests.wire import (
    byte_by_byte,
    chain_key,
    field_map,
    hmac512,
    in_pieces,
    parse_prefix,
    parse_whole,
    reply_filter,
    request_filter,
    sha512,
    u32,
)

DIRECTORIES = (held("exchanges"), held("exchanges-protocol-0"))
#: `README.md` describes the files; everything else is one.
FILES = [
    path
    for directory in DIRECTORIES
    for path in sorted(directory.iterdir())
    if path.name != "README.md"
]
NO_LIMIT = 2**64


@dataclass(frozen=True)
class Sub:
    """A subrequest or subreply."""

    header: SubHeader
    payload: bytes
    code: bytes


@dataclass(frozen=True)
class Exchange:
    """A recorded exchange, taken apart."""

    op: str
    status: int
    is_complete: bool
    outer_sent: bytes
    inner_sent: bytes
    reply_read: bytes

    version: Version
    fields: Fields
    payload: bytes
    sub_sent: bytes
    inner: InnerFields
    header: ReplyHeader
    reply_rest: bytes

    #: What the recorder saw of a batch: ids in hex, and subreplies' ids and statuses.
    subrequest_ids: list[str]
    subreplies: list[list[str | int]]

    @classmethod
    def load(cls, path: Path) -> Exchange:
        """Read a file."""
        found = json.loads(path.read_text(encoding="ascii"))
        outer_sent, inner_sent, reply_read = (
            bytes.fromhex(found[name]) for name in ("outer_sent", "inner_sent", "reply_read")
        )
        request, rest = parse_prefix(messages.read_request_header(VERSIONS), outer_sent)
        version = request.version
        length, rest = parse_prefix(version.read_length(), rest)
        assert len(rest) >= length
        header, reply_rest = parse_prefix(messages.read_reply_header(version), reply_read)
        return cls(
            op=found["op"],
            status=found["status"],
            is_complete=found["reply_is_complete"],
            outer_sent=outer_sent,
            inner_sent=inner_sent,
            reply_read=reply_read,
            version=version,
            fields=request.fields,
            payload=rest[:length],
            sub_sent=rest[length:],
            inner=parse_whole(messages.read_inner_fields(), inner_sent),
            header=header,
            reply_rest=reply_rest,
            subrequest_ids=found.get("subrequest_ids", []),
            subreplies=found.get("subreplies", []),
        )

    @property
    def operation(self) -> Operation:
        """The row of the table."""
        return operation_of(self.fields, self.version.operations)

    def reply_payload(self) -> tuple[bytes, bytes, bytes]:
        """The reply's payload, its code, and what follows it."""
        length, rest = parse_prefix(self.version.read_length(), self.reply_rest)
        assert len(rest) >= length + 64
        return rest[:length], rest[length : length + 64], rest[length + 64 :]

    def whole_reply(self) -> bytes:
        """The reply as the server sent it: an error's reader may have stopped at its header."""
        if self.is_complete:
            return self.reply_read
        return (
            self.reply_read + self.version.encode_length(0) + hmac512(self.inner.keys.payload, b"")
        )


def subs(data: bytes, version: Version) -> list[Sub]:
    """The subrequests or subreplies in `data`."""
    found = []
    while data:
        header, data = parse_prefix(messages.read_sub_header(), data)
        length, data = parse_prefix(version.read_length(), data)
        assert len(data) >= length + 64
        found.append(Sub(header, data[:length], data[length : length + 64]))
        data = data[length + 64 :]
    return found


def name_of(path: Path) -> str:
    """A file's name, and of which version it is where that is not the latest."""
    return path.stem + path.parent.name.removeprefix("exchanges")


#: A request for what nobody knows has no row in the table.
KNOWN = [path for path in FILES if path.stem != "unknown-operation"]


@pytest.fixture(params=KNOWN, ids=name_of)
def exchange(request: pytest.FixtureRequest) -> Exchange:
    """Each recorded exchange."""
    path = request.param
    assert path.suffix == ".json", f"{path} is no recorded exchange: how is it to be tested?"
    return Exchange.load(path)


BATCHES = [path for path in FILES if json.loads(path.read_bytes())["op"] == "sign-rpms"]


@pytest.fixture(params=BATCHES, ids=name_of)
def batch(request: pytest.FixtureRequest) -> Exchange:
    """Each recorded `sign-rpms`."""
    return Exchange.load(request.param)


def test_there_are_exchanges_of_each_kind() -> None:
    found = [Exchange.load(path) for path in FILES]
    assert {exchange.status == 0 for exchange in found} == {True, False}
    assert {exchange.is_complete for exchange in found} == {True, False}
    assert BATCHES


# ---------------------------------------------------------------------------------------- decoding


def test_the_header_names_the_operation(exchange: Exchange) -> None:
    assert exchange.fields.string("op") == exchange.op
    assert exchange.header.status == exchange.status
    assert not status_text(exchange.status).startswith("Error ")


def test_the_request_passes_the_operations_table(exchange: Exchange) -> None:
    operation = exchange.operation
    operation.check(exchange.fields)
    operation.check_payload(len(exchange.payload))
    assert operation.subrequests == bool(exchange.sub_sent)
    assert not set(operation.secrets) - set(exchange.inner.secrets)
    rights_secrets = {"password", "passphrase"}
    chain = {name for name in exchange.inner.secrets if name.startswith("sub")}
    assert bool(chain) == operation.subrequests
    assert not (
        set(exchange.inner.secrets)
        - chain
        - rights_secrets
        - set(operation.secrets)
        - set(operation.optional_secrets)
    )


def test_the_hashes_are_those_of_header_and_payload(exchange: Exchange) -> None:
    body = exchange.version.length_bytes + len(exchange.payload) + len(exchange.sub_sent)
    assert exchange.inner.header_hash == sha512(exchange.outer_sent[:-body])
    if exchange.inner.payload_hash is None:
        assert exchange.operation.sigmd5_authenticates
    else:
        assert exchange.inner.payload_hash == sha512(exchange.payload)
    messages.check_digest(
        sha512(messages.encode_request_header(exchange.fields, exchange.version.number)),
        exchange.inner.header_hash,
        "it",
    )


def test_the_replys_header_is_authentic(exchange: Exchange) -> None:
    data = u32(exchange.status) + field_map(exchange.header.fields)
    assert exchange.header.code == hmac512(exchange.inner.keys.header, data)
    exchange.header.verify(exchange.inner.keys.header)
    with pytest.raises(ProtocolError):
        exchange.header.verify(exchange.inner.keys.payload)


def test_the_replys_payload_is_authentic(exchange: Exchange) -> None:
    if not exchange.is_complete:
        assert exchange.status != 0
        assert exchange.reply_rest == b""
        return
    payload, code, rest = exchange.reply_payload()
    assert code == hmac512(exchange.inner.keys.payload, payload)
    assert bool(rest) == exchange.operation.subrequests


def test_lists_have_the_length_that_their_reply_tells(exchange: Exchange) -> None:
    for name in ("num-users", "num-keys", "num-methods"):
        if name in exchange.header.fields:
            payload, _code, _rest = exchange.reply_payload()
            names = payload.split(b"\0")
            assert names.pop() == b""
            assert len(names) == exchange.header.fields.integer(name)
            assert names == sorted(names)


# ------------------------------------------------------------------------------ encoding it again


def test_the_request_is_written_byte_for_byte(exchange: Exchange) -> None:
    written = messages.encode_request_header(
        exchange.fields, exchange.version.number
    ) + exchange.version.encode_length(len(exchange.payload))
    written += exchange.payload + exchange.sub_sent
    assert written == exchange.outer_sent


def test_the_inner_fields_are_written_byte_for_byte(exchange: Exchange) -> None:
    everything = parse_whole(read_fields(), exchange.inner_sent)
    assert encode_fields(everything) == exchange.inner_sent
    if exchange.version is not LATEST:
        return  # its order is that of the names
    # The 1.2 client writes the hashes and keys behind the secrets, as this package does.
    header = messages.encode_request_header(exchange.fields, exchange.version.number)
    written = messages.encode_inner_fields(
        header, exchange.inner.payload_hash, exchange.inner.keys, exchange.inner.secrets
    )
    assert written == exchange.inner_sent


def test_the_reply_is_written_byte_for_byte(exchange: Exchange) -> None:
    written = messages.encode_reply_header(
        exchange.status, exchange.header.fields, exchange.inner.keys.header
    )
    assert written == exchange.header.encode()
    if exchange.is_complete:
        payload, code, rest = exchange.reply_payload()
        written += exchange.version.encode_length(len(payload)) + payload + code + rest
    assert written == exchange.reply_read


# -------------------------------------------------------------------- subrequests and subreplies


@pytest.mark.parametrize("direction", ["subrequest", "subreply"])
def test_each_sub_message_is_authentic_under_its_own_number(
    batch: Exchange, direction: str
) -> None:
    secrets = batch.inner.secrets
    if direction == "subrequest":
        found = subs(batch.sub_sent, batch.version)
        chain = ChainKeys.of_subrequests(secrets)
    else:
        found = subs(batch.reply_payload()[2], batch.version)
        chain = ChainKeys.of_subreplies(secrets)
    assert len(found) >= 2
    header_base = secrets.blob(f"{direction}-header-auth-key")
    payload_base = secrets.blob(f"{direction}-payload-auth-key")
    for index, sub in enumerate(found):
        data = field_map(sub.header.fields)
        assert sub.header.code == hmac512(chain_key(header_base, index), data)
        assert sub.code == hmac512(chain_key(payload_base, index), sub.payload)
        keys = chain.numbered(index)
        sub.header.verify(keys)
        assert messages.encode_sub_header(sub.header.fields, keys) == sub.header.encode()
        with pytest.raises(ProtocolError):
            sub.header.verify(chain.numbered(index + 1))


def test_subrequests_pass_the_table_and_subreplies_answer_them(batch: Exchange) -> None:
    requests = subs(batch.sub_sent, batch.version)
    replies = subs(batch.reply_payload()[2], batch.version)
    for request in requests:
        check_subrequest(request.header.fields)
    asked = [request.header.fields.blob("id") for request in requests]
    assert sorted(asked) == sorted(sub.header.fields.blob("id") for sub in replies)
    assert [name.hex() for name in asked] == batch.subrequest_ids
    assert [
        [sub.header.fields.blob("id").hex(), sub.header.fields.integer("status")] for sub in replies
    ] == batch.subreplies
    for sub in replies:
        if sub.header.fields.integer("status") != 0:
            assert sub.payload == b""


# ---------------------------------------------------------------------------- through the bridge


def cuts_of(data: bytes) -> list[list[bytes]]:
    """`data` whole, byte by byte, as 1.2 peers cut it, and in uneven pieces."""
    return [
        [data],
        byte_by_byte(data),
        in_pieces(data, range(0, len(data), 4096)),
        in_pieces(data, range(0, len(data), 67)),
    ]


def test_the_request_passes_the_bridge_as_it_is(exchange: Exchange) -> None:
    for pieces in cuts_of(exchange.payload + exchange.sub_sent):
        request = request_filter(
            exchange.operation, len(exchange.payload), NO_LIMIT, exchange.version
        )
        passed = b"".join(chunk for piece in pieces for chunk in request.feed(piece))
        assert passed == exchange.payload + exchange.sub_sent
        assert request.at_boundary
        assert request.finished == (not exchange.operation.subrequests)


def test_a_truncated_request_does_not_end_at_a_boundary(exchange: Exchange) -> None:
    ends = {len(exchange.payload)}
    for sub in subs(exchange.sub_sent, exchange.version):
        ends.add(
            max(ends)
            + len(sub.header.encode())
            + exchange.version.length_bytes
            + len(sub.payload)
            + 64
        )
    request = request_filter(exchange.operation, len(exchange.payload), NO_LIMIT, exchange.version)
    for offset, byte in enumerate(byte_by_byte(exchange.payload + exchange.sub_sent)):
        assert request.at_boundary == (offset in ends)
        request.feed(byte)


def expected_chunks(exchange: Exchange, *, keep_payload: bool) -> list[bytes | int]:
    """The reply's chunks; a number stands for that many bytes of payload, in any cut."""
    payload, code, rest = exchange.reply_payload()
    found: list[bytes | int] = [exchange.header.encode()]
    # The reply to a batch has an empty payload of its own, which is not what is dropped.
    bodies = [(payload, code, b"")]
    bodies += [(sub.payload, sub.code, sub.header.encode()) for sub in subs(rest, exchange.version)]
    for data, tag, header in bodies:
        kept = data if keep_payload else b""
        found += [header] if header else []
        found += [exchange.version.encode_length(len(kept))]
        found += [len(kept)] if kept else []
        found += [tag]
    return found


@pytest.mark.parametrize("keep_payload", [True, False], ids=["kept", "dropped"])
def test_the_reply_is_cut_as_1_2_clients_want_it(exchange: Exchange, keep_payload: bool) -> None:
    data = exchange.whole_reply()
    for pieces in cuts_of(data):
        cutter = reply_filter(
            exchange.operation, keep_payload=keep_payload, version=exchange.version
        )
        chunks = [chunk for piece in pieces for chunk in cutter.feed(piece)]
        assert cutter.at_boundary
        assert cutter.finished == (not exchange.operation.subrequests)
        if not exchange.is_complete:
            assert chunks == [
                exchange.reply_read,
                exchange.version.encode_length(0),
                hmac512(exchange.inner.keys.payload, b""),
            ]
            continue
        if keep_payload:
            assert b"".join(chunks) == data
        for wanted in expected_chunks(exchange, keep_payload=keep_payload):
            if isinstance(wanted, bytes):
                assert chunks.pop(0) == wanted
                continue
            while wanted > 0:
                wanted -= len(chunks.pop(0))
            assert wanted == 0, "a payload's last chunk does not end where the payload does"
        assert chunks == []


def test_a_truncated_reply_is_never_taken_for_a_whole_one(exchange: Exchange) -> None:
    data = exchange.whole_reply()
    ends = set()
    if exchange.operation.subrequests:
        payload, code, rest = exchange.reply_payload()
        ends = {
            len(exchange.header.encode()) + exchange.version.length_bytes + len(payload) + len(code)
        }
        for sub in subs(rest, exchange.version):
            ends.add(
                max(ends)
                + len(sub.header.encode())
                + exchange.version.length_bytes
                + len(sub.payload)
                + 64
            )
    cutter = reply_filter(exchange.operation, version=exchange.version)
    for offset, byte in enumerate(byte_by_byte(data)):
        assert cutter.at_boundary == (offset in ends)
        cutter.feed(byte)
    assert cutter.at_boundary


# ------------------------------------------------------- what protocol 0 does not take, and its cut

#: A request of protocol 0 in which a boolean has the one byte of protocol 1.
SHORT_BOOLEAN = bytes.fromhex(
    "00000000040561726d6f720101036b65790772656c65617365026f70097369676e2d6461746104757365720472"
    "6f6f7400000000"
)
#: A request of protocol 1, which a peer of 0.x answers with `u32` 1 and nothing more.
OF_VERSION_1 = bytes.fromhex(
    "0000000102026f700a6c6973742d7573657273047573657204726f6f740000000000000000"
)
#: `list-users` in one chunk of the outer stream, the end of the inner and that of the outer one.
AS_CHUNKS = bytes.fromhex(
    "000000210000000002026f700a6c6973742d7573657273047573657204726f6f74000000008000000000000000"
)


def test_a_boolean_of_protocol_1_is_none_in_protocol_0() -> None:
    request, length = parse_prefix(messages.read_request_header(VERSIONS), SHORT_BOOLEAN)
    assert (request.version.number, length) == (0, u32(0))
    operation = operation_of(request.fields, request.version.operations)
    with pytest.raises(ProtocolError, match="armor"):
        operation.check(request.fields)


def test_a_peer_that_does_not_speak_a_version_reads_no_further() -> None:
    with pytest.raises(UnknownVersion, match="version 1 is unknown; this peer speaks 0"):
        parse_prefix(messages.read_request_header({0: VERSIONS[0]}), OF_VERSION_1)


def test_protocol_0_is_cut_into_chunks_like_protocol_1() -> None:
    chunks = list(ChunkDecoder().feed(AS_CHUNKS))
    outer = b"".join(data for stream, data in chunks if stream is Stream.OUTER)
    request, length = parse_prefix(messages.read_request_header(VERSIONS), outer)
    assert (request.version.number, length) == (0, u32(0))
    assert request.fields.string("op") == "list-users"
    assert chunks[-2:] == [(Stream.INNER, b""), (Stream.OUTER, b"")]
