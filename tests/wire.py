"""Making and taking apart what travels between the peers, for tests without TLS.

Messages are put together here from the formulas of docs/protocol.md, not by the code under test
where that would let a mistake cancel itself out.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from sigul_stack.bridge.budget import Download
from sigul_stack.bridge.koji import KojiSession
from sigul_stack.bridge.streams import ReplyFilter, RequestFilter
from sigul_stack.config.shared import BridgeKojiSettings
from sigul_stack.errors import DeadlineExceeded, PeerClosed, RemoteProtocolError, TransportError
from sigul_stack.evidence.leaf import Content
from sigul_stack.protocol.chunks import END_OF_INNER, Stream
from sigul_stack.protocol.codec import Fields, Parser, run_parser
from sigul_stack.protocol.messages import ChainKeys, ReplyKeys
from sigul_stack.protocol.operations import Operation
from sigul_stack.protocol.versions import LATEST, Version
from sigul_stack.server.payload import Payload
from sigul_stack.transport import tcp
from sigul_stack.transport.chunked import ChunkedStream
from sigul_stack.transport.memory import nobody
from sigul_stack.transport.stream import Peer

T = TypeVar("T")

#: How long a thread of a test may take, in seconds; far more than any needs.
THREAD_SECONDS = 20.0

KEYS = ReplyKeys(b"h" * 64, b"p" * 64)
SUBREQUEST_KEYS = ChainKeys(b"a" * 64, b"b" * 64)
SUBREPLY_KEYS = ChainKeys(b"c" * 64, b"d" * 64)


# ----------------------------------------------------------------------------------- as specified


def u32(value: int) -> bytes:
    """`value` as four bytes."""
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    """`value` as eight bytes."""
    return struct.pack(">Q", value)


def field_map(fields: Mapping[str, bytes]) -> bytes:
    """A field map (docs/protocol.md, "Fields")."""
    out = bytes((len(fields),))
    for name, value in fields.items():
        out += bytes((len(name),)) + name.encode("ascii") + bytes((len(value),)) + value
    return out


def sha512(data: bytes) -> bytes:
    """SHA-512 of `data`."""
    return hashlib.sha512(data).digest()


def hmac512(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA-512 of `data`."""
    return hmac.new(key, data, hashlib.sha512).digest()


def chain_key(base: bytes, index: int) -> bytes:
    """K(i, base) (docs/protocol.md, "Many in one request")."""
    return sha512(u32(1) + base + u32(index))


@dataclass(frozen=True)
class SampleRequest:
    """A request as its client sends it."""

    fields: Mapping[str, bytes]
    payload: bytes = b""
    secrets: Mapping[str, bytes] = field(default_factory=lambda: {"passphrase": b"secret"})
    version: int = 1

    @property
    def header(self) -> bytes:
        """Version and fields: what the header's hash covers."""
        return u32(self.version) + field_map(self.fields)

    @property
    def head(self) -> bytes:
        """What comes before the payload."""
        width = u32 if self.version == 0 else u64
        return self.header + width(len(self.payload))

    @property
    def outer(self) -> bytes:
        """All of the outer stream."""
        return self.head + self.payload

    def inner_fields(self) -> dict[str, bytes]:
        """What is said in the inner session."""
        return {
            **self.secrets,
            "header-auth-sha512": sha512(self.header),
            "payload-auth-sha512": sha512(self.payload),
            "header-auth-key": KEYS.header,
            "payload-auth-key": KEYS.payload,
        }

    @property
    def inner(self) -> bytes:
        """The inner session's field map."""
        return field_map(self.inner_fields())


def payload_of(data: bytes) -> Payload:
    """A payload as a server's handler gets it that needs the bytes."""
    states = {name: hashlib.new(name, data) for name in ("sha512", "sha256")}
    content = Content(states["sha256"].hexdigest(), len(data))
    return Payload(len(data), content, states, io.BytesIO(data))


LIST_USERS = SampleRequest({"op": b"list-users", "user": b"root"}, secrets={"password": b"secret"})
SIGN_RPMS = SampleRequest({"op": b"sign-rpms", "user": b"root", "key": b"k1"})


def sign_text(payload: bytes) -> SampleRequest:
    """A request with a payload."""
    return SampleRequest({"op": b"sign-text", "user": b"root", "key": b"k1"}, payload)


def reply(
    status: int = 0,
    fields: Mapping[str, bytes] | None = None,
    payload: bytes = b"",
    keys: ReplyKeys = KEYS,
) -> bytes:
    """A reply's outer stream (docs/protocol.md, "A reply")."""
    return b"".join(reply_parts(status, fields, payload, keys))


def reply_parts(
    status: int = 0,
    fields: Mapping[str, bytes] | None = None,
    payload: bytes = b"",
    keys: ReplyKeys = KEYS,
) -> tuple[bytes, bytes, bytes, bytes]:
    """A reply's header with its code, payload length, payload and code."""
    header = u32(status) + field_map(fields or {})
    return (
        header + hmac512(keys.header, header),
        u64(len(payload)),
        payload,
        hmac512(keys.payload, payload),
    )


