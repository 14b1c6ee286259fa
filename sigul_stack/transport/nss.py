"""TLS over NSS: the only importer of python-nss besides `pki`.

Invariants: NSS is initialised once in a process, by `open_database`, and no process forks after
that; both ends present certificates, and the dialler checks the listener's names; every wait has a
limit; foreign errors become the package's own here, with what to do about them.

Must not know chunks, messages or who may do what.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nss.io as nspr
import nss.nss as nss
import nss.ssl as nss_ssl
from nss.error import NSPRError

from ..config import NSSSettings
from ..errors import (
    DeadlineExceeded,
    NSSError,
    PeerClosed,
    TransportError,
    WrongNSSPassword,
)
from ..secret import Secret
from .stream import Deadline, Peer
from .watchdog import Watchdog

#: Once a connection idles: seconds until the kernel probes it, between probes, and probes lost
#: before it is dead. A peer whose machine vanished is noticed within about a minute.
KEEPALIVE_IDLE_SECONDS: Final = 30
KEEPALIVE_INTERVAL_SECONDS: Final = 10
KEEPALIVE_PROBES: Final = 3

#: How long the first call of a patient handshake may last, in seconds: it sends the greeting.
_GREETING_SECONDS: Final = 0.5

#: Most data bytes of one TLS record (RFC 8446, 5.1), so the most that NSS gives at once.
RECORD_BYTES: Final = 16 * 1024

#: Connection attempts that may queue in the kernel at a listening socket.
LISTEN_BACKLOG: Final = 256

#: What to do about NSS's and NSPR's errors that people meet, by name (known-faults.md).
_CURES: Final = {
    "SSL_ERROR_BAD_CERT_DOMAIN": "the certificate does not name the host that was dialled:"
    " compare the configured host name with the certificate's names (sigul-stack pki list)",
    "SEC_ERROR_UNKNOWN_ISSUER": "the peer's certificate was not issued by a CA that this NSS"
    " database trusts: import the site's CA certificate",
    "SEC_ERROR_UNTRUSTED_ISSUER": "the CA is in this NSS database but not trusted: certutil -M -n"
    " NICKNAME -t CT,,",
    "SEC_ERROR_UNTRUSTED_CERT": "the certificate is marked as not trusted in this NSS database",
    "SEC_ERROR_EXPIRED_CERTIFICATE": "a certificate has expired: sigul-stack pki renew",
    "SEC_ERROR_EXPIRED_ISSUER_CERTIFICATE": "the CA's certificate has expired",
    "SEC_ERROR_REUSED_ISSUER_AND_SERIAL": "two certificates share issuer and serial number, as"
    " happens when a CA is made again under its old name: remove the old certificates",
    "SEC_ERROR_INADEQUATE_KEY_USAGE": "the certificate is not meant for this use",
    "SEC_ERROR_INADEQUATE_CERT_TYPE": "the certificate is not meant for this use: look at its"
    " extended key usage",
    "SSL_ERROR_UNSUPPORTED_VERSION": "no TLS version in common: compare nss-min-tls and nss-max-tls"
    " on both sides",
    "SSL_ERROR_PROTOCOL_VERSION_ALERT": "no TLS version in common: compare nss-min-tls and"
    " nss-max-tls on both sides",
    "SSL_ERROR_BAD_CERT_ALERT": "the peer refused our certificate: look at the peer's log",
    "SSL_ERROR_UNKNOWN_CA_ALERT": "the peer does not trust the CA of our certificate",
    "SSL_ERROR_EXPIRED_CERT_ALERT": "our certificate has expired: sigul-stack pki renew",
    "SSL_ERROR_CERTIFICATE_UNKNOWN_ALERT": "the peer refused our certificate: look at its log",
    "SSL_ERROR_NO_CERTIFICATE": "the peer presented no certificate",
    "SSL_ERROR_NO_CYPHER_OVERLAP": "no cipher suite in common",
    "SEC_ERROR_NO_TOKEN": "python-nss-ng's own copies of NSS do not go with the system's: in the"
    " checkout, scripts/use-system-nss VENV joins them",
    "SSL_ERROR_RX_RECORD_TOO_LONG": "the peer does not speak TLS: is the port the right one?",
}

_CLOSED: Final = frozenset(
    {
        "PR_CONNECT_ABORTED_ERROR",
        "PR_CONNECT_RESET_ERROR",
        "PR_END_OF_FILE_ERROR",
        "PR_NOT_CONNECTED_ERROR",
    }
)

#: How NSS says that a password is wrong, or is one that no database can have.
_WRONG_PASSWORD: Final = frozenset({"SEC_ERROR_BAD_PASSWORD", "SEC_ERROR_INVALID_PASSWORD"})

log = logging.getLogger(__name__)

AskPassword = Callable[[], Secret]


def _error_name(error: NSPRError) -> str:
    """The symbolic name of an NSPR or NSS error, such as `PR_IO_TIMEOUT_ERROR`."""
    # Some calls say what they did before it: `Unable to authenticate: (NAME) text`.
    text = str(error)
    found = re.search(r"(?:^|: )\(([A-Z0-9_]+)\)", text)
    return found[1] if found else text


def _explain(error: NSPRError) -> str:
    cure = _CURES.get(_error_name(error))
    return f"{error}; {cure}" if cure else str(error)


def _translate(error: NSPRError, what: str, timeout: float) -> TransportError:
    name = _error_name(error)
    if name == "PR_IO_TIMEOUT_ERROR":
        return DeadlineExceeded(f"{what} took longer than the limit of {timeout:g} s")
    if name in _CLOSED:
        return PeerClosed(f"{what}: the peer ended the connection ({name})")
    return TransportError(f"{what}: {_explain(error)}")


# ------------------------------------------------------------------------------------- database


@dataclass(slots=True)
class _Process:
    """What NSS being open means to this process."""

    pid: int
    settings: NSSSettings
    #: Certificates are held because NSS forgets what it verified about a CA as soon as nobody
    #: holds it, and looks it up again in the database for every handshake (15 ms each).
    held: tuple[Any, ...]


_process: _Process | None = None


def open_database(settings: NSSSettings, *, ask: AskPassword | None = None) -> None:
    """Initialise NSS in this process with the database of `settings`, and check its password.

    `ask` supplies the password where the configuration has none. Call it once in a process, after
    its last fork. Raises `WrongNSSPassword`, or `NSSError` naming directory and cure, or whatever
    `ask` raised.
    """
    global _process
    if _process is not None:
        if _process.pid != os.getpid():
            raise NSSError("NSS was initialised before a fork; start a new process instead")
        if _process.settings != settings:
            raise NSSError("NSS is already open in this process with other settings")
        return
    _check_directory(settings.directory)
    answer = _PasswordAnswer(settings.password, ask)
    nss.set_password_callback(answer)
    try:
        # A link is followed here, once: where it is turned to another state of the database in this
        # moment (roles/component), NSS would open files of both.
        prefix, _, directory = settings.directory.partition(":")
        nss.nss_init(f"{prefix}:{os.path.realpath(directory)}")
        slot = nss.get_internal_key_slot()
        if slot.need_login():
            slot.authenticate(False)
        held = tuple(nss.list_certs(nss.PK11CertListAll))
    except NSPRError as error:
        # NSS's error is none, or another, where the callback gave up, so the callback is asked.
        if answer.failed is not None:
            raise answer.failed from None
        if answer.missing:
            raise NSSError(
                f"the NSS database {settings.directory} needs a password: set nss-password or"
                " nss-password-file in [nss]"
            ) from None
        if answer.refused or _error_name(error) in _WRONG_PASSWORD:
            raise WrongNSSPassword("Provided NSS password is incorrect") from None
        raise NSSError(_not_opened(settings.directory, error)) from None
    _process = _Process(os.getpid(), settings, held)


def library_version() -> str:
    """The version of the NSS that this process has loaded."""
    return str(nss.nss_get_version())


class _PasswordAnswer:
    """NSS's password callback: answers once, gives up where the answer was wrong."""

    def __init__(self, password: Secret | None, ask: AskPassword | None) -> None:
        self._password = password
        self._ask = ask
        self.refused = False
        self.missing = False
        #: What asking raised: it cannot pass through NSS, which is C, and is raised afterwards.
        self.failed: BaseException | None = None

    def __call__(self, _slot: object, retry: bool, *_data: object) -> str | None:
        if self.failed is not None:
            return None
        if retry:
            self.refused = True
            return None
        if self._password is None and self._ask is not None:
            try:
                self._password = self._ask()
            except BaseException as error:  # noqa: BLE001 - Ctrl-C too; raised again later
                self.failed = error
                return None
        if self._password is None:
            self.missing = True
            return None
        return self._password.reveal().decode("utf-8", "surrogateescape")


