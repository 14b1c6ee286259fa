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
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from .. import __version__
from ..config.bridge import BridgeSettings
from ..errors import DeadlineExceeded, SigulError, TransportError
from ..logcontext import LogContext, work_for
from ..logevents import tell
from ..metrics import BridgeCount
from ..protocol.status import MAX_LISTED, BridgeStatus, RequestUnderWay, WaitingServer, WatchedLog
from ..system.open_files import CURE, none_left
from ..system.pipes import ParentPipes
from ..transport import nss
from ..transport.nss_certificates import TOLD_BYTES
from ..transport.nss_listener import Accepted, PeerWent, TLSListener
from ..transport.stream import ByteStream, Deadline, readable
from ..transport.watchdog import Watchdog
from .admission import Arrivals, Handshakes, OnlyLooked, PendingPeer, Roles
from .control import (
    BEAT_SECONDS,
    BridgeCommand,
    BridgeEvent,
    receive_command,
    receive_digest,
)
from .log_events import BridgeLog
from .log_watch import LogWatch, checkpoint_asker
from .session import BridgeResources, RequestSession
from .sight import Sight
from .waiting import Arrival

if TYPE_CHECKING:
    from .management import Management

log = logging.getLogger(__name__)

#: Pause between looks whether the requests in flight are done, in seconds.
_DRAIN_POLL_SECONDS: Final = 0.1
#: Log lines for a new connection, by its kind.
_ACCEPTED: Final = {
    "server": BridgeLog.SERVER_CONNECTED,
    "client": BridgeLog.CLIENT_CONNECTED,
}
#: Pause after an accept that failed for want of descriptors or memory, in seconds.
_ACCEPT_PAUSE_SECONDS: Final = 0.5


