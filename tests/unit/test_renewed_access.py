"""Accesses that Sigul 0.x wrote without integrity protection are written anew once they open."""

from __future__ import annotations

import logging
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sigul_stack.database import Database, KeyAccess, migrate
from sigul_stack.errors import DatabaseError
from sigul_stack.keystore.bindings import enabled_methods
from sigul_stack.keystore.envelope import is_outdated, open_envelope, seal
from sigul_stack.secret import Secret
from sigul_stack.server import rights
from sigul_stack.server.rights import KeyGranted, require_still
from tests.held_data import held

RIGHT = Secret("release-pw")
NOTHING_BOUND = enabled_methods(())


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """The database of a 0.207 server, migrated."""
    path = tmp_path / "server.sqlite"
    shutil.copyfile(held("site-0.207", "server.sqlite"), path)
    url = f"sqlite:///{path}"
    migrate(url, clock=lambda: datetime.now(UTC))
    return Database(url)


def access(database: Database, user: str = "root") -> KeyAccess:
    with database.read() as reader:
        found = reader.access(user, "release")
    assert found is not None
    return found


def opened(database: Database, passphrase: Secret = RIGHT) -> KeyGranted | str:
    return rights._by_passphrase(
        database, NOTHING_BOUND, "root", "release", passphrase, "sign-data", needs_key_admin=False
    )


def granted(database: Database) -> KeyGranted:
    found = opened(database)
    assert isinstance(found, KeyGranted)
    return found


def test_the_first_opening_writes_it_anew_and_no_other(database: Database) -> None:
    before = access(database)
    assert is_outdated(before.encrypted_passphrase)
    first = granted(database)
    after = access(database)
    assert not is_outdated(after.encrypted_passphrase)
    assert open_envelope(after.encrypted_passphrase, RIGHT) == first.passphrase
    assert first.access == after
    require_still(first, database)
    assert is_outdated(access(database, "alice").encrypted_passphrase)
    assert granted(database).access == after


@pytest.mark.parametrize("wrong", ["", "release", "alice-release-pw"])
def test_a_wrong_passphrase_changes_nothing(database: Database, wrong: str) -> None:
    before = access(database)
    assert isinstance(opened(database, Secret(wrong)), str)
    assert access(database) == before


def test_requests_at_once_all_go_on(database: Database) -> None:
    """Each has read the old access, and whoever comes first has replaced it."""
    old, found = access(database), []

    def renew() -> None:
        found.append(rights._renewed(database, NOTHING_BOUND, old, "root", RIGHT))

    threads = [threading.Thread(target=renew) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [access(database)] * 6


def test_a_passphrase_that_was_changed_meanwhile_stays_and_is_refused(database: Database) -> None:
    old = access(database)
    first = granted(database)
    with database.write() as writer:
        writer.modify_access(
            "root", "release", encrypted_passphrase=seal(first.passphrase, Secret("another"))
        )
    changed = access(database)
    late = rights._renewed(database, NOTHING_BOUND, old, "root", RIGHT)
    assert late == old
    assert access(database) == changed
    with database.read() as reader:
        late_right = KeyGranted(first.user, late, "sign-data", passphrase=first.passphrase)
        assert "another passphrase" in late_right.withdrawn(reader)


def test_an_access_that_was_taken_away_meanwhile_stays_away(database: Database) -> None:
    old = access(database)
    with database.write() as writer:
        writer.delete_access("root", "release")
    assert rights._renewed(database, NOTHING_BOUND, old, "root", RIGHT) == old
    with database.read() as reader:
        assert reader.access("root", "release") is None


def test_where_it_cannot_be_written_the_request_goes_on(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_self: Database) -> None:
        raise DatabaseError("the disk is full", "make room")

    before = access(database)
    monkeypatch.setattr(Database, "write", full)
    with caplog.at_level(logging.WARNING):
        assert granted(database).access == before
    assert "is left as Sigul 0.x wrote it, without integrity protection: the disk" in caplog.text
