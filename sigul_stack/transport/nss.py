"""TLS over NSS. With `nss_database`, whose names are here too, and `pki` it alone uses python-nss.

Invariants: both ends present certificates, and the dialler checks the listener's names; nobody
renegotiates; every wait has a limit.

Must not know chunks, messages or who may do what.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import time
from typing import Any, Final

import nss.io as nspr
import nss.ssl as nss_ssl
from nss.error import NSPRError

from ..config.shared import NSSSettings
from ..errors import DeadlineExceeded, TransportError
from ..logevents import tell
from .log_events import TransportLog
from .nss_database import MICROSECONDS, look_up
from .nss_database import TLSIdentity as TLSIdentity
from .nss_database import library_version as library_version
from .nss_database import load_identity as load_identity
from .nss_database import open_database as open_database
from .nss_errors import CLOSED, OF_DATES, Explanation, error_name, translate
from .nss_options import configure, configure_as_server
from .stream import RECORD_BYTES, Peer, readable
from .tcp import (
    RECORD_HEAD_BYTES,
    bytes_taken,
    bytes_waiting,
    cork,
    has_gone,
    is_acknowledged,
    is_broken,
    prepare_socket,
    record_waits,
    reset_on_close,
)
from .watchdog import Watchdog

#: Limit on the first call of a patient handshake, in seconds: it sends the greeting.
_GREETING_SECONDS: Final = 0.5

#: Limits on the wait for a peer's refusal of our certificate, in seconds.
_VERDICT_SECONDS: Final = 0.1
_LONGEST_VERDICT_SECONDS: Final = 2.0

#: More bytes than any record has: content, and what encryption adds (RFC 5246, 6.2.3).
LARGEST_RECORD: Final = RECORD_HEAD_BYTES + RECORD_BYTES + 2048

log = logging.getLogger(__name__)


class TLSConnection:
    """A connected TCP socket with TLS on it. See `stream.ByteStream`."""

    def __init__(
        self,
        tcp: socket.socket,
        address: str,
        watchdog: Watchdog | None,
        accepted: tuple[Any, TLSIdentity] | None = None,
    ) -> None:
        """Take over `tcp`; `accepted` is what NSS has accepted on it, and with which identity."""
        prepare_socket(tcp)
        # A duplicate descriptor outlives NSS's own, so that abort() from another thread can never
        # hit a number that the process has meanwhile given to another file.
        self._os = tcp
        self._identity: TLSIdentity | None = None
        if accepted is None:
            tcp.setblocking(True)
            self._tls = nss_ssl.SSLSocket.import_tcp_socket(os.dup(tcp.fileno()))
        else:
            self._tls, self._identity = accepted
        self._address = address
        #: The name that the peer has to have; where any will do, its address.
        self._expected = address
        self._dials = False
        self.peer = Peer("", "", address)
        #: The length of the handshake in seconds; 0 before it is over.
        self.handshake_seconds = 0.0
        self.read_due: float | None = None
        self.write_due: float | None = None
        self._expired = False
        self._ended = self._cut_off = False
        if watchdog is not None:
            watchdog.guard(self)

    def handshake_as_client(
        self,
        settings: NSSSettings,
        identity: TLSIdentity | None,
        hostname: str,
        timeout: float,
        patience: float = 0,
        wake: int | None = None,
    ) -> None:
        """Finish a handshake as the TLS client; the peer must be `hostname`.

        Without an `identity` no certificate is presented, which no bridge or server accepts.

        It must be over in `timeout` seconds, counted from the peer's first answer, for which
        `patience` more seconds are waited, unless the descriptor `wake` becomes readable.
        """
        tls = self._tls
        configure(tls, settings)
        tls.set_ssl_option(nss_ssl.SSL_HANDSHAKE_AS_CLIENT, True)
        # As bytes: for text, Python would load its codec for international names.
        tls.set_hostname(hostname.encode("ascii"))
        self._expected = hostname
        self._dials = True
        self._identity = identity
        # NSS takes the certificate and key that the callback gives for its own and frees them, so
        # each handshake looks them up anew.
        if identity is not None:
            nickname = identity.nickname
            tls.set_client_auth_data_callback(lambda _names, *_data: look_up(nickname))
        self._handshake(as_server=False, timeout=timeout, patience=patience, wake=wake)

    def handshake_as_server(
        self, settings: NSSSettings, identity: TLSIdentity, timeout: float
    ) -> None:
        """Finish a handshake as the TLS server; the peer must present a certificate."""
        self.prepare_as_server(settings, identity)
        self.handshake_prepared(timeout)

    def prepare_as_server(self, settings: NSSSettings, identity: TLSIdentity) -> None:
        """Become the TLS server of a handshake to come. Raises `NSSError`.

        This reads the private key, which may take tens of milliseconds.
        """
        configure_as_server(self._tls, settings, identity)
        self._identity = identity

    def handshake_prepared(self, timeout: float) -> None:
        """As `handshake_as_server`, of a connection that was prepared or accepted for it."""
        self._handshake(as_server=True, timeout=timeout)

    def _handshake(
        self, *, as_server: bool, timeout: float, patience: float = 0, wake: int | None = None
    ) -> None:
        begin = time.monotonic()
        try:
            self._tls.reset_handshake(as_server)
            # Forcing a handshake that is done would wait for the peer's next message.
            if not patience or not self._greet(timeout, patience, wake):
                self.read_due = time.monotonic() + timeout
                self._tls.force_handshake_timeout(_interval(timeout))
            self.peer = self._peer()
            self.handshake_seconds = time.monotonic() - begin
        except NSPRError as error:
            what = f"TLS handshake with {self._address}"
            raise self._failure(error, what, timeout) from None
        finally:
            self.read_due = None

    def _greet(self, timeout: float, patience: float, wake: int | None) -> bool:
        """Send the handshake's first message and wait, perhaps long, for the answer to begin.

        Whether the handshake is done already.
        """
        try:
            self._tls.force_handshake_timeout(_interval(_GREETING_SECONDS))
            return True
        except NSPRError as error:
            if error_name(error) != "PR_IO_TIMEOUT_ERROR":
                raise
            if not self._is_answering(timeout, wake):
                tell(log, TransportLog.BRIDGE_SILENT, address=self._address, seconds=patience)
                if not self._is_answering(patience, wake):
                    raise TransportError(
                        f"{self._address} did not begin its TLS handshake"
                    ) from None
            return False

    def _is_answering(self, seconds: float, wake: int | None) -> bool:
        """Wait for input; False after `seconds`. `TransportError` if `wake` becomes readable."""
        ready = readable((self.fileno(), *(() if wake is None else (wake,))), seconds)
        if wake in ready:
            raise TransportError(f"the wait for {self._address} was called off")
        return bool(ready)

    def await_verdict(self) -> None:
        """As the TLS client: wait a moment for the peer's refusal of our certificate.

        With TLS 1.3 a peer looks at it after our own end of the handshake, and says nothing where
        it is right. Returns at once with TLS 1.2, and when something else comes. Raises
        `TransportError`. A refusal that comes later is met by what reads next.
        """
        if self.tls_version != "tls1.3" or self.pending():
            return
        # The handshake's own length tells how fast the peer and the way to it are.
        seconds = min(max(_VERDICT_SECONDS, 4 * self.handshake_seconds), _LONGEST_VERDICT_SECONDS)
        if readable([self.fileno()], seconds):
            what = f"TLS handshake with {self._address}"
            if (refusal := self._verdict()) is not None:
                raise self._failure(refusal, what, seconds)

    def _verdict(self) -> NSPRError | None:
        """The error that waits to be read, None where it is none or data, which are kept."""
        try:
            # Of a handshake that is done this takes in the peer's next message, and keeps data.
            self._tls.force_handshake_timeout(_interval(_GREETING_SECONDS))
        except NSPRError as error:
            return None if error_name(error) == "PR_IO_TIMEOUT_ERROR" else error
        return None

    def _peer(self) -> Peer:
        certificate = self._tls.get_peer_certificate()
        if certificate is None:
            raise TransportError(f"{self._address} presented no certificate")
        common_name = certificate.subject_common_name
        # NSS writes a NUL inside a name as the three characters \00.
        if not common_name or "\0" in common_name or "\\00" in common_name:
            raise TransportError(
                f"the certificate of {self._address} has no usable common name (CN)"
            )
        der = bytes(certificate.der_data)
        return Peer(
            common_name=common_name,
            fingerprint=hashlib.sha256(der).hexdigest(),
            address=self._address,
            certificate=der,
            not_after=certificate.valid_not_after / MICROSECONDS,
        )

    def _failure(self, error: NSPRError, what: str, timeout: float) -> TransportError:
        if self._expired:
            return self._late(what, timeout)
        return translate(error, what, timeout, self._expected, self._dates(error))

    def _dates(self, error: NSPRError) -> Explanation | None:
        """Explain what the certificates of this connection say of an error that is about dates."""
        symbol = error_name(error)
        if symbol not in OF_DATES:
            return None
        from datetime import UTC, datetime

        from .nss_dates import explain_dates

        presented = None
        with contextlib.suppress(NSPRError):
            presented = self._tls.get_peer_certificate()
        own = None if self._identity is None else self._identity.certificate
        return explain_dates(symbol, presented, own, datetime.now(UTC))

    @staticmethod
    def _late(what: str, timeout: float) -> DeadlineExceeded:
        return DeadlineExceeded(f"{what} was ended: over its limit of {timeout:g} s")

    @property
    def peer_certificate(self) -> bytes:
        """The peer's certificate in DER, once the handshake is over."""
        return self.peer.certificate

    @property
    def tls_version(self) -> str:
        """The TLS version agreed on, such as `tls1.2`."""
        return str(self._tls.get_ssl_channel_info().protocol_version_str)

    @property
    def cipher_suite(self) -> str:
        """NSS's name of the cipher suite agreed on."""
        suite = self._tls.get_ssl_channel_info().cipher_suite
        return str(nss_ssl.get_cipher_suite_info(suite).cipher_suite_name)

    def read(self, limit: int, timeout: float) -> bytes:
        """See `ByteStream.read`. Bulk data comes in many records at once, up to `limit`."""
        self.read_due = time.monotonic() + timeout
        interval = _interval(timeout)
        recv = self._recv
        try:
            data: bytes = recv(min(limit, RECORD_BYTES), interval)
            if not data and self._expired:
                # What the watchdog ended looks like the peer's own end.
                raise self._late(f"reading from {self._address}", timeout)
            if len(data) < RECORD_BYTES or limit < 2 * RECORD_BYTES:
                return data
            # A full record is seldom alone. Taking those behind it now saves the layers above
            # most of their work for each. None is asked for that is not here yet: it would be
            # waited for, and python-nss keeps the memory of a call that ends with an error.
            parts = [data]
            left = limit - len(data)
            sure = 0
            while left >= RECORD_BYTES and len(data) == RECORD_BYTES:
                if not sure:
                    waiting = bytes_waiting(self._os)
                    sure = waiting // LARGEST_RECORD
                    if not (sure or record_waits(self._os, waiting)):
                        break
                if sure:
                    # More than the end is there, which has not to be looked out for.
                    sure -= 1
                    data = self._tls.recv(RECORD_BYTES, interval)
                    self._ended = self._ended or not data
                else:
                    data = recv(RECORD_BYTES, interval)
                parts.append(data)
                left -= len(data)
            return b"".join(parts)
        except NSPRError as error:
            raise self._failure(error, f"reading from {self._address}", timeout) from None
        finally:
            self.read_due = None

    def _recv(self, limit: int, interval: int) -> bytes:
        """Read once, and note at the end whether a record, the close-notify, was read before it."""
        before = bytes_taken(self._os)
        data: bytes = self._tls.recv(limit, interval)
        if not (data or self._ended):
            taken = bytes_taken(self._os) - before
            self._ended, self._cut_off = True, taken < RECORD_HEAD_BYTES
        return data

    def write(self, data: bytes, timeout: float) -> None:
        """See `ByteStream.write`."""
        self.write_due = time.monotonic() + timeout
        corks = len(data) > RECORD_BYTES
        if corks:
            # NSS sends each record by itself; together they are fewer and larger segments.
            cork(self._os, True)
        try:
            self._tls.send(data, _interval(timeout))
        except NSPRError as error:
            # Who refuses our certificate with TLS 1.3 says so, and takes nothing more.
            if self._dials and error_name(error) in CLOSED:
                said = self._verdict()
                if said is not None and error_name(said) not in CLOSED:
                    error = said
            raise self._failure(error, f"writing to {self._address}", timeout) from None
        finally:
            if corks:
                cork(self._os, False)
            self.write_due = None

    def acknowledge(self) -> None:
        """Have the kernel acknowledge what has arrived now, not when its timer (40 ms) is up."""
        with contextlib.suppress(OSError):
            self._os.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def fileno(self) -> int:
        """See `ByteStream.fileno`."""
        return self._os.fileno()

    def pending(self) -> bool:
        """See `ByteStream.pending`."""
        return bool(self._tls.data_pending() > 0)

    def has_input(self) -> bool:
        """See `ByteStream.has_input`."""
        return self.pending() or bool(readable([self.fileno()], 0))

    def has_gone(self) -> bool:
        """See `ByteStream.has_gone`."""
        return has_gone(self._os)

    def was_cut_off(self) -> bool:
        """See `ByteStream.was_cut_off`. NSS tells the two ends by nothing else."""
        return self._cut_off

    def is_broken(self) -> bool:
        """See `ByteStream.is_broken`."""
        return is_broken(self._os)

    def is_acknowledged(self, timeout: float) -> bool:
        """See `ByteStream.is_acknowledged`."""
        return is_acknowledged(self._os, timeout)

    def end_writing(self) -> None:
        """Send a close-notify and half-close; reading goes on. Never raises."""
        try:
            self._tls.shutdown(nspr.PR_SHUTDOWN_SEND)
        except NSPRError:
            self.abort()

    def abort(self) -> None:
        """See `ByteStream.abort`."""
        with contextlib.suppress(OSError):
            self._os.shutdown(socket.SHUT_RDWR)

    def expire(self) -> None:
        """See `Guarded.expire`."""
        self._expired = True
        self.abort()

    def end_reading(self) -> None:
        """See `ByteStream.end_reading`."""
        with contextlib.suppress(OSError):
            self._os.shutdown(socket.SHUT_RD)

    def reset_on_close(self, on: bool = True) -> None:
        """See `ByteStream.reset_on_close`."""
        reset_on_close(self._os, on)

    def close(self) -> None:
        """See `ByteStream.close`."""
        with contextlib.suppress(NSPRError):
            self._tls.close()
        self._os.close()

    def discard(self) -> None:
        """End the connection without a close-notify and free its descriptors."""
        self.abort()
        self.close()


def _interval(seconds: float) -> int:
    return int(nspr.milliseconds_to_interval(max(1, int(seconds * 1000))))
