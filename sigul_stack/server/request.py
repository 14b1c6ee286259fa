"""Receiving a request and sending its reply, on one connection to the bridge.

The server trusts no bridge: it checks the operation, its fields and its payload's length again, and
acts on nothing before both hashes that came through the inner session match what it received.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Protocol

from ..config.server import ServerSettings
from ..errors import (
    ProtocolError,
    RemoteProtocolError,
    RequestRefused,
    SigulError,
    Status,
    ToolMissing,
    TransportError,
    quoted,
)
from ..logevents import tell
from ..protocol import messages
from ..protocol.authentication import check_digest
from ..protocol.codec import Fields, Parser, pack_u32
from ..protocol.knowledge import LOG, NOTES
from ..protocol.messages import InnerFields, ReplyKeys, RequestHeader, UnknownVersion
from ..protocol.operations import (
    BRIDGE_OPERATIONS,
    MIB,
    Operation,
    UnknownOperation,
    operation_of,
)
from ..protocol.versions import Version
from ..secret import Secret
from ..transport.chunked import ChunkedStream, T
from ..transport.payload import receive_pieces, send_payload
from ..transport.rate import SERVER_FIRST_SECONDS, RateMeter
from ..transport.stream import Deadline, Peer
from .decisions import Decision
from .log_events import ServerLog
from .payload import ONLY_HASHED, Intake, Payload
from .spool import Account, Spool

log = logging.getLogger(__name__)

#: The directories of an absolute path in a message.
_DIRECTORIES: Final = re.compile(r"(?<![^\s'\"(])/(?:[^/\s'\"]+/)+(?=[^/\s'\"])")

#: Largest payload of a request that will be refused anyway that is still taken, so that its client
#: gets an authenticated answer, in bytes.
MAX_REFUSED_PAYLOAD: Final = MIB


class PayloadNotRead(RemoteProtocolError):
    """A payload is too large to be read; the client has been told so, without proof."""


class InnerReader(Protocol):
    """The part of `transport.nested.InnerSession` that receiving a request takes."""

    @property
    def peer(self) -> Peer:
        """The client, as its certificate names it."""
        ...

    def parse(self, parser: Parser[T]) -> T:
        """Run a parser on what the client says."""
        ...


OpenInner = Callable[[ChunkedStream], AbstractContextManager[InnerReader]]


@dataclass(frozen=True, slots=True)
class Refused:
    """A request whose integrity has been checked, and that cannot be served.

    `op` is the operation that it names, for logs: known or not, and empty where it names none that
    could be shown.
    """

    version: Version
    op: str
    keys: ReplyKeys
    reason: RequestRefused


@dataclass(frozen=True, slots=True)
class Request:
    """A request of a known operation, with all its fields, whose integrity has been checked.

    `payload_authenticated` is false only where the payload's hash was left out, for which
    `rpm-sigmd5` may stand: whoever uses the payload has to see to it.
    """

    version: Version
    operation: Operation
    fields: Fields
    secrets: Fields
    keys: ReplyKeys
    payload: Payload
    client_name: str
    payload_authenticated: bool = True
    #: What the client says that it knows; None where it does not say.
    knows: frozenset[str] | None = None

    @property
    def op(self) -> str:
        """The operation's name."""
        return self.operation.name

    @property
    def wants_notes(self) -> bool:
        """Tell whether the client takes notes in the reply (`server.notes`)."""
        return NOTES in (self.knows or ())

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

    def secret(self, field_name: str) -> Secret:
        """Required inner field `field_name`. Raises `RequestRefused` where it is absent."""
        found = self.optional_secret(field_name)
        if found is None:
            raise RequestRefused(Status.UNKNOWN_ERROR, f"the request lacks {quoted(field_name)}")
        return found

    def optional_secret(self, name: str) -> Secret | None:
        """Inner field `name`, or None."""
        return Secret(self.secrets[name]) if name in self.secrets else None


@dataclass(slots=True)
class Answer:
    """Reply of a handler: fields, and a payload, in bytes or as a file to send whole."""

    fields: Mapping[str, str | bool | int | bytes] = field(default_factory=dict)
    payload: bytes | BinaryIO = b""
    #: What the handler has to say to the client behind the reply, before the stream ends.
    converse: Callable[[ChunkedStream], None] | None = None

    @property
    def length(self) -> int:
        """The payload's length in bytes."""
        if isinstance(self.payload, bytes):
            return len(self.payload)
        return self.payload.seek(0, os.SEEK_END)