def sub_parts(
    index: int, fields: Mapping[str, bytes], payload: bytes, keys: ChainKeys
) -> tuple[bytes, bytes, bytes, bytes]:
    """A subrequest or subreply, number `index` of its direction, in the same four parts."""
    header = field_map(fields)
    return (
        header + hmac512(chain_key(keys.header, index), header),
        u64(len(payload)),
        payload,
        hmac512(chain_key(keys.payload, index), payload),
    )


# -------------------------------------------------------------------------------------- the chunks


def chunk(stream: Stream, data: bytes) -> bytes:
    """A chunk; the stream's end where `data` is empty (docs/protocol.md, "Chunks")."""
    return u32(len(data) | (0x8000_0000 if stream is Stream.INNER else 0)) + data


def outer(*pieces: bytes) -> bytes:
    """Outer chunks, one for each piece."""
    return b"".join(chunk(Stream.OUTER, piece) for piece in pieces)


def listening(data: bytes) -> bytes:
    """The first chunks of a client that listens to a bridge's own word."""
    return outer(data[:1], data[1:4], data[4:])


def inner(*pieces: bytes) -> bytes:
    """Inner chunks, one for each piece."""
    return b"".join(chunk(Stream.INNER, piece) for piece in pieces)


OUTER_END = outer(b"")
INNER_END = inner(b"")


def whole_chunks(data: bytes) -> list[tuple[Stream, bytes]]:
    """The chunks that `data` consists of, cut as they are; ends are empty."""
    found = []
    while data:
        head = int.from_bytes(data[:4], "big")
        length = head & 0x7FFF_FFFF
        assert len(data) >= 4 + length, "the data end within a chunk"
        stream = Stream.INNER if head >> 31 else Stream.OUTER
        found.append((stream, data[4 : 4 + length]))
        data = data[4 + length :]
    return found


def of_stream(data: bytes, stream: Stream) -> list[bytes]:
    """The chunks of one stream in `data`; its end is empty."""
    return [piece for found, piece in whole_chunks(data) if found is stream]


def in_pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """`data` cut at the offsets `cuts` (any order, any multiplicity, beyond the end too)."""
    offsets = sorted({cut for cut in cuts if 0 < cut < len(data)})
    return [
        data[start:end] for start, end in zip([0, *offsets], [*offsets, len(data)], strict=True)
    ]


def byte_by_byte(data: bytes) -> list[bytes]:
    """`data` in pieces of one byte."""
    return [data[index : index + 1] for index in range(len(data))]


# ---------------------------------------------------------------------------------------- parsers


def parse_whole(parser: Parser[T], data: bytes) -> T:
    """Parse `data`, which must hold one value and nothing behind it."""
    position = 0

    def read_exactly(count: int) -> bytes:
        nonlocal position
        piece = data[position : position + count]
        if len(piece) != count:
            raise RemoteProtocolError("the message is truncated")
        position += count
        return piece

    value = run_parser(parser, read_exactly)
    if position != len(data):
        raise RemoteProtocolError(f"{len(data) - position} bytes follow the message")
    return value


def parse_prefix(parser: Parser[T], data: bytes) -> tuple[T, bytes]:
    """What `parser` makes of the beginning of `data`, and the rest."""
    position = 0

    def read_exactly(count: int) -> bytes:
        nonlocal position
        assert position + count <= len(data), "the data are truncated"
        position += count
        return data[position - count : position]

    value = run_parser(parser, read_exactly)
    return value, data[position:]


# --------------------------------------------------------------------------- the bridge's filters


def no_place() -> Download:
    """A place for an RPM from Koji, where there is none."""
    raise TransportError("there is no hub")


class NoKoji(KojiSession):
    """A session that finds no hub, and stores nothing."""

    def __init__(self) -> None:
        super().__init__(BridgeKojiSettings(), Fields({}), "ann", no_place)

    def fetch_for(self, fields: Fields, limit: int) -> None:
        """See `KojiSession.fetch_for`."""


def request_filter(
    operation: Operation, length: int, max_total: int, version: Version = LATEST
) -> RequestFilter:
    """A filter for a request that has nothing to do with Koji."""
    return RequestFilter(version, operation, length, max_total, NoKoji())


def reply_filter(
    operation: Operation, *, keep_payload: bool = True, version: Version = LATEST
) -> ReplyFilter:
    """A filter for the reply to one."""
    return ReplyFilter(version, operation, NoKoji(), keep_payload=keep_payload)


# ------------------------------------------------------------------------------------- connections


