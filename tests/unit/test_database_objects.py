"""What servers make is taken for what servers make, in every layout that they have."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sigul_stack.database import check_objects, create, migrate, sqlite_url
from sigul_stack.database import schema as schemas
from sigul_stack.database.engine import Engine, Purpose
from sigul_stack.database.target import parse
from sigul_stack.errors import DatabaseError
from tests.held_data import held

NOW = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


def changed(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()
    return path


def before_keytype(path: Path) -> Path:
    """The layout of servers before 1.1, with the names that their constraints may have."""
    return changed(
        path,
        "CREATE TABLE users (id INTEGER NOT NULL, name TEXT NOT NULL, sha512_password BLOB,"
        " admin BOOLEAN NOT NULL, PRIMARY KEY (id), UNIQUE (name), CHECK (admin IN (0, 1)))",
        "CREATE TABLE keys (id INTEGER NOT NULL, name TEXT NOT NULL, fingerprint TEXT NOT NULL,"
        " PRIMARY KEY (id), UNIQUE (name), UNIQUE (fingerprint))",
        "CREATE TABLE key_accesses (id INTEGER NOT NULL, key_id INTEGER NOT NULL,"
        " user_id INTEGER NOT NULL, encrypted_passphrase BLOB NOT NULL, key_admin BOOLEAN NOT NULL,"
        " PRIMARY KEY (id), UNIQUE (key_id, user_id), FOREIGN KEY(key_id) REFERENCES keys (id),"
        " FOREIGN KEY(user_id) REFERENCES users (id),"
        " CONSTRAINT ck_admin CHECK (key_admin IN (0, 1)))",
    )


def test_a_new_database_and_one_with_limits(tmp_path: Path) -> None:
    path = tmp_path / "db"
    create(sqlite_url(path))
    check_objects(path)
    with Engine(parse(sqlite_url(path))).transaction(Purpose.SCHEMA) as connection:
        schemas.make_limits(connection)
    with closing(sqlite3.connect(path)) as database:
        triggers = database.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
        assert len(triggers.fetchall()) == 2
    check_objects(path)


def test_databases_of_older_servers_before_and_after_they_are_migrated(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.write_bytes((held("legacy-site") / "server.sqlite").read_bytes())
    for path in (site, before_keytype(tmp_path / "old")):
        check_objects(path)
        migrate(sqlite_url(path), clock=lambda: NOW)
        check_objects(path)


def test_what_sqlite_adds_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "db"
    create(sqlite_url(path))
    changed(path, "CREATE TABLE site (id INTEGER PRIMARY KEY AUTOINCREMENT)", "ANALYZE")
    check_objects(path)


@pytest.mark.parametrize("content", [b"no database" * 100, b"SQLite format 3\0" + bytes(4096)])
def test_what_is_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "db"
    path.write_bytes(content)
    with pytest.raises(DatabaseError, match=r"cannot be read as a database|is damaged"):
        check_objects(path)


@pytest.mark.parametrize(
    "table",
    [
        "a TEXT CHECK (a IN (0, 1) OR randomblob(9))", "a TEXT CHECK/**/(random())",
        "a TEXT, b TEXT GENERATED ALWAYS AS (hex(a)) VIRTUAL", "a TEXT DEFAULT(hex(1))",
        "a TEXT DEFAULT -- x\n (hex(1))", "a TEXT check (a in ((SELECT 1)))",
    ],
)  # fmt: skip
def test_a_table_that_works_something_out(tmp_path: Path, table: str) -> None:
    path = tmp_path / "db"
    create(sqlite_url(path))
    with closing(sqlite3.connect(path)) as database:
        # SQLite itself refuses some of them when they are made; in a file they may stand.
        database.execute("PRAGMA writable_schema = ON")
        database.execute("CREATE TABLE more (a)")
        database.execute(
            "UPDATE sqlite_schema SET sql = ? WHERE name = 'more'",
            (f"CREATE TABLE more ({table})",),
        )
        database.commit()
    with pytest.raises(DatabaseError, match=r"which may run|cannot be read as a database"):
        check_objects(path)
