"""What handlers work with: the database, the key store and the policies of one server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from ..config.server import ServerSettings
from ..database import Database, KeyType, sqlite_url
from ..keystore.bindings import BindingPolicy, Registry, enabled_methods
from ..keystore.gnupg import GnuPGHome, KeySettings
from ..keystore.pem import PemSettings, PemStore
from ..keystore.store import KeyStore
from .request import Request
from .rights import Granted, NameCheck
from .spool import scratch_file


@dataclass(frozen=True, slots=True)
class Services:
    """One server's stores and policies; cheap to make, so each request has its own."""

    settings: ServerSettings
    database: Database
    keystore: KeyStore
    registry: Registry
    policy: BindingPolicy
    name_check: NameCheck

    def scratch(self) -> BinaryIO:
        """An empty file without a name, for a payload on its way out."""
        return scratch_file(self.settings.spool_directory)


@dataclass(frozen=True, slots=True)
class Work:
    """One authorised request, as a handler gets it."""

    request: Request
    granted: Granted
    services: Services


def database_url(settings: ServerSettings) -> str:
    """SQLAlchemy's URL of the configured database. It may hold a password: never log it."""
    if settings.database_url is not None:
        return settings.database_url.reveal().decode("utf-8")
    return sqlite_url(settings.database_path)


def make_services(settings: ServerSettings, database: Database) -> Services:
    """The services that the settings describe. Raises `SigulError` for a bad binding list."""
    binding = settings.binding
    return Services(
        settings=settings,
        database=database,
        keystore=make_keystore(settings),
        registry=enabled_methods(binding.enabled, binding.parameters, binding.secrets),
        policy=BindingPolicy.parse(binding.forced, binding.forced_first, binding.default),
        name_check=NameCheck(settings.lenient_username_check, frozenset(settings.proxy_usernames)),
    )


def make_keystore(settings: ServerSettings) -> KeyStore:
    """The key store that the settings describe."""
    gnupg = GnuPGHome(
        settings.gnupg_home,
        settings=KeySettings(
            key_type=settings.gnupg_key_type,
            key_length=settings.gnupg_key_length,
            subkey_type=settings.gnupg_subkey_type,
            subkey_length=settings.gnupg_subkey_length,
            key_usage=settings.gnupg_key_usage,
        ),
        time_limit=settings.signing_timeout,
    )
    return KeyStore(
        gnupg,
        PemStore(
            settings.keys_storage,
            settings=PemSettings(
                allowed_key_types=frozenset(
                    KeyType(name) for name in settings.allowed_key_types if name != KeyType.GNUPG
                ),
                curve=settings.ecc_default_curve,
                rsa_key_size=settings.rsa_key_size,
            ),
        ),
    )