class SocketStream:
    """A `ByteStream` on a plain socket, which has a descriptor to poll, unlike memory."""

    def __init__(self, end: socket.socket, peer: Peer | None = None) -> None:
        self.peer = peer or nobody()
        self.end = end
        self.discarded = False
        self.closed = False
        self.unread = b""

    def read(self, limit: int, timeout: float) -> bytes:
        """See `ByteStream.read`."""
        if self.unread:
            data, self.unread = self.unread[:limit], self.unread[limit:]
            return data
        poll = select.poll()
        poll.register(self.end, select.POLLIN)
        if not poll.poll(timeout * 1000):
            raise DeadlineExceeded(f"nothing was received for {timeout:g} s")
        try:
            return self.end.recv(limit)
        except OSError:
            raise PeerClosed("the connection has ended") from None

    def write(self, data: bytes, timeout: float) -> None:
        """See `ByteStream.write`."""
        self.end.settimeout(timeout)
        try:
            self.end.sendall(data)
        except TimeoutError:
            raise DeadlineExceeded(f"nothing was taken for {timeout:g} s") from None
        except OSError:
            raise PeerClosed("the connection has ended") from None

    def fileno(self) -> int:
        """See `ByteStream.fileno`."""
        return self.end.fileno()

    def pending(self) -> bool:
        """See `ByteStream.pending`: what TLS has decrypted and nobody has read."""
        return bool(self.unread)

    def has_input(self) -> bool:
        """See `ByteStream.has_input`."""
        poll = select.poll()
        poll.register(self.end, select.POLLIN)
        return self.pending() or bool(poll.poll(0))

    def has_gone(self) -> bool:
        """See `ByteStream.has_gone`."""
        return tcp.has_gone(self.end)

    def was_cut_off(self) -> bool:
        """See `ByteStream.was_cut_off`."""
        return False

    def is_broken(self) -> bool:
        """See `ByteStream.is_broken`."""
        return tcp.is_broken(self.end)

    def is_acknowledged(self, timeout: float) -> bool:
        """See `ByteStream.is_acknowledged`; a pair of Unix sockets has nobody to do so."""
        return self.end.family == socket.AF_UNIX or tcp.is_acknowledged(self.end, timeout)

    def reset_on_close(self, on: bool = True) -> None:
        """See `ByteStream.reset_on_close`."""
        tcp.reset_on_close(self.end, on)

    def abort(self) -> None:
        """See `ByteStream.abort`."""
        with contextlib.suppress(OSError):
            self.end.shutdown(socket.SHUT_RDWR)

    def end_reading(self) -> None:
        """See `ByteStream.end_reading`."""
        with contextlib.suppress(OSError):
            self.end.shutdown(socket.SHUT_RD)

    def end_writing(self) -> None:
        """See `ByteStream.end_writing`."""
        with contextlib.suppress(OSError):
            self.end.shutdown(socket.SHUT_WR)

    def discard(self) -> None:
        """See `ByteStream.discard`."""
        self.discarded = True
        self.abort()
        self.end.close()

    def close(self) -> None:
        """See `ByteStream.close`."""
        self.closed = True
        self.end.close()


def socket_pair(peer: Peer | None = None) -> tuple[SocketStream, socket.socket]:
    """A stream, and the socket at its other end."""
    near, far = socket.socketpair()
    return SocketStream(near, peer), far


class PlainInner:
    """An inner session without TLS: its bytes lie on the inner stream as they are."""

    def __init__(self, chunked: ChunkedStream, peer: Peer) -> None:
        self.peer = peer
        self._chunked = chunked
        self._kept = bytearray()

    def parse(self, parser: Parser[T]) -> T:
        """Run `parser` on what the client says."""

        def read_exactly(count: int) -> bytes:
            while len(self._kept) < count:
                piece = self._chunked.take_inner()
                if piece:
                    self._kept += piece
                elif self._chunked.inner_ended:
                    raise PeerClosed("the peer ended the inner session where more was due")
                else:
                    self._chunked.receive()
            piece = bytes(self._kept[:count])
            del self._kept[:count]
            return piece

        return run_parser(parser, read_exactly)


@contextlib.contextmanager
def plain_inner(chunked: ChunkedStream) -> Iterator[PlainInner]:
    """Stands in for `transport.nested.inner_session` on the server's side."""
    yield PlainInner(chunked, nobody("root"))
    chunked.stream.write(END_OF_INNER, chunked.timeout)
    chunked.drop_inner()


# ----------------------------------------------------------------------------------------- threads


@contextlib.contextmanager
def in_background(*scripts: Callable[[], object]) -> Iterator[None]:
    """Run each script in a thread; all must end soon after the block. Raises an error of theirs."""
    errors: list[BaseException] = []

    def run(script: Callable[[], object]) -> None:
        try:
            script()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(script,), daemon=True) for script in scripts]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join(THREAD_SECONDS)
    assert not any(thread.is_alive() for thread in threads), "a scripted peer did not end"
    if errors:
        raise errors[0]


def eventually(condition: Callable[[], bool], seconds: float = THREAD_SECONDS) -> bool:
    """Whether `condition` comes true within `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return condition()


def as_fields(values: Mapping[str, bytes] | Sequence[tuple[str, bytes]]) -> Fields:
    """Parsed fields."""
    return Fields(dict(values))
