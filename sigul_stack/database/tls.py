"""Whether a connection to PostgreSQL proves that it leads to the right server.

libpq's own default, `sslmode=prefer`, takes any certificate, and none at all: who is between the
two machines reads and changes what the server stores.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from typing import Final

import sqlalchemy as sa

from .target import PostgreSQL, parse

#: The only mode in which the server's certificate has to be of a known CA and for its host name.
PROVEN: Final = "verify-full"

CURE: Final = (
    f"add sslmode={PROVEN}&sslrootcert=FILE behind a ? at the end of database-url, FILE being the"
    " database's CA"
)


def unproven_mode(url: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The `sslmode` of a connection to `url` that leaves the machine and proves nothing, else None.

    Raises `DatabaseError` for a URL of no kind that there is.
    """
    target = parse(url)
    if not isinstance(target, PostgreSQL):
        return None
    query = target.url.query
    # A service file may name any host and mode, but not change what the URL says.
    service = bool(_all(query, "service") or environment.get("PGSERVICE"))
    if not service and all(map(_is_local, _hosts(target.url, environment))):
        return None
    modes = _all(query, "sslmode")
    mode = modes[-1] if modes else environment.get("PGSSLMODE") or "prefer"
    if service and not modes:
        mode = "that of the service file"
    return None if mode == PROVEN else mode


def _all(query: Mapping[str, str | tuple[str, ...]], name: str) -> list[str]:
    """The values of a parameter, which may stand in a URL several times, or with commas."""
    value = query.get(name, ())
    values = [value] if isinstance(value, str) else list(value)
    return [item for value in values for item in value.split(",") if item]


def _hosts(url: sa.URL, environment: Mapping[str, str]) -> Iterator[str]:
    """Each host name, address and socket directory that may be dialled; none means a socket."""
    named = [*([url.host] if url.host else []), *_all(url.query, "host")]
    yield from named or _split(environment.get("PGHOST"))
    yield from _all(url.query, "hostaddr") or _split(environment.get("PGHOSTADDR"))


def _split(value: str | None) -> list[str]:
    return [item for item in (value or "").split(",") if item]


def _is_local(host: str) -> bool:
    """Whether `host`, which may have a port behind it, is a socket or this machine itself."""
    if host.startswith(("/", "@")):
        return True
    if host.lower() == "localhost" or host.lower().startswith("localhost:"):
        return True
    for candidate in (host, host.rpartition(":")[0].strip("[]")):
        try:
            return ipaddress.ip_address(candidate).is_loopback
        except ValueError:
            continue
    return False
