"""A SQLite file whose writer was killed while it put its transaction in place: made whole again.

Layout: such a writer leaves NAME-journal, which has what to put back. SQLite does that by itself
when the file is next opened to be written; NSS opens its databases to be read, and then says
SEC_ERROR_BAD_DATABASE. A journal of a writer that still runs is left alone, by SQLite's locks.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

#: How long a writer may take that still runs.
_BUSY_SECONDS: Final = 10.0


def settle(path: Path) -> None:
    """Have SQLite undo what was cut off in `path`, if anything was.

    Gives up in silence where it may not, or what is there is no database: whoever opens it next
    says so.
    """
    if not journal_of(path).exists():
        return
    import sqlite3  # takes 5 ms, and there is no journal as a rule

    uri = f"{path.absolute().as_uri()}?mode=rw"
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(uri, timeout=_BUSY_SECONDS, uri=True)) as database,
    ):
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()


def journal_of(path: Path) -> Path:
    """The journal of the SQLite file `path`, which is there while somebody writes, or did."""
    return path.with_name(f"{path.name}-journal")
