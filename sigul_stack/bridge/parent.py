"""The bridge's parent process: holds the listening ports, and keeps a child that serves them.

It never opens NSS and never touches a peer: a process that forks may not have opened NSS, and NSS
sees a changed database only when it is opened anew. So to take new certificates into use, the next
child is started beside the serving one, and takes over without a moment in which nobody listens:

    next child: reads all afresh ─▶ "ready", takes clients ────────────────▶ takes servers ─▶ …
    old child:                        takes no more clients, ─▶ "handed over"; sends its waiting
                                      servers while some of     servers away, requests in flight
                                      its clients lack one      finish ─▶ gone

Invariant: the ports stay open from start to end; one child at a time takes servers, so that no
client waits at one child while all servers wait at the other. A child ends when its pipe from the
parent does. Where the next child cannot start, the serving one goes on.

An old child tells the certificates of those that are still there. Another child, which opens NSS
anew as well, looks at them (`Look`), and the old one ends what belongs to those that are no longer
good: each time that certificates were taken into use, for as long as the old child lives.
"""

from __future__ import annotations

import logging
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from ..config.identity import Identity
from ..config.management import ManagementAddress
from ..errors import SigulError
from ..system.pipes import ParentPipes, require
from ..system.processes import (
    KILL_AFTER_SECONDS,
    LONGEST_PAUSE_SECONDS,
    BackOff,
    Child,
    ProcessFamily,
)
from ..system.signals import SignalPipe
from ..transport.nss_certificates import LOOK_SECONDS, TOLD_BYTES, Look
from ..transport.tcp import listen
from ..transport.unix_socket import UnixListener
from .control import BridgeCommand, BridgeEvent
from .heartbeat import Heartbeat

log = logging.getLogger(__name__)

#: Seconds that a next child has to be ready; the serving one goes on meanwhile.
READY_SECONDS: Final = 60.0
#: Seconds beyond its shutdown-timeout for a child that has handed over: its last clients may still
#: be in their handshake or header.
HAND_OVER_SECONDS: Final = 60.0

#: Times that a child may say that it has handed over: once the servers, and once all is settled.
_HAND_OVERS: Final = 2
#: Most bytes of certificates that a child may tell: far more than the peers of any bridge have.
_MAX_TOLD_BYTES: Final = 64 * 1024**2

#: Addresses and a TCP port to listen on, and the kind of peer that comes there.
Port = tuple[tuple[str, ...], int, str]
#: The kind of peer that comes to a management address.
MANAGEMENT: Final = "management"


@dataclass(frozen=True, slots=True)
class ManagementPort:
    """A management address. A Unix socket is given to `owner`, and `group` may connect to it.

    One that is open keeps these as long as the parent lives, whatever later plans say: what would
    take its name might have to give it back.
    """

    address: ManagementAddress
    owner: Identity | None = field(default=None, compare=False)
    group: int | None = field(default=None, compare=False)


#: Listening sockets, and the kind of peer that each is for.
Listeners = Mapping[socket.socket, str]


@dataclass(frozen=True, slots=True)
class BridgePlan:
    """A configuration as one reading of it gave it, ready to be served by.

    `serve` is a child's work: it gets the listening sockets and its ends of the pipes to the
    parent. `look` opens NSS and tells which certificates are good. `hand_over_timeout` is how long
    the clients that are on their way may take until each has a server, and `shutdown_timeout` how
    long those that have one may, in seconds.
    """

    serve: Callable[[Listeners, ParentPipes], None]
    look: Callable[[Look, Callable[[bytes], None]], None]
    ports: tuple[Port | ManagementPort, ...]
    shutdown_timeout: float
    hand_over_timeout: float = 300.0


def of_peers(listeners: Listeners) -> tuple[Listeners, list[socket.socket]]:
    """The listening sockets for peers, and those of a management address."""
    peers = {listener: kind for listener, kind in listeners.items() if kind != MANAGEMENT}
    return peers, [listener for listener in listeners if listener not in peers]


