"""One request to a signing server: the exchange that every command is built on.

A request has three phases (docs/protocol.md, "A request"): header and payload go out on the outer
stream, the inner session carries the secrets, the reply comes in on the outer stream. Nothing of a
reply is returned before its authentication code has been checked; only a streamed `output` is
written as it arrives, so its writer must throw it away when `call` raises.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from ..config.client import ClientSettings
from ..errors import (
    BridgeRefused,
    LocalProtocolError,
    PeerClosed,
    ProtocolError,
    RemoteProtocolError,
    RequestRefused,
    SigulError,
    Status,
    TransportError,
)
from ..logcontext import LogContext, work_for
from ..logevents import tell
from ..protocol import messages
from ..protocol.codec import Fields
from ..protocol.knowledge import CLIENT_WORDS, KNOWS, encode_words
from ..protocol.log_fields import FILE_NAME, LOG_SEEN, encode_file_name, encode_seen
from ..protocol.messages import ReplyKeys, UnknownVersion
from ..protocol.versions import LATEST, VERSIONS
from ..records import dataclass
from ..secret import Secret
from ..transport import nss
from ..transport.certificate_key import check_own_key
from ..transport.chunked import ChunkedStream
from ..transport.dialling import DialledAhead, dial_bridge
from ..transport.nested import inner_session
from ..transport.payload import AuthenticatedPayload
from ..transport.stream import Peer
from ..transport.tcp import connect_tcp
from ..transport.watchdog import Watchdog
from .log_check import SMALL_INPUT, LogCheck, Sent, SiteLog, nothing_sent, shows_log
from .log_events import ClientLog
from .retry import Retries
from .site_knowledge import SiteKnowledge
from .source import Source

if TYPE_CHECKING:
    from ..formats.signed_note import LogProof

log = logging.getLogger(__name__)

#: Largest reply payload that is returned in memory, in bytes; larger ones need an output file.
MAX_MEMORY_REPLY: Final = 64 * 1024**2

#: Time to look for what a peer said before it ended the connection, in seconds.
LAST_WORDS_SECONDS: Final = 1.0

#: Time to look whether a bridge that has ended the connection is still there, in seconds.
LOOK_SECONDS: Final = 3.0
#: Time between two such looks, in seconds.
LOOK_PAUSE_SECONDS: Final = 0.5

#: Of the requests of this process, for its log's lines until they have their ids.
_NUMBERS: Final = itertools.count(1)

#: Tells progress: called with what is under way and its size in bytes, gives a function to call
#: with each number of bytes done.
ProgressFactory = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@contextlib.contextmanager
def no_progress(_what: str, _total: int) -> Iterator[Callable[[int], None]]:
    """A `ProgressFactory` that shows nothing."""
    yield lambda _count: None


@dataclass(frozen=True, slots=True)
class Reply:
    """A successful, authenticated reply. `payload` is empty where it went to an output file.

    `log_proof` proves that the server's signing log has it, where the server has such a log.
    """

    fields: Fields
    payload: bytes
    log_proof: LogProof | None = None

    def names(self, counted_by: str) -> list[str]:
        """The payload as texts each ended by NUL, as many as field `counted_by` says."""
        count = self.fields.integer(counted_by)
        parts = self.payload.split(b"\0")
        if parts.pop() != b"" or len(parts) != count:
            raise RemoteProtocolError("the reply's list does not have the length that it names")
        try:
            return [part.decode("utf-8") for part in parts]
        except UnicodeDecodeError:
            raise RemoteProtocolError("the reply's list is not UTF-8") from None


def refusal(status: int, fields: Fields) -> RequestRefused:
    """The error that a reply with this `status`, which is not OK, tells of."""
    message = fields.get("message")
    return RequestRefused(
        status,
        message.decode("utf-8", "backslashreplace") if message else None,
        busy=messages.BUSY in fields,
    )


@dataclass(slots=True)
class _Attempt:
    """One try of a request."""

    #: The first of the secret fields may have left: from now on a server can act on it.
    may_be_acted_on: bool = False

    def judge(self, error: SigulError) -> bool:
        """Note in `error` what it means; tell whether nothing can have been done."""
        if not self.may_be_acted_on:
            return True
        if isinstance(error, TransportError | ProtocolError):
            error.busy, error.may_have_happened = False, True
            error.cure = f"{error.cure}; {_MAYBE}" if error.cure else _MAYBE
        # Proven by the server's own code.
        return error.busy


_MAYBE: Final = "the server may have done it: look there before you ask again"


@contextlib.contextmanager
def checking_our_own() -> Iterator[None]:
    """Raise `LocalProtocolError` for what a check of the protocol finds in what we are to send."""
    try:
        yield
    except RemoteProtocolError as error:
        raise LocalProtocolError(error.problem, error.cure, error.symbol) from None


class RequestSender:
    """A client of one Sigul site that sends any request, as the table of operations has it.

    `user_name` overrides the configured one; `ask_nss_password` supplies the NSS password where the
    configuration has none; `version_word` is written in the place of the version's number, and
    nothing else is changed by it. Each call dials the bridge anew, as the protocol wants it. All
    times in the settings are in seconds. A request that no server can have acted on is tried again
    for `retry_seconds` (None: those of the settings; 0: not at all). The first try has the
    connection that was dialled `ahead`.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        user_name: str | None = None,
        ask_nss_password: Callable[[], Secret] | None = None,
        progress: ProgressFactory | None = None,
        version_word: int | None = None,
        retry_seconds: float | None = None,
        ahead: DialledAhead | None = None,
    ) -> None:
        self.settings = settings
        self._ahead = ahead
        self._retry_seconds = settings.retry_seconds if retry_seconds is None else retry_seconds
        #: What this client's calls share; None: each has its own.
        self._retries: Retries | None = None
        self.user_name = user_name or settings.user_name
        self._ask_nss_password = ask_nss_password
        self._progress = progress or no_progress
        self.version = VERSIONS[settings.protocol]
        self._version_word = self.version.number if version_word is None else version_word
        self._watchdog = Watchdog() if ahead is None else ahead.watchdog
        self._log = SiteLog(settings)
        self._proved: Callable[[LogProof], None] = lambda _proof: None
        self.known = SiteKnowledge()

    def telling(self, progress: ProgressFactory) -> Self:
        """This client with another way of telling progress, for calls from several threads."""
        other = copy.copy(self)
        other._progress = progress
        return other

    def retrying_together(self) -> Self:
        """This client, whose calls, from several threads too, share one limit on trying again."""
        other = copy.copy(self)
        other._retries = Retries(self._retry_seconds)
        return other

    def proving(self, proved: Callable[[LogProof], None]) -> Self:
        """This client, which calls `proved` with each reply's proof that the server's log has it.

        It is called before the reply is returned, and not where the server has no log.
        """
        other = copy.copy(self)
        other._proved = proved
        return other

    def call(
        self,
        op: str,
        fields: Mapping[str, str | bool | bytes] | None = None,
        secrets: Mapping[str, Secret] | None = None,
        *,
        payload: BinaryIO | bytes = b"",
        output: BinaryIO | None = None,
        converse: Callable[[ChunkedStream, LogCheck], None] | None = None,
        payload_by_bridge: bool = False,
        file_name: str | None = None,
    ) -> Reply:
        """Send one request and return its reply.

        `fields` are the operation's outer fields without `op` and `user`, `secrets` its inner ones.
        `payload` as a file is read from its position to its end. `converse` is called with the
        outer stream once the reply is complete, for what an operation has to say then. With
        `payload_by_bridge` the payload is what the bridge fetches, and field `rpm-sigmd5` stands
        in for its hash. `file_name` is what the server's log is told of the payload's name; None:
        that of the file that it is. Raises `RequestRefused` with the server's status,
        `LogComplaint`, `TransportError`, `RemoteProtocolError`, `NSSError`, or `LocalProtocolError`
        before anything is sent. Of an error that is `may_have_happened` nobody here knows whether
        the server did it; one that is `busy` says that it did not, and may do it later.

        What it raises has the request's id as `SigulError.request`, once that is known. This
        thread's lines in the log are about the request from here on, until the next one's call.
        """
        work_for(None)
        outer = {"op": op, "user": self.user_name, **(fields or {})}
        source = Source(payload)
        with checking_our_own():
            encoded = {name: self.version.encode_value(outer[name]) for name in sorted(outer)}
            self._check(op, encoded, source.total)
            header = messages.encode_request_header(encoded, self._version_word)
        inner = {name: secret.reveal() for name, secret in (secrets or {}).items()}
        inner[KNOWS] = encode_words(CLIENT_WORDS)
        name = source.name if file_name is None else file_name
        if name:
            inner[FILE_NAME] = encode_file_name(name)
        nss.open_database(self.settings.nss, ask=self._ask_nss_password)
        identity = nss.load_identity(self.settings.client_cert_nickname)
        returned = (fields or {}).get("return-data") is not False

        def exchange(attempt: _Attempt) -> Reply:
            keys = ReplyKeys(os.urandom(messages.NEW_KEY_BYTES), os.urandom(messages.NEW_KEY_BYTES))
            with self._dial(identity) as connection:
                chunked = ChunkedStream(connection, self.settings.reply_timeout)
                try:
                    payload_hash = self._send(chunked, header, source)
                    check = self._send_inner_fields(
                        chunked,
                        identity,
                        lambda seen: messages.encode_inner_fields(
                            header,
                            None if payload_by_bridge else payload_hash,
                            keys,
                            {**inner, **({LOG_SEEN: encode_seen(seen)} if seen else {})},
                        ),
                        connection.peer,
                        outer,
                        attempt,
                    )
                except (TransportError, ProtocolError) as error:
                    raise self._reason(chunked, error, attempt) from None
                reply = self._receive(
                    chunked,
                    keys,
                    output,
                    check,
                    nothing_sent if payload_by_bridge else source.sha256,
                    returned=returned,
                )
                self.known.learn(chunked, reply.fields, trailer=converse is None)
                if converse is not None:
                    converse(chunked, check)
                check.observation.keep()
                connection.reset_on_close(False)
                connection.close()
                if reply.log_proof is not None:
                    self._proved(reply.log_proof)
                return reply

        return self._until_done(exchange)

    def _until_done(self, exchange: Callable[[_Attempt], Reply]) -> Reply:
        """The reply of `exchange`, which is tried again where that is safe and worth it."""
        retries = self._retries or Retries(self._retry_seconds)
        failures = 0
        while True:
            attempt = _Attempt()
            # Each attempt has an inner session of its own, and so an id.
            context = LogContext(f"r{next(_NUMBERS):x}")
            work_for(context)
            try:
                reply = exchange(attempt)
            except SigulError as error:
                error.request = context.request
                failures += 1
                if not (attempt.judge(error) and retries.again(error, failures)):
                    raise
            else:
                retries.succeeded()
                return reply

    def _check(self, op: str, fields: Mapping[str, bytes], length: int) -> None:
        """Raise `ProtocolError` unless this version has the operation, the fields and the length.

        A word that is none of a version we speak is for whoever tries what becomes of it.
        """
        if self._version_word != self.version.number:
            return
        of_old = (
            f"client.conf says `protocol: {self.version.number}`, which is for a site of Sigul 0.x:"
            " do without it, or remove the line once bridge and server speak a later version"
        )
        cure = "" if self.version is LATEST else of_old
        operation = self.version.operations.get(op)
        if operation is None:
            raise LocalProtocolError(
                f"protocol version {self.version.number} has no operation '{op}'", cure
            )
        try:
            operation.check(Fields(fields, self.version.boolean_bytes))
            operation.check_payload(length)
        except ProtocolError as error:
            raise LocalProtocolError(error.problem, error.cure or cure, error.symbol) from None

    def bridge_time(self) -> int | None:
        """The bridge's clock, in seconds since 1970; None where it does not tell.

        It tells whom it refuses, so it is asked for what no bridge does; no server hears of it.
        Raises `SigulError`.
        """
        nss.open_database(self.settings.nss, ask=self._ask_nss_password)
        identity = nss.load_identity(self.settings.client_cert_nickname)
        fields = {"op": b"bridge-time", "user": self.user_name.encode()}
        with self._dial(identity) as connection:
            chunked = ChunkedStream(connection, self.settings.connect_timeout)
            try:
                header = messages.encode_request_header(fields, self.version.number)
                chunked.write_listening(header + self.version.encode_length(0))
                reply = chunked.parse(messages.read_reply_header(self.version))
            except (PeerClosed, UnknownVersion):
                return None
            connection.close()
        return reply.bridge_time

    @contextlib.contextmanager
    def _dial(self, identity: nss.TLSIdentity) -> Iterator[nss.TLSConnection]:
        connection = None if self._ahead is None else self._ahead.take()
        if connection is None:
            connection = dial_bridge(
                self.settings, self.settings.nss, identity, watchdog=self._watchdog
            )
        # Also where this process is killed: the bridge sees at once that nobody waits any more.
        connection.reset_on_close()
        try:
            yield connection
        except BaseException:
            # A close-notify in the middle of a message would look like its end.
            connection.discard()
            raise

    def _send(self, chunked: ChunkedStream, header: bytes, source: Source) -> bytes:
        """Send header and payload; return the payload's SHA-512."""
        chunked.write_listening(header + self.version.encode_length(source.total))
        with self._progress("Sending", source.total) as advance:
            with_sha256 = source.total <= SMALL_INPUT or self._log.may_be()
            return source.send(chunked, advance, with_sha256=with_sha256)

    def _send_inner_fields(
        self,
        chunked: ChunkedStream,
        identity: nss.TLSIdentity,
        fields: Callable[[Mapping[bytes, int]], bytes],
        bridge: Peer,
        outer: Mapping[str, str | bool | bytes],
        attempt: _Attempt,
    ) -> LogCheck:
        """Send the secret fields in the inner session, which only the server can read.

        `fields` makes them of what is known of the server's log, against which its replies are to
        be held. A server of which there is a complaint is told none.
        """
        self._log.witness()
        tell(log, ClientLog.INNER_TLS_BEGINS)
        with inner_session(
            chunked,
            self.settings.nss,
            identity,
            timeout=self.settings.reply_timeout,
            server_hostname=self.settings.server_hostname,
            watchdog=self._watchdog,
        ) as session:
            tell(log, ClientLog.INNER_TLS_COMPLETED)
            if self.settings.require_own_server_key:
                check_own_key(session.peer, bridge)
            observation = self._log.begin(session.peer.common_name)
            data = fields(observation.seen)
            attempt.may_be_acted_on = True
            session.write(data)
        if observation.expects and outer["op"] == "sign-rpms":
            # Of each RPM a signature of the log is checked; and the server works now.
            self._log.load_library()
        return LogCheck(observation, str(outer["op"]), str(outer["user"]), outer)

    def _reason(self, chunked: ChunkedStream, error: SigulError, attempt: _Attempt) -> SigulError:
        """The error for a request that failed before its reply, as the server told it if it did."""
        if isinstance(error, PeerClosed):
            # It may have answered and closed while the payload was still on its way to it.
            with contextlib.suppress(SigulError):
                while not chunked.outer_waiting:
                    chunked.receive(LAST_WORDS_SECONDS)
        if chunked.outer_waiting:
            try:
                chunked.parse(messages.read_reply_header(self.version)).check_origin()
            except UnknownVersion:
                return RequestRefused(Status.UNKNOWN_VERSION)
            except BridgeRefused as refused:
                # What failed here by itself does so again, whatever the bridge makes of its end.
                refused.busy &= isinstance(error, PeerClosed)
                return refused
            except SigulError:
                return error
        if isinstance(error, PeerClosed):
            return self._without_a_word(
                f"the request was cut off ({error})",
                "either no signing server was attached to the bridge, or bridge or server refused"
                " the request: their logs say which",
            )
        return error

    def _without_a_word(self, what: str, cure: str) -> PeerClosed:
        """The error for `what`, a connection that ended without any reason.

        Bridges say why they end a request, but for old ones and for those that have died: where
        nothing listens any more at its address, that is what has happened; else `cure` may do.
        """
        settings = self.settings
        host, port = settings.bridge_address or settings.bridge_hostname, settings.bridge_port
        try:
            # Twice, for one that is dying closes its connections before its ports, or after them.
            for pause in (LOOK_PAUSE_SECONDS, 0):
                connect_tcp(host, port, min(settings.connect_timeout, LOOK_SECONDS)).close()
                time.sleep(pause)
        except TransportError as error:
            if error.symbol != "ECONNREFUSED":
                return PeerClosed(what, cure)
            return PeerClosed(
                f"{what}, and the bridge is gone: {error.problem}",
                "its log, or its machine's, says why it ended, not the server's; start it again",
            )
        return PeerClosed(what, cure)

    def _receive(
        self,
        chunked: ChunkedStream,
        keys: ReplyKeys,
        output: BinaryIO | None,
        check: LogCheck,
        sent: Sent,
        *,
        returned: bool,
    ) -> Reply:
        try:
            header = chunked.parse(messages.read_reply_header(self.version))
        except UnknownVersion:
            raise RequestRefused(Status.UNKNOWN_VERSION) from None
        except PeerClosed as error:
            raise self._without_a_word(
                f"no reply came from the server ({error})",
                "the bridge's log says who ended the request; where the bridge has lost the server,"
                " or was ended and started anew meanwhile, the server's log says what it has done",
            ) from None
        header.check_origin()
        header.verify(keys.header)
        # Whose they are was just checked.
        for warning in messages.warnings_in(header.fields):
            tell(log, ClientLog.SERVER_WARNING, why=str(warning))
        if header.status != Status.OK:
            raise refusal(header.status, header.fields)
        payload = AuthenticatedPayload(chunked, keys.payload, "the reply", self.version)
        if output is None and payload.length > MAX_MEMORY_REPLY:
            raise RemoteProtocolError(
                f"the reply has {payload.length} bytes",
                f"over {MAX_MEMORY_REPLY} need an output file",
            )
        memory = io.BytesIO()
        if not (returned or payload.length):
            payload.skip_dropped()
            return Reply(header.fields, b"", check.reply(header.fields, sent, None))
        digest = hashlib.sha256() if payload.length and shows_log(header.fields) else None
        with self._progress("Receiving", payload.length) as advance:

            def write(piece: bytes) -> None:
                (output or memory).write(piece)
                if digest is not None:
                    digest.update(piece)
                advance(len(piece))

            payload.copy(write)
        # Of what `decrypt` gives nobody else is to know anything.
        told = digest is not None and check.op != "decrypt"
        received = digest.hexdigest() if told and digest is not None else None
        proof = check.reply(header.fields, sent, received)
        return Reply(header.fields, memory.getvalue(), proof)
