"""Listening sockets that NSS accepts on: the private key is read once, not for each connection.

NSS derives keys from the database's password whenever it reads a private key (`pki.derivation`), so
a socket that becomes a server's costs tens of milliseconds. A listening socket pays that once: what
is accepted on it has a copy of its options and the key.

Invariants: `accept` never waits, neither for a connection nor for a peer, whose first byte and
handshake are the caller's to wait for; a listener holds the key of the process's database, so a
process that is to show another certificate makes its own.

Must not know who may connect.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any, Final

import nss.io as nspr
import nss.ssl as nss_ssl
from nss.error import NSPRError

from ..config.shared import NSSSettings
from ..errors import TransportError
from .nss import TLSConnection
from .nss_database import TLSIdentity
from .nss_errors import error_name
from .nss_options import configure_as_server
from .tcp import printable_address
from .watchdog import Watchdog

#: What NSPR says where nobody waits to be accepted.
_NOBODY: Final = frozenset({"PR_IO_TIMEOUT_ERROR", "PR_WOULD_BLOCK_ERROR"})
#: What it says of a peer that went before it was accepted: nothing is wrong on this side.
_PEER_WENT: Final = frozenset({"PR_CONNECT_RESET_ERROR", "PR_CONNECT_ABORTED_ERROR"})


class PeerWent(TransportError):
    """A peer went before it was accepted."""


class Accepted:
    """A connection that has been accepted, in whose TLS nothing has happened.

    `tcp` is its socket, to look at and to shut down; `host` the peer's address, `address` the same
    with its port.
    """

    def __init__(self, tls: Any, host: str, port: int, identity: TLSIdentity) -> None:
        """Take over `tls`, a configured socket of NSS. Raises `OSError`, and closes it then."""
        self._tls = tls
        self._identity = identity
        self.host, self.address = host, printable_address((host, port))
        try:
            descriptor = tls.fileno()
            # NSPR leaves it to programs that are started.
            os.set_inheritable(descriptor, False)
            # The kernel's socket is NSS's, and does not block; this is another descriptor of it.
            self.tcp = socket.socket(fileno=os.dup(descriptor))
        except BaseException:
            tls.close()
            raise

    def connection(self, watchdog: Watchdog | None) -> TLSConnection:
        """The connection, whose handshake `handshake_prepared` does. It is the caller's then."""
        return TLSConnection(self.tcp, self.address, watchdog, (self._tls, self._identity))

    def discard(self) -> None:
        """Close what has become no connection."""
        with contextlib.suppress(NSPRError):
            self._tls.close()
        self.tcp.close()


class TLSListener:
    """A listening TCP socket, taken over, on which TLS connections with `identity` are accepted.

    Other processes may listen on the same one. Belongs to one thread.
    """

    def __init__(
        self, listener: socket.socket, settings: NSSSettings, identity: TLSIdentity
    ) -> None:
        """Read the private key. Raises `NSSError`, and leaves `listener` to the caller then."""
        tls = nss_ssl.SSLSocket.import_tcp_socket(os.dup(listener.fileno()))
        try:
            configure_as_server(tls, settings, identity)
        except BaseException:
            tls.close()
            raise
        self._os, self._tls, self._identity = listener, tls, identity

    def fileno(self) -> int:
        """A descriptor to poll for connections."""
        return self._os.fileno()

    def accept(self) -> Accepted | None:
        """The next connection; None where there is none just now. Never waits.

        Raises `PeerWent`; `TransportError` or `OSError` where it cannot be had: descriptors or
        memory have run out.
        """
        try:
            tls, peer = self._tls.accept(nspr.PR_INTERVAL_NO_WAIT)
        except NSPRError as error:
            symbol = error_name(error)
            if symbol in _NOBODY:
                return None
            kind = PeerWent if symbol in _PEER_WENT else TransportError
            raise kind(str(error), symbol=symbol) from None
        return Accepted(tls, peer.address, peer.port, self._identity)

    def close(self) -> None:
        """Accept no more; what was accepted, and other processes' listening, goes on."""
        with contextlib.suppress(NSPRError):
            self._tls.close()
        self._os.close()
