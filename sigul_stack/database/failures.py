"""Translation of the drivers' errors into `DatabaseError`, so that an operator knows what to do.

Every problem begins with the database's label, and has a cure. Messages quote what the driver says,
never a statement or its values: those are password hashes and locked passphrases.
"""

from __future__ import annotations

import os
import pwd
import re
import sqlite3
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from sigul_stack.database.target import CREATE_HINT, PostgreSQL, SQLiteFile, Target
from sigul_stack.errors import DatabaseError

_UNIQUE_SQLITE = frozenset({sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY})
_UNIQUE_POSTGRESQL = "23505"
#: PostgreSQL's code where a role may not do a thing.
INSUFFICIENT_PRIVILEGE = "42501"

_UNFORESEEN = "this was not foreseen; `doctor` checks the database, the log has the details"


class DatabaseMissing(DatabaseError):
    """There is no database at that place."""


def is_unique_violation(error: DBAPIError) -> bool:
    """Tell whether `error` says that such a row exists already."""
    cause = error.orig
    return (
        getattr(cause, "sqlite_errorcode", None) in _UNIQUE_SQLITE
        or getattr(cause, "sqlstate", None) == _UNIQUE_POSTGRESQL
    )


def explain(target: Target, error: Exception, lock_wait: float) -> DatabaseError:
    """The error to raise for `error`, met on `target`; `lock_wait` is in seconds."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(target, SQLiteFile):
        return _sqlite(target, cause, lock_wait)
    return _postgresql(target, cause, lock_wait)


def explain_os(label: str, error: OSError) -> DatabaseError:
    """The error to raise where making or copying the file of the database `label` failed."""
    where = f" ({error.filename})" if error.filename and str(error.filename) != label else ""
    return DatabaseError(
        f"{label}: {error.strerror or error}{where}",
        f"the directory must exist, have free space, and be writable for {_whoami()}",
    )


def one_line(error: object) -> str:
    """The text of `error` on one line."""
    return " ".join(str(error).split())


def _sqlite(target: SQLiteFile, cause: object, lock_wait: float) -> DatabaseError:
    label = target.label
    if _is_missing(target.path):
        return DatabaseMissing(f"{label}: there is no database", CREATE_HINT)
    code = getattr(cause, "sqlite_errorcode", None)
    said = one_line(cause)
    by_kind = {
        sqlite3.SQLITE_BUSY: (
            f"another process kept it locked for more than {lock_wait:g} s",
            f"find it with `fuser -v {label}`; once it is gone, requests work again",
        ),
        sqlite3.SQLITE_LOCKED: ("it is locked within this process", "this is a bug, report it"),
        sqlite3.SQLITE_READONLY: (
            said,
            f"the file and its directory must be writable for {_whoami()}, on a file system that "
            "is not mounted read-only",
        ),
        sqlite3.SQLITE_CANTOPEN: (
            said,
            f"the file must be readable and writable for {_whoami()}, and so must its directory",
        ),
        sqlite3.SQLITE_PERM: (said, f"the file must be readable and writable for {_whoami()}"),
        sqlite3.SQLITE_FULL: (
            "the disk is full",
            "free space on its file system; the change was not made, what was there before is "
            "unharmed",
        ),
        sqlite3.SQLITE_IOERR: (
            said,
            "the change was not made; check the disk, its free space and quotas, and the kernel's "
            "log",
        ),
        sqlite3.SQLITE_NOTADB: (
            "the file is not an SQLite database",
            "set database-path to the right file, or restore this one from a backup",
        ),
        sqlite3.SQLITE_CORRUPT: (
            said,
            f"restore it from a backup (`sqlite3 {label} 'PRAGMA integrity_check'` says what is "
            "damaged)",
        ),
    }
    # The low byte is the kind of failure, the rest of it which one exactly.
    kind = code & 0xFF if isinstance(code, int) else -1
    problem, cure = by_kind.get(kind, (said, _UNFORESEEN))
    return DatabaseError(f"{label}: {problem}", cure)


def _postgresql(target: PostgreSQL, cause: object, lock_wait: float) -> DatabaseError:
    state = getattr(cause, "sqlstate", None)
    said = one_line(getattr(getattr(cause, "diag", None), "message_primary", None) or cause)
    if state is None:
        # libpq gives no code for a connection that failed, only what the server said.
        if re.search(r'database ".*" does not exist', said):
            return DatabaseMissing(
                f"{target.label}: there is no such database",
                "make it with createdb, owned by the user in the URL, then its tables: "
                f"{CREATE_HINT}",
            )
        return DatabaseError(
            f"{target.label}: cannot connect: {said}",
            "check host, port, user and password in the URL, that PostgreSQL runs, and its "
            "pg_hba.conf",
        )
    busy = (
        "nothing was changed; the view pg_stat_activity shows what else the server is doing; "
        "once that has ended, requests work again"
    )
    by_state = {
        # lock_not_available: our lock_timeout
        "55P03": f"others kept it locked for more than {lock_wait:g} s: the view pg_stat_activity "
        "names them; once they are gone, requests work again",
        "57014": busy,  # query_canceled: our statement_timeout
        "40P01": busy,  # deadlock_detected
        # read_only_sql_transaction
        "25006": "connect to the primary server, not to a standby",
        INSUFFICIENT_PRIVILEGE: "the user in the URL must own the database or its tables",
    }
    cure = by_state.get(state, _UNFORESEEN)
    if state.startswith("53"):  # insufficient resources
        cure = "the PostgreSQL server ran out of space or connections: see its log"
    return DatabaseError(f"{target.label}: {said}", cure, state)


def _is_missing(path: Path) -> bool:
    """Tell whether there is no such file; False where that cannot be seen."""
    try:
        path.stat()
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return False


def _whoami() -> str:
    uid = os.geteuid()
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
