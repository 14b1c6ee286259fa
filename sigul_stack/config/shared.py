"""Sections of several programs: the bridge, `[daemon]`, `[nss]`, `[binding]`, `[koji]`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from ..errors import ConfigurationError
from ..records import dataclass, field
from ..secret import Secret
from . import values
from .fields import (
    OWN_SECTION,
    Needs,
    build,
    family,
    later,
    option,
    options_of,
    required,
    secret_option,
)
from .ini import Advice, ConfigEntry, ConfigFiles

#: Where a daemon's `nss-dir` is when no file says.
DAEMON_NSS_DIRECTORY = "/var/lib/sigul"

#: Slowest payload that is put up with where `min-payload-rate` says nothing, in bytes a second.
MIN_PAYLOAD_RATE = 16 * 1024

#: Where a daemon's log may go.
LOG_PLACES = ("file", "stderr", "journald", "syslog")

TLS_VERSIONS = ("tls1.2", "tls1.3")
#: Versions that old configurations may still allow; TLS 1.2 is the floor whatever they say.
OLD_TLS_VERSIONS = ("ssl2", "ssl3", "tls1.0", "tls1.1")

#: Binding methods whose parameters may stand in `[binding]` (as `METHOD_PARAMETER`).
BINDING_METHODS = ("test", "pkcs11", "keyring", "keyctl", "tpm")
_PARAMETER_PREFIXES = tuple(f"{method}_" for method in BINDING_METHODS)


@dataclass(frozen=True)
class BridgeAddress:
    """The way to the bridge, in the section of the client or server. Times are in seconds."""

    bridge_hostname: str = required(
        OWN_SECTION, values.host, "the bridge's host name, as its certificate has it"
    )
    bridge_address: str | None = option(
        OWN_SECTION,
        values.optional_host,
        None,
        "name or IP address to connect to instead of bridge-hostname;"
        " the certificate is still checked against bridge-hostname",
    )
    #: Declared by the program, for each has its own default.
    bridge_port: int = field(kw_only=True)
    connect_timeout: float = option(
        OWN_SECTION, values.seconds, 30.0, "seconds until the bridge has to take the connection"
    )
    handshake_timeout: float = option(
        OWN_SECTION, values.seconds, 30.0, "seconds for each TLS handshake"
    )


@dataclass(frozen=True)
class DaemonSettings:
    """`[daemon]` and `[logging]`: whom a bridge or server runs as, where it tells its status, and
    where its log goes.
    """

    unix_user: str | None = option(
        "daemon", values.optional_text, None, "user to run as, a name or number (empty: as started)"
    )
    unix_group: str | None = option(
        "daemon",
        values.optional_text,
        None,
        "group to run as, a name or number (empty: as started)",
    )
    status_socket: Path | None = option(
        "daemon",
        values.optional_socket,
        None,
        "path of the Unix socket that gives the daemon's status (empty: none)",
        needs=Needs.PARENT,
    )
    log_format: str = option(
        "logging", values.choice("text", "json"), "text", "form of the log's lines: `text`, `json`"
    )
    log_to: tuple[str, ...] = option(
        "logging",
        values.choices(*LOG_PLACES),
        (),
        "where the log goes: `file`, `stderr`, `journald`, `syslog`, one or several (empty: to"
        " standard error in the foreground, to a file in the background)",
    )


def nss_directory(name: str, entry: ConfigEntry | None = None) -> str:
    """`name` as NSS wants it: with its prefix (`sql:` where there is none), an absolute path."""
    prefix, colon, directory = name.partition(":")
    if not colon or prefix not in ("sql", "dbm"):
        prefix, directory = "sql", name
    return f"{prefix}:{values.absolute(directory, entry)}"


def _min_tls(entry: ConfigEntry) -> str:
    version = values.choice(*OLD_TLS_VERSIONS, *TLS_VERSIONS)(entry)
    return version if version in TLS_VERSIONS else TLS_VERSIONS[0]


#: The files of an NSS database (`sql:`) that hold certificates, keys and their trust.
NSS_FILES = ("cert9.db", "key4.db", "pkcs11.txt")


@dataclass(frozen=True, slots=True)
class NSSSettings:
    """`[nss]`: the NSS database with this program's certificate, TLS versions and cipher suites.

    `directory` carries its prefix, as NSS wants it (`sql:/…`, or `dbm:/…` as given). `password`
    is None when it has to be asked; the empty secret means a database without a password.
    """

    directory: str = option(
        "nss",
        lambda entry: nss_directory(values.text(entry), entry),
        "",
        "the directory of the NSS database",
        name="nss-dir",
    )
    password: Secret | None = secret_option(
        "nss", "the password of the NSS database (absent: asked at start)", name="nss-password"
    )
    min_tls: str = option(
        "nss", _min_tls, "tls1.2", "the oldest TLS version allowed", name="nss-min-tls"
    )
    max_tls: str = option(
        "nss",
        values.choice(*TLS_VERSIONS),
        "tls1.3",
        "the newest TLS version allowed",
        name="nss-max-tls",
        new_site="tls1.3",
    )
    old_ciphers: bool = option(
        "nss",
        values.boolean,
        False,
        "whether TLS 1.2 may also use cipher suites without forward secrecy, or with CBC",
        name="nss-old-ciphers",
    )

    @property
    def path(self) -> Path:
        """The directory without its prefix."""
        return Path(self.directory.partition(":")[2])


def load_nss(files: ConfigFiles, default_directory: str) -> NSSSettings:
    """The `[nss]` section; `default_directory` as a person writes it, where `nss-dir` is absent."""
    entry = files.get("nss", "nss-dir")
    absent = entry is None or options_of(NSSSettings)["directory"].read(entry).absent
    given = {"directory": nss_directory(default_directory)} if absent else {}
    settings = build(NSSSettings, files, **given)
    if settings.min_tls > settings.max_tls:
        entry = files.get("nss", "nss-min-tls")
        assert entry is not None  # noqa: S101 - the default of the oldest is the oldest
        raise entry.error(
            f"{settings.min_tls} is newer than nss-max-tls, {settings.max_tls}",
            f"set nss-max-tls to {settings.min_tls} as well, or nss-min-tls to {settings.max_tls}",
        )
    return settings


def tls_warnings(files: ConfigFiles) -> Iterator[Advice]:
    """The warnings about an `nss-min-tls` below the floor, and about old cipher suites."""
    entry = files.get("nss", "nss-min-tls")
    if entry is not None and entry.text.lower() in OLD_TLS_VERSIONS:
        yield Advice(
            f"{entry.place}: {entry.text} is older than Sigul allows, {TLS_VERSIONS[0]} is used",
            f"write {TLS_VERSIONS[0]}",
        )
    entry = files.get("nss", "nss-old-ciphers")
    if entry is not None and options_of(NSSSettings)["old_ciphers"].read(entry).value:
        yield Advice(
            f"{entry.place}: cipher suites are taken that have no forward secrecy or use CBC: who"
            " records a connection can read it once the private key is known",
            "remove the line as soon as every peer knows ECDHE with AES-GCM or ChaCha20-Poly1305"
            " (NSS 3.16 and OpenSSL 1.0.1 do)",
        )


@dataclass(frozen=True, slots=True)
class BindingSettings:
    """`[binding]`: which binding methods may be used, and with what.

    `forced` and `default` are layers as text (`method1,key=value|method2,key=value`, a line
    each). `parameters` holds every `METHOD_PARAMETER`, lower case, as written, with files'
    names made absolute; those whose names end in `_pin` are in `secrets` instead
    (`…_pin-file` names a file).
    """

    enabled: tuple[str, ...] = option(
        "binding", values.words, (), "the binding methods that may be used"
    )
    forced: tuple[str, ...] = option(
        "binding",
        values.lines,
        (),
        "binding layers that are always added, one a line",
        name="forced-binding-methods",
    )
    forced_first: bool = option(
        "binding",
        lambda entry: values.choice("first", "last")(entry) == "first",
        True,
        "whether the forced layers come `first` or `last`",
        name="forced-binding-methods-position",
    )
    default: tuple[str, ...] = option(
        "binding",
        values.lines,
        (),
        "binding layers where a request names none, one a line",
        name="default-binding-methods",
    )
    parameters: Mapping[str, str] = family(
        "binding",
        _PARAMETER_PREFIXES,
        lambda entry: entry.text,
        "METHOD_PARAMETER: what a binding method needs to know",
        strip_prefix=False,
    )
    secrets: Mapping[str, Secret] = field(default_factory=dict, kw_only=True)


def load_binding(files: ConfigFiles) -> BindingSettings:
    """The `[binding]` section."""
    plain = {}
    pins: dict[str, ConfigEntry] = {}
    for entry in files.section("binding"):
        if not entry.option.startswith(_PARAMETER_PREFIXES):
            continue
        name = entry.option.removesuffix("-file")
        if name.endswith("_pin"):
            pins[name] = later(pins.get(name), entry, files)
        else:
            plain[entry.option] = _parameter(entry)
    settings = build(
        BindingSettings,
        files,
        parameters=MappingProxyType(plain),
        secrets=MappingProxyType({name: values.any_secret(pin) for name, pin in pins.items()}),
    )
    for policy in files.find("binding", ("forced-binding-methods", "default-binding-methods")):
        _check_layers(policy, settings.enabled)
    return settings


def _check_layers(entry: ConfigEntry, enabled: tuple[str, ...]) -> None:
    """Refuse layers with a method that is not enabled: nothing could be bound with them."""
    for line in values.lines(entry):
        for alternative in line.split("|"):
            method = alternative.split(",")[0].strip()
            if not method.isidentifier():
                raise entry.error(
                    f"{method!r} is no name of a binding method", "write method,key=value"
                )
            if method not in enabled:
                raise entry.error(
                    f"the method {method!r} is not enabled",
                    f"add it to `enabled` ({', '.join(enabled) or 'which is empty'}), or correct"
                    " the name",
                )


def _parameter(entry: ConfigEntry) -> str:
    """A binding method's parameter as written, but a file's name absolute: daemons go elsewhere."""
    if entry.text and entry.option.startswith("pkcs11_") and entry.option.endswith("_pubkey"):
        return values.absolute(entry.text, entry)
    return entry.text


@dataclass(frozen=True, slots=True)
class KojiSettings:
    """`[koji]`: Koji's own configuration files, for the default instance and for named ones.

    Instances are written in lower case as keys, for option names are not case sensitive.
    """

    koji_config: Path | None = option(
        "koji", values.path, None, "Koji's configuration file (absent: Koji's own default)"
    )
    instances: tuple[str, ...] = option(
        "koji", values.words, (), "names of further Koji instances", name="koji-instances"
    )
    instance_configs: Mapping[str, Path] = family(
        "koji", ("koji-config-",), values.path, "koji-config-NAME: Koji's file for instance NAME"
    )
    koji_timeout: float = option(
        "koji", values.seconds, 60.0, "seconds for Koji to answer, and to be silent in a download"
    )

    def config_of(self, instance: str | None) -> Path | None:
        """The configuration file of an instance, or of the default one; None: Koji's own files.

        Raises `ConfigurationError` for one that is not of `koji-instances`.
        """
        if instance is None:
            return self.koji_config
        if instance not in self.instances:
            raise ConfigurationError(
                f"there is no Koji instance '{instance}' here",
                f"[koji] koji-instances lists: {', '.join(self.instances) or 'none'}",
            )
        return self.instance_configs.get(instance.lower())


@dataclass(frozen=True, slots=True)
class BridgeKojiSettings(KojiSettings):
    """`[koji]` of a bridge: who may sign for which instance, too. Times are in seconds."""

    proxy_auth: bool = option(
        "koji",
        values.boolean,
        False,
        "whether signatures are stored on behalf of the user who asks for them",
    )
    download_timeout: float = option(
        "koji", values.seconds, 300.0, "seconds for an RPM to be fetched, all of it"
    )
    download_directory: Path | None = option(
        "koji",
        values.path,
        None,
        "where RPMs are kept while they are signed (absent: the system's temporary directory)",
        needs=Needs.NAMED_DIRECTORY,
    )
    max_downloads_per_user: int = option(
        "koji",
        values.count,
        4,
        "RPMs of one client certificate's name that may be fetched, or lie here, at once",
    )
    max_download_size: int = option(
        "koji",
        values.size,
        2 * 1024**3,
        "bytes of all fetched RPMs that lie here at once, half of them for one name at most",
    )

    required_groups: Mapping[str, str] = family(
        "koji",
        ("required-fas-group-",),
        values.text,
        "required-fas-group-NAME: the group whose members may use instance NAME",
    )
