"""Single looks at the network, each a function that returns what it saw or raises `TransportError`.

None of them changes anything or sends a byte of a request; a handshake ends in order before one,
which a bridge takes for a look and nothing else.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..config.shared import NSSSettings
from ..errors import DeadlineExceeded, PeerClosed, TransportError
from ..pki.certificate_info import CertificateInfo, from_der
from ..transport import nss
from ..transport.stream import READ_BYTES, Deadline, Peer
from ..transport.tcp import connect_tcp
from ..transport.watchdog import Watchdog

#: The alert of a listener that wants a certificate and was shown none.
_NO_CERTIFICATE_ALERT: Final = "SSL_ERROR_BAD_CERT_ALERT"


@dataclass(frozen=True, slots=True)
class Handshake:
    """A finished TLS handshake. `certificate` is the peer's; it has passed NSS's own checks."""

    peer: Peer
    certificate: CertificateInfo
    tls_version: str
    cipher_suite: str
    connect_seconds: float
    handshake_seconds: float


def connect(host: str, port: int, timeout: float) -> float:
    """Seconds that a TCP connection took, which is ended at once. Raises `TransportError`."""
    begin = time.monotonic()
    connect_tcp(host, port, timeout).close()
    return time.monotonic() - begin


def handshake(
    host: str,
    port: int,
    *,
    hostname: str,
    settings: NSSSettings,
    identity: nss.TLSIdentity,
    timeout: float,
) -> Handshake:
    """Connect, finish a TLS handshake with `hostname`, and end it in order, in `timeout` seconds.

    NSS must be open (`nss.open_database`) with `settings`. Raises `TransportError`, of which
    `DeadlineExceeded` and `PeerClosed` are kinds.
    """
    deadline = Deadline(timeout, f"the TLS handshake with {host}:{port}")
    begin = time.monotonic()
    with _connected(host, port, timeout) as connection:
        connect_seconds = time.monotonic() - begin
        try:
            connection.handshake_as_client(settings, identity, hostname, deadline.remaining())
        except DeadlineExceeded:
            raise deadline.exceeded() from None
        done = Handshake(
            connection.peer,
            from_der(connection.peer_certificate),
            connection.tls_version,
            connection.cipher_suite,
            connect_seconds,
            connection.handshake_seconds,
        )
        # With TLS 1.3 the peer refuses a certificate only now. What is sent to one that has done so
        # may have its refusal lost.
        connection.await_verdict()
        connection.end_writing()
        with contextlib.suppress(PeerClosed, DeadlineExceeded):
            while connection.read(READ_BYTES, deadline.remaining()):
                pass
        return done


def greet(host: str, port: int, *, hostname: str, settings: NSSSettings, timeout: float) -> None:
    """Look at a listener without showing it a certificate: it must be `hostname`, and ask for one.

    For a bridge's port for servers, where an accepted server may be handed a request at once. The
    listener's own certificate is checked before it refuses us, as it must. Raises `TransportError`.
    """
    deadline = Deadline(timeout, f"the TLS handshake with {host}:{port}")
    with _connected(host, port, timeout) as connection:
        try:
            # With TLS 1.3 the refusal comes after this end of the handshake.
            connection.handshake_as_client(settings, None, hostname, deadline.remaining())
        except TransportError as error:
            if error.symbol != _NO_CERTIFICATE_ALERT:
                raise


@contextlib.contextmanager
def _connected(host: str, port: int, timeout: float) -> Iterator[nss.TLSConnection]:
    """A connection whose handshake is still to come; discarded when the block ends."""
    tcp = connect_tcp(host, port, timeout)
    watchdog = Watchdog()
    connection = nss.TLSConnection(tcp, f"{host}:{port}", watchdog)
    try:
        yield connection
    finally:
        connection.discard()
        watchdog.stop()