def _check_directory(directory: str) -> None:
    """Raise `NSSError` where there is no database of the format that the prefix asks for."""
    prefix, _, name = directory.partition(":")
    path = Path(name)
    try:
        new, old = (path / "cert9.db").exists(), (path / "cert8.db").exists()
    except OSError as error:
        raise NSSError(_no_database(directory, error.strerror or str(error))) from None
    if prefix == "dbm":
        if old:  # some NSS still opens it
            return
    elif new:
        return
    if new or old:
        raise NSSError(_other_format(path, current=new))
    raise NSSError(_no_database(directory, "cert9.db is not there"))


def _not_opened(directory: str, error: NSPRError) -> str:
    """What to say of a database that NSS did not open."""
    if directory.startswith("dbm:") and _error_name(error) == "SEC_ERROR_LEGACY_DATABASE":
        path = Path(directory.removeprefix("dbm:"))
        return _other_format(path, current=(path / "cert9.db").exists())
    return _no_database(directory, str(error))


def _other_format(path: Path, *, current: bool) -> str:
    """What to say of a database that is not of the format asked for, or that NSS gave up."""
    if current:
        return (
            f"'{path}' holds a database of the current format (cert9.db), and dbm: before its name"
            " asks for the old one; remove that prefix from nss-dir"
        )
    return (
        f"'{path}' holds a database of the old dbm format (cert8.db), which this NSS does not"
        f" open; convert it: sigul-stack pki convert {path}"
    )


