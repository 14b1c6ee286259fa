"""Admission of peers: many TLS handshakes at once, each with its own limit, and peers' roles.

Invariant: a peer that has not authenticated takes no place of one that has. The number of pending
handshakes is limited. At the limit, the oldest from the network that has most of them is ended: a
host that opens silent connections by the hundred ends only its own.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ..errors import TransportError, quoted
from ..transport.stream import Deadline, Peer, readable

#: The part of an IPv6 address that a peer cannot choose, in bits: whoever has one address of a
#: link may take any other of its /64 (RFC 4291, 2.5.4; RFC 7934).
IPV6_PREFIX: Final = 64


def network_of(host: str) -> str:
    """Whom an address counts for: the IPv4 address itself, or the network of an IPv6 one."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # no address of the internet
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        number = int(address) >> (128 - IPV6_PREFIX) << (128 - IPV6_PREFIX)
        return f"{ipaddress.IPv6Address(number)}/{IPV6_PREFIX}"
    return str(address)


class OnlyLooked(Exception):
    """A connection ended in order before it had said anything: a port check or a health check."""


@dataclass(slots=True, eq=False)
class PendingPeer:
    """A connection in its handshake. `ended`: this side has ended it."""

    #: See `network_of`.
    network: str
    tcp: socket.socket = field(repr=False)
    ended: bool = False

    def await_greeting(self, deadline: Deadline) -> None:
        """Wait for the peer's first byte, which stays unread.

        Raises `OnlyLooked` where it ends without one, `DeadlineExceeded`, `TransportError`.
        """
        if not readable([self.tcp.fileno()], deadline.remaining()):
            raise deadline.exceeded()
        with contextlib.suppress(ConnectionResetError):  # how some port checks end
            if self.tcp.recv(1, socket.MSG_PEEK):
                return
        if self.ended:
            raise TransportError("it was ended, for too many others come or the bridge ends")
        raise OnlyLooked

    def end(self) -> None:
        """End the connection, which may be closed already."""
        self.ended = True
        with contextlib.suppress(OSError):
            self.tcp.shutdown(socket.SHUT_RDWR)


class Handshakes:
    """The connections of one port that have not finished their handshake, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._peers: list[PendingPeer] = []

    def __len__(self) -> int:
        return len(self._peers)

    @property
    def used(self) -> float:
        """The part of the limit that is in use."""
        return len(self._peers) / self._limit

    def enter(self, host: str, tcp: socket.socket) -> PendingPeer:
        """Add a connection; returns what to `leave` with. Ends another one at the limit."""
        peer = PendingPeer(network_of(host), tcp)
        with self._lock:
            if len(self._peers) >= self._limit:
                crowd, _count = Counter(item.network for item in self._peers).most_common(1)[0]
                oldest = next(item for item in self._peers if item.network == crowd)
                self._peers.remove(oldest)
                oldest.end()
            self._peers.append(peer)
        return peer

    def leave(self, peer: PendingPeer) -> None:
        """Remove a connection whose handshake is over, well or not."""
        with self._lock, contextlib.suppress(ValueError):
            self._peers.remove(peer)

    def end_all(self) -> None:
        """End every connection that is still in its handshake."""
        with self._lock:
            for peer in self._peers:
                peer.end()


class Arrivals:
    """Peers of each kind that are on their way: accepted, but not yet waiting or served."""

    def __init__(self) -> None:
        self._counts = {"client": 0, "server": 0}
        self._lock = threading.Lock()

    def enter(self, kind: str) -> Callable[[], None]:
        """Count one more; returns a function that ends that, however often it is called."""
        self._add(kind, 1)
        left = contextlib.ExitStack()
        left.callback(self._add, kind, -1)
        return left.close

    def _add(self, kind: str, count: int) -> None:
        with self._lock:
            self._counts[kind] += count

    def __getitem__(self, kind: str) -> int:
        return self._counts[kind]


class Roles:
    """Tells servers from clients by their certificates, so that neither can play the other.

    With `server_names` (the `server-cn` setting) a server's CN must be listed, and a client's may
    not be; alternative names do not count, for old sites gave all their certificates the same.
    Without it any certificate may be a server's, but one that has been one is no client's.

    The bridge's `own` certificate is told by its fingerprint: it may be a client, for its health
    check, also where bridge and server have one name. No server takes a request of it.
    """

    def __init__(self, server_names: tuple[str, ...], own: str = "") -> None:
        self._server_names = frozenset(server_names)
        self._own = own
        self._seen_servers: set[str] = set()

    def check(self, kind: str, peer: Peer) -> None:
        """Raise `TransportError` unless `peer` may be a signing "server", or a "client"."""
        if kind == "server":
            self.check_server(peer)
        else:
            self.check_client(peer)

    def check_server(self, peer: Peer) -> None:
        """Raise `TransportError` unless `peer` may be a signing server."""
        if self._server_names and not self._is_listed(peer):
            raise TransportError(
                f"{quoted(peer.common_name)} is not a signing server's name: server-cn lists"
                f" {', '.join(sorted(self._server_names))}"
            )
        self._seen_servers.add(peer.fingerprint)

    def check_client(self, peer: Peer) -> None:
        """Raise `TransportError` unless `peer` may be a client."""
        listed = self._is_listed(peer) and peer.fingerprint != self._own
        if listed or peer.fingerprint in self._seen_servers:
            raise TransportError(
                f"{quoted(peer.common_name)} is a signing server, which may not be a client"
            )

    def _is_listed(self, peer: Peer) -> bool:
        return peer.common_name in self._server_names
