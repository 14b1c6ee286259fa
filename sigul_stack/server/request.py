"""Receiving a request and sending its reply, on one connection to the bridge.

The server trusts no bridge: it checks the operation, its fields and its payload's length again, and
acts on nothing before both hashes that came through the inner session match what it received.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from ..errors import PeerClosed, ProtocolError, RemoteProtocolError, RequestRefused, Status
from ..protocol import messages
from ..protocol.chunks import MAX_WRITTEN_CHUNK
from ..protocol.codec import Fields, Parser, encode_value, pack_u32, pack_u64, read_u64
from ..protocol.messages import InnerFields, ReplyKeys, UnknownVersion, new_hmac
from ..protocol.operations import MIB, Operation, UnknownOperation, operation_of
from ..secret import Secret
from ..transport.chunked import ChunkedStream, T
from ..transport.stream import Deadline, Peer
from .spool import Spool

log = logging.getLogger(__name__)

#: Largest payload of a request that will be refused anyway that is still taken, so that its client
#: gets an authenticated answer, in bytes.
MAX_REFUSED_PAYLOAD: Final = MIB
#: Slowest payload that is put up with, in bytes a second, beyond one idle timeout.
MIN_PAYLOAD_RATE: Final = 16 * 1024


class InnerSession(Protocol):
    """What this module needs of `transport.nested.InnerSession`."""

    @property
    def peer(self) -> Peer:
        """Who the client is."""
        ...

    def parse(self, parser: Parser[T]) -> T:
        """Run a parser on what the client says."""
        ...


OpenInner = Callable[[ChunkedStream], AbstractContextManager[InnerSession]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on payloads. Sizes in bytes, the time in seconds."""

    max_file_payload: int | None
    in_memory_payload: int
    spool_directory: Path | None
    idle_timeout: float


@dataclass(slots=True)
class Request:
    """A request whose integrity has been checked. `refusal` is set where it cannot be served.

    `payload_authenticated` is false only where the payload's hash was left out, for which
    `rpm-sigmd5` may stand: whoever uses the payload has to see to it.
    """

    op: str
    operation: Operation | None
    fields: Fields
    secrets: Fields
    keys: ReplyKeys
    payload: BinaryIO
    payload_length: int
    client_name: str
    refusal: RequestRefused | None = None
    payload_authenticated: bool = True

    def text(self, name: str) -> str:
        """Required outer field `name`."""
        return self.fields.safe_string(name)

    def optional_text(self, name: str) -> str | None:
        """Outer field `name`, or None."""
        return self.text(name) if name in self.fields else None

    def optional_unicode(self, name: str) -> str | None:
        """Outer field `name`, which may hold more than ASCII, or None."""
        return self.fields.string(name) if name in self.fields else None

    def flag(self, name: str) -> bool | None:
        """Outer boolean field `name`, or None."""
        return self.fields.boolean(name) if name in self.fields else None

    def secret(self, name: str) -> Secret:
        """Required inner field `name`. Raises `RequestRefused` where it is absent."""
        found = self.optional_secret(name)
        if found is None:
            raise RequestRefused(Status.UNKNOWN_ERROR, f"the request lacks '{name}'")
        return found

    def optional_secret(self, name: str) -> Secret | None:
        """Inner field `name`, or None."""
        return Secret(self.secrets[name]) if name in self.secrets else None


@dataclass(slots=True)
class Answer:
    """What a handler replies: fields, and a payload, in bytes or as a file to send whole."""

    fields: Mapping[str, str | bool | int | bytes] = field(default_factory=dict)
    payload: bytes | BinaryIO = b""
    #: What the handler has to say to the client behind the reply, before the stream ends.
    converse: Callable[[ChunkedStream], None] | None = None


