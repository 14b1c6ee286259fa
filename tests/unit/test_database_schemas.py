"""Databases of every layout that Sigul 0.x to 1.4 leaves: used as they are, reported, mended.

Each is built by the statements that those versions run, with the renames of SQLite 3.26 and later.
`as_1_2` reads one as a 1.2 server does: each table alone, no foreign keys.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sigul_stack.database import (
    AccessLimits,
    Database,
    KeyType,
    SchemaState,
    check_objects,
    ensure_usable,
    migrate,
    save,
    schema_report,
    sqlite_url,
)
from sigul_stack.errors import DatabaseError

NOW = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)

_REST = """
CREATE TABLE users (id INTEGER NOT NULL, name TEXT NOT NULL, sha512_password BINARY,
  admin BOOLEAN NOT NULL, PRIMARY KEY (id), UNIQUE (name), CHECK (admin IN (0, 1)));
CREATE TABLE key_accesses (id INTEGER NOT NULL, key_id INTEGER NOT NULL, user_id INTEGER NOT NULL,
  encrypted_passphrase BINARY NOT NULL, key_admin BOOLEAN NOT NULL, PRIMARY KEY (id),
  UNIQUE (key_id, user_id), FOREIGN KEY(key_id) REFERENCES keys (id),
  FOREIGN KEY(user_id) REFERENCES users (id), CHECK (key_admin IN (0, 1)));
INSERT INTO users VALUES (1, 'root', x'2436', 1), (2, 'alice', NULL, 0);
"""
V1_0 = (
    """
CREATE TABLE keys (id INTEGER NOT NULL, name TEXT NOT NULL, fingerprint TEXT NOT NULL,
  PRIMARY KEY (id), UNIQUE (name), UNIQUE (fingerprint));
"""
    + _REST
    + """
INSERT INTO keys VALUES (1, 'old', 'AB01'), (2, 'older', 'AB02');
INSERT INTO key_accesses VALUES (1, 1, 1, x'01', 1), (2, 2, 1, x'02', 1), (3, 1, 2, x'03', 0);
"""
)
_TO_V1_1 = """
CREATE TABLE keys_new (id INTEGER NOT NULL, name TEXT NOT NULL, keytype VARCHAR(5) NOT NULL,
  fingerprint TEXT NOT NULL, PRIMARY KEY (id), UNIQUE (name), UNIQUE (fingerprint),
  CONSTRAINT keytypeenum CHECK (keytype IN ('gnupg', 'ECC')));
INSERT INTO keys_new SELECT id, name, 'gnupg', fingerprint FROM keys;
ALTER TABLE keys RENAME TO keys_v10;
ALTER TABLE keys_new RENAME TO keys;
"""
_TO_V1_2 = """
CREATE TABLE keys_new (id INTEGER NOT NULL, name TEXT NOT NULL, keytype VARCHAR(5) NOT NULL,
  fingerprint TEXT NOT NULL, PRIMARY KEY (id), UNIQUE (name), UNIQUE (fingerprint),
  CONSTRAINT keytypeenum CHECK (keytype IN ('gnupg', 'ECC', 'RSA', 'PKCS11')));
INSERT INTO keys_new SELECT id, name, keytype, fingerprint FROM keys;
ALTER TABLE keys RENAME TO keys_v11;
ALTER TABLE keys_new RENAME TO keys;
"""


_CREATED = (
    """
CREATE TABLE keys (id INTEGER NOT NULL, name TEXT NOT NULL, keytype VARCHAR(5) NOT NULL,
  fingerprint TEXT NOT NULL, PRIMARY KEY (id), UNIQUE (name), UNIQUE (fingerprint));
"""
    + _REST
    + """
INSERT INTO keys VALUES (1, 'old', 'gnupg', 'AB01'), (2, 'older', 'gnupg', 'AB02');
INSERT INTO key_accesses VALUES (1, 1, 1, x'01', 1), (2, 2, 1, x'02', 1), (3, 1, 2, x'03', 0);
"""
)
_CHECKED = _CREATED.replace(
    "UNIQUE (fingerprint));",
    "UNIQUE (fingerprint), CONSTRAINT keytypeenum CHECK (keytype IN ('gnupg', 'ECC', 'RSA')));",
)
#: Each layout: the statements, how it is told, the table that the foreign key leads to, what is
#: left over, and the types that a CHECK refuses.
LAYOUTS = {
    "v1.0": (V1_0, "v1.0", "", (), ()),
    "v1.1 migrated": (
        V1_0 + _TO_V1_1, "v1.1", "keys_v10", ("keys_v10",), ("RSA", "PKCS11"),
    ),
    "1.2 created": (_CREATED, "as 1.2 makes it", "", (), ()),
    "1.2 created, with a CHECK": (_CHECKED, "as 1.2 makes it, with a CHECK", "", (), ("PKCS11",)),
    "1.3 created": (_CREATED.replace("VARCHAR(5)", "VARCHAR(6)"), "as 1.3 and 1.4", "", (), ()),
    "v1.2 migrated from 1.2": (
        _CREATED + _TO_V1_2, "v1.2", "keys_v11", ("keys_v11",), (),
    ),
    "v1.2 migrated twice": (
        V1_0 + _TO_V1_1 + _TO_V1_2, "v1.2", "keys_v10", ("keys_v10", "keys_v11"), (),
    ),
}  # fmt: skip


def build(path: Path, layout: str) -> str:
    """A database of that layout; its URL."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript(LAYOUTS[layout][0])
    return sqlite_url(path)


