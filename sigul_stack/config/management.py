"""`[management]` of a bridge: where it gives its metrics and its page, to this machine alone."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError
from ..records import dataclass, replace
from . import values
from .fields import option
from .ini import ConfigEntry

#: What to do where other machines are to see it.
_IN_FRONT: Final = (
    "write `127.0.0.1:PORT`, `[::1]:PORT` or `unix:/PATH`; for other machines put what has TLS and"
    " asks who it is in front of it, for example a reverse proxy (nginx, HAProxy)"
)
_UNIX: Final = "unix:"


@dataclass(frozen=True, slots=True)
class ManagementAddress:
    """A loopback address (`host` and `port`), or a Unix socket (`path`)."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"{_UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _address(entry: ConfigEntry) -> ManagementAddress | None:
    """An address that nothing but this machine reaches; None where it is empty."""
    if not entry.text:
        return None
    text = values.text(entry)
    if text.startswith(_UNIX):
        path = values.optional_socket(replace(entry, text=text.removeprefix(_UNIX)))
        if path is None:
            raise _no_address(entry)
        return ManagementAddress(path=path)
    host, colon, number = text.rpartition(":")
    if not colon:
        raise _no_address(entry)
    port = values.port(replace(entry, text=number))
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        raise _no_address(entry) from None
    if (address.version == 6) != (bare != host):
        raise _no_address(entry)
    if not address.is_loopback:
        raise entry.error(
            f"{text!r} can be reached from other machines, and whoever reaches it is let in",
            _IN_FRONT,
        )
    return ManagementAddress(str(address), port)


def _no_address(entry: ConfigEntry) -> ConfigurationError:
    return entry.error(f"{entry.text!r} is no address of this machine's own", _IN_FRONT)


@dataclass(frozen=True, slots=True)
class ManagementSettings:
    """`[management]`: the address of a bridge's metrics and page, and whether these have names."""

    listen: ManagementAddress | None = option(
        "management",
        _address,
        None,
        "where metrics and page are: `127.0.0.1:PORT`, `[::1]:PORT` or `unix:/PATH` (empty: none)",
    )
    socket_group: str | None = option(
        "management",
        values.optional_text,
        None,
        "group that may connect to a Unix socket, a name or number (empty: the daemon's)",
    )
    metrics_names: bool = option(
        "management",
        values.boolean,
        False,
        "whether metrics have names of certificates in their labels",
    )