def receive(chunked: ChunkedStream, open_inner: OpenInner, limits: Limits) -> Request:
    """Receive one request, inner session included, and check its integrity.

    Raises `ProtocolError` where it is invalid and cannot be answered; an unknown version has been
    answered then. What can be answered is told by `Request.refusal`.
    """
    try:
        fields = chunked.parse(messages.read_request_header())
    except UnknownVersion:
        chunked.write(pack_u32(Status.UNKNOWN_VERSION))
        chunked.end()
        raise
    header = messages.encode_request_header(fields)
    operation, refusal = _check(fields)
    length = chunked.parse(read_u64())
    _check_length(operation, refusal, length, limits)
    spool = Spool(
        length, in_memory_limit=limits.in_memory_payload, directory=limits.spool_directory
    )
    try:
        _receive_payload(chunked, length, limits, spool)
        payload_hash = spool.finish()
        if spool.failure is not None and refusal is None:
            refusal = RequestRefused(Status.UNKNOWN_ERROR, spool.failure)
        with open_inner(chunked) as session:
            inner = session.parse(messages.read_inner_fields())
            client_name = session.peer.common_name
        _check_integrity(inner, operation, header, payload_hash)
    except BaseException:
        spool.file.close()
        raise
    return Request(
        op=_name(fields),
        operation=operation,
        fields=fields,
        secrets=inner.secrets,
        keys=inner.keys,
        payload=spool.file,
        payload_length=length,
        client_name=client_name,
        refusal=refusal,
        payload_authenticated=inner.payload_hash is not None,
    )


def _name(fields: Fields) -> str:
    """The operation's name, known or not; empty where there is none that could be shown."""
    try:
        return fields.safe_string("op")
    except ProtocolError:
        return ""


def _check(fields: Fields) -> tuple[Operation | None, RequestRefused | None]:
    """The operation, and why the request cannot be served, where that is so."""
    operation = None
    try:
        operation = operation_of(fields)
        operation.check(fields)
    except UnknownOperation:
        return None, RequestRefused(Status.UNKNOWN_OP)
    except ProtocolError as error:
        return operation, RequestRefused(Status.UNKNOWN_ERROR, str(error))
    return operation, None


def _check_length(
    operation: Operation | None, refusal: RequestRefused | None, length: int, limits: Limits
) -> None:
    if refusal is not None or operation is None:
        if length > MAX_REFUSED_PAYLOAD:
            raise RemoteProtocolError(f"{refusal}; its payload of {length} bytes is not read")
    else:
        operation.check_payload(length, limits.max_file_payload)


def _receive_payload(chunked: ChunkedStream, length: int, limits: Limits, spool: Spool) -> None:
    deadline = Deadline(
        limits.idle_timeout + length / MIN_PAYLOAD_RATE, f"receiving a payload of {length} bytes"
    )
    left = length
    while left:
        deadline.remaining()
        piece = chunked.read(left)
        if not piece:
            raise PeerClosed(f"the request ended {left} bytes before its payload did")
        spool.write(piece)
        left -= len(piece)


def _check_integrity(
    inner: InnerFields,
    operation: Operation | None,
    header: bytes,
    payload_hash: bytes,
) -> None:
    messages.check_digest(
        hashlib.sha512(header).digest(), inner.header_hash, "the request's header"
    )
    if inner.payload_hash is not None:
        messages.check_digest(payload_hash, inner.payload_hash, "the request's payload")
    elif operation is None or not operation.sigmd5_authenticates:
        raise RemoteProtocolError(f"required field '{messages.PAYLOAD_HASH}' is missing")


def send_error(chunked: ChunkedStream, keys: ReplyKeys, refused: RequestRefused) -> None:
    """Send a reply with an error status, and its message if it has one."""
    fields = {} if refused.message is None else {"message": messages.cut_message(refused.message)}
    _send(chunked, keys, refused.status, Answer(fields))


def send_answer(chunked: ChunkedStream, keys: ReplyKeys, answer: Answer) -> None:
    """Send an OK reply."""
    _send(chunked, keys, Status.OK, answer)


def _send(chunked: ChunkedStream, keys: ReplyKeys, status: int, answer: Answer) -> None:
    fields = {name: encode_value(value)[:255] for name, value in answer.fields.items()}
    chunked.write(messages.encode_reply_header(status, fields, keys.header))
    code = new_hmac(keys.payload)
    if isinstance(answer.payload, bytes):
        chunked.write(pack_u64(len(answer.payload)))
        code.update(answer.payload)
        chunked.write_long(answer.payload)
    else:
        length = answer.payload.seek(0, os.SEEK_END)
        answer.payload.seek(0)
        chunked.write(pack_u64(length))
        while piece := answer.payload.read(MAX_WRITTEN_CHUNK):
            code.update(piece)
            chunked.write(piece)
    chunked.write(code.digest())
    if answer.converse is not None:
        answer.converse(chunked)
    chunked.end()
