"""Making the database, telling its layout, and bringing an old one up to date.

Whatever is changed is changed in one transaction: a database has one layout or the other, never
something between. Alembic is imported only where tables are made or changed, for it takes time.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from sigul_stack.database import copies, oddities, schema
from sigul_stack.database.engine import Engine, Purpose
from sigul_stack.database.failures import DatabaseMissing, explain_os, one_line
from sigul_stack.database.target import CREATE_HINT, PostgreSQL, SQLiteFile, Target, parse
from sigul_stack.errors import DatabaseError
from sigul_stack.system.files import opened

if TYPE_CHECKING:
    from alembic.config import Config


class SchemaState(enum.Enum):
    """The state of the database at a URL, as far as this version is concerned."""

    MISSING = "no database"
    EMPTY = "a database without tables"
    LEGACY_NO_KEYTYPE = "made by a server before 1.1"
    LEGACY = "made by a 1.2 server"
    CURRENT = "current"
    NEWER = "made by a newer version"


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """The result of `migrate`: nothing was done where there was nothing to do.

    `backup` is a copy from before; None on PostgreSQL, whose own tools make copies.
    """

    backup: Path | None
    before: SchemaState
    after: SchemaState


def schema_state(url: str) -> SchemaState:
    """The state of the database at `url`; looks only, and changes nothing.

    Raises `DatabaseError` where it cannot be read, or is something else's database.
    """
    target = parse(url)
    try:
        with Engine(target).transaction(Purpose.READ) as connection:
            return _state(connection, target.label)
    except DatabaseMissing:
        return SchemaState.MISSING


@dataclass(frozen=True, slots=True)
class SchemaReport:
    """The state of a database, the layout that it has, and what is odd about it."""

    state: SchemaState
    layout: str
    findings: tuple[oddities.SchemaFinding, ...]


def schema_report(url: str) -> SchemaReport:
    """All there is to tell of the layout of the database at `url`; changes nothing.

    `layout` is empty where there is none. Raises `DatabaseError` as `schema_state` does.
    """
    target = parse(url)
    try:
        with Engine(target).transaction(Purpose.READ) as connection:
            state = _state(connection, target.label)
            if state is SchemaState.EMPTY:
                return SchemaReport(state, "", ())
            found = oddities.oddities(connection)
            return SchemaReport(state, oddities.layout(connection), tuple(found.findings()))
    except DatabaseMissing:
        return SchemaReport(SchemaState.MISSING, "", ())


def create(url: str) -> None:
    """Make the tables at `url`: all of them, or nothing is left behind.

    An SQLite file is made with mode 0600 in a directory that exists; a PostgreSQL database must
    have been made before. Raises `DatabaseError` where that fails or something is there already.
    """
    target = parse(url)
    try:
        # A file that is there is perhaps an empty one, put there for its owner's sake.
        if isinstance(target, PostgreSQL) or target.path.exists():
            _make_tables(target)
        else:
            with copies.workshop(target.path) as directory:
                draft = copies.empty_file(directory / target.path.name)
                _make_tables(replace(target, path=draft))
                copies.publish_new(draft, target.path)
    except FileExistsError:
        raise _refusal(target.label) from None
    except OSError as error:
        raise explain_os(target.label, error) from error


def migrate(url: str, *, clock: Callable[[], datetime]) -> MigrationResult:
    """Bring the database at `url` to the current layout, and mend what migrations of Sigul left in
    it; done twice, it does nothing the second time.

    Before an SQLite file is changed, it is copied beside itself, named after the time that
    `clock` gives. Raises `DatabaseError` where there is nothing to migrate or it fails; then
    nothing was changed.
    """
    target, state = parse(url), schema_state(url)
    _check_migratable(target.label, state)
    if state is SchemaState.CURRENT and not schema_report(url).findings:
        return MigrationResult(None, state, state)
    copy: Path | None = None
    try:
        with Engine(target).transaction(Purpose.SCHEMA) as connection:
            # Looked at again, now that nobody else can change it.
            before = _state(connection, target.label)
            _check_migratable(target.label, before)
            if before is SchemaState.CURRENT and not oddities.oddities(connection):
                return MigrationResult(None, before, before)
            if isinstance(target, SQLiteFile):
                copy = copies.back_up(target.path, clock())
            if before is not SchemaState.CURRENT:
                _run_steps(connection, before)
            oddities.mend(connection)
            after = _state(connection, target.label)
    except OSError as error:
        raise explain_os(target.label, error) from error
    except DatabaseError as error:
        if copy is None:
            raise
        raise DatabaseError(
            error.problem, f"{error.cure}; nothing was changed, and {copy} is a copy of it"
        ) from error
    return MigrationResult(copy, before, after)


def ensure_usable(url: str, *, clock: Callable[[], datetime]) -> MigrationResult:
    """Make sure that a server can work with the database at `url`.

    A database that a 1.2 server made is used as it is. Only one from before 1.1 is migrated, for
    it lacks a column; see `migrate`. Raises `DatabaseError`, with what to do, for any other.
    """
    state = schema_state(url)
    if state is SchemaState.LEGACY_NO_KEYTYPE:
        return migrate(url, clock=clock)
    _check_migratable(parse(url).label, state)
    return MigrationResult(None, state, state)


def _check_migratable(label: str, state: SchemaState) -> None:
    if state is SchemaState.MISSING:
        raise DatabaseMissing(f"{label}: there is no database", CREATE_HINT)
    if state is SchemaState.EMPTY:
        raise DatabaseError(f"{label}: the database has no tables", CREATE_HINT)
    if state is SchemaState.NEWER:
        raise DatabaseError(
            f"{label}: a newer version of sigul-stack has changed this database",
            "install that version, or restore the backup that it made beside the database",
        )


def _refusal(label: str) -> DatabaseError:
    return DatabaseError(
        f"{label}: there is a database already",
        "to use it, start the server; to begin afresh, move it away first",
    )


def _state(connection: sa.Connection, label: str) -> SchemaState:
    """The layout that `connection` sees."""
    inspector = sa.inspect(connection)
    found = set(inspector.get_table_names())
    if not found:
        return SchemaState.EMPTY
    version = sa.select(sa.column("version_num", sa.Text)).select_from(
        sa.table(schema.VERSION_TABLE)
    )
    revision = connection.scalar(version) if schema.VERSION_TABLE in found else None
    if revision is not None and revision not in schema.KNOWN:
        return SchemaState.NEWER
    missing: set[str] = schema.metadata.tables.keys() - found
    for table in schema.metadata.tables.values():
        if table.name in found:
            there = {column["name"] for column in inspector.get_columns(table.name)}
            missing |= {f"{table.name}.{name}" for name in set(table.c.keys()) - there}
    if missing - {"keys.keytype"}:
        raise DatabaseError(
            f"{label}: not a Sigul server's database, or a damaged one: it lacks "
            f"{', '.join(sorted(missing))}",
            "set database-path to the right one, or restore this one from a backup",
        )
    if missing:
        return SchemaState.LEGACY_NO_KEYTYPE
    return SchemaState.CURRENT if revision == schema.HEAD else SchemaState.LEGACY


def _make_tables(target: Target) -> None:
    from alembic import command

    with Engine(target).transaction(Purpose.SCHEMA) as connection:
        if sa.inspect(connection).get_table_names():
            raise _refusal(target.label)
        if isinstance(target, SQLiteFile):
            with opened(target.path) as descriptor:
                os.fchmod(descriptor, 0o600)
        schema.metadata.create_all(connection)
        command.stamp(_alembic(connection), schema.HEAD)


def _run_steps(connection: sa.Connection, before: SchemaState) -> None:
    """Run every step from the layout `before` on; raises `DatabaseError` where one cannot."""
    from alembic import command
    from alembic.util import CommandError

    old = before is SchemaState.LEGACY_NO_KEYTYPE
    try:
        command.stamp(_alembic(connection), schema.BEFORE_KEYTYPE if old else schema.LAYOUT_1_2)
        command.upgrade(_alembic(connection), schema.HEAD)
    except CommandError as error:
        raise DatabaseError(f"The migration failed: {one_line(error)}", "report this") from error


def _alembic(connection: sa.Connection) -> Config:
    """Alembic's settings, for work on `connection`; its scripts are those of this package."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "sigul_stack.database:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
