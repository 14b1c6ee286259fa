"""`client.conf`: the settings of `sigul`."""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path
from typing import ClassVar, Final

from ..records import dataclass, field
from . import values
from .fields import Program, build, option, options_of, required
from .ini import Advice, ConfigEntry, ConfigFiles, look_for
from .shared import (
    BindingSettings,
    BridgeAddress,
    KojiSettings,
    NSSSettings,
    load_binding,
    load_nss,
)

#: Where `nss-dir` is when no file says.
DEFAULT_NSS_DIRECTORY = "~/.sigul"
#: The file beside the NSS database that keeps what is known of signing logs, where none is named.
LOG_STATE: Final = "signing-log.json"
#: A user's own configuration file.
OWN_FILE = "~/.sigul/client.conf"


@dataclass(frozen=True, slots=True)
class ClientSettings(BridgeAddress):
    """The settings of a client. Times are in seconds, lengths in characters."""

    SECTION: ClassVar[str] = "client"

    server_hostname: str = required(
        "client", values.host, "the signing server's host name, as its certificate has it"
    )
    require_own_server_key: bool = option(
        "client",
        values.boolean,
        False,
        "whether a server is refused that shows the bridge's own key in the inner session, as a"
        " bridge would that plays the server",
        new_site="yes",
    )
    bridge_port: int = option(
        "client", values.port, 44334, "the TCP port on which the bridge takes clients"
    )
    client_cert_nickname: str = option(
        "client",
        values.text,
        "sigul-client-cert",
        "the nickname of the user's certificate in the NSS database",
    )
    user_name: str = option(
        "client", values.text, "", "the user's name on the server (absent: the login name)"
    )
    protocol: int = option(
        "client",
        values.integer(min(values.PROTOCOL_VERSIONS), max(values.PROTOCOL_VERSIONS)),
        max(values.PROTOCOL_VERSIONS),
        "the version of the protocol that the site speaks; Sigul 0.x speaks 0",
    )
    passphrase_length: int = option(
        "client",
        values.integer(8, 255, "characters"),
        128,
        "characters of a passphrase made at random",
    )
    reply_timeout: float = option(
        "client",
        values.seconds,
        1200.0,
        "seconds of the longest silence while waiting for a reply",
    )
    retry_seconds: int = option(
        "client",
        values.integer(0, 7 * 24 * 3600, "seconds"),
        0,
        "how long a request that nobody has acted on is tried again (0: not at all)",
    )
    signing_log_state: Path | None = option(
        "client",
        values.path,
        None,
        "the file that keeps what is known of the server's signing log"
        " (absent: `signing-log.json` in nss-dir)",
    )
    signing_log_keys: Path | None = option(
        "client",
        values.path,
        None,
        "the file with the public keys of the site's signing logs, one a line"
        " (absent: the first log that a server shows is taken)",
    )
    require_signing_log: bool = option(
        "client",
        values.boolean,
        False,
        "whether a server is refused that shows no signing log",
        new_site="yes",
    )
    nss: NSSSettings = field(kw_only=True)
    binding: BindingSettings = field(kw_only=True, default_factory=BindingSettings)
    koji: KojiSettings = field(kw_only=True, default_factory=KojiSettings)

    @property
    def log_state(self) -> Path:
        """The file that keeps what is known of the server's signing log."""
        return self.signing_log_state or self.nss.path / LOG_STATE


def own_file() -> Path | None:
    """`OWN_FILE`, if it is there and this user may look. Raises `ConfigurationError`."""
    path = Path(values.absolute(OWN_FILE))
    return path if look_for(path) else None


def from_files(
    files: ConfigFiles, user_name: str | None
) -> tuple[ClientSettings, tuple[Advice, ...]]:
    """The settings that `files` give, and warnings about them.

    `user_name`, if given, takes the place of the option. Raises `ConfigurationError`.
    """
    return build(
        ClientSettings,
        files,
        user_name=user_name or _user_name(files),
        nss=load_nss(files, DEFAULT_NSS_DIRECTORY),
        binding=load_binding(files),
        koji=build(KojiSettings, files),
    ), ()


PROGRAM: Final = Program(
    "client",
    (ClientSettings, NSSSettings, BindingSettings, KojiSettings),
    from_files,
    default_file=own_file,
)


def _user_name(files: ConfigFiles) -> str:
    entry = files.get("client", "user-name")
    if entry is not None and (name := options_of(ClientSettings)["user_name"].read(entry).value):
        return str(name)
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(os.getuid()).pw_name
    if name := os.environ.get("LOGNAME") or os.environ.get("USER"):
        return name
    missing = entry or ConfigEntry(files.last(), "client", "user-name", "")
    raise missing.error(
        f"is not set, and user ID {os.getuid()} has no login name",
        "set user-name, or give -u USER",
    )
