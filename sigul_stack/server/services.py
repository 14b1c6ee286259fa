"""The database, key store and policies of one server, and a request in their midst."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

from ..config.server import ServerSettings
from ..database import DATABASE_TLS_CURE, Database, Key, KeyType, Writer, sqlite_url, unproven_mode
from ..errors import ConfigurationError, KeystoreError, RequestRefused, Status
from ..formats.openpgp_signatures import SignatureOptions
from ..keystore.bindings import BindingPolicy, CannotBind, Layer, Registry, enabled_methods
from ..keystore.gnupg import GnuPGHome, KeySettings, usual_bits
from ..keystore.gnupg.at_rest import GnuPGHomeAtRest
from ..keystore.gnupg.signature_options import CONFIGURATION_NAME, read_options
from ..keystore.passwords import require_length
from ..keystore.pem import PemSettings, PemStore
from ..keystore.store import KeyStore, new_access
from ..secret import Secret
from ..signing.openpgp import OpenPGPKey
from ..signing.signers import open_openpgp_signer
from .decisions import Decision, NotLogged
from .ending import Watch
from .guesses import Guard, unguarded
from .notes import Notes
from .phases import Phase, Phases
from .request import Request
from .rights import Granted, KeyGranted, NameCheck, require_still, require_still_in
from .spool import Account, SpoolFile, SpoolLimits


@dataclass(frozen=True, slots=True)
class Services:
    """One server's stores and policies; cheap to make, so each request has its own."""

    settings: ServerSettings
    database: Database
    keystore: KeyStore
    registry: Registry
    policy: BindingPolicy
    name_check: NameCheck
    account: Account
    guard: Guard

    def scratch(self) -> BinaryIO:
        """An empty file without a name, for a payload on its way out; it counts in `account`."""
        return SpoolFile(self.settings.spool_directory, self.account)


@dataclass(slots=True)
class RequestContext:
    """One authorised request, as a handler gets it.

    `changed` tells whether it has changed the database: that is answered whatever became of the
    right since, which the change itself may have ended. `stored` tells whether it has changed what
    the key store has, so that a failure from then on leaves something behind.
    """

    request: Request
    granted: Granted
    services: Services
    watch: Watch
    changed: bool = False
    stored: bool = False
    decision: Decision = field(default_factory=Decision)
    phases: Phases = field(default_factory=Phases)
    notes: Notes = field(init=False)

    def __post_init__(self) -> None:
        self.notes = Notes(self.services.keystore)

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """A transaction for changes, by who still has the right: looked at in the same one.

        Raises `RequestRefused` (AUTHENTICATION_FAILED) where it was taken back meanwhile.
        """
        with (
            self.phases.measured(Phase.STORE),
            self.watch.changing(),
            self.services.database.write() as writer,
        ):
            require_still_in(self.granted, writer)
            yield writer
            # Before anybody can see the change, which may be one of the right itself.
            self.changed = True

    def log_done(self, output: bytes | BinaryIO) -> dict[str, bytes]:
        """Have the request in the signing log before what it has made can be had.

        Returns the fields that prove it. Called before the answer is sent, and earlier where
        something is stored that could be had from there. Raises `NotLogged`.
        """
        # From here on nobody else answers, so that the log has one decision.
        self.watch.begin_reply()
        try:
            with self.logging():
                return self.decision.done(output, self.notes.signer)
        except NotLogged as error:
            if self.changed or self.stored:
                problem = f"it was done, but is not in the signing log: {error.problem}"
            else:
                problem = f"{error.problem}; nothing left the server"
            raise NotLogged(problem, error.cure) from error

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Measure a block that waits for the signing log, and note where that fails it."""
        with self.phases.measured(Phase.LOG):
            try:
                yield
            except NotLogged:
                self.phases.unlogged = True
                raise

    def require_still(self) -> None:
        """Raise `RequestRefused` where the right was taken back meanwhile.

        To be called after a wait, before a key is used, the key store changed or an answer sent.
        """
        require_still(self.granted, self.services.database)

    def opened(self) -> KeyGranted:
        """The right on the key that the request's passphrase opened.

        Raises `RequestRefused` where the operation is not for keys of that type.
        """
        if not isinstance(self.granted, KeyGranted):
            raise RequestRefused(Status.AUTHENTICATION_FAILED)
        self._of_type(self.granted.key)
        return self.granted

    def opened_key(self) -> tuple[Key, Secret]:
        """The key that the request's passphrase opened, and the key's own passphrase.

        Raises `RequestRefused` where the operation is not for keys of that type.
        """
        granted = self.opened()
        return granted.key, granted.passphrase

    def openpgp_key(self) -> OpenPGPKey:
        """The key that the request's passphrase opened, for an operation of OpenPGP keys alone.

        Raises `RequestRefused`, and `KeystoreError` where the site's options cannot be read.
        """
        key, passphrase = self.opened_key()
        return OpenPGPKey(
            partial(open_openpgp_signer, self.services.keystore, key, passphrase),
            signature_options(self.services.settings),
            self.require_still,
            partial(self.notes.signed, key),
        )

    def key(self) -> Key:
        """The key that the request names, whether a passphrase or a password gave the right.

        Raises `RequestRefused` where there is none, or the operation is not for keys of that type.
        """
        if isinstance(self.granted, KeyGranted):
            # Not another one that has the name by now.
            return self._of_type(self.granted.key)
        with self.services.database.read() as reader:
            key = reader.key(self.request.text("key"))
        if key is None:
            raise RequestRefused(Status.KEY_NOT_FOUND)
        return self._of_type(key)

    def _of_type(self, key: Key) -> Key:
        types = self.request.operation.key_types
        self.decision.key(key)
        if types and key.keytype not in types:
            raise RequestRefused(Status.UNSUPPORTED_KEYTYPE)
        return key

    def new_secret(self, field: str) -> Secret:
        """The new password or passphrase in a secret field.

        Raises `RequestRefused` where it is shorter than this server takes.
        """
        secret = self.request.secret(field)
        try:
            require_length(secret, self.services.settings.min_secret_length)
        except KeystoreError as error:
            raise RequestRefused.because(error) from None
        return secret

    def sealed(self, key_passphrase: Secret, field: str, layers: Sequence[Layer]) -> bytes:
        """A user's access: the key's passphrase, bound, and locked with that in a secret field.

        Raises `RequestRefused` where it cannot be bound, or the secret is too short.
        """
        secret = self.new_secret(field)
        try:
            return new_access(key_passphrase, secret, layers, self.services.registry)
        except CannotBind as error:
            raise RequestRefused.because(error) from None


def database_url(settings: ServerSettings) -> str:
    """SQLAlchemy's URL of the configured database. It may hold a password: never log it.

    Raises `ConfigurationError` where it has to prove who it is and does not, and `DatabaseError`.
    """
    if settings.database_url is None:
        return sqlite_url(settings.database_path)
    url = settings.database_url.reveal().decode("utf-8")
    if settings.require_database_tls and (problem := unproven_database(url)):
        raise ConfigurationError(
            problem, f"{DATABASE_TLS_CURE}; or set require-database-tls: no, in [database]"
        )
    return url


def open_database(settings: ServerSettings) -> Database:
    """The configured database, to be closed by the caller. Raises as `database_url` does."""
    return Database(database_url(settings), lock_wait=settings.database_lock_timeout)


def keys_in_database(settings: ServerSettings) -> list[Key]:
    """The keys that the configured database has, for a look from outside the server.

    Raises as `database_url` does.
    """
    with closing(Database(database_url(settings))) as database, database.read() as reader:
        return reader.keys()


def unproven_database(url: str) -> str | None:
    """Describe the fault of a database elsewhere that need not prove who it is; else None."""
    mode = unproven_mode(url)
    if mode is None:
        return None
    return (
        f"the database of database-url is on another machine, and sslmode is {mode}: it does not"
        " prove who it is, so who is between can read and change users, rights and keys"
    )


def spool_limits(settings: ServerSettings) -> SpoolLimits:
    """The limits on the spool that the settings describe."""
    return SpoolLimits(
        settings.max_spool_size, settings.max_spool_size_per_user, settings.spool_min_free
    )


def signature_options(settings: ServerSettings) -> SignatureOptions:
    """The site's options for OpenPGP signatures. Raises `KeystoreError`."""
    try:
        return read_options(settings.gnupg_home)
    except OSError as error:
        raise KeystoreError(
            f"{settings.gnupg_home / CONFIGURATION_NAME} cannot be read: {error.strerror}",
            "see that it belongs to the server's user",
        ) from None


