"""Remains of the migration scripts of Sigul 1.1 and 1.3 in a database, and their mending.

No version is stored in a database of 1.x: the layout is told by columns and constraints. Those
scripts make a new table `keys`, copy the rows and rename the old table away, and three things stay:

* The foreign key of `key_accesses` goes with the rename (SQLite from 3.26 on, and PostgreSQL), so
  that it leads to the old table. Who enforces it can grant no access to a key made since.
* A CHECK on `keytype` that knows only the types of that time.
* The old table, with names and fingerprints of then.

A server works in spite of the first two on SQLite (`engine` says how); on PostgreSQL they bind
until they are mended. Mending changes no row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from sigul_stack.database import schema
from sigul_stack.database.records import KeyType

#: The old tables that the scripts leave.
LEFT_TABLES: Final = ("keys_v10", "keys_v11")
MIGRATE: Final = "sigul-stack database migrate mends it, with a backup"

_QUOTED: Final = re.compile(r"'([^']*)'")
_NEW: Final = "sigul_stack_new_"
_KEYTYPE_LENGTH: Final = max(len(kind) for kind in KeyType)


@dataclass(frozen=True, slots=True)
class SchemaFinding:
    """Something odd about a database: what it is, and what to do about it."""

    problem: str
    cure: str


@dataclass(frozen=True, slots=True)
class Oddities:
    """The things to be mended, of which there may be none.

    Foreign keys that lead elsewhere than they should (table, column, where to), types that
    `keytype` refuses, whether it is too short for the longest, and tables that were left over.
    """

    foreign_keys: tuple[tuple[str, str, str], ...] = ()
    refused_types: tuple[str, ...] = ()
    too_short: bool = False
    left_tables: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.foreign_keys or self.refused_types or self.too_short or self.left_tables)

    def findings(self) -> Iterator[SchemaFinding]:
        """Each of them, for people."""
        for table, column, target in self.foreign_keys:
            yield SchemaFinding(
                f"the foreign key of {table}.{column} leads to {target}, a table that a migration"
                " of Sigul renamed",
                MIGRATE,
            )
        if self.refused_types:
            yield SchemaFinding(
                f"the CHECK on keys.keytype refuses the types {', '.join(self.refused_types)}",
                MIGRATE,
            )
        if self.too_short:
            yield SchemaFinding(
                f"keys.keytype has room for less than {_KEYTYPE_LENGTH} characters, so for no"
                " PKCS11 key",
                MIGRATE,
            )
        for table in self.left_tables:
            yield SchemaFinding(
                f"the table {table} is left over from a migration of Sigul; it holds old names and"
                " fingerprints of keys",
                "sigul-stack database migrate removes it, with a backup",
            )


def layout(connection: sa.Connection) -> str:
    """The layout of `keys`, by the versions of Sigul that make it."""
    inspector = sa.inspect(connection)
    columns = {column["name"]: column for column in inspector.get_columns("keys")}
    if "keytype" not in columns:
        return "v1.0, as 0.x and 1.0 make it"
    allowed = _allowed_types(inspector)
    if allowed is not None:
        if KeyType.RSA not in allowed:
            return "v1.1, migrated from v1.0 by Sigul's script"
        if KeyType.PKCS11 in allowed:
            return "v1.2, migrated from v1.1 by the script of Sigul 1.3"
        return "as 1.2 makes it, with a CHECK on the types"
    if getattr(columns["keytype"]["type"], "length", None) == len(KeyType.PKCS11):
        return "as 1.3 and 1.4 make it"
    return "as 1.2 makes it"


def oddities(connection: sa.Connection) -> Oddities:
    """The things to mend; a database that is not of this layout has none."""
    inspector = sa.inspect(connection)
    found = set(inspector.get_table_names())
    if not schema.metadata.tables.keys() <= found:
        return Oddities()
    columns = {column["name"]: column["type"] for column in inspector.get_columns("keys")}
    allowed = _allowed_types(inspector)
    length = getattr(columns.get("keytype"), "length", None)
    return Oddities(
        foreign_keys=tuple(
            (schema.key_accesses.name, constraint["constrained_columns"][0], target)
            for constraint, target in _stray(inspector)
        ),
        refused_types=()
        if allowed is None
        else tuple(kind for kind in KeyType if kind not in allowed),
        # SQLite does not look at the length.
        too_short=connection.dialect.name != "sqlite"
        and length is not None
        and length < _KEYTYPE_LENGTH,
        left_tables=tuple(name for name in LEFT_TABLES if name in found),
    )


def _stray(inspector: sa.Inspector) -> Iterator[tuple[Any, str]]:
    """The foreign keys of accesses that lead to another table than they should, and which."""
    meant = {"key_id": "keys", "user_id": "users"}
    for constraint in inspector.get_foreign_keys(schema.key_accesses.name):
        target = constraint["referred_table"]
        if target != meant.get(constraint["constrained_columns"][0], target):
            yield constraint, target


def _type_checks(inspector: sa.Inspector) -> list[Any]:
    return [
        check
        for check in inspector.get_check_constraints("keys")
        if "keytype" in check["sqltext"].lower()
    ]


def _allowed_types(inspector: sa.Inspector) -> frozenset[str] | None:
    """The types that pass every CHECK on `keytype`; None where there is none."""
    allowed = None
    for check in _type_checks(inspector):
        words = frozenset(_QUOTED.findall(check["sqltext"]))
        allowed = words if allowed is None else allowed & words
    return allowed


def mend(connection: sa.Connection) -> None:
    """Mend what `oddities` finds. In a transaction of the purpose SCHEMA, which ends it whole."""
    found = oddities(connection)
    if connection.dialect.name == "sqlite":
        if found.refused_types:
            _rebuild(connection, schema.keys)
        if found.foreign_keys:
            _rebuild(connection, schema.key_accesses)
            if schema.has_limits(connection):
                schema.make_limits(connection)  # the triggers went with the table
    else:
        _mend_in_place(connection, found)
    for name in found.left_tables:
        connection.execute(sa.schema.DropTable(sa.Table(name, sa.MetaData())))


def _rebuild(connection: sa.Connection, table: sa.Table) -> None:
    """Put a table as this version makes it in place of `table`, with all its rows."""
    fresh = sa.MetaData()
    for other in schema.metadata.tables.values():
        if other is not table:
            other.to_metadata(fresh)
    new = table.to_metadata(fresh, name=f"{_NEW}{table.name}")
    new.create(connection)
    names = list(table.c.keys())
    connection.execute(sa.insert(new).from_select(names, sa.select(*table.c)))
    table.drop(connection)
    connection.exec_driver_sql(f'ALTER TABLE "{new.name}" RENAME TO "{table.name}"')


def _mend_in_place(connection: sa.Connection, found: Oddities) -> None:
    inspector = sa.inspect(connection)
    quote = connection.dialect.identifier_preparer.quote
    if found.refused_types:
        for check in _type_checks(inspector):
            connection.exec_driver_sql(f"ALTER TABLE keys DROP CONSTRAINT {quote(check['name'])}")
    if found.too_short:
        connection.exec_driver_sql(
            f"ALTER TABLE keys ALTER COLUMN keytype TYPE VARCHAR({_KEYTYPE_LENGTH})"
        )
    for constraint, _ in list(_stray(inspector)):
        (column,) = constraint["constrained_columns"]
        target = "keys" if column == "key_id" else "users"
        connection.exec_driver_sql(
            f"ALTER TABLE key_accesses DROP CONSTRAINT {quote(constraint['name'])},"
            f" ADD FOREIGN KEY ({quote(column)}) REFERENCES {target} (id)"
        )