class Ports:
    """The listening sockets that the parent keeps open."""

    def __init__(self) -> None:
        self._sockets: dict[Port | ManagementPort, list[socket.socket]] = {}
        self._unix: dict[Port | ManagementPort, UnixListener] = {}

    def open(self, plan: BridgePlan) -> None:
        """Open those of `plan` that are not open yet.

        Raises `TransportError`, `ConfigurationError`.
        """
        for port in plan.ports:
            if port not in self._sockets:
                self._sockets[port] = self._listen(port)
                for listener in self._sockets[port]:
                    # Of two processes that see a connection only one gets it.
                    listener.setblocking(False)

    def _listen(self, port: Port | ManagementPort) -> list[socket.socket]:
        if not isinstance(port, ManagementPort):
            return listen(*port[:2])
        address = port.address
        if address.path is None:
            return listen((address.host,), address.port)
        made = UnixListener(address.path, "[management] listen", port.owner, port.group)
        self._unix[port] = made
        return [made.socket]

    def close_all_but(self, plan: BridgePlan | None, *, own: bool = True) -> None:
        """Close the sockets that `plan` does not need; children that have them keep them.

        A child's are not its `own`: the names of Unix sockets are the parent's to remove.
        """
        for port in set(self._sockets).difference(plan.ports if plan is not None else ()):
            for listener in self._sockets.pop(port):
                made = self._unix.pop(port, None)
                if made is not None and own:
                    made.close()
                listener.close()

    def of(self, plan: BridgePlan) -> dict[socket.socket, str]:
        """The sockets of `plan`, and the kind of peer that each is for."""
        return {
            item: MANAGEMENT if isinstance(port, ManagementPort) else port[2]
            for port in plan.ports
            for item in self._sockets[port]
        }


@dataclass(slots=True, eq=False)
class ServingChild(Child):
    """A child that serves, is to serve, or lets its last requests finish."""

    plan: BridgePlan
    #: The time at which it began to serve (`time.monotonic`).
    ready_at: float = 0.0
    #: It was told to hand over, and has said so many times that it has.
    is_old: bool = False
    hand_overs: int = 0
    #: What of a certificate has come, and those that are whole: of its peers, once it is old.
    part: bytes = field(default=b"", repr=False)
    certificates: set[bytes] = field(default_factory=set, repr=False)
    told_bytes: int = 0
    #: Those of them that have been looked at by the newest plan.
    seen: set[bytes] = field(default_factory=set, repr=False)
    #: What it looks at, where it is there for that.
    look: Look | None = None