def _no_database(directory: str, reason: str) -> str:
    path = directory.removeprefix("sql:").removeprefix("dbm:")
    return (
        f"'{path}' does not contain a valid NSS database ({reason});"
        f" make one with: certutil -N -d sql:{path}   or with certificates: sigul-stack pki --help"
    )


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate of this process's database and its private key, to present to peers."""

    nickname: str
    certificate: Any
    key: Any

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The certificate and those of the CAs above it that the database has, in DER."""
        return tuple(bytes(item.der_data) for item in self.certificate.get_cert_chain())


def load_identity(nickname: str) -> Identity:
    """The certificate of this nickname with its private key. Raises `NSSError` naming a cure."""
    if _process is None:
        raise NSSError("open the NSS database before loading a certificate from it")
    where = f"'{_process.settings.directory}'"
    try:
        certificate, key = _look_up(nickname)
    except _NoCertificate:
        held = ", ".join(sorted({str(item.subject_common_name) for item in _process.held}))
        raise NSSError(
            f"the NSS database {where} has no certificate with the nickname '{nickname}'"
            f" (it holds certificates for: {held or 'nobody'}); see: sigul-stack pki list"
        ) from None
    except NSPRError as error:
        raise NSSError(
            f"the certificate '{nickname}' in {where} has no private key there ({error}); import"
            " both together, from a PKCS#12 file: sigul-stack pki import"
        ) from None
    return Identity(nickname, certificate, key)


class _NoCertificate(Exception):
    """The database has no certificate of that nickname."""


def _look_up(nickname: str) -> tuple[Any, Any]:
    """A certificate and its private key. Raises `_NoCertificate`, or `NSPRError` without a key."""
    try:
        certificate = nss.find_cert_from_nickname(nickname)
    except NSPRError:
        raise _NoCertificate from None
    return certificate, nss.find_key_by_any_cert(certificate)


# ---------------------------------------------------------------------------------- connections


class TLSConnection:
    """A connected TCP socket with TLS on it. See `stream.ByteStream`."""

    def __init__(self, tcp: socket.socket, address: str, watchdog: Watchdog | None) -> None:
        prepare_socket(tcp)
        tcp.setblocking(True)
        # A duplicate descriptor outlives NSS's own, so that abort() from another thread can never
        # hit a number that the process has meanwhile given to another file.
        self._os = tcp
        self._tls = nss_ssl.SSLSocket.import_tcp_socket(os.dup(tcp.fileno()))
        self._poll = select.poll()
        self._poll.register(tcp.fileno(), select.POLLIN)
        self._address = address
        self.peer = Peer("", "", address)
        #: How long the handshake took, in seconds; 0 before it is over.
        self.handshake_seconds = 0.0
        self.read_due: float | None = None
        self.write_due: float | None = None
        self._aborted = False
        if watchdog is not None:
            watchdog.guard(self)

    def _configure(self, settings: NSSSettings) -> None:
        tls = self._tls
        tls.set_ssl_option(nss_ssl.SSL_SECURITY, True)
        # One thread reads while another writes.
        tls.set_ssl_option(nss_ssl.SSL_ENABLE_FDX, True)
        # Every peer is a new process: resuming sessions gains nothing and would need a cache file.
        tls.set_ssl_option(nss_ssl.SSL_NO_CACHE, True)
        tls.set_ssl_version_range(settings.min_tls, settings.max_tls)

    def handshake_as_client(
        self,
        settings: NSSSettings,
        identity: Identity | None,
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
        self._configure(settings)
        tls = self._tls
        tls.set_ssl_option(nss_ssl.SSL_HANDSHAKE_AS_CLIENT, True)
        tls.set_hostname(hostname)
        # NSS takes the certificate and key that the callback gives for its own and frees them, so
        # each handshake looks them up anew.
        if identity is not None:
            nickname = identity.nickname
            tls.set_client_auth_data_callback(lambda _names, *_data: _look_up(nickname))
        self._handshake(as_server=False, timeout=timeout, patience=patience, wake=wake)

    def handshake_as_server(
        self, settings: NSSSettings, identity: Identity, timeout: float
    ) -> None:
        """Finish a handshake as the TLS server; the peer must present a certificate."""
        self._configure(settings)
        tls = self._tls
        tls.set_ssl_option(nss_ssl.SSL_HANDSHAKE_AS_SERVER, True)
        tls.set_ssl_option(nss_ssl.SSL_REQUEST_CERTIFICATE, True)
        tls.set_ssl_option(nss_ssl.SSL_REQUIRE_CERTIFICATE, nss_ssl.SSL_REQUIRE_ALWAYS)
        try:
            kind = identity.certificate.find_kea_type()
            tls.config_secure_server(identity.certificate, identity.key, kind)
        except NSPRError as error:
            raise NSSError(
                f"the certificate '{identity.nickname}' cannot serve TLS connections: {error}"
            ) from None
        self._handshake(as_server=True, timeout=timeout)

    def _handshake(
        self, *, as_server: bool, timeout: float, patience: float = 0, wake: int | None = None
    ) -> None:
        what = f"TLS handshake with {self._address}"
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
            if _error_name(error) != "PR_IO_TIMEOUT_ERROR":
                raise
            if not self._is_answering(timeout, wake):
                log.warning(
                    "%s has accepted the connection but does not begin its TLS handshake; bridges"
                    " of 1.x begin it when a client comes. Waiting up to %g s",
                    self._address,
                    patience,
                )
                if not self._is_answering(patience, wake):
                    raise TransportError(
                        f"{self._address} did not begin its TLS handshake"
                    ) from None
            return False

    def _is_answering(self, seconds: float, wake: int | None) -> bool:
        """Wait for input; False after `seconds`. `TransportError` if `wake` becomes readable."""
        poll = select.poll()
        for descriptor in (self.fileno(), *(() if wake is None else (wake,))):
            poll.register(descriptor, select.POLLIN)
        ready = [descriptor for descriptor, _events in poll.poll(seconds * 1000)]
        if wake in ready:
            raise TransportError(f"the wait for {self._address} was called off")
        return bool(ready)

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
        return Peer(
            common_name=common_name,
            fingerprint=hashlib.sha256(bytes(certificate.der_data)).hexdigest(),
            address=self._address,
        )

    def _failure(self, error: NSPRError, what: str, timeout: float) -> TransportError:
        if self._aborted:
            return DeadlineExceeded(f"{what} was ended: over its limit of {timeout:g} s")
        return _translate(error, what, timeout)

    @property
    def peer_certificate(self) -> bytes:
        """The peer's certificate in DER, once the handshake is over."""
        return bytes(self._tls.get_peer_certificate().der_data)

    @property
    def tls_version(self) -> str:
        """The TLS version agreed on, such as `tls1.2`."""
        return str(self._tls.get_ssl_channel_info().protocol_version_str)

    def read(self, limit: int, timeout: float) -> bytes:
        """See `ByteStream.read`. Bulk data comes in many records at once, up to `limit`."""
        self.read_due = time.monotonic() + timeout
        interval = _interval(timeout)
        recv = self._tls.recv
        try:
            data: bytes = recv(min(limit, RECORD_BYTES), interval)
            if len(data) < RECORD_BYTES or limit < 2 * RECORD_BYTES:
                return data
            # A full record is seldom alone. Taking those behind it now saves the layers above
            # most of their work for each.
            parts = [data]
            left = limit - len(data)
            while left >= RECORD_BYTES and self._poll.poll(0):
                data = recv(RECORD_BYTES, interval)
                parts.append(data)
                left -= len(data)
                if len(data) < RECORD_BYTES:
                    break
            return b"".join(parts)
        except NSPRError as error:
            raise self._failure(error, f"reading from {self._address}", timeout) from None
        finally:
            self.read_due = None

    def write(self, data: bytes, timeout: float) -> None:
        """See `ByteStream.write`."""
        self.write_due = time.monotonic() + timeout
        try:
            self._tls.send(data, _interval(timeout))
        except NSPRError as error:
            raise self._failure(error, f"writing to {self._address}", timeout) from None
        finally:
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

    def end_writing(self) -> None:
        """Send a close-notify and half-close; reading goes on. Never raises."""
        try:
            self._tls.shutdown(nspr.PR_SHUTDOWN_SEND)
        except NSPRError:
            self.abort()

    def abort(self) -> None:
        """See `ByteStream.abort`."""
        self._aborted = True
        try:
            self._os.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

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


