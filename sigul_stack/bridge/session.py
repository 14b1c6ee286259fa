"""One client's request at the bridge, from its first byte to the end of its reply.

    connected ─▶ header ─▶ groups ─▶ a turn ─▶ Koji ─▶ a server that has the header ─▶ forwarded
        ╰──────────┴─────────┴────────┴────────┴─── refused, with the reason

Must not know sockets, TLS or other clients: it reads and writes streams, and shares with other
requests what `BridgeResources` holds.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..config.bridge import BridgeSettings
from ..errors import (
    PeerClosed,
    ProtocolError,
    RemoteProtocolError,
    SigulError,
    TransportError,
)
from ..logevents import tell
from ..metrics import BridgeCount, Counters, requests_of_version
from ..protocol.codec import Fields
from ..protocol.messages import RequestHeader, UnknownVersion, read_request_header
from ..protocol.operations import Operation, operation_of
from ..protocol.versions import LATEST
from ..transport.chunked import ChunkedStream
from ..transport.payload import payload_pieces
from ..transport.rate import TooSlow
from ..transport.stream import ByteStream, Deadline
from .admission import OnlyLooked
from .budget import Budget, Download
from .forward import Forwarding
from .groups import Groups, NotInGroup, SourceFailed
from .koji import KojiSession
from .log_events import BridgeLog
from .measures import Measures
from .refusal import refuse, refuse_version
from .register import Register, Visit
from .server_versions import ServerVersions, ServerWords
from .streams import ReplyFilter, RequestFilter
from .waiting import WaitingServers

log = logging.getLogger(__name__)

#: Time for a waiting server's machine to acknowledge a request's head, in seconds: enough for the
#: head to be sent again a few times.
ACKNOWLEDGE_SECONDS: Final = 3.0


class BridgeResources:
    """The things that all requests at a bridge share."""

    def __init__(self, settings: BridgeSettings) -> None:
        self.settings = settings
        self.counters = Counters(BridgeCount)
        self.register = Register(self.counters)
        self.waiting = WaitingServers(
            settings.max_waiting_servers, self.counters, settings.server_reserve
        )
        self.server_versions = ServerVersions(settings.server_protocol_versions)
        self.server_words = ServerWords()
        self.budget = Budget(settings, self.counters)
        required = settings.required_fas_group or settings.koji.required_groups
        self.groups = Groups(settings.groups) if required else None
        self.measures = Measures(names=settings.management.metrics_names)

    def close(self) -> None:
        """End all waiting for servers, turns and words."""
        self.server_words.close()
        self.waiting.close()
        self.budget.close()


@dataclass(frozen=True, slots=True)
class _Head:
    """A request's header and payload length, which is in bytes."""

    header: RequestHeader
    operation: Operation
    length: int

    @property
    def fields(self) -> Fields:
        """The request's outer fields."""
        return self.header.fields

    def encode(self, length: int) -> bytes:
        """The header as it came, with a payload's length behind it."""
        return self.header.encode() + self.header.version.encode_length(length)

    @property
    def is_fetched(self) -> bool:
        """Tell whether the bridge is to fetch the payload."""
        return not (self.length or self.operation.subrequests) and "rpm-name" in self.fields


