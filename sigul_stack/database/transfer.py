"""A whole database as one SQLite file, for backups, and back into a database.

The file holds one state of the database, whoever works on it meanwhile. From SQLite it is a copy,
page by page, whatever its layout; from PostgreSQL it has the rows, in the current layout, those of
limits of accesses with them. So a
backup does not depend on which of the two a site uses.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import sqlalchemy as sa

from sigul_stack.database import copies, maintenance, schema
from sigul_stack.database.engine import LOCK_WAIT_SECONDS, Engine, Purpose
from sigul_stack.database.failures import explain, explain_os
from sigul_stack.database.target import PostgreSQL, SQLiteFile, Target, parse, sqlite_url
from sigul_stack.errors import DatabaseError


def save(url: str, path: Path) -> None:
    """Write the database at `url` to the new SQLite file `path`, for its owner alone.

    Raises `DatabaseError` where it cannot be read or its copy is not sound.
    """
    target = parse(url)
    if isinstance(target, PostgreSQL):
        maintenance.create(sqlite_url(path))
        _copy_rows(target, parse(sqlite_url(path)))
        return
    try:
        # A database that is not there is told as such, with how to make one.
        with Engine(target).transaction(Purpose.READ):
            pass
        copies.copy_file(target.path.resolve(), copies.empty_file(path))
    except OSError as error:
        raise explain_os(target.label, error) from error
    except sqlite3.Error as error:
        raise explain(target, error, LOCK_WAIT_SECONDS) from error


def load(path: Path, url: str) -> None:
    """Fill the PostgreSQL database at `url`, which must be empty, from the SQLite file `path`.

    All of it or nothing. Raises `DatabaseError`. (An SQLite database is put in place as a file.)
    """
    target = parse(url)
    if isinstance(target, SQLiteFile):
        raise DatabaseError(
            f"{target.label}: an SQLite database is not loaded", "move the file there"
        )
    source = parse(sqlite_url(path))
    if maintenance.schema_state(url) is maintenance.SchemaState.EMPTY:
        maintenance.create(url)
    _copy_rows(source, target)


def _copy_rows(source: Target, target: Target) -> None:
    """Copy all rows; tables come in an order in which none refers to a later one."""
    with (
        Engine(source).transaction(Purpose.READ) as reader,
        Engine(target).transaction(Purpose.WRITE) as writer,
    ):
        tables = list(schema.metadata.sorted_tables)
        if schema.has_limits(reader):
            schema.make_limits(writer)
            tables.append(schema.access_limits)
        for table in tables:
            key = next(iter(table.primary_key))
            if writer.execute(sa.select(key).limit(1)).first() is not None:
                raise DatabaseError(
                    f"{target.label}: there are {table.name} in this database", "name an empty one"
                )
            rows = [dict(row._mapping) for row in reader.execute(sa.select(table))]
            if not rows:
                continue
            writer.execute(sa.insert(table), rows)
            if isinstance(target, PostgreSQL) and table is not schema.access_limits:
                # The numbers came with the rows; the next one is counted from there.
                writer.execute(
                    sa.text("SELECT setval(pg_get_serial_sequence(:table, 'id'), :last)"),
                    {"table": table.name, "last": max(row["id"] for row in rows)},
                )
