"""Checking what an SQLite file has beside rows, where somebody else may have written it.

A schema is a program to a degree: triggers and views run for whoever uses the tables, and
generated columns, checks, defaults and indexes may call functions. So it is compared with what a
server of Sigul or of this project makes, and all else that could run is refused. A table more, of
plain columns, does nothing and may be a site's own.

What a row of `sqlite_schema` says that it is does not count: SQLite goes by its SQL.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from sigul_stack.database import schema
from sigul_stack.errors import DatabaseError

#: `CHECK (admin IN (0, 1))`, as servers of 1.2 may have it.
_PLAIN_CHECK: Final = re.compile(
    r"CHECK \(\"?\w+\"? IN \((?:[0-9]+|'\w*')(?:, (?:[0-9]+|'\w*'))*\)\)", re.I
)
#: Words and signs in a table's SQL that can mean that something is worked out.
_RUNS: Final = re.compile(
    r"\b(?:CHECK|AS|GENERATED|VIRTUAL|TRIGGER|VIEW|SELECT)\b|DEFAULT\s*\(|--|/\*|;", re.I
)
_TABLE: Final = re.compile(r"CREATE TABLE\b.*", re.I | re.S)
_PLAIN_INDEX: Final = re.compile(
    r"CREATE (?:UNIQUE )?INDEX \"?\w+\"? ON \"?\w+\"? ?\(\s*\"?\w+\"?(?:,\s*\"?\w+\"?)*\s*\)", re.I
)
#: Indexes that SQLite makes of itself for UNIQUE and PRIMARY KEY have no SQL.
_OWN_INDEX: Final = "sqlite_autoindex_"


def check_objects(path: Path) -> None:
    """Check that nothing in the SQLite file `path` runs but what a server puts there.

    Changes nothing. Raises `DatabaseError`.
    """
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            # A server writes types that the CHECK of an old migration does not know (`oddities`).
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute("PRAGMA cell_size_check = ON")
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            rows = connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()
    except sqlite3.Error as error:
        raise DatabaseError(f"it cannot be read as a database ({error})", "use another") from error
    if found != "ok":
        raise DatabaseError(f"it is damaged ({found})", "use another")
    for kind, name, sql in rows:
        if not _is_plain(str(name), sql):
            raise DatabaseError(
                f"it has a {kind} {name!r}, which no signing server makes and which may run",
                "use another, and see who wrote this one",
            )


def _is_plain(name: str, sql: object) -> bool:
    if sql is None:
        return name.startswith(_OWN_INDEX)
    text = str(sql)
    if " ".join(text.split()) in schema.sqlite_triggers():
        return True
    if _PLAIN_INDEX.fullmatch(text):
        return True
    return _TABLE.fullmatch(text) is not None and not _RUNS.search(_PLAIN_CHECK.sub("", text))