class RequestSession:
    """A request of `client`. `paired` is called once it has a server."""

    def __init__(
        self, client: ByteStream, resources: BridgeResources, paired: Callable[[], None]
    ) -> None:
        self._client = client
        self._resources = resources
        self._settings = resources.settings
        self._paired = paired
        self._chunked = ChunkedStream(client, self._settings.header_timeout)
        #: That of the request, once it is known.
        self._version = LATEST
        self._visit: Visit | None = None
        #: A server has the request: from now on `Forwarding` speaks to the client.
        self._is_forwarded = False

    def run(self) -> None:
        """Serve the request; the client's connection has been closed then.

        Raises `OnlyLooked` where there is none, and what kept it from its orderly end; the caller
        ends the connection then.
        """
        with (
            self._resources.register.visit(self._client, self._refuse) as visit,
            self._told(visit),
            self._resources.measures.visit(visit),
            self._resources.budget.connection(self._client),
        ):
            self._visit = visit
            deadline = self._header_deadline()
            if not self._chunked.begin(deadline):
                raise OnlyLooked
            visit.is_request = True
            with self._resources.budget.request(self._client):
                try:
                    self._serve(deadline, visit)
                except BaseException:
                    self._resources.counters.add(BridgeCount.REQUESTS_FAILED)
                    raise

    def _header_deadline(self) -> Deadline:
        return Deadline(self._settings.header_timeout, "sending the request's header")

    @contextlib.contextmanager
    def _told(self, visit: Visit) -> Iterator[None]:
        """Tell the client what the block raises; raise it as an error of a connection.

        But for what `forward` raises, which has told it then, or could not; and a visit that is
        ended has its own reason.
        """
        try:
            yield
        except PeerClosed:
            raise
        except UnknownVersion:
            refuse_version(self._chunked, self._resources.budget)
            raise
        except (SigulError, OSError) as error:
            if self._is_forwarded or visit.reason:
                raise
            self._refuse(str(error), busy=isinstance(error, SigulError) and error.busy)
            if isinstance(error, TransportError | ProtocolError):
                raise
            raise RemoteProtocolError(f"The request is refused: {error}") from None

    def _receive_head(self, deadline: Deadline, visit: Visit) -> _Head:
        spoken = self._settings.protocol_versions
        header = self._chunked.parse(read_request_header(spoken), deadline)
        fields, version = header.fields, header.version
        self._version, visit.version = version, version.number
        operation = operation_of(fields, version.operations)
        operation.check(fields)
        length = self._chunked.parse(version.read_length(), deadline)
        operation.check_payload(length)
        self._resources.counters.add(BridgeCount.REQUESTS)
        self._resources.counters.add(requests_of_version(BridgeCount, version.number))
        visit.op, visit.user = operation.name, fields["user"].decode()
        visit.headed_at = time.monotonic()
        tell(
            log,
            BridgeLog.REQUEST_RECEIVED,
            op=operation.name,
            user=visit.user,
            bytes=length,
            version=version.number,
        )
        return _Head(header, operation, length)

    def _serve(self, deadline: Deadline, visit: Visit) -> None:
        settings, budget = self._settings, self._resources.budget
        # A client that was made to wait has all its time still.
        if budget.await_rate(self._client, Deadline(settings.server_wait_timeout, "waiting")):
            deadline = self._header_deadline()
        head = self._receive_head(deadline, visit)
        self._check_groups(head.fields)
        with contextlib.ExitStack() as stack:
            wait = Deadline(settings.server_wait_timeout, "waiting for a signing server")
            stack.enter_context(budget.turn(self._client, head.length, wait))
            koji = KojiSession(
                settings.koji, head.fields, self._client.peer.common_name, self._download
            )
            stack.callback(koji.close)
            fetched = None
            length = head.length
            if head.is_fetched:
                fetched = koji.fetch(head.fields, head.operation.max_payload)
                length = fetched.length
                # What Koji took is not the servers' fault.
                wait = Deadline(settings.server_wait_timeout, "waiting for a signing server")
            encoded = head.encode(length)
            server = self._dispatch(encoded, wait)
            stack.callback(self._resources.waiting.give_back, self._client)
            self._paired()
            self._is_forwarded = True
            try:
                visit.paired(server)
                visit.up += len(encoded)
                self._resources.measures.queued(visit)
                if fetched is not None:
                    towards = ChunkedStream(server, settings.idle_timeout)
                    with fetched:
                        for piece in payload_pieces(fetched.file, length):
                            towards.write(piece)
                            visit.up += len(piece)
                self._forward(server, head, koji, visit)
            except BaseException as error:
                server.discard()
                if isinstance(error, TooSlow):
                    self._resources.counters.add(BridgeCount.TOO_SLOW)
                raise

    def _download(self) -> Download:
        """A place for an RPM from Koji."""
        settings = self._settings
        limit = min(settings.server_wait_timeout, settings.koji.download_timeout)
        return self._resources.budget.download(
            self._client, Deadline(limit, "waiting for a download")
        )

    def _check_groups(self, fields: Fields) -> None:
        """Raise `NotInGroup` or `SourceFailed` where the client may not send this request.

        What counts is the name in the certificate; the field `user` is only said.
        """
        required = [self._settings.required_fas_group]
        if "koji-instance" in fields:
            instance = fields.safe_string("koji-instance").lower()
            required.append(self._settings.koji.required_groups.get(instance))
        for group in filter(None, required):
            assert self._resources.groups is not None  # noqa: S101 - made where any group is required
            try:
                self._resources.groups.check(self._client.peer.common_name, group)
            except NotInGroup:
                self._resources.counters.add(BridgeCount.GROUP_REFUSALS)
                raise
            except SigulError as error:
                self._resources.counters.add(BridgeCount.GROUP_FAILURES)
                tell(log, BridgeLog.GROUPS_UNKNOWN, why=str(error))
                raise SourceFailed(
                    "who is in the required group cannot be found out just now",
                    "the bridge's log says why",
                ) from None

    def _refuse(self, reason: str, *, busy: bool = False) -> None:
        """Tell the client why its request ends here, as far as it listens."""
        busy = busy or (self._visit is not None and self._visit.lost_its_server)
        refuse(self._chunked, reason, self._resources.budget, self._version, busy=busy)

    def _dispatch(self, head: bytes, deadline: Deadline) -> ByteStream:
        """A waiting server that has been sent the request's head."""
        while True:
            server = self._resources.waiting.take(deadline, self._client, self._speaks)
            try:
                ChunkedStream(server, self._settings.idle_timeout).write(head)
                if not server.is_acknowledged(ACKNOWLEDGE_SECONDS):
                    raise TransportError("its machine does not answer any more")
                # A server that ends its waiting has said so before its machine acknowledged.
                if server.has_gone():
                    raise TransportError("it has just gone")
            except TransportError as error:
                # It died in this very moment and has seen no request: the next one will do.
                tell(
                    log,
                    BridgeLog.WAITING_SERVER_FAILED,
                    name=server.peer.common_name,
                    why=str(error),
                )
                server.discard()
                self._resources.waiting.give_back(self._client)
                continue
            tell(
                log,
                BridgeLog.SERVER_PAIRED,
                name=server.peer.common_name,
                address=server.peer.address,
            )
            return server

    def _speaks(self, server: ByteStream) -> bool:
        """Tell whether a waiting server may know the request's version."""
        name = server.peer.common_name
        return self._resources.server_versions.may_speak(name, self._version.number)

    def _forward(self, server: ByteStream, head: _Head, koji: KojiSession, visit: Visit) -> None:
        settings = self._settings
        keep = "return-data" not in head.fields or head.fields.boolean("return-data")
        early, decoder = self._chunked.hand_over()
        holding = partial(self._resources.budget.payload, self._client)
        with contextlib.closing(
            RequestFilter(
                self._version,
                head.operation,
                head.length,
                settings.max_rpms_payloads_size,
                koji,
                holding,
            )
        ) as request:
            listens = bool(self._chunked.listens)
            reply = ReplyFilter(
                self._version, head.operation, koji, keep_payload=keep, listens=listens
            )
            forwarding = Forwarding(
                self._client,
                server,
                request,
                reply,
                idle_timeout=settings.idle_timeout,
                close_timeout=settings.close_timeout,
                min_rate=settings.min_payload_rate,
                visit=visit,
                listens=listens,
            )
            try:
                forwarding.run(early, decoder)
            finally:
                visit.is_refused = reply.is_error
            self._resources.server_versions.learn(
                server.peer.common_name, self._version.number, speaks=not reply.version_is_unknown
            )
            self._resources.server_words.learn(server.peer.common_name, reply.server_words)
