"""Transactions on one database, the same on SQLite and PostgreSQL.

What holds on both:

* a reader sees one state of the database from its first query to its last;
* there is one writer at a time, and it sees everything that writers before it committed, so
  that what it checked still holds when it commits;
* a transaction ends whole or leaves nothing, whatever ends it;
* no wait is without a limit;
* nothing is kept open between transactions, so that a process may fork between them.

SQLite's journal mode stays as the site has it. Nothing here makes a file that is not there.
"""

from __future__ import annotations

import enum
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from sigul_stack.database import schema
from sigul_stack.database.failures import explain
from sigul_stack.database.target import PostgreSQL, SQLiteFile, Target
from sigul_stack.errors import DatabaseError

#: How long a transaction waits for others to end before it gives up, in seconds.
LOCK_WAIT_SECONDS: Final = 10.0
#: How long PostgreSQL may take to answer a connection, or one statement, in seconds.
CONNECT_SECONDS: Final = 10
STATEMENT_SECONDS: Final = 30
#: A PostgreSQL server that fell silent is given up after about this long, in seconds.
SILENCE_SECONDS: Final = 30

# Held while tables are made or changed, where there is no table yet to lock. Any number will do
# that stays the same: this one spells "sigul".
_SCHEMA_LOCK: Final = int.from_bytes(b"sigul", "big")


class Purpose(enum.Enum):
    """The purpose of a transaction; it decides which locks are taken when it begins."""

    READ = "read"
    WRITE = "write"
    SCHEMA = "schema"


class Engine:
    """Opens transactions on `target`; waits at most `lock_wait` seconds for other writers.

    Raises `DatabaseError` where the driver for PostgreSQL is not installed.
    """

    def __init__(self, target: Target, *, lock_wait: float = LOCK_WAIT_SECONDS) -> None:
        self.target = target
        self._lock_wait = lock_wait
        # Values in statements are password hashes and locked passphrases: not for logs.
        options: dict[str, Any] = {"poolclass": NullPool, "hide_parameters": True}
        if isinstance(target, SQLiteFile):
            self._open = partial(open_sqlite, target.path, lock_wait)
            self._engine = sa.create_engine("sqlite://", creator=lambda: self._open(), **options)
            return
        try:
            self._engine = sa.create_engine(
                target.url,
                connect_args=_postgresql_options(target.url),
                use_native_hstore=False,
                **options,
            )
        except ImportError as error:
            raise DatabaseError(
                f"{target.label}: the driver for PostgreSQL is not installed",
                "pip install 'sigul-stack[postgresql]'",
            ) from error

    @contextmanager
    def transaction(self, purpose: Purpose) -> Iterator[sa.Connection]:
        """A transaction, committed at the end of the block and rolled back on any exception.

        Raises `DatabaseError`, with what to do about it, for whatever the database reports.
        """
        try:
            with self._engine.connect() as connection:
                if isinstance(self.target, SQLiteFile) and purpose is Purpose.SCHEMA:
                    # It cannot be switched in a transaction; a table that is dropped to be rebuilt
                    # would take what refers to its rows along.
                    connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
                    connection.rollback()
                if isinstance(self.target, PostgreSQL) and purpose is Purpose.READ:
                    connection = connection.execution_options(
                        isolation_level="REPEATABLE READ", postgresql_readonly=True
                    )
                with connection.begin():
                    self._take_locks(connection, purpose)
                    yield connection
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise explain(self.target, error, self._lock_wait) from error

    def compile(self, ask: Callable[[sa.Connection], object]) -> None:
        """Have the statements of `ask` compiled, for this process and those that it forks.

        Compiling one takes longer than running it. Nothing of the target is touched: they are run
        on an empty database in memory, for which only SQLite is at hand; of PostgreSQL's each
        process compiles its own.
        """
        if not isinstance(self.target, SQLiteFile):
            return
        of_target = self._open
        self._open = partial(sqlite3.connect, ":memory:", isolation_level=None)
        try:
            with self._engine.connect() as connection:
                schema.metadata.create_all(connection)
                ask(connection)
        finally:
            self._open = of_target

    def close(self) -> None:
        """Let go of what the engine holds."""
        self._engine.dispose()

    def _take_locks(self, connection: sa.Connection, purpose: Purpose) -> None:
        if isinstance(self.target, SQLiteFile):
            # A plain BEGIN that writes later can fail with "database is locked" at once, for
            # two such transactions would wait for each other: a writer says so when it begins.
            connection.exec_driver_sql("BEGIN" if purpose is Purpose.READ else "BEGIN IMMEDIATE")
            return
        connection.exec_driver_sql(
            f"SET LOCAL lock_timeout = {max(1, round(self._lock_wait * 1000))};"
            f"SET LOCAL statement_timeout = {STATEMENT_SECONDS * 1000}"
        )
        if purpose is Purpose.WRITE:
            # Keeps out other writers, but no readers. At the default isolation level each
            # statement after it sees what was committed before the lock was given.
            tables = ", ".join(table.name for table in schema.metadata.sorted_tables)
            connection.exec_driver_sql(f"LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE")
        elif purpose is Purpose.SCHEMA:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")


def open_sqlite(path: Path, lock_wait: float) -> sqlite3.Connection:
    """Open the file, which must exist: plain `connect` would make an empty one."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw",
        uri=True,
        timeout=lock_wait,
        isolation_level=None,  # transactions begin where this module says so, not before an INSERT
    )
    # Sigul's own migrations leave a foreign key that leads to a table of then, and a CHECK that
    # knows the types of then (`oddities`): neither may keep a server from its work.
    targets = {row[2] for row in connection.execute("PRAGMA foreign_key_list(key_accesses)")}
    if targets <= schema.metadata.tables.keys():
        connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    # No schema may call a function that can do harm, whoever wrote the file (docs/backup.md).
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _postgresql_options(url: sa.URL) -> dict[str, Any]:
    """Limits on waiting for the network, where the URL sets none of its own."""
    limits = {
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": SILENCE_SECONDS * 1000,
        "keepalives_idle": SILENCE_SECONDS // 3,
        "keepalives_interval": SILENCE_SECONDS // 6,
        "keepalives_count": 4,
    }
    return {
        **{name: value for name, value in limits.items() if name not in url.query},
        # Connections live for one transaction: a prepared statement would never be used again.
        "prepare_threshold": None,
    }