def as_1_2(path: Path) -> dict[str, set[tuple[str, ...]]]:
    """What a 1.2 server sees: keys with their types, and accesses."""
    with closing(sqlite3.connect(path)) as database:
        return {
            "keys": set(database.execute("SELECT name, keytype, fingerprint FROM keys")),
            "accesses": set(
                database.execute(
                    "SELECT users.name, keys.name, key_admin, encrypted_passphrase FROM"
                    " key_accesses, users, keys WHERE users.id = user_id AND keys.id = key_id"
                )
            ),
        }


def use(url: str) -> None:
    """Work as a server does: keys of each type, made after any migration, and accesses to them."""
    database = Database(url)
    for kind in KeyType:
        with database.write() as writer:
            writer.add_key(f"new-{kind}", kind, f"fingerprint-{kind}")
            writer.add_access("root", f"new-{kind}", b"sealed", True)
        with database.write() as writer:
            writer.add_access(
                "alice", f"new-{kind}", b"sealed", False, AccessLimits(frozenset({"sign-data"}))
            )
    with database.write() as writer:
        writer.modify_access("alice", "old", encrypted_passphrase=b"changed")
        writer.rename_key("older", "renamed")
        writer.delete_access("alice", "new-RSA")
        writer.delete_key("new-ECC")
    with database.read() as reader:
        found = reader.keys()
        assert [(key.name, key.keytype) for key in found] == [
            ("new-PKCS11", KeyType.PKCS11),
            ("new-RSA", KeyType.RSA),
            ("new-gnupg", KeyType.GNUPG),
            ("old", KeyType.GNUPG),
            ("renamed", KeyType.GNUPG),
        ]
        access = reader.access("alice", "new-gnupg")
        assert access is not None
        assert access.limits.operations == {"sign-data"}
        assert reader.key_users("new-RSA") == ["root"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_server_uses_it_as_it_is(tmp_path: Path, layout: str) -> None:
    url = build(tmp_path / "db", layout)
    ensure_usable(url, clock=lambda: NOW)
    use(url)
    check_objects(tmp_path / "db")
    save(url, tmp_path / "saved")
    assert as_1_2(tmp_path / "saved") == as_1_2(tmp_path / "db")
    left = LAYOUTS[layout][3]
    with closing(sqlite3.connect(tmp_path / "db")) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema")}
    assert set(left) <= tables


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_told_what_is_odd(tmp_path: Path, layout: str) -> None:
    _, told, target, left, refused = LAYOUTS[layout]
    url = build(tmp_path / "db", layout)
    before = (tmp_path / "db").read_bytes()
    report = schema_report(url)
    assert (tmp_path / "db").read_bytes() == before
    assert report.layout.startswith(told)
    text = "\n".join(finding.problem for finding in report.findings)
    assert len(report.findings) == bool(target) + bool(refused) + len(left)
    assert ("leads to" in text) == bool(target)
    if target:
        assert f"key_accesses.key_id leads to {target}," in text
    for table in left:
        assert f"the table {table} is left over" in text
    if refused:
        assert f"refuses the types {', '.join(refused)}" in text


@pytest.mark.parametrize(
    ("layout", "used"),
    # A server migrates one without types at its start; nothing is left to mend then.
    [
        (layout, used)
        for layout in LAYOUTS
        for used in (False, True)
        if not (used and layout == "v1.0")
    ],
)
def test_it_is_mended_with_a_copy_of_before(tmp_path: Path, layout: str, used: bool) -> None:
    path = tmp_path / "db"
    url = build(path, layout)
    if used:
        ensure_usable(url, clock=lambda: NOW.replace(year=2023))
        use(url)
    before = path.read_bytes()
    result = migrate(url, clock=lambda: NOW)
    assert result.backup == tmp_path / "db.backup-20240506T070809Z"
    assert result.after is SchemaState.CURRENT
    with closing(sqlite3.connect(result.backup)) as copy, closing(sqlite3.connect(path)) as now:
        with closing(sqlite3.connect(tmp_path / "was")) as was:
            was.deserialize(before)
            assert list(copy.iterdump()) == list(was.iterdump())
        # What a program sees that enforces everything, unlike 1.x.
        assert now.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        assert now.execute("PRAGMA foreign_key_check").fetchall() == []
        tables = {name for (name,) in now.execute("SELECT name FROM sqlite_schema")}
        triggers = now.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'")
        assert triggers.fetchone() == (2 if used else 0,)
    assert not tables & {"keys_v10", "keys_v11"}
    assert schema_report(url).findings == ()
    assert migrate(url, clock=lambda: NOW).backup is None
    if layout != "v1.0":
        assert as_1_2(path) == as_1_2(result.backup)
    if used:
        with Database(url).read() as reader:
            access = reader.access("alice", "new-gnupg")
            assert access is not None
            assert access.limits.operations == {"sign-data"}
    else:
        use(url)
    with closing(sqlite3.connect(path)) as now:
        # It goes on working for who enforces foreign keys, and still for 1.2.
        now.execute("PRAGMA foreign_keys = ON")
        now.execute("INSERT INTO keys VALUES (90, 'by-1.2', 'RSA', 'cd')")
        now.execute("INSERT INTO key_accesses VALUES (90, 90, 1, x'00', 1)")
        now.commit()
    with Database(url).read() as reader:
        assert reader.key_users("by-1.2") == ["root"]


def test_a_failure_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sigul_stack.database import oddities

    url = build(tmp_path / "db", "v1.2 migrated twice")
    before = as_1_2(tmp_path / "db"), schema_report(url)
    mend: Callable[..., None] = oddities.mend

    def fail(connection: object) -> None:
        mend(connection)
        raise DatabaseError("the disk is full", "free space")

    monkeypatch.setattr(oddities, "mend", fail)
    with pytest.raises(DatabaseError, match="nothing was changed"):
        migrate(url, clock=lambda: NOW)
    assert (as_1_2(tmp_path / "db"), schema_report(url)) == before