def receive(
    chunked: ChunkedStream,
    open_inner: OpenInner,
    settings: ServerSettings,
    account: Account | None = None,
    decision: Decision | None = None,
    bridge_name: str | None = None,
    intake: Intake = ONLY_HASHED,
) -> Refused | Request:
    """Receive one request, inner session included, and check its integrity.

    `intake` says what is to be had of its payload. What is kept of that counts in `account`, which
    is told whose request it is. `decision` is told what
    becomes known. The name in the bridge's certificate, `bridge_name`, is no client's, but for the
    bridge's own operations. Raises `ProtocolError` where
    it is invalid and cannot be answered; an unknown version, or a payload that is too large
    (`PayloadNotRead`), has been answered then.
    """
    decision = decision or Decision()
    deadline = Deadline(settings.handshake_timeout, "receiving the request's header")
    try:
        header = chunked.parse(messages.read_request_header(settings.protocol_versions), deadline)
    except UnknownVersion:
        _tell(chunked, [pack_u32(Status.UNKNOWN_VERSION)])
        raise
    version, operation = header.version, _operation(header)
    decision.header(header.fields, operation if isinstance(operation, Operation) else None)
    length = chunked.parse(version.read_length(), deadline)
    if isinstance(operation, Operation):
        _check_size(chunked, version, operation, length, settings.max_file_payload_size)
    elif length > MAX_REFUSED_PAYLOAD:
        raise RemoteProtocolError(str(operation), f"its payload of {length} bytes is not read")
    account = account or Account()
    spool = Spool(
        length,
        in_memory_limit=settings.max_memory_payload_size,
        directory=settings.spool_directory,
        account=account,
        kept=isinstance(operation, Operation) and operation.name in intake.bytes_of,
        hashes=intake.hashes,
    )
    with contextlib.ExitStack() as unless_kept:
        unless_kept.callback(spool.close)
        meter = RateMeter(
            settings.min_payload_rate, "the request's payload came", SERVER_FIRST_SECONDS
        )
        for piece in receive_pieces(chunked, length, "the request", meter):
            spool.write(piece)
        payload_hash = spool.finish()
        if length:
            decision.payload(spool.content)
        with open_inner(chunked) as session:
            client_name = session.peer.common_name
            decision.came_from(client_name, session.peer.fingerprint)
            operation = _for_client(operation, client_name, bridge_name)
            inner = session.parse(messages.read_inner_fields())
        wants_evidence = LOG in (inner.knows or ())
        decision.inner(inner.seen, inner.file_name, wants_evidence=wants_evidence)
        refusal = account.identify(client_name)
        if refusal is not None and spool.failure is None:
            spool.forget(refusal)
        _check_integrity(inner, operation, header, payload_hash)
        if isinstance(operation, RequestRefused):
            return Refused(version, _shown_name(header.fields), inner.keys, operation)
        if spool.failure is not None:
            spool.failure.busy &= NOTES in (inner.knows or ())
            return Refused(version, operation.name, inner.keys, spool.failure)
        unless_kept.pop_all()
    authenticated = inner.payload_hash is not None
    return Request(
        version=version,
        operation=operation,
        fields=header.fields,
        secrets=inner.secrets,
        keys=inner.keys,
        payload=Payload.received(spool, authenticated=authenticated),
        client_name=client_name,
        payload_authenticated=authenticated,
        knows=inner.knows,
    )


def _check_size(
    chunked: ChunkedStream,
    version: Version,
    operation: Operation,
    length: int,
    limit: int | None,
) -> None:
    """Raise `PayloadNotRead` where a payload of `length` bytes is over the operation's limit.

    The keys that would prove the answer come behind the payload, so the client hears of it as of a
    bridge's refusal.
    """
    try:
        operation.check_payload(length, limit)
    except ProtocolError as error:
        may = limit is not None and limit < length <= operation.max_payload
        told = PayloadNotRead(
            error.problem, "ask for a higher max-file-payload-size at the server" if may else ""
        )
        _tell(chunked, messages.bridge_refusal(str(told), version))
        raise told from None


def _tell(chunked: ChunkedStream, parts: Iterable[bytes]) -> None:
    """Send an answer without proof, if that can be.

    A bridge whose client does not hear of it ends the connection at once: the reason is for the
    logs all the same.
    """
    with contextlib.suppress(TransportError):
        for part in parts:
            chunked.write(part)
        chunked.end()


def _shown_name(fields: Fields) -> str:
    try:
        return fields.safe_string("op")
    except ProtocolError:
        return ""


def _operation(header: RequestHeader) -> Operation | RequestRefused:
    """The operation that a request's fields ask for and fit, or why it cannot be served."""
    try:
        operations = {**BRIDGE_OPERATIONS, **header.version.operations}
        operation = operation_of(header.fields, operations)
        operation.check(header.fields)
    except UnknownOperation:
        return RequestRefused(Status.UNKNOWN_OP)
    except ProtocolError as error:
        return RequestRefused.because(error)
    return operation


