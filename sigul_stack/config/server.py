"""`server.conf`: the settings of `sigul_server` and the programs that prepare its database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final

from ..records import dataclass, field
from ..secret import Secret
from . import values
from .fields import Needs, Program, build, option, secret_option
from .idle import idle_of_server
from .ini import Advice, ConfigFiles
from .shared import (
    DAEMON_NSS_DIRECTORY,
    MIN_PAYLOAD_RATE,
    BindingSettings,
    BridgeAddress,
    DaemonSettings,
    NSSSettings,
    load_binding,
    load_nss,
)

#: Curves that an ECC key may have, as `ecc-default-curve` names them.
CURVES = (
    "SECP256R1", "SECP384R1", "SECP521R1", "SECP224R1", "SECP256K1",
    "BrainpoolP256R1", "BrainpoolP384R1", "BrainpoolP512R1",
)  # fmt: skip

_key_bits = values.integer(1024, 16384, "bits")


@dataclass(frozen=True, slots=True)
class ServerSettings(BridgeAddress, DaemonSettings):
    """The settings of a signing server. Times are in seconds, sizes in bytes."""

    SECTION: ClassVar[str] = "server"

    bridge_port: int = option(
        "server", values.port, 44333, "the TCP port on which the bridge takes servers"
    )
    protocol_versions: tuple[int, ...] = option(
        "server",
        values.protocol_versions,
        values.PROTOCOL_VERSIONS,
        "the versions of the protocol that requests may be of",
    )
    max_file_payload_size: int | None = option(
        "server",
        values.size,
        None,
        "bytes of a payload that is stored in a file (absent: each operation's own limit, which is"
        " 1073741824 for most)",
        new_site=str(1024**3),
    )
    max_memory_payload_size: int = option(
        "server", values.size, 1024**2, "bytes of a payload that is kept in memory"
    )
    max_rpms_payloads_size: int = option(
        "server",
        values.size,
        10 * 1024**3,
        "bytes of all RPMs of one sign-rpms request together",
    )
    server_cert_nickname: str = option(
        "server",
        values.text,
        "sigul-server-cert",
        "the nickname of the server's certificate in the NSS database",
    )
    signing_timeout: float = option("server", values.seconds, 60.0, "seconds that signing may take")
    signing_threads: int | None = option(
        "server",
        values.integer_or_auto(1, 64),
        None,
        "RPMs of one sign-rpms request that are signed at once",
    )
    lenient_username_check: bool = option(
        "server",
        values.boolean,
        False,
        "whether a user's name may differ from the common name in the certificate",
    )
    proxy_usernames: tuple[str, ...] = option(
        "server", values.words, (), "common names that may send requests for any user"
    )
    min_secret_length: int = option(
        "server",
        values.integer(1, 255, "characters"),
        1,
        "characters that a new password or passphrase has at least",
        new_site="12",
    )
    max_secret_delay: float = option(
        "server",
        values.seconds,
        60.0,
        "seconds of the longest delay after wrong passwords or passphrases",
    )
    accept_sigmd5_alone: bool = option(
        "server",
        values.boolean,
        True,
        "whether rpm-sigmd5, which is MD5, may stand for the digest of an RPM to sign",
        new_site="no",
    )
    workers: int | None = option(
        "server", values.integer_or_auto(1, 1024), None, "connections that wait at the bridge"
    )
    max_requests: int | None = option(
        "server", values.integer_or_auto(1, 4096), None, "requests that are served at once"
    )
    idle_timeout: float = option(
        "server", values.seconds, 600.0, "seconds of the longest silence inside a request"
    )
    min_payload_rate: int = option(
        "server",
        values.byte_rate,
        MIN_PAYLOAD_RATE,
        "bytes a second that a request's payload must come with, after the first seconds",
    )
    shutdown_timeout: float = option(
        "server",
        values.seconds,
        60.0,
        "seconds for requests to finish once the server is to end",
    )
    spool_directory: Path | None = option(
        "server",
        values.path,
        None,
        "directory for payloads while they are worked on (absent: the system's for temporary"
        " files)",
        needs=Needs.DIRECTORY,
    )
    max_spool_size: int | None = option(
        "server",
        values.size,
        None,
        "bytes that all requests together may have in the spool directory, a half of them those"
        " whose rights are not proven yet (absent: what is free)",
        new_site=str(16 * 1024**3),
    )
    max_spool_size_per_user: int | None = option(
        "server",
        values.size,
        None,
        "bytes that the requests of one name in a client's certificate may have in the spool"
        " directory together (absent: no limit of their own)",
        new_site=str(8 * 1024**3),
    )
    spool_min_free: int | None = option(
        "server",
        values.size,
        None,
        "bytes of the spool directory's file system that payloads leave free (absent: 268435456,"
        " or a sixteenth of a smaller file system)",
    )
    backup_signing_key: Path | None = option(
        "server",
        values.path,
        None,
        "the private key that signs this server's backups (absent: they are not signed)",
    )
    signing_log: Path | None = option(
        "server",
        values.path,
        None,
        "the directory of the signing log (absent: signing-log, beside database-path); made where"
        " it is missing",
        needs=Needs.PLACE,
    )
    signing_log_name: str | None = option(
        "server",
        values.log_name,
        None,
        "this server's name in the name of a new signing log (absent: the host's name)",
    )
    database_path: Path = option(
        "database",
        values.database_file,
        Path("/var/lib/sigul/server.sqlite"),
        "the SQLite database",
        needs=Needs.PARENT,
        excludes="database-url",
    )
    database_url: Secret | None = secret_option(
        "database",
        "SQLAlchemy's URL of the database, instead of database-path",
        excludes="database-path",
    )
    require_database_tls: bool = option(
        "database",
        values.boolean,
        False,
        "whether a PostgreSQL database on another machine has to prove who it is",
        new_site="yes",
    )
    database_lock_timeout: float = option(
        "database",
        values.seconds,
        10.0,
        "seconds that a request waits for others to end their changes of the database",
    )
    gnupg_home: Path = option(
        "gnupg",
        values.path,
        Path("/var/lib/sigul/gnupg"),
        "GnuPG's home with the gnupg keys; made where it is missing",
        needs=Needs.PLACE,
    )
    gnupg_key_type: str = option(
        "gnupg", values.public_key_algorithm, "RSA", "algorithm of a new key"
    )
    gnupg_key_length: int | None = option(
        "gnupg", _key_bits, None, "bits of a new key (absent: 4096 of RSA, else 2048)"
    )
    gnupg_subkey_type: str = option(
        "gnupg",
        values.optional_public_key_algorithm,
        "RSA",
        "algorithm of a new key's subkey (empty: no subkey)",
    )
    gnupg_subkey_length: int | None = option(
        "gnupg", _key_bits, None, "bits of a new key's subkey (absent: 4096 of RSA, else 2048)"
    )
    gnupg_key_usage: str = option("gnupg", values.algorithm, "sign", "usage of a new key")
    passphrase_length: int = option(
        "gnupg",
        values.integer(8, 255, "characters"),
        64,
        "characters of a key's own passphrase, made at random",
    )
    allowed_key_types: tuple[str, ...] = option(
        "keys",
        values.choices("gnupg", "ECC", "RSA"),
        ("ECC", "RSA"),
        "types of key that may be made beside gnupg, which always may",
    )
    ecc_default_curve: str = option(
        "keys", values.choice(*CURVES), "SECP256R1", "the curve of a new ECC key"
    )
    rsa_key_size: int = option("keys", _key_bits, 2048, "bits of a new RSA key")
    min_key_bits: int = option(
        "keys",
        _key_bits,
        2048,
        "bits that an RSA, DSA or ElGamal key has at least that is made or imported",
    )
    require_subject_key_access: bool = option(
        "keys",
        values.boolean,
        False,
        "whether who has a certificate signed needs an access to the subject key, too",
        new_site="yes",
    )
    max_certificates_per_key: int = option(
        "keys", values.integer(1, 10_000), 100, "certificates that a key may have"
    )
    keys_storage: Path = option(
        "keys",
        values.path,
        Path("/var/lib/sigul/keys"),
        "the directory of ECC and RSA keys; made where it is missing",
        needs=Needs.PLACE,
    )
    metrics_file: Path | None = option(
        "metrics",
        values.metrics_file,
        None,
        "the file of metrics for node_exporter's textfile collector, written every 15 s (absent:"
        " none)",
        name="file",
        needs=Needs.PARENT,
    )
    metrics_names: bool = option(
        "metrics",
        values.boolean,
        False,
        "whether metrics tell users' names",
    )
    nss: NSSSettings = field(kw_only=True)
    binding: BindingSettings = field(kw_only=True, default_factory=BindingSettings)

    @property
    def signing_log_directory(self) -> Path:
        """The directory of the signing log."""
        # What lies here in any case: a database elsewhere has no path.
        beside = self.database_path if self.database_url is None else self.gnupg_home
        return self.signing_log or beside.parent / "signing-log"


def from_files(
    files: ConfigFiles, _user_name: str | None
) -> tuple[ServerSettings, tuple[Advice, ...]]:
    """The settings that `files` give, and warnings about them. Raises `ConfigurationError`."""
    nss, binding = load_nss(files, DAEMON_NSS_DIRECTORY), load_binding(files)
    settings = build(ServerSettings, files, nss=nss, binding=binding)
    return settings, (*_warnings(files, settings), *idle_of_server(files, settings))


def _warnings(files: ConfigFiles, settings: ServerSettings) -> Iterator[Advice]:
    if settings.max_file_payload_size is None:
        yield Advice(
            f"{files.last()}: [server] max-file-payload-size is not set: anybody with a certificate"
            " may send up to 1 TiB before any right is proven",
            "add `max-file-payload-size: 1073741824`, or what your largest file needs",
            of_daemon=True,
        )
    for what in ("key", "subkey"):
        entry = files.get("gnupg", f"gnupg-{what}-length")
        kind = settings.gnupg_key_type if what == "key" else settings.gnupg_subkey_type
        if entry is not None and (not kind or kind.lower().startswith(("ed", "cv", "nistp"))):
            yield Advice(
                f"{entry.place} has no effect: gnupg-{what}-type is {kind or 'empty'}",
                "leave the line out, or name an algorithm that has lengths, such as RSA",
                of_daemon=True,
            )
    for section, name, bits in (
        ("gnupg", "gnupg-key-length", settings.gnupg_key_length),
        ("gnupg", "gnupg-subkey-length", settings.gnupg_subkey_length),
        ("keys", "rsa-key-size", settings.rsa_key_size),
    ):
        entry = files.get(section, name)
        if entry is not None and bits is not None and bits < settings.min_key_bits:
            yield Advice(
                f"{entry.place}: {bits} is less than min-key-bits, {settings.min_key_bits}: no such"
                " key is made",
                "write 4096, or leave the line out",
                of_daemon=True,
            )


PROGRAM: Final = Program("server", (ServerSettings, NSSSettings, BindingSettings), from_files)
