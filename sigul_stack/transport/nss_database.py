"""NSS in this process: opening its database, and the certificates in it.

NSS is initialised once in a process, by `open_database`, and no process forks after that.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import nss.nss as nss
import nss.ssl as nss_ssl
from nss.error import NSPRError

from ..config.shared import NSSSettings
from ..errors import NSSError, WrongNSSPassword
from ..logevents import tell
from ..records import dataclass
from ..secret import Secret
from .log_events import TransportLog
from .nss_errors import error_name

log = logging.getLogger(__name__)

#: How NSS says that a password is wrong, or is one that no database can have.
_WRONG_PASSWORD: Final = frozenset({"SEC_ERROR_BAD_PASSWORD", "SEC_ERROR_INVALID_PASSWORD"})

#: Key exchanges with forward secrecy, by NSS's names for them.
_KEY_EXCHANGES: Final = frozenset({"ECDHE", "TLS 1.3"})
#: What peers may use besides where old cipher suites are let in.
_OLD_KEY_EXCHANGES: Final = frozenset({"RSA", "DHE", "ECDHE"})
_AUTHENTICATIONS: Final = frozenset({"RSA", "ECDSA"})
_CIPHERS: Final = frozenset({"AES", "AES-GCM", "CHACHA20POLY1305"})

#: NSS's unit of time, in a second.
MICROSECONDS: Final = 1_000_000

AskPassword = Callable[[], Secret]


@dataclass(slots=True)
class _Process:
    """The state of NSS in the process that opened it."""

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
            raise NSSError("NSS was initialised before a fork", "start a new process instead")
        if _process.settings != settings:
            raise NSSError("NSS is already open in this process with other settings")
        return
    _check_directory(settings.directory)
    answer = _PasswordAnswer(settings, ask)
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
        if error_name(error) in _WRONG_PASSWORD:
            raise _wrong_password(answer.password) from None
        raise _not_opened(settings.directory, error) from None
    _process = _Process(os.getpid(), settings, held)
    _restrict_suites(old=settings.old_ciphers)


def _restrict_suites(*, old: bool) -> None:
    """Turn off, for this process, every cipher suite that it is not to use.

    What stays is ECDHE with AEAD, and all of TLS 1.3; with `old` also RSA and DHE, and CBC, but no
    RC4, 3DES or DSA. Of a database in FIPS mode those that FIPS 140 knows, which NSS leaves to us.
    Nothing is turned on: a distribution's policy may allow less.
    """
    fips = nss.is_fips()
    for suite in nss_ssl.ssl_implemented_ciphers:
        about = nss_ssl.get_cipher_suite_info(suite)
        good = about.kea_type_name in _KEY_EXCHANGES and about.mac_algorithm_name == "AEAD"
        if old:
            good = good or (
                about.kea_type_name in _OLD_KEY_EXCHANGES
                and about.auth_algorithm_name in _AUTHENTICATIONS
                and about.symmetric_cipher_name in _CIPHERS
            )
        if not good or (fips and not about.is_fips):
            nss_ssl.set_default_cipher_pref(suite, False)


def library_version() -> str:
    """The version of the NSS that this process has loaded."""
    return str(nss.nss_get_version())


class _PasswordAnswer:
    """NSS's password callback: answers once, gives up where the answer was wrong."""

    def __init__(self, settings: NSSSettings, ask: AskPassword | None) -> None:
        self._directory = settings.directory
        #: The answer: configured, or asked for.
        self.password = settings.password
        self._ask = ask
        #: The error that cannot pass through NSS, which is C, and is to be raised afterwards.
        self.failed: BaseException | None = None

    def __call__(self, _slot: object, retry: bool, *_data: object) -> str | None:
        if self.failed is None:
            try:
                return self._answer(retry)
            except BaseException as error:  # noqa: BLE001 - Ctrl-C too; raised again later
                self.failed = error
        return None

    def _answer(self, retry: bool) -> str:
        if retry:
            raise _wrong_password(self.password)
        if self.password is None and self._ask is not None:
            self.password = self._ask()
        if self.password is None:
            raise NSSError(
                f"the NSS database {self._directory} needs a password",
                "set nss-password or nss-password-file in [nss]",
            )
        try:
            return self.password.reveal().decode()
        except UnicodeDecodeError:
            # python-nss passes on text alone.
            raise _wrong_password() from None


def _wrong_password(password: Secret | None = None) -> WrongNSSPassword:
    problem = "Provided NSS password is incorrect"
    if password is not None and not password:
        return WrongNSSPassword(
            problem,  # all of it: scripts compare the line
            "it is empty, and the database has one: write it into the file that nss-password-file"
            " names, or type it",
        )
    return WrongNSSPassword(problem)


