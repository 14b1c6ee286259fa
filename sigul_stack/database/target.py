"""The database that a URL means, and its name in messages.

Two kinds exist: an SQLite file, and PostgreSQL through psycopg. A label never holds a password.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from sigul_stack.errors import DatabaseError, quoted

#: What every message about a database that is not there ends with.
CREATE_HINT = "make it with: sigul_server_create_db -c FILE (FILE is the server's configuration)"

_SQLITE = "sqlite:///"
_FORMS = (
    "give the path of an SQLite file, or postgresql://USER@HOST/NAME "
    "(in a password, write '@', ':', '/' and '%' as %40, %3A, %2F and %25)"
)


@dataclass(frozen=True, slots=True)
class SQLiteFile:
    """The SQLite database in the file `path`, which is absolute."""

    path: Path
    label: str


@dataclass(frozen=True, slots=True)
class PostgreSQL:
    """The PostgreSQL database at `url`."""

    url: sa.URL
    label: str


Target = SQLiteFile | PostgreSQL


def sqlite_url(path: Path) -> str:
    """The URL of the SQLite database in the file `path`, whatever characters that has."""
    return _SQLITE + quote(os.fsencode(path.absolute()))


def parse(url: str) -> Target:
    """The database that `url` means.

    Raises `DatabaseError` where it is neither an SQLite file nor PostgreSQL. The message shows
    nothing of the URL, which may hold a password.
    """
    if url.startswith(_SQLITE):
        # Not left to SQLAlchemy, whose versions differ in what '?' and '%' in a path mean.
        name = os.fsdecode(unquote_to_bytes(url.removeprefix(_SQLITE)))
        if name not in ("", ":memory:"):
            path = Path(name).absolute()
            return SQLiteFile(path, str(path))
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):
        # Not chained: the cause may quote a part of the password.
        raise DatabaseError("The database's URL cannot be read", _FORMS) from None
    kind = parsed.get_backend_name()
    if kind == "postgresql":
        return PostgreSQL(parsed.set(drivername="postgresql+psycopg"), _label(parsed))
    raise DatabaseError(f"A database of the kind {quoted(kind)} cannot be used", _FORMS)


def _label(url: sa.URL) -> str:
    """`url` without its password and its options, which may hold one too."""
    host = url.host or url.query.get("host") or ""
    place = host if isinstance(host, str) else ",".join(host)
    port = f":{url.port}" if url.port else ""
    user = f"{url.username}@" if url.username else ""
    return f"postgresql://{user}{place}{port}/{url.database or ''}"
