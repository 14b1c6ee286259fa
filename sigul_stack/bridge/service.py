"""The bridge as a running service: a thread for each peer, a clean end, or a handing over.

The ports are the parent's (`parent`), which starts the next service beside this one when new
certificates are to be used.

A server's thread ends when it joins the pool of the waiting; a client's carries its request to the
end. Whatever happens in one of them, the others and the service go on.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import BinaryIO, Final

from ..config.bridge import BridgeSettings
from ..errors import (
    ConfigurationError,
    DeadlineExceeded,
    RemoteProtocolError,
    SigulError,
    TransportError,
)
from ..kojihub import KojiError
from ..logcontext import request_id
from ..metrics import BridgeCount, Counters
from ..protocol.chunks import MAX_WRITTEN_CHUNK
from ..protocol.codec import Fields, pack_u64, read_u64
from ..protocol.messages import bridge_refusal, encode_request_header, read_request_header
from ..protocol.operations import Operation, operation_of
from ..protocol.status import BridgeStatus
from ..system.processes import ParentPipes
from ..transport import nss
from ..transport.chunked import ChunkedStream
from ..transport.stream import ByteStream, Deadline
from ..transport.tcp import printable_address
from ..transport.watchdog import Watchdog
from .admission import Arrivals, Handshakes, Newcomer, OnlyLooked, Roles
from .control import BridgeCommand, BridgeEvent, receive_command
from .forward import Forwarding
from .groups import Groups, NotInGroup, SourceFailed
from .koji import Errands
from .status import describe
from .streams import ReplyCutter, RequestFilter
from .turns import Turns
from .waiting import WaitingServers, has_gone, has_received

log = logging.getLogger(__name__)

#: Time for a waiting server's machine to acknowledge a request's head, in seconds: enough for the
#: head to be sent again a few times.
ACKNOWLEDGE_SECONDS: Final = 3.0
#: Time for a client to read why it is refused, and to close, in seconds.
REFUSED_SECONDS: Final = 2.0
#: How often the end of the service looks whether the requests in flight are done, in seconds.
_DRAIN_POLL_SECONDS: Final = 0.1
#: Pause after an accept that failed for want of descriptors or memory, in seconds.
_ACCEPT_PAUSE_SECONDS: Final = 0.5


class Bridge:
    """A bridge on `listeners`, each for a kind of peer. `run` serves until it is told to stop."""

    def __init__(
        self, settings: BridgeSettings, listeners: Mapping[socket.socket, str] | None = None
    ) -> None:
        self._settings = settings
        self._roles = Roles(settings.server_cn)
        required = settings.required_fas_group or settings.koji.required_groups
        self._groups = Groups(settings.groups) if required else None
        self._watchdog = Watchdog()
        self._counters = Counters(BridgeCount)
        self._started = datetime.now(UTC)
        self._waiting = WaitingServers(settings.max_waiting_servers, self._counters)
        self._turns = Turns(settings.max_requests_per_user)
        self._clients = threading.BoundedSemaphore(settings.max_clients)
        self._handshakes = {
            kind: Handshakes(settings.max_handshakes) for kind in ("server", "client")
        }
        self._numbers = itertools.count(1)
        self._requests = 0
        self._requests_lock = threading.Lock()
        self._arrivals = Arrivals()
        self._listeners = dict(listeners or {})

    def open(self, identity: nss.Identity | None = None) -> None:
        """Have the certificate ready. Raises `NSSError`."""
        self._identity = identity or nss.load_identity(self._settings.bridge_cert_nickname)
        log.info("[BRIDGE_REQUEST] Waiting for the server to connect")

    def status(self) -> BridgeStatus:
        """What the bridge is doing at this moment. From any thread."""
        return describe(
            self._waiting.waiting(), self._counters.values(), self._started, time.monotonic()
        )

    def run(self, parent: ParentPipes) -> None:
        """Accept and serve as the parent commands; then let requests finish, up to a limit."""
        kinds = {"client"}
        while True:
            if self._accept_once(parent, kinds, None):
                command = receive_command(parent)
                if command is not BridgeCommand.TAKE_SERVERS:
                    break
                kinds.add("server")
        if command is BridgeCommand.HAND_OVER:
            command = self._hand_over(parent, kinds)
        self._end(parent, at_once=command is BridgeCommand.END)

    def _accept_once(self, parent: ParentPipes, kinds: set[str], seconds: float | None) -> bool:
        """Accept peers of these kinds for at most `seconds`; True where a command has come."""
        poll = select.poll()
        by_descriptor = {
            listener.fileno(): listener
            for listener, kind in self._listeners.items()
            if kind in kinds
        }
        for descriptor in (parent.fileno(), *by_descriptor):
            poll.register(descriptor, select.POLLIN)
        milliseconds = None if seconds is None else seconds * 1000
        ready = {descriptor for descriptor, _events in poll.poll(milliseconds)}
        for descriptor in ready & by_descriptor.keys():
            self._accept(by_descriptor[descriptor])
        return parent.fileno() in ready

    def _hand_over(self, parent: ParentPipes, kinds: set[str]) -> BridgeCommand:
        """Let the next process take over, once each client that is here can have a server.

        Returns the command that holds then.
        """
        self._close_listeners("client")
        takes_servers = "server" in kinds
        while self._arrivals["client"] or self._arrivals["server"]:
            lacking = self._arrivals["client"] - len(self._waiting)
            if takes_servers and lacking <= 0:
                # Those that wait for the clients that are here stay, the others go over.
                takes_servers = False
                self._close_listeners("server")
                parent.send(BridgeEvent.HANDED_OVER)
            self._waiting.trim(max(0, -lacking))
            wanted = takes_servers and lacking > self._arrivals["server"]
            commanded = self._accept_once(
                parent, {"server"} if wanted else set(), _DRAIN_POLL_SECONDS
            )
            if commanded and receive_command(parent) is BridgeCommand.END:
                return BridgeCommand.END
        self._close_listeners("server")
        parent.send(BridgeEvent.HANDED_OVER)
        return BridgeCommand.HAND_OVER

    def _close_listeners(self, *kinds: str) -> None:
        for listener in [item for item, kind in self._listeners.items() if kind in kinds]:
            listener.close()
            del self._listeners[listener]

    def _end(self, parent: ParentPipes, *, at_once: bool) -> None:
        self._close_listeners("client", "server")
        if at_once:
            for handshakes in self._handshakes.values():
                handshakes.end_all()
        self._waiting.close()
        self._turns.close()
        end = time.monotonic() + self._settings.shutdown_timeout
        told = False
        while self._requests and time.monotonic() < end:
            if told:
                time.sleep(_DRAIN_POLL_SECONDS)
            elif select.select([parent], [], [], _DRAIN_POLL_SECONDS)[0]:
                receive_command(parent)
                told = True
        if self._requests:
            log.warning(
                "%d requests were not finished within %g s and are cut off",
                self._requests,
                self._settings.shutdown_timeout,
            )
        self._watchdog.stop()

    # --------------------------------------------------------------------------------- newcomers

    def _accept(self, listener: socket.socket) -> None:
        try:
            tcp, address = listener.accept()
        except BlockingIOError:
            return  # The process that served before, or is to, was quicker.
        except OSError as error:
            # The peer may have gone again, or descriptors have run out: neither ends the service.
            log.warning("Accepting a connection failed: %s", error.strerror)
            if not isinstance(error, ConnectionError):
                time.sleep(_ACCEPT_PAUSE_SECONDS)
            return
        kind = self._listeners[listener]
        serve = self._serve_server if kind == "server" else self._serve_client
        leave = self._arrivals.enter(kind)
        thread = threading.Thread(
            target=self._guarded, args=(serve, tcp, address, leave), name=kind, daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            log.error("No thread could be started for a new connection; it is closed")
            tcp.close()
            leave()

    def _guarded(
        self,
        serve: Callable[[socket.socket, str, str, Callable[[], None]], None],
        tcp: socket.socket,
        address: tuple[str, int],
        leave: Callable[[], None],
    ) -> None:
        """Run a peer's thread: log what ends it, close what it leaves open."""
        request_id.set(f"{next(self._numbers):x}")
        try:
            serve(tcp, address[0], printable_address(address), leave)
        except OnlyLooked:
            self._counters.add(BridgeCount.PROBES)
            log.debug("The connection ended before it said anything: a check, no request")
        except SigulError as error:
            log.warning("%s", error)
        except Exception:
            log.exception("A connection failed in an unforeseen way")
        finally:
            leave()

    @contextlib.contextmanager
    def _authenticated(
        self, kind: str, tcp: socket.socket, host: str, address: str
    ) -> Iterator[nss.TLSConnection]:
        """A peer whose handshake is done; ended without a close-notify if the block raises."""
        handshakes = self._handshakes[kind]
        newcomer = handshakes.enter(host, tcp)
        try:
            connection = nss.TLSConnection(tcp, address, self._watchdog)
        except BaseException:
            handshakes.leave(newcomer)
            tcp.close()
            raise
        try:
            log.info("[BRIDGE_TLS] Starting TLS handshake with %s", kind)
            try:
                self._shake_hands(newcomer, connection, address)
            except TransportError as error:
                self._counters.add(BridgeCount.HANDSHAKES_REFUSED)
                title = kind.capitalize()
                raise TransportError(f"[BRIDGE_TLS] {title} handshake failed: {error}") from None
            finally:
                handshakes.leave(newcomer)
            log.info("[BRIDGE_TLS] %s TLS handshake completed", kind.capitalize())
            yield connection
        except BaseException:
            connection.discard()
            raise

    def _shake_hands(self, newcomer: Newcomer, connection: nss.TLSConnection, address: str) -> None:
        settings = self._settings
        deadline = Deadline(settings.handshake_timeout, f"TLS handshake with {address}")
        newcomer.await_greeting(deadline)
        try:
            connection.handshake_as_server(settings.nss, self._identity, deadline.remaining())
        except DeadlineExceeded:
            raise deadline.exceeded() from None

    @contextlib.contextmanager
    def _counted_if_refused(self) -> Iterator[None]:
        try:
            yield
        except TransportError:
            self._counters.add(BridgeCount.HANDSHAKES_REFUSED)
            raise

    # ----------------------------------------------------------------------------------- servers

    def _serve_server(
        self, tcp: socket.socket, host: str, address: str, _leave: Callable[[], None]
    ) -> None:
        log.info("[BRIDGE_REQUEST] Server TCP connection accepted (%s)", address)
        with self._authenticated("server", tcp, host, address) as server:
            with self._counted_if_refused():
                self._roles.check_server(server.peer)
            log.info(
                "[BRIDGE_TLS] Server authenticated with CN: %s", _quoted(server.peer.common_name)
            )
            log.info("[BRIDGE_REQUEST] Waiting for the client to connect")
            self._waiting.add(server, server.handshake_seconds)

    # ----------------------------------------------------------------------------------- clients

    def _serve_client(
        self, tcp: socket.socket, host: str, address: str, leave: Callable[[], None]
    ) -> None:
        log.info("[BRIDGE_REQUEST] Client connected (%s)", address)
        with self._authenticated("client", tcp, host, address) as client:
            with self._counted_if_refused():
                self._roles.check_client(client.peer)
            log.info(
                "[BRIDGE_TLS] Client authenticated with CN: %s", _quoted(client.peer.common_name)
            )
            if not self._clients.acquire(blocking=False):
                raise TransportError(
                    f"{self._settings.max_clients} clients are connected already (max-clients);"
                    f" {address} is sent away"
                )
            try:
                with self._counted():
                    self._serve_request(client, leave)
            finally:
                self._clients.release()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._requests_lock:
            self._requests += 1
        try:
            yield
        finally:
            with self._requests_lock:
                self._requests -= 1

    def _serve_request(self, client: ByteStream, paired: Callable[[], None] = lambda: None) -> None:
        settings = self._settings
        chunked = ChunkedStream(client, settings.header_timeout)
        deadline = Deadline(settings.header_timeout, "sending the request's header")
        if not chunked.begin(deadline):
            raise OnlyLooked
        with self._counters.during(BridgeCount.REQUESTS_IN_FLIGHT):
            try:
                self._carry(client, chunked, deadline, paired)
            except BaseException:
                self._counters.add(BridgeCount.REQUESTS_FAILED)
                raise

    def _carry(
        self,
        client: ByteStream,
        chunked: ChunkedStream,
        deadline: Deadline,
        paired: Callable[[], None],
    ) -> None:
        fields = chunked.parse(read_request_header(), deadline)
        operation = operation_of(fields)
        operation.check(fields)
        length = chunked.parse(read_u64(), deadline)
        operation.check_payload(length)
        self._counters.add(BridgeCount.REQUESTS)
        log.info(
            "Request '%s' of user '%s', payload %d bytes", operation.name, fields["user"].decode(),
            length,
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            try:
                self._check_groups(client, fields)
                errands = self._errands(client, fields, operation)
                if errands is not None:
                    stack.callback(errands.close)
                fetched = self._fetched(errands, fields, operation, length)
            except (KojiError, ConfigurationError, NotInGroup, SourceFailed, OSError) as error:
                self._refuse(chunked, str(error))
                raise RemoteProtocolError(f"The request is refused: {error}") from None
            sent = length
            if fetched is not None:
                stack.callback(fetched[0].close)
                sent = fetched[1]
            wait = Deadline(self._settings.server_wait_timeout, "waiting for a signing server")
            stack.enter_context(self._turns.turn(client, wait))
            server = self._dispatch(client, encode_request_header(fields) + pack_u64(sent), wait)
            paired()
            try:
                if fetched is not None:
                    towards = ChunkedStream(server, self._settings.idle_timeout)
                    while piece := fetched[0].read(MAX_WRITTEN_CHUNK):
                        towards.write(piece)
                self._forward(client, server, chunked, operation, fields, length, errands)
            except BaseException:
                server.discard()
                raise

    def _check_groups(self, client: ByteStream, fields: Fields) -> None:
        """Raise `NotInGroup` or `SourceFailed` where the client may not send this request.

        What counts is the name in the certificate; the field `user` is only said.
        """
        required = [self._settings.required_fas_group]
        if "koji-instance" in fields:
            instance = fields.safe_string("koji-instance").lower()
            required.append(self._settings.koji.required_groups.get(instance))
        for group in filter(None, required):
            assert self._groups is not None  # noqa: S101 - made where any group is required
            try:
                self._groups.check(client.peer.common_name, group)
            except NotInGroup:
                self._counters.add(BridgeCount.GROUP_REFUSALS)
                raise
            except SigulError as error:
                self._counters.add(BridgeCount.GROUP_FAILURES)
                log.error("Groups cannot be looked up: %s", error)
                raise SourceFailed(
                    "who is in the required group cannot be found out just now; the bridge's log"
                    " says why"
                ) from None

    def _errands(self, client: ByteStream, fields: Fields, operation: Operation) -> Errands | None:
        """What there is to do for this request besides forwarding, as far as can be told."""
        stores = "import-signature" in fields and fields.boolean("import-signature")
        named = "rpm-name" in fields or "koji-instance" in fields
        if not (stores or named or operation.subrequests):
            return None
        return Errands(self._settings.koji, fields, client.peer.common_name)

    @staticmethod
    def _fetched(
        errands: Errands | None, fields: Fields, operation: Operation, length: int
    ) -> tuple[BinaryIO, int] | None:
        """The payload where the bridge is to fetch it, and its length."""
        if errands is None or length or operation.subrequests or "rpm-name" not in fields:
            return None
        return errands.fetch(fields, operation.max_payload)

    def _refuse(self, chunked: ChunkedStream, message: str) -> None:
        """Tell the client why its request ends here, as far as it listens."""
        with contextlib.suppress(TransportError):
            for chunk in bridge_refusal(message):
                chunked.write(chunk)
            chunked.end()
            chunked.stream.end_writing()
            # What it has sent meanwhile would have the kernel throw away what it has not read.
            chunked.wait_for_close(REFUSED_SECONDS)

    def _dispatch(self, client: ByteStream, head: bytes, deadline: Deadline) -> ByteStream:
        """A waiting server that has been sent the request's head."""
        while True:
            server = self._waiting.take(deadline, client)
            try:
                ChunkedStream(server, self._settings.idle_timeout).write(head)
                if not has_received(server, ACKNOWLEDGE_SECONDS):
                    raise TransportError("its machine does not answer any more")
                # A server that ends its waiting has said so before its machine acknowledged.
                if has_gone(server):
                    raise TransportError("it has just gone")
            except TransportError as error:
                # It died in this very moment and has seen no request: the next one will do.
                log.warning("Waiting server %s failed: %s", server.peer.common_name, error)
                server.discard()
                continue
            log.info("Paired with server %s (%s)", server.peer.common_name, server.peer.address)
            return server

    def _forward(
        self,
        client: ByteStream,
        server: ByteStream,
        chunked: ChunkedStream,
        operation: Operation,
        fields: Fields,
        length: int,
        errands: Errands | None,
    ) -> None:
        keep_payload = "return-data" not in fields or fields.boolean("return-data")
        early, decoder = chunked.hand_over()
        Forwarding(
            client,
            server,
            RequestFilter(operation, length, self._settings.max_rpms_payloads_size, errands),
            ReplyCutter(operation, keep_payload=keep_payload, errands=errands),
            idle_timeout=self._settings.idle_timeout,
            close_timeout=self._settings.close_timeout,
        ).run(early, decoder)


def _quoted(name: str) -> str:
    return f"'{name}'"