def _check_directory(directory: str) -> None:
    """Raise `NSSError` where there is no database of the format that the prefix asks for."""
    prefix, _, name = directory.partition(":")
    path = Path(name)
    try:
        new, old = (path / "cert9.db").exists(), (path / "cert8.db").exists()
    except OSError as error:
        raise _no_database(directory, error.strerror or str(error)) from None
    if old if prefix == "dbm" else new:  # some NSS still opens the old one
        return
    if new or old:
        raise _other_format(path, current=new)
    raise _no_database(directory, "cert9.db is not there")


def _not_opened(directory: str, error: NSPRError) -> NSSError:
    """The error for a database that NSS did not open."""
    if directory.startswith("dbm:") and error_name(error) == "SEC_ERROR_LEGACY_DATABASE":
        path = Path(directory.removeprefix("dbm:"))
        return _other_format(path, current=(path / "cert9.db").exists())
    return _no_database(directory, str(error))


def _other_format(path: Path, *, current: bool) -> NSSError:
    """The error for a database that is not of the format asked for, or that NSS gave up."""
    if current:
        return NSSError(
            f"'{path}' holds a database of the current format (cert9.db), and dbm: before its name"
            " asks for the old one",
            "remove that prefix from nss-dir",
        )
    return NSSError(
        f"'{path}' holds a database of the old dbm format (cert8.db), which this NSS does not open",
        f"convert it: sigul-stack pki convert {path}",
    )


def _no_database(directory: str, reason: str) -> NSSError:
    path = directory.removeprefix("sql:").removeprefix("dbm:")
    return NSSError(
        f"'{path}' does not contain a valid NSS database ({reason})",
        f"make one with: certutil -N -d sql:{path}   or with certificates: sigul-stack pki --help",
    )


@dataclass(frozen=True, slots=True)
class TLSIdentity:
    """A certificate of this process's database and its private key, to present to peers."""

    nickname: str
    certificate: Any
    key: Any

    @property
    def fingerprint(self) -> str:
        """The certificate's SHA-256 in lower-case hex, as `Peer` has it."""
        return hashlib.sha256(bytes(self.certificate.der_data)).hexdigest()

    @property
    def common_name(self) -> str:
        """The certificate's common name; empty where it has none."""
        return str(self.certificate.subject_common_name or "")

    @property
    def not_after(self) -> float:
        """The certificate's end, in seconds since 1970."""
        return int(self.certificate.valid_not_after) / MICROSECONDS

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The certificate and those of the CAs above it that the database has, in DER."""
        return tuple(bytes(item.der_data) for item in self.certificate.get_cert_chain())


def load_identity(nickname: str, *, tell: bool = True) -> TLSIdentity:
    """The certificate of this nickname with its private key. Raises `NSSError` naming a cure.

    A warning tells which of several it is, once in a process; without `tell` never.
    """
    if _process is None:
        raise NSSError("open the NSS database before loading a certificate from it")
    where = f"'{_process.settings.directory}'"
    try:
        certificate = nss.find_cert_from_nickname(nickname)
    except NSPRError:
        held = ", ".join(sorted({str(item.subject_common_name) for item in _process.held}))
        raise NSSError(
            f"the NSS database {where} has no certificate with the nickname '{nickname}'"
            f" (it holds certificates for: {held or 'nobody'})",
            "see: sigul-stack pki list",
        ) from None
    try:
        key = nss.find_key_by_any_cert(certificate)
    except NSPRError as error:
        raise NSSError(
            f"the certificate '{nickname}' in {where} has no private key there ({error})",
            "import both together, from a PKCS#12 file: sigul-stack pki import",
        ) from None
    if tell:
        _tell_of_others(nickname, certificate, where)
    return TLSIdentity(nickname, certificate, key)


#: Nicknames that were told of: a process tells once.
_told: set[str] = set()


def _tell_of_others(nickname: str, used: Any, where: str) -> None:
    """Warn where several certificates have this nickname, and tell which one is used."""
    if nickname in _told:
        return
    _told.add(nickname)
    with contextlib.suppress(NSPRError):
        count = len(nss.find_certs_from_nickname(nickname))
        if count > 1:
            tell(
                log,
                TransportLog.CERTIFICATES_AMBIGUOUS,
                count=count,
                path=where,
                nickname=nickname,
                serial=f"{used.serial_number:x}",
                until=used.valid_not_after_str,
            )


def look_up(nickname: str) -> tuple[Any, Any]:
    """A certificate and its private key. Raises `NSPRError`."""
    certificate = nss.find_cert_from_nickname(nickname)
    return certificate, nss.find_key_by_any_cert(certificate)