class Bridge:
    """A bridge on `listeners`, each for a kind of peer. `run` serves until it is told to stop."""

    def __init__(self, settings: BridgeSettings, listeners: Mapping[socket.socket, str]) -> None:
        """Have the certificate ready. Raises `NSSError`, `ConfigurationError`."""
        self._settings = settings
        #: Serves what is seen of this bridge, as long as it is not told to hand over.
        self.management: Management | None = None
        self._resources = BridgeResources(settings)
        self._handshakes = {
            kind: Handshakes(settings.max_handshakes) for kind in ("server", "client")
        }
        self._arrivals = Arrivals()
        self._watchdog = Watchdog()
        self._numbers = itertools.count(1)
        self._started = datetime.now(UTC)
        #: Fingerprints of the certificates that the parent was told, to be looked at again.
        self._told: set[str] = set()
        self._identity = nss.load_identity(settings.bridge_cert_nickname)
        self._listeners = {
            TLSListener(listener, settings.nss, self._identity): kind
            for listener, kind in listeners.items()
        }
        self._roles = Roles(settings.server_cn, self._identity.fingerprint)
        asker = checkpoint_asker(settings, self._identity, self._watchdog)
        self._logs = LogWatch(self._resources, asker)
        own = (self._identity.common_name, self._identity.not_after)
        #: What is seen of this bridge.
        self.sight = Sight(self._resources, self._handshakes, self._logs.listed, own, self._started)
        tell(log, BridgeLog.WAITING_FOR_SERVER)

    def status(self) -> BridgeStatus:
        """Describe what the bridge is doing at this moment. From any thread."""
        resources = self._resources
        return describe(
            resources.waiting.waiting(),
            resources.budget.in_flight,
            resources.counters.values(),
            self._started,
            time.monotonic(),
            resources.register.listed(time.monotonic()),
            self._logs.listed(time.monotonic()),
            self._settings.signing_log_interval,
        )

    def end(self, name: str) -> int:
        """End what the clients with this name in their certificate have here; how many requests."""
        count = self._resources.register.end(
            lambda visit: visit.client.peer.common_name == name,
            "it was ended by whoever runs the bridge; ask them why",
        )
        tell(log, BridgeLog.USER_REQUESTS_ENDED, count=count, user=name)
        return count

    def _distrust(self, fingerprint: str) -> None:
        """End what the holder of a certificate has here, whose time is over."""
        count = self._resources.register.end(
            lambda visit: visit.client.peer.fingerprint == fingerprint,
            "your certificate is no longer good here",
        ) + self._resources.register.end(
            lambda visit: visit.server is not None and visit.server.peer.fingerprint == fingerprint,
            "the certificate of the signing server that served it is no longer good; try again",
        )
        waiting = self._resources.waiting.dismiss(
            lambda server: server.peer.fingerprint == fingerprint
        )
        tell(
            log,
            BridgeLog.CERTIFICATE_DISTRUSTED,
            fingerprint=fingerprint,
            requests=count,
            waiting_servers=waiting,
        )

    def _tell_certificates(self, parent: ParentPipes) -> None:
        """Tell the parent the certificates of all that are here, each once.

        It has them looked at as the next process has them, which has taken over.
        """
        peers = [server.peer for server, _arrival in self._resources.waiting.waiting()]
        for visit in self._resources.register.visits():
            server = visit.server
            peers += [visit.client.peer, *(() if server is None else (server.peer,))]
        for peer in peers:
            if peer.fingerprint not in self._told:
                self._told.add(peer.fingerprint)
                parent.send_parts(BridgeEvent.CERTIFICATE, peer.certificate[:TOLD_BYTES])
                parent.send(BridgeEvent.WHOLE)

    def _receive(self, parent: ParentPipes) -> BridgeCommand | None:
        """The next command, for which the caller waits; None where it has been followed."""
        command = receive_command(parent)
        if command is not BridgeCommand.DISTRUST:
            return command
        self._distrust(receive_digest(parent).hex())
        return None

    def run(self, parent: ParentPipes) -> None:
        """Accept and serve as the parent commands; then let requests finish, up to a limit."""
        self._logs.start()
        kinds = {"client"}
        beat = time.monotonic() + BEAT_SECONDS
        while True:
            commanded = self._accept_once(parent, kinds, max(0.0, beat - time.monotonic()))
            if time.monotonic() >= beat:
                parent.send(BridgeEvent.BEAT)
                self._look()
                beat = time.monotonic() + BEAT_SECONDS
            if commanded:
                command = self._receive(parent)
                if command is BridgeCommand.TAKE_SERVERS:
                    kinds.add("server")
                elif command is not None:
                    break
        if command is BridgeCommand.HAND_OVER:
            command = self._hand_over(parent, kinds)
        self._end(parent, at_once=command is BridgeCommand.END)

    def _look(self) -> None:
        """See since when a condition holds."""
        try:
            self.sight.look()
        except Exception as error:  # noqa: BLE001 - peers are served on
            tell(log, BridgeLog.CONDITIONS_FAILED, exc_info=error)

    def _end_sight(self) -> None:
        """Leave being seen to the next process."""
        self.sight.is_old = True
        if self.management is not None:
            self.management.close()
            self.management = None

    def _accept_once(self, parent: ParentPipes, kinds: set[str], seconds: float | None) -> bool:
        """Accept peers of these kinds for at most `seconds`; True where a command has come."""
        by_descriptor = {
            listener.fileno(): listener
            for listener, kind in self._listeners.items()
            if kind in kinds
        }
        ready = readable((parent.fileno(), *by_descriptor), seconds)
        for descriptor in ready & by_descriptor.keys():
            self._accept(by_descriptor[descriptor])
        return parent.fileno() in ready

    def _hand_over(self, parent: ParentPipes, kinds: set[str]) -> BridgeCommand:
        """Let the next process take over, once each client that is here can have a server.

        Returns the command that holds then.
        """
        self._end_sight()
        self._close_listeners("client")
        self._resources.server_words.close()  # the next process watches signing logs
        takes_servers = "server" in kinds
        while self._arrivals["client"] or self._arrivals["server"]:
            lacking = self._arrivals["client"] - len(self._resources.waiting)
            if takes_servers and lacking <= 0:
                # Those that wait for the clients that are here stay, the others go over.
                takes_servers = False
                self._close_listeners("server")
                parent.send(BridgeEvent.HANDED_OVER)
            self._resources.waiting.trim(max(0, -lacking))
            wanted = takes_servers and lacking > self._arrivals["server"]
            commanded = self._accept_once(
                parent, {"server"} if wanted else set(), _DRAIN_POLL_SECONDS
            )
            if commanded and self._receive(parent) is BridgeCommand.END:
                return BridgeCommand.END
            self._tell_certificates(parent)
        self._close_listeners("server")
        parent.send(BridgeEvent.HANDED_OVER)
        return BridgeCommand.HAND_OVER

    def _close_listeners(self, *kinds: str) -> None:
        for listener in [item for item, kind in self._listeners.items() if kind in kinds]:
            listener.close()
            del self._listeners[listener]

    def _end(self, parent: ParentPipes, *, at_once: bool) -> None:
        self._end_sight()
        self._close_listeners("client", "server")
        if at_once:
            for handshakes in self._handshakes.values():
                handshakes.end_all()
        self._resources.close()
        end = time.monotonic() + self._settings.shutdown_timeout
        while self._resources.budget.connected and time.monotonic() < end:
            self._tell_certificates(parent)
            if readable([parent.fileno()], _DRAIN_POLL_SECONDS):
                self._receive(parent)
        if self._resources.budget.connected:
            tell(
                log,
                BridgeLog.REQUESTS_CUT_OFF,
                count=self._resources.budget.connected,
                seconds=self._settings.shutdown_timeout,
            )
        self._watchdog.stop()

    # ------------------------------------------------------------------------------------- a peer

    def _accept(self, listener: TLSListener) -> None:
        try:
            accepted = listener.accept()
        except (TransportError, OSError) as error:
            # The peer may have gone again, or descriptors have run out: neither ends the service.
            tell(log, BridgeLog.ACCEPT_FAILED, why=getattr(error, "strerror", None) or str(error))
            if not isinstance(error, PeerWent):
                time.sleep(_ACCEPT_PAUSE_SECONDS)
            return
        if accepted is None:
            return  # The process that served before, or is to, was quicker.
        kind = self._listeners[listener]
        leave = self._arrivals.enter(kind)
        thread = threading.Thread(
            target=self._serve, args=(kind, accepted, leave), name=kind, daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            tell(log, BridgeLog.THREAD_NOT_STARTED)
            accepted.discard()
            leave()

    def _serve(self, kind: str, accepted: Accepted, leave: Callable[[], None]) -> None:
        """Run a peer's thread: log what ends it, close what it leaves open."""
        work_for(LogContext(f"c{next(self._numbers):x}"))
        tell(log, _ACCEPTED[kind], address=accepted.address)
        try:
            with self._authenticated(kind, accepted) as peer:
                if kind == "server":
                    tell(log, BridgeLog.WAITING_FOR_CLIENT)
                    self._resources.waiting.add(peer, peer.handshake_seconds)
                else:
                    RequestSession(peer, self._resources, leave).run()
        except OnlyLooked:
            self._resources.counters.add(BridgeCount.PROBES)
            tell(log, BridgeLog.PROBE_ENDED)
        except SigulError as error:
            tell(log, BridgeLog.CONNECTION_REFUSED, why=str(error))
        except Exception as error:  # noqa: BLE001 - it is logged
            if isinstance(error, OSError) and none_left(error):
                tell(log, BridgeLog.FILES_EXHAUSTED, cure=CURE)
            else:
                tell(log, BridgeLog.CONNECTION_FAILED, exc_info=True)
        finally:
            leave()

    @contextlib.contextmanager
    def _authenticated(self, kind: str, accepted: Accepted) -> Iterator[nss.TLSConnection]:
        """A peer whose handshake is done; ended without a close-notify if the block raises."""
        handshakes = self._handshakes[kind]
        pending = handshakes.enter(accepted.host, accepted.tcp)
        try:
            connection = accepted.connection(self._watchdog)
        except BaseException:
            handshakes.leave(pending)
            accepted.discard()
            raise
        try:
            try:
                self._shake_hands(kind, pending, connection)
                self._roles.check(kind, connection.peer)
            except TransportError:
                self._resources.counters.add(BridgeCount.HANDSHAKES_REFUSED)
                self._resources.measures.refused_handshake(kind)
                raise
            finally:
                handshakes.leave(pending)
            self._resources.measures.shook_hands(
                kind, connection.peer, connection.handshake_seconds
            )
            tell(
                log,
                BridgeLog.PEER_AUTHENTICATED,
                peer=kind.capitalize(),
                name=connection.peer.common_name,
            )
            yield connection
        except BaseException:
            connection.discard()
            raise

    def _shake_hands(self, kind: str, pending: PendingPeer, connection: nss.TLSConnection) -> None:
        settings = self._settings
        deadline = Deadline(
            settings.handshake_timeout, f"TLS handshake with {connection.peer.address}"
        )
        tell(log, BridgeLog.HANDSHAKE_BEGINS, peer=kind)
        title = kind.capitalize()
        try:
            pending.await_greeting(deadline)
            try:
                connection.handshake_prepared(deadline.remaining())
            except DeadlineExceeded:
                raise deadline.exceeded() from None
        except TransportError as error:
            raise TransportError(f"[BRIDGE_TLS] {title} handshake failed: {error}") from None
        tell(log, BridgeLog.HANDSHAKE_COMPLETED, peer=title)


def describe(
    waiting: Sequence[tuple[ByteStream, Arrival]],
    in_flight: int,
    totals: Mapping[str, int],
    started: datetime,
    now: float,
    requests: tuple[RequestUnderWay, ...] = (),
    logs: tuple[WatchedLog, ...] = (),
    log_interval: float = 0.0,
) -> BridgeStatus:
    """The status of a bridge at `now` (`time.monotonic`), made of what it knows."""
    return BridgeStatus(
        version=__version__,
        pid=os.getpid(),
        started=started.isoformat(timespec="seconds"),
        servers_waiting=len(waiting),
        servers=tuple(
            WaitingServer(
                server.peer.common_name,
                server.peer.address,
                round(now - arrival.at, 3),
                round(arrival.handshake_seconds, 6),
            )
            for server, arrival in waiting[:MAX_LISTED]
        ),
        requests_in_flight=in_flight,
        totals=totals,
        requests=requests,
        logs=logs,
        log_interval=log_interval,
    )