class Parent(ProcessFamily[BridgePlan, ServingChild]):
    """Keeps a child serving by the newest plan that works; see `ProcessFamily` for the rest."""

    ignored = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)

    def __init__(
        self,
        plan: BridgePlan,
        renew: Callable[[], BridgePlan],
        *,
        stop: SignalPipe,
        reload: SignalPipe,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        super().__init__(plan, renew, stop=stop, reload=reload, back_off=BackOff(first=0.0))
        self._ports = Ports()
        self._heartbeat = heartbeat
        #: The child that serves, and the one that is to.
        self._serving: ServingChild | None = None
        self._next: ServingChild | None = None
        #: The one that may accept servers.
        self._takes_servers: ServingChild | None = None
        self._started = False

    def run(self, ready: Callable[[], None]) -> None:
        """Serve until it is time to stop; `ready` is called once the first child serves.

        Raises what keeps that one from it.
        """
        with self._running():
            if self._heartbeat is not None:
                self._heartbeat.remove()  # of one that did not come to remove it
            self._try_plan(self._plan)
            first = self._next
            while self._serving is None:
                if first is None or first is not self._next:
                    raise SigulError(
                        (first.failure if first is not None else "")
                        or "the bridge's serving process failed; its log says more"
                    )
                if self._wait(None):
                    return
            self._started = True
            ready()
            while not self._wait(self._restart()):
                self._look_again()

    def _restart(self) -> float | None:
        """Start a child where there is none; seconds until one may be, where that is later."""
        if self._serving is None and self._next is None and not self._back_off.remaining():
            self._fork(self._plan)
        return None if self._serving or self._next else self._back_off.remaining()

    def _try_plan(self, plan: BridgePlan) -> None:
        try:
            self._ports.open(plan)
        except SigulError:
            self._ports.close_all_but(self._plan)
            raise
        self._fork(plan)

    def _is_settled(self) -> bool:
        # One change at a time: who takes servers would else be nobody's knowledge.
        return self._next is None and self._takes_servers is self._serving

    def _fork(self, plan: BridgePlan) -> None:
        def work(parent: ParentPipes) -> None:
            # A port that this child does not serve would else stay open without anybody there.
            self._ports.close_all_but(plan, own=False)
            plan.serve(self._ports.of(plan), parent)

        child = ServingChild(plan)
        if self._start(child, work):
            child.deadline = time.monotonic() + READY_SECONDS
            self._next = child
        else:
            self._ports.close_all_but(self._plan)

    def _look_again(self) -> None:
        """Have the certificates of those at old children looked at as the newest plan has them."""
        children = [child for child in self._children.values() if child is not self._serving]
        unseen = set[bytes]().union(*(child.certificates - child.seen for child in children))
        if unseen and self._serving and not any(child.look is not None for child in children):
            look, plan = Look.at(unseen), self._plan
            looking = ServingChild(plan, look=look)
            looking.deadline = time.monotonic() + LOOK_SECONDS
            self._start(
                looking,
                lambda parent: plan.look(look, partial(parent.send, BridgeEvent.GOOD)),
            )

    def _take_look(self, plan: BridgePlan, look: Look) -> None:
        """Have old children end what belongs to certificates that `look` has not found good."""
        if plan is not self._plan:
            return  # there are newer ones: they are looked at once more
        for child in self._children.values():
            for number, certificate in look.asked.items():
                if certificate in child.certificates - child.seen:
                    child.seen.add(certificate)
                    if number in look.bad:
                        child.command(BridgeCommand.DISTRUST + number)

    def _handle_event(self, child: ServingChild, code: bytes, body: bytes) -> None:
        now = time.monotonic()
        if code == BridgeEvent.GOOD:
            require(child.look, "it was not asked to look at certificates")
            assert child.look is not None  # noqa: S101 - just required
            require(child.look.found_good(body), "it was not asked to look at this certificate")
        elif code == BridgeEvent.READY:
            require(child is self._next, "it is not about to serve")
            child.ready_at = now
            child.deadline = None
            self._plan = child.plan
            for other in self._children.values():
                other.seen.clear()
            self._ports.close_all_but(child.plan)
            old, self._serving, self._next = self._serving, child, None
            self._beat()
            if old is None:
                self._assign_servers()
            else:
                log.info("Process %d serves; process %d lets its requests finish",
                         child.pid, old.pid)  # fmt: skip
                old.is_old = True
                old.deadline = now + old.plan.hand_over_timeout + HAND_OVER_SECONDS
                old.command(BridgeCommand.HAND_OVER)
        elif code == BridgeEvent.BEAT:
            require(child.ready_at > 0 and child.look is None, "it does not serve")
            if child is self._serving:
                self._beat()
        elif code == BridgeEvent.HANDED_OVER:
            child.hand_overs += 1
            require(child.is_old and child.hand_overs <= _HAND_OVERS, "it was not to hand over")
            child.deadline = now + child.plan.shutdown_timeout + HAND_OVER_SECONDS
            if child is self._takes_servers:
                self._assign_servers()
        elif code == BridgeEvent.CERTIFICATE:
            child.part += body
            child.told_bytes += len(body)
            require(child.is_old, "it has no certificates to tell now")
            require(len(child.part) <= TOLD_BYTES, "it tells too much of a certificate")
            require(child.told_bytes <= _MAX_TOLD_BYTES, "it tells too many certificates")
        elif code == BridgeEvent.WHOLE:
            require(child.part, "it has told nothing of a certificate")
            child.certificates.add(child.part)
            child.part = b""
        else:
            require(False, "there is no such event")

    def _beat(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.beat()

    def _assign_servers(self) -> None:
        self._takes_servers = self._serving
        if self._serving is not None:
            self._serving.command(BridgeCommand.TAKE_SERVERS)

    def _handle_end(self, child: ServingChild, code: int) -> None:
        if child.look is not None:
            if child.failure:
                log.error("Certificates cannot be looked at again: %s", child.failure)
            if child.broke_rules:
                child.look.good.clear()
            self._take_look(child.plan, child.look)
            return
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        if child is self._next:
            self._next = None
            self._ports.close_all_but(self._plan)
            if self._serving is not None:
                self._keep_plan(child.failure or f"process {child.pid} {how}")
            elif self._started:
                log.error("Process %d %s before it could serve: %s", child.pid, how, child.failure)
                self._back_off.failed()
        elif child is self._serving:
            log.error("The serving process %d %s; another is started", child.pid, how)
            self._serving = None
            if time.monotonic() - child.ready_at > LONGEST_PAUSE_SECONDS:
                self._back_off.reset()
            self._back_off.failed()
        elif code != 0:
            log.error("Process %d %s while its last requests finished", child.pid, how)
        if child is self._takes_servers:
            self._assign_servers()

    def _dismiss(self, child: ServingChild) -> float:
        child.command(BridgeCommand.END)
        serves = child is not self._next and child.look is None
        limit = child.plan.shutdown_timeout if serves else 0.0
        return limit + KILL_AFTER_SECONDS

    def _end(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.remove()
        self._ports.close_all_but(None)
        super()._end()