def make_services(
    settings: ServerSettings,
    database: Database,
    account: Account | None = None,
    guard: Guard = unguarded,
) -> Services:
    """The services that the settings describe; files of theirs count in `account`.

    Raises `SigulError` for a bad binding list.
    """
    binding = settings.binding
    return Services(
        settings=settings,
        database=database,
        keystore=make_keystore(settings),
        registry=enabled_methods(binding.enabled, binding.parameters, binding.secrets),
        policy=BindingPolicy.parse(binding.forced, binding.forced_first, binding.default),
        name_check=NameCheck(settings.lenient_username_check, frozenset(settings.proxy_usernames)),
        account=account or Account(spool_limits(settings)),
        guard=guard,
    )


def make_keystore(settings: ServerSettings, *, at_rest: bool = False) -> KeyStore:
    """The key store that the settings describe; `at_rest`: only to be looked at, without agent."""
    home = GnuPGHomeAtRest if at_rest else GnuPGHome
    return KeyStore(
        home(
            settings.gnupg_home,
            settings=KeySettings(
                key_type=settings.gnupg_key_type,
                key_length=settings.gnupg_key_length or usual_bits(settings.gnupg_key_type),
                subkey_type=settings.gnupg_subkey_type,
                subkey_length=settings.gnupg_subkey_length
                or usual_bits(settings.gnupg_subkey_type),
                key_usage=settings.gnupg_key_usage,
                min_bits=settings.min_key_bits,
            ),
            time_limit=settings.signing_timeout,
        ),
        PemStore(
            settings.keys_storage,
            settings=PemSettings(
                allowed_key_types=frozenset(
                    KeyType(name) for name in settings.allowed_key_types if name != KeyType.GNUPG
                ),
                curve=settings.ecc_default_curve,
                rsa_key_size=settings.rsa_key_size,
                min_bits=settings.min_key_bits,
                max_certificates=settings.max_certificates_per_key,
            ),
        ),
    )
