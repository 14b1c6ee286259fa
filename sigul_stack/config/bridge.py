"""`bridge.conf`: the settings of `sigul_bridge`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Final

from ..records import dataclass, field, replace
from ..secret import Secret
from . import values
from .fields import Needs, Program, build, option, secret_option
from .idle import idle_of_bridge
from .ini import Advice, ConfigFiles
from .management import ManagementSettings
from .shared import (
    DAEMON_NSS_DIRECTORY,
    MIN_PAYLOAD_RATE,
    BridgeKojiSettings,
    DaemonSettings,
    NSSSettings,
    load_nss,
)


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """`[groups]`: where a bridge finds out who is in a group. Times are in seconds."""

    source: str | None = option(
        "groups",
        values.choice("file", "fasjson", "ldap"),
        None,
        "where groups are known: `file`, `fasjson` or `ldap`",
    )
    cache_time: int = option(
        "groups",
        values.integer(0, 86400, "seconds"),
        60,
        "seconds for which an answer is kept",
    )
    timeout: float = option(
        "groups", values.seconds, 10.0, "seconds for each step of a question", name="groups-timeout"
    )
    file: Path | None = option(
        "groups", values.path, None, "the file with a line `GROUP: USER …` for each group"
    )
    fasjson_url: str | None = option(
        "groups", values.optional_text, None, "the address of the FASJSON service"
    )
    ldap_uri: str | None = option(
        "groups", values.optional_text, None, "the directory, as `ldaps://HOST` or `ldap://HOST`"
    )
    ldap_starttls: bool = option(
        "groups", values.boolean, True, "whether TLS is begun on a connection to `ldap://`"
    )
    ldap_ca_file: Path | None = option(
        "groups", values.path, None, "the CA of the directory's certificate (absent: the system's)"
    )
    ldap_base: str | None = option(
        "groups", values.optional_text, None, "below which entry groups are looked for"
    )
    ldap_filter: str = option(
        "groups",
        values.text,
        "(&(objectClass=posixGroup)(cn={group})(memberUid={user}))",
        "what finds an entry if, and only if, {user} is in {group}",
    )
    ldap_bind_dn: str | None = option(
        "groups", values.optional_text, None, "who asks (absent: nobody)"
    )
    ldap_bind_password: Secret | None = secret_option("groups", "the password of ldap-bind-dn")
    #: The Kerberos principal that asks FASJSON, from `fas-user-name`.
    principal: str | None = None


@dataclass(frozen=True, slots=True)
class BridgeSettings(DaemonSettings):
    """The settings of a bridge. Times are in seconds, sizes in bytes."""

    SECTION: ClassVar[str] = "bridge"

    bridge_cert_nickname: str = option(
        "bridge",
        values.text,
        "sigul-bridge-cert",
        "the nickname of the bridge's certificate in the NSS database",
    )
    client_listen_port: int = option("bridge", values.port, 44334, "the TCP port for clients")
    server_listen_port: int = option("bridge", values.port, 44333, "the TCP port for servers")
    listen_address: tuple[str, ...] = option(
        "bridge",
        values.hosts,
        ("::", "0.0.0.0"),  # noqa: S104 - both ports are for the world
        "the addresses to listen on",
    )
    server_cn: tuple[str, ...] = option(
        "bridge",
        values.words,
        (),
        "the common names that a signing server's certificate may have"
        " (empty: any certificate of the CA, with a warning)",
    )
    protocol_versions: tuple[int, ...] = option(
        "bridge",
        values.protocol_versions,
        values.PROTOCOL_VERSIONS,
        "the versions of the protocol that requests may be of",
    )
    server_protocol_versions: tuple[tuple[str, int], ...] = option(
        "bridge",
        values.named_versions,
        (),
        "`NAME=VERSION`, the versions that the server with this common name speaks"
        " (a name that is not there: learnt from its answers)",
    )
    max_rpms_payloads_size: int = option(
        "bridge",
        values.size,
        10 * 1024**3,
        "bytes of all RPMs of one sign-rpms request together",
    )
    required_fas_group: str | None = option(
        "bridge", values.optional_text, None, "the group whose members may send requests"
    )
    fas_user_name: str | None = option(
        "bridge", values.optional_text, None, "the account that asks for a user's groups"
    )
    fas_password: Secret | None = secret_option("bridge", "the password of fas-user-name")
    handshake_timeout: float = option(
        "bridge", values.seconds, 10.0, "seconds for a peer's TLS handshake"
    )
    header_timeout: float = option(
        "bridge", values.seconds, 10.0, "seconds for a client to send its request's header"
    )
    server_wait_timeout: float = option(
        "bridge", values.seconds, 120.0, "seconds that a request waits for a free server"
    )
    idle_timeout: float = option(
        "bridge", values.seconds, 900.0, "seconds of the longest silence inside a request"
    )
    close_timeout: float = option(
        "bridge", values.seconds, 10.0, "seconds for a client to close after its reply"
    )
    shutdown_timeout: float = option(
        "bridge",
        values.seconds,
        60.0,
        "seconds for requests to finish once the bridge is to end",
    )
    max_handshakes: int = option(
        "bridge", values.count, 128, "peers that may be in their TLS handshake at once, a port"
    )
    max_clients: int = option("bridge", values.count, 256, "clients that may be connected at once")
    client_reserve: int = option(
        "bridge",
        values.integer(0, 65536),
        32,
        "of max-clients, the last that only names with few connections get"
        " (a quarter of them at most)",
    )
    max_connections_per_user: int = option(
        "bridge",
        values.count,
        64,
        "connections of one client certificate's name that may be here at once",
    )
    max_request_rate: int = option(
        "bridge",
        values.count,
        25,
        "requests a second of one name that begin without delay, beyond the first few",
    )
    max_requests_per_user: int = option(
        "bridge",
        values.count,
        12,
        "requests of one client certificate's name that may be with servers at once",
    )
    max_bytes_in_flight_per_user: int = option(
        "bridge",
        values.size,
        16 * 1024**3,
        "bytes that the requests of one name may send to servers at once; a single one, any number",
    )
    server_reserve: int = option(
        "bridge",
        values.integer(0, 65536),
        2,
        "waiting servers that a name leaves to others, as many as it has of them already at most",
    )
    min_payload_rate: int = option(
        "bridge",
        values.byte_rate,
        MIN_PAYLOAD_RATE,
        "bytes a second that a client must send or take, after the first seconds",
    )
    max_waiting_servers: int = option(
        "bridge", values.count, 64, "server connections that may wait at once"
    )
    signing_log_state: Path | None = option(
        "bridge",
        values.path,
        None,
        "the file that keeps what is known of servers' signing logs (absent: as long as it runs)",
        needs=Needs.PARENT,
    )
    signing_log_keys: Path | None = option(
        "bridge",
        values.path,
        None,
        "the file with the public keys of the site's signing logs, one a line"
        " (absent: the first log that a server shows is taken)",
    )
    signing_log_interval: int = option(
        "bridge",
        values.integer(1, 86400, "seconds"),
        300,
        "seconds between two looks at a server's signing log",
    )
    signing_log_witness_key: Path | None = option(
        "bridge",
        values.path,
        None,
        "the file with the key that cosigns checkpoints of signing logs (absent: none are)",
    )
    nss: NSSSettings = field(kw_only=True)
    koji: BridgeKojiSettings = field(kw_only=True, default_factory=BridgeKojiSettings)
    groups: GroupSettings = field(kw_only=True, default_factory=GroupSettings)
    management: ManagementSettings = field(kw_only=True, default_factory=ManagementSettings)


def from_files(
    files: ConfigFiles, _user_name: str | None
) -> tuple[BridgeSettings, tuple[Advice, ...]]:
    """The settings that `files` give, and warnings about them. Raises `ConfigurationError`."""
    settings = build(
        BridgeSettings,
        files,
        nss=load_nss(files, DAEMON_NSS_DIRECTORY),
        koji=build(BridgeKojiSettings, files),
        management=build(ManagementSettings, files),
    )
    settings = replace(
        settings, groups=build(GroupSettings, files, principal=settings.fas_user_name)
    )
    if settings.client_listen_port == settings.server_listen_port:
        entry = files.get("bridge", "server-listen-port") or files.get(
            "bridge", "client-listen-port"
        )
        assert entry is not None  # noqa: S101 - the defaults differ
        raise entry.error(
            f"{settings.server_listen_port} is the port for clients and for servers",
            "give client-listen-port and server-listen-port a port each",
        )
    idle = tuple(idle_of_bridge(files, settings))
    if settings.server_cn:
        return settings, idle
    warning = Advice(
        f"{files.last()}: [bridge] server-cn is not set: any certificate of the CA may play"
        " the signing server",
        "add `server-cn: NAME` with the common name in the server's certificate",
    )
    return settings, (warning, *idle)


PROGRAM: Final = Program(
    "bridge",
    (BridgeSettings, NSSSettings, BridgeKojiSettings, GroupSettings, ManagementSettings),
    from_files,
)