def prepare_socket(tcp: socket.socket) -> None:
    """Options of every socket: no Nagle delay (40 ms a step otherwise), keep-alive."""
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def printable_address(address: Any) -> str:
    """`host:port` of a socket address, `[host]:port` for IPv6."""
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def connect_tcp(host: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection to the first of the host's addresses that answers, within `timeout` s.

    Raises `TransportError` that tells an unknown name from a refused connection.
    """
    deadline = Deadline(timeout, f"connecting to {host}:{port}")
    try:
        # As bytes: for text, Python would load its codec for international names first (3 ms).
        found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TransportError(
            f"cannot resolve the host name '{host}': {reason}; check the name, or"
            " set bridge-address to the address to dial"
        ) from None
    reasons: list[str] = []
    for index, (family, kind, protocol, _name, address) in enumerate(found):
        tcp = socket.socket(family, kind, protocol)
        try:
            # An address that never answers must leave time for the ones behind it.
            tcp.settimeout(deadline.remaining() / (len(found) - index))
            tcp.connect(address)
            return tcp
        except OSError as error:
            tcp.close()
            reason = "no answer in time" if isinstance(error, TimeoutError) else error.strerror
            reasons.append(f"{printable_address(address)}: {reason}")
        except DeadlineExceeded:
            tcp.close()
            break
    raise TransportError(
        f"cannot connect to {host}:{port} ({', '.join(reasons)}); is it running, and is the port"
        " open to this machine?"
    )


def dial(
    host: str,
    port: int,
    *,
    hostname: str,
    settings: NSSSettings,
    identity: Identity,
    connect_timeout: float,
    handshake_timeout: float,
    patience: float = 0,
    wake: int | None = None,
    watchdog: Watchdog | None = None,
) -> TLSConnection:
    """Connect to `host`:`port` and finish a TLS handshake; the peer must be `hostname`.

    All limits are in seconds; for `patience` and `wake` see `TLSConnection.handshake_as_client`.
    """
    tcp = connect_tcp(host, port, connect_timeout)
    connection = TLSConnection(tcp, f"{host}:{port}", watchdog)
    try:
        connection.handshake_as_client(
            settings, identity, hostname, handshake_timeout, patience, wake
        )
    except BaseException:
        connection.discard()
        raise
    return connection


def listen(addresses: tuple[str, ...], port: int) -> list[socket.socket]:
    """Listening TCP sockets on `port` of each address; IPv6 ones take no IPv4 connections.

    An address family that the machine does not have is left out, as long as one remains. Raises
    `TransportError` where the port is taken or not allowed.
    """
    sockets: list[socket.socket] = []
    missing: list[str] = []
    try:
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                sockets.append(
                    socket.create_server((address, port), family=family, backlog=LISTEN_BACKLOG)
                )
            except OSError as error:
                if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and ":" in address:
                    missing.append(address)
                    continue
                raise TransportError(
                    f"cannot listen on {address} port {port}: {error.strerror}; is another bridge"
                    " running, or another program on this port?"
                ) from None
    except BaseException:
        for item in sockets:
            item.close()
        raise
    if not sockets:
        raise TransportError(f"none of the addresses {', '.join(missing)} exists on this machine")
    return sockets