def _for_client(
    operation: Operation | RequestRefused, client_name: str, bridge_name: str | None
) -> Operation | RequestRefused:
    """The operation as a client of that name gets it.

    The bridge passes requests on and has none of its own but those for it alone, though its
    certificate may be a TLS client's, for its health check. Raises `RemoteProtocolError`.
    """
    is_bridges = isinstance(operation, Operation) and operation.name in BRIDGE_OPERATIONS
    if client_name == bridge_name:
        if not is_bridges:
            raise RemoteProtocolError(
                f"the client of this request is {quoted(client_name)}, the bridge itself: refused",
                "its certificate is no user's",
            )
    elif is_bridges:
        return RequestRefused(Status.UNKNOWN_OP)
    return operation


def _check_integrity(
    inner: InnerFields,
    operation: Operation | RequestRefused,
    header: RequestHeader,
    payload_hash: bytes,
) -> None:
    check_digest(
        hashlib.sha512(header.encode()).digest(), inner.header_hash, "the request's header"
    )
    if inner.payload_hash is not None:
        check_digest(payload_hash, inner.payload_hash, "the request's payload")
    elif isinstance(operation, RequestRefused) or not operation.sigmd5_authenticates:
        raise RemoteProtocolError(f"required field {quoted(messages.PAYLOAD_HASH)} is missing")


#: What everybody is told where the server failed before it could tell who asks: the same for all.
_BEFORE_RIGHTS: Final = (
    "the server failed before it could look at rights and secrets; its log has the cause"
)
_UNFORESEEN: Final = "this was not foreseen; the server's log has it, for a bug report"


def refusal_of(error: Exception, what: str, *, proven: bool) -> RequestRefused:
    """The refusal that answers an `error` in serving `what`; logs it.

    Who has `proven` a right on what is asked for is told cause and cure, with the server's files by
    their last names alone; others learn nothing from what fails.
    """
    if isinstance(error, RequestRefused):
        tell(log, ServerLog.REQUEST_REFUSED, what=what, why=str(error))
        return error
    if not isinstance(error, SigulError | OSError):
        tell(log, ServerLog.REQUEST_CRASHED, exc_info=error, what=what)
        return _failed(proven, SigulError(_UNFORESEEN))
    tell(log, ServerLog.REQUEST_FAILED, what=what, why=str(error))
    if isinstance(error, ToolMissing):
        return RequestRefused.because(error)
    if isinstance(error, OSError):
        error = SigulError(
            f"the server's system refuses: {error.strerror or error}",
            "have the server's administrator look at disk, memory and limits; its log says where",
        )
    return _failed(proven, error)


def _failed(proven: bool, error: SigulError) -> RequestRefused:
    if not proven:
        error = SigulError(_BEFORE_RIGHTS)
    return RequestRefused.because(
        SigulError(_without_directories(error.problem), _without_directories(error.cure))
    )


def _without_directories(text: str) -> str:
    """`text` with absolute paths cut down to the last name: more is none of a client's concern."""
    return _DIRECTORIES.sub("", text)


def send_error(chunked: ChunkedStream, request: Refused | Request, refused: RequestRefused) -> None:
    """Send a reply with an error status, and its message if it has one.

    Of a request that was refused before anything of it was done it also says whether a later one
    may be served (`busy`).
    """
    fields: dict[str, str | bool | int | bytes] = {**message_field(refused)}
    if refused.busy and isinstance(request, Refused):
        fields[messages.BUSY] = True
    send_answer(chunked, request, Answer(fields), refused.status)


def message_field(refused: RequestRefused) -> dict[str, bytes]:
    """The field `message` of a reply or subreply; none where the refusal has no message."""
    return {} if refused.message is None else {"message": refused.message.encode()}


def send_answer(
    chunked: ChunkedStream, request: Refused | Request, answer: Answer, status: int = Status.OK
) -> None:
    """Send the reply to a request. Raises `LocalProtocolError` where a field is too long for one.

    Whether the payload can be said in the request's version is for the caller to see to.
    """
    version, keys = request.version, request.keys
    fields = {name: version.encode_value(value) for name, value in answer.fields.items()}
    chunked.write(messages.encode_reply_header(status, fields, keys.header))
    payload = answer.payload
    content = io.BytesIO(payload) if isinstance(payload, bytes) else payload
    send_payload(chunked, content, keys.payload, version)
    if answer.converse is not None:
        answer.converse(chunked)
    chunked.end()
