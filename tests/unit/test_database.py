"""The server's database on SQLite; `Behaviour` holds on PostgreSQL too, and is run there as well.

Real files, and real processes where several are at it: nothing stands in for SQLite here.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Barrier
from operator import attrgetter
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.database import (
    UNLIMITED,
    AccessLimits,
    Database,
    Key,
    KeyAccess,
    KeyType,
    MigrationResult,
    SchemaState,
    User,
    create,
    ensure_usable,
    maintenance,
    migrate,
    save,
    schema,
    schema_state,
    sqlite_url,
)
from sigul_stack.database.engine import Engine, Purpose
from sigul_stack.database.target import parse
from sigul_stack.errors import DatabaseError, RequestRefused, Status
from tests.held_data import held

NOW = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
PROCESSES = 8
TURNS = 10
# Longer than any of the tests needs; only a fault waits that long.
PROCESS_SECONDS = 60
KEY_NAME = attrgetter("name")
HASH = b"$6$salt$not-for-any-log"


def clock() -> datetime:
    # 07:08:09 UTC, told in another time zone.
    return NOW.astimezone(timezone(timedelta(hours=5)))


# -- other processes ------------------------------------------------------------------------------


def in_processes(
    *calls: tuple[Callable[..., object], object], unprivileged: bool = False
) -> list[object]:
    """The results of `function(argument)` for each call, run at once in processes of their own.

    With `unprivileged`, each gives up root's rights first, if it has them.
    """
    # Forked from a process that has imported this module and has never opened a database.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    barrier = context.Barrier(len(calls))
    running: list[tuple[ForkServerProcess, Connection]] = []
    for function, argument in calls:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_child, args=(theirs, barrier, unprivileged, function, argument)
        )
        process.start()
        theirs.close()
        running.append((process, ours))
    outcomes: list[tuple[bool, object]] = []
    try:
        for _, ours in running:
            assert wait([ours], PROCESS_SECONDS), "a process did not end"
            outcomes.append(ours.recv())
    finally:
        for process, ours in running:
            if process.is_alive() and len(outcomes) < len(running):
                process.kill()
            process.join(PROCESS_SECONDS)
            process.close()
            ours.close()
    for worked, outcome in outcomes:
        assert worked, outcome
    return [outcome for _, outcome in outcomes]


def _child(
    result: Connection,
    barrier: Barrier,
    unprivileged: bool,
    function: Callable[[object], object],
    argument: object,
) -> None:
    try:
        if unprivileged and os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        barrier.wait(PROCESS_SECONDS)
        result.send((True, function(argument)))
    except Exception:
        result.send((False, traceback.format_exc()))
    finally:
        result.close()


#: What the last administrator's end is refused with; a message says the rest.
LAST_ADMINISTRATOR = Status.UNKNOWN_ERROR


def refusal(function: Callable[..., None], *arguments: object) -> Status | None:
    """The status that `function` is refused with."""
    try:
        function(*arguments)
    except RequestRefused as error:
        return Status(error.status)
    return None


def failure(function: Callable[..., object], *arguments: object) -> str:
    """The message of the `DatabaseError` that `function` raises, or what it did instead."""
    try:
        return f"no failure: {function(*arguments)!r}"
    except DatabaseError as error:
        return str(error)


def write_many(job: tuple[str, int]) -> int:
    """What a busy worker does: adds ten users, each with an access, and reads in between."""
    url, number = job
    for turn in range(TURNS):
        database = Database(url)
        name = f"user {number}.{turn}"
        with database.write() as writer:
            writer.add_user(name, HASH, False)
            writer.add_access(name, "release", b"locked", False)
        with database.read() as reader:
            assert reader.user(name) == User(name, HASH, False)
        with database.write() as writer:
            writer.modify_access(name, "release", encrypted_passphrase=b"locked again")
        database.close()
    return number


def add_same_user(url: str) -> Status | None:
    def add() -> None:
        with Database(url).write() as writer:
            writer.add_user("one of many", None, False)

    return refusal(add)


def revoke(job: tuple[str, str]) -> Status | None:
    url, user = job

    def delete() -> None:
        with Database(url).write() as writer:
            writer.delete_access(user, "release")

    return refusal(delete)


def demote(job: tuple[str, str]) -> Status | None:
    url, user = job

    def modify() -> None:
        with Database(url).write() as writer:
            writer.modify_user(user, admin=False)

    return refusal(modify)


def grant(job: tuple[str, str]) -> Status | None:
    url, user = job

    def add() -> None:
        with Database(url).write() as writer:
            writer.add_access(user, "release", b"locked", False)

    return refusal(add)


def delete_user(job: tuple[str, str]) -> Status | None:
    url, user = job

    def delete() -> None:
        with Database(url).write() as writer:
            writer.delete_user(user)

    return refusal(delete)


def try_create(url: str) -> str:
    return failure(create, url)


def try_migrate(url: str) -> MigrationResult:
    return migrate(url, clock=clock)


# -- what holds on both engines -------------------------------------------------------------------


def has_limits(url: str) -> bool:
    """Whether the table of limits is there."""
    with Engine(parse(url)).transaction(Purpose.READ) as connection:
        return schema.has_limits(connection)


class Behaviour:
    """What holds on every engine; a subclass has a fixture `url` of a new database."""

    @pytest.fixture
    def database(self, url: str) -> Iterator[Database]:
        database = Database(url)
        yield database
        database.close()

    @pytest.fixture
    def filled(self, database: Database) -> Database:
        """Two users, one key that both may use, and one that only the first may."""
        with database.write() as writer:
            writer.add_user("root", HASH, True)
            writer.add_user("alice", None, False)
            writer.add_key("release", KeyType.GNUPG, "ABCD")
            writer.add_key("ima", KeyType.ECC, "abcd")
            writer.add_access("root", "release", b"\x8c\0\xff", True)
            writer.add_access("alice", "release", b"'", False)
            writer.add_access("root", "ima", b"", False)
        return database

    def test_made_whole_and_current(self, url: str) -> None:
        assert schema_state(url) is SchemaState.CURRENT
        assert ensure_usable(url, clock=clock) == MigrationResult(
            None, SchemaState.CURRENT, SchemaState.CURRENT
        )

    def test_nothing_in_a_new_one(self, database: Database) -> None:
        with database.read() as reader:
            assert reader.users() == []
            assert reader.keys() == []
            assert reader.user("root") is None
            assert reader.key("release") is None
            assert reader.access("root", "release") is None
            assert reader.key_users("release") == []
            assert reader.count_accesses("root") == 0

    def test_what_was_stored_is_read(self, filled: Database) -> None:
        release = Key("release", KeyType.GNUPG, "ABCD")
        ima = Key("ima", KeyType.ECC, "abcd")
        with filled.read() as reader:
            assert reader.users() == [User("alice", None, False), User("root", HASH, True)]
            assert reader.user("root") == User("root", HASH, True)
            assert reader.keys() == [ima, release]
            assert reader.key("ima") == ima
            assert reader.access("root", "release") == KeyAccess(
                "root", release, b"\x8c\0\xff", True
            )
            assert reader.access("alice", "release") == KeyAccess("alice", release, b"'", False)
            assert reader.access("root", "ima") == KeyAccess("root", ima, b"", False)
            assert reader.access("alice", "ima") is None
            assert reader.key_users("release") == ["alice", "root"]
            assert reader.key_users("ima") == ["root"]
            assert reader.count_accesses("root") == 2
            assert reader.count_accesses("alice") == 1

    def test_names_are_any_safe_text_and_sorted_byte_for_byte(self, database: Database) -> None:
        names = [
            *(chr(code) for code in range(0x20, 0x80)),
            "root",
            "Root",
            " root",
            "root ",
            "ro ot",
            "_x",
            "%(name)s",
            ":name",
            "a%",
            "'; DROP TABLE users; --",
            '"quoted"',
            "back\\slash",
            "n" * 255,
        ]
        with database.write() as writer:
            for number, name in enumerate(reversed(names)):
                writer.add_user(name, None, False)
                writer.add_key(name, KeyType.RSA, str(number))
                writer.add_access(name, name, name.encode(), True)
            for name in names[:-1]:
                writer.add_access(name, names[-1], b"", True)
        with database.read() as reader:
            assert [user.name for user in reader.users()] == sorted(names)
            assert list(map(KEY_NAME, reader.keys())) == sorted(names)
            assert reader.key_users(names[-1]) == sorted(names)
            for name in names:
                access = reader.access(name, name)
                assert access is not None
                assert access.encrypted_passphrase == name.encode()

    def test_users_are_modified_only_where_asked(self, filled: Database) -> None:
        with filled.write() as writer:
            writer.modify_user("alice", password_hash=HASH, admin=True)
            writer.modify_user("root")
            assert writer.user("root") == User("root", HASH, True)
            writer.modify_user("root", admin=False)
            assert writer.user("root") == User("root", HASH, False)
            writer.modify_user("root", password_hash=b"new")
            assert writer.user("root") == User("root", b"new", False)
            writer.modify_user("root", new_name="chief", admin=True)
            assert writer.user("chief") == User("chief", b"new", True)
            writer.modify_user("chief", new_name="chief")
        with filled.read() as reader:
            assert [user.name for user in reader.users()] == ["alice", "chief"]
            assert reader.key_users("release") == ["alice", "chief"]

    def test_limits_of_an_access(self, filled: Database, url: str) -> None:
        def found(user: str = "alice") -> AccessLimits:
            with filled.read() as reader:
                access = reader.access(user, "release")
            assert access is not None
            return access.limits

        assert found() == UNLIMITED
        # To end a limit that nobody has takes no table.
        with filled.write() as writer:
            writer.modify_access("alice", "release", limits=UNLIMITED)
        assert not has_limits(url)
        with filled.read() as reader:
            assert reader.count_limits() == (0, 0)
        limits = AccessLimits(frozenset({"sign-rpm", "decrypt"}), ("b?[x]", "a*"))
        with filled.write() as writer:
            writer.modify_access("alice", "release", limits=limits)
        assert has_limits(url)
        assert schema_state(url) is SchemaState.CURRENT
        assert found() == AccessLimits(limits.operations, ("a*", "b?[x]"))
        assert found("root") == UNLIMITED
        with filled.read() as reader:
            assert reader.count_limits() == (1, 0)
        # What is not named stays; another passphrase does not matter.
        with filled.write() as writer:
            writer.modify_access("alice", "release", encrypted_passphrase=b"new", key_admin=True)
        assert found().operations == limits.operations
        only = AccessLimits(frozenset({"sign-text"}))
        with filled.write() as writer:
            writer.modify_access("alice", "release", limits=only)
        assert found() == only
        # A new access is not limited as the one before it was.
        with filled.write() as writer:
            writer.delete_access("alice", "release")
            writer.add_access("alice", "release", b"", False)
        assert found() == UNLIMITED
        with filled.write() as writer:
            writer.delete_access("alice", "release")
            writer.add_access("alice", "release", b"", False, only)
        assert found() == only
        with filled.write() as writer:
            writer.modify_access("alice", "release", limits=UNLIMITED)
        assert found() == UNLIMITED

    def test_limits_go_with_their_key(self, filled: Database) -> None:
        only = AccessLimits(frozenset({"sign-text"}))
        with filled.write() as writer:
            writer.add_access("alice", "ima", b"", False, only)
            writer.delete_key("ima")
            writer.add_key("ima", KeyType.ECC, "efef")
            writer.add_access("alice", "ima", b"", False)
        with filled.read() as reader:
            access = reader.access("alice", "ima")
        assert access is not None
        assert access.limits == UNLIMITED

    def test_limits_that_are_not_committed_leave_no_table(self, filled: Database, url: str) -> None:
        only = AccessLimits(frozenset({"sign-text"}))
        with pytest.raises(RequestRefused), filled.write() as writer:
            writer.modify_access("alice", "release", limits=only)
            writer.delete_key("none")
        assert not has_limits(url)

    def test_keys_and_accesses_are_modified(self, filled: Database) -> None:
        with filled.write() as writer:
            writer.rename_key("ima", "IMA")
            writer.modify_access("root", "IMA", key_admin=True)
            writer.modify_access("alice", "release", encrypted_passphrase=b"new")
            writer.modify_access("alice", "release")
        with filled.read() as reader:
            assert reader.key("ima") is None
            assert reader.access("root", "IMA") == KeyAccess(
                "root", Key("IMA", KeyType.ECC, "abcd"), b"", True
            )
            access = reader.access("alice", "release")
            assert access is not None
            assert (access.encrypted_passphrase, access.key_admin) == (b"new", False)

    def test_what_exists_is_refused_and_the_transaction_goes_on(self, filled: Database) -> None:
        with filled.write() as writer:
            for status in (
                refusal(writer.add_user, "root", None, False),
                refusal(lambda: writer.modify_user("alice", new_name="root", admin=True)),
                refusal(writer.add_key, "ima", KeyType.RSA, "other"),
                refusal(writer.add_key, "other", KeyType.RSA, "abcd"),
                refusal(writer.rename_key, "ima", "release"),
                refusal(writer.add_access, "root", "ima", b"", False),
            ):
                assert status is Status.ALREADY_EXISTS
            writer.add_user("bob", None, False)
        with filled.read() as reader:
            assert [user.name for user in reader.users()] == ["alice", "bob", "root"]
            assert reader.user("alice") == User("alice", None, False)
            assert list(map(KEY_NAME, reader.keys())) == ["ima", "release"]

    def test_refusal_shows_no_password_hash_in_its_traceback(self, filled: Database) -> None:
        with pytest.raises(RequestRefused) as caught, filled.write() as writer:
            writer.add_user("root", HASH, False)
        shown = "".join(traceback.format_exception(caught.value))
        assert "IntegrityError" in shown
        assert "not-for-any-log" not in shown

    def test_what_is_missing_is_refused(self, filled: Database) -> None:
        with filled.write() as writer:
            for status in (
                refusal(lambda: writer.modify_user("nobody", admin=True)),
                refusal(writer.modify_user, "nobody"),
                refusal(writer.delete_user, "nobody"),
                refusal(writer.add_access, "nobody", "no key", b"", False),
                refusal(writer.modify_access, "nobody", "no key"),
                refusal(writer.delete_access, "nobody", "no key"),
            ):
                assert status is Status.USER_NOT_FOUND
            for status in (
                refusal(writer.rename_key, "no key", "other"),
                refusal(writer.delete_key, "no key"),
                refusal(writer.add_access, "alice", "no key", b"", False),
                refusal(writer.modify_access, "alice", "no key"),
                refusal(writer.delete_access, "alice", "no key"),
            ):
                assert status is Status.KEY_NOT_FOUND
            for status in (
                refusal(writer.modify_access, "alice", "ima"),
                refusal(writer.delete_access, "alice", "ima"),
            ):
                assert status is Status.KEY_USER_NOT_FOUND

    def test_user_with_accesses_stays(self, filled: Database) -> None:
        with filled.write() as writer:
            assert refusal(writer.delete_user, "alice") is Status.USER_HAS_KEY_ACCESSES
            writer.delete_access("alice", "release")
            writer.delete_user("alice")
        with filled.read() as reader:
            assert [user.name for user in reader.users()] == ["root"]

    def test_last_administrator_stays_one(self, filled: Database) -> None:
        with filled.write() as writer:
            writer.add_user("boss", HASH, True)
            writer.add_user("eve", None, True)  # has no password: an administrator by name alone
        with filled.write() as writer:
            writer.modify_user("root", admin=False)
        with filled.write() as writer:
            assert refusal(lambda: writer.modify_user("boss", admin=False)) is LAST_ADMINISTRATOR
            assert refusal(writer.delete_user, "boss") is LAST_ADMINISTRATOR
            writer.modify_user("boss", new_name="chief", password_hash=b"new", admin=True)
            writer.modify_user("alice", admin=False)
            assert (
                refusal(lambda: writer.modify_user("chief", new_name="x", admin=False))
                is LAST_ADMINISTRATOR
            )
        with filled.read() as reader:
            assert reader.user("chief") == User("chief", b"new", True)
        with filled.write() as writer:
            writer.modify_user("eve", password_hash=HASH)
            writer.delete_user("chief")
        with filled.read() as reader:
            assert [user.name for user in reader.users() if user.admin] == ["eve"]

    def test_last_administrator_is_named(self, filled: Database) -> None:
        with filled.write() as writer, pytest.raises(RequestRefused) as caught:
            writer.modify_user("root", admin=False)
        assert caught.value.message is not None
        assert "'root' is the last administrator" in caught.value.message

    def test_race_of_administrators_leaves_one(self, filled: Database, url: str) -> None:
        with filled.write() as writer:
            for name in ("first", "second"):
                writer.add_user(name, HASH, True)
            writer.modify_user("root", admin=False)
        outcomes = in_processes((demote, (url, "first")), (delete_user, (url, "second")))
        assert sorted(outcomes, key=str) == [LAST_ADMINISTRATOR, None]
        with filled.read() as reader:
            assert sum(user.admin for user in reader.users()) == 1

    def test_deleted_key_takes_its_accesses_along(self, filled: Database) -> None:
        with filled.write() as writer:
            writer.delete_key("release")
        with filled.read() as reader:
            assert list(map(KEY_NAME, reader.keys())) == ["ima"]
            assert reader.count_accesses("alice") == 0
            assert reader.count_accesses("root") == 1
        with filled.write() as writer:
            writer.add_key("release", KeyType.GNUPG, "ABCD")
            assert writer.key_users("release") == []

    def test_last_access_stays_unless_told_otherwise(self, filled: Database) -> None:
        with filled.write() as writer:
            assert refusal(writer.delete_access, "root", "ima") is Status.ONLY_ONE_KEY_USER
            writer.delete_access("root", "release")
            assert refusal(writer.delete_access, "alice", "release") is Status.ONLY_ONE_KEY_USER
            writer.delete_access("root", "ima", keep_last=False)
        with filled.read() as reader:
            assert reader.key_users("ima") == []
            assert reader.key_users("release") == ["alice"]

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("a bug"),
            RequestRefused(Status.INVALID_IMPORT),
            DatabaseError("broken"),
            KeyboardInterrupt(),
        ],
    )
    def test_any_exception_undoes_everything(self, filled: Database, error: BaseException) -> None:
        with pytest.raises(type(error)) as caught, filled.write() as writer:
            writer.add_user("bob", None, False)
            writer.delete_key("release")
            raise error
        assert caught.value is error
        with filled.read() as reader:
            assert reader.user("bob") is None
            assert reader.key_users("release") == ["alice", "root"]
        with filled.write() as writer:
            writer.add_user("bob", None, False)

    def test_key_of_an_unknown_kind_is_named(self, filled: Database) -> None:
        with filled.write() as writer:
            found = writer.keys()
            writer._connection.execute(
                schema.keys.update().where(schema.keys.c.name == "ima").values(keytype="X448")
            )
        with filled.read() as reader:
            now = reader.keys()
            after = {key.name: key for key in now}
            assert reader.key("ima") == after["ima"]
        assert after.pop("ima").keytype == "X448"
        assert after == {key.name: key for key in found if key.name != "ima"}

    def test_database_refuses_accesses_to_nothing(self, filled: Database) -> None:
        with pytest.raises(DatabaseError), filled.write() as writer:
            writer._connection.execute(
                schema.key_accesses.insert().values(
                    key_id=99, user_id=99, encrypted_passphrase=b"", key_admin=False
                )
            )

    def test_many_processes_write_at_once(self, filled: Database, url: str) -> None:
        numbers = list(range(PROCESSES))
        assert in_processes(*((write_many, (url, number)) for number in numbers)) == numbers
        with filled.read() as reader:
            assert len(reader.users()) == 2 + PROCESSES * TURNS
            assert len(reader.key_users("release")) == 2 + PROCESSES * TURNS
            access = reader.access(f"user {PROCESSES - 1}.{TURNS - 1}", "release")
            assert access is not None
            assert access.encrypted_passphrase == b"locked again"

    def test_only_one_of_many_makes_a_user(self, database: Database, url: str) -> None:
        outcomes = in_processes(*((add_same_user, url) for _ in range(PROCESSES)))
        assert sorted(outcomes, key=str) == [Status.ALREADY_EXISTS] * (PROCESSES - 1) + [None]
        with database.read() as reader:
            assert [user.name for user in reader.users()] == ["one of many"]

    def test_race_of_revocations_leaves_one_access(self, filled: Database, url: str) -> None:
        outcomes = in_processes((revoke, (url, "root")), (revoke, (url, "alice")))
        assert sorted(outcomes, key=str) == [Status.ONLY_ONE_KEY_USER, None]
        with filled.read() as reader:
            assert len(reader.key_users("release")) == 1

    def test_second_writer_waits_and_then_sees_what_the_first_did(
        self, filled: Database, url: str
    ) -> None:
        outcome: list[Status | None] = []
        second = threading.Thread(target=lambda: outcome.append(revoke((url, "root"))))
        with filled.write() as writer:
            writer.delete_access("alice", "release")
            second.start()
            # Time for it to do wrong: if it waits as it should, this makes no difference.
            second.join(0.5)
            assert outcome == []
        second.join(PROCESS_SECONDS)
        assert outcome == [Status.ONLY_ONE_KEY_USER]
        with filled.read() as reader:
            assert reader.key_users("release") == ["root"]

    def test_second_writer_gives_up_at_the_limit(self, filled: Database, url: str) -> None:
        second = Database(url, lock_wait=0.2)
        with filled.write() as first:
            first.add_user("bob", None, False)
            with pytest.raises(DatabaseError, match=r"more than 0\.2 s"), second.write() as writer:
                writer.add_user("carol", None, False)
        with filled.read() as reader:
            assert [user.name for user in reader.users()] == ["alice", "bob", "root"]

    def test_race_of_grant_and_deletion(self, filled: Database, url: str) -> None:
        with filled.write() as writer:
            writer.add_user("bob", None, False)
        granted, deleted = in_processes((grant, (url, "bob")), (delete_user, (url, "bob")))
        assert (granted, deleted) in {
            (None, Status.USER_HAS_KEY_ACCESSES),
            (Status.USER_NOT_FOUND, None),
        }
        with filled.read() as reader:
            assert (reader.user("bob") is None) is (deleted is None)
            assert reader.count_accesses("bob") == (1 if granted is None else 0)


# -- SQLite ---------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "server.sqlite"


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that another user can look into (pytest's own cannot be)."""
    with tempfile.TemporaryDirectory(prefix="sigul-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory
        directory.chmod(0o755)


def legacy(file: Path) -> Path:
    """A copy of a 1.2 server's database."""
    shutil.copyfile(held("legacy-site", "server.sqlite"), file)
    file.chmod(0o600)
    return file


def before_keytype(file: Path) -> Path:
    """The same as a server before 1.1 has it."""
    execute(
        legacy(file),
        "DELETE FROM key_accesses WHERE key_id <> 1",
        "DELETE FROM keys WHERE id <> 1",
        "ALTER TABLE keys DROP COLUMN keytype",
    )
    return file


def execute(file: Path, *statements: str) -> list[tuple[object, ...]]:
    """Run SQL past our own code; gives the rows of the last statement."""
    rows: list[tuple[object, ...]] = []
    with closing(sqlite3.connect(file)) as connection, connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows


def dump(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        return list(connection.iterdump())


def columns(file: Path) -> dict[str, set[tuple[object, ...]]]:
    """Name, type, and NOT NULL of each column, by table."""
    return {
        str(table): {row[1:4] for row in execute(file, f"PRAGMA table_info({table})")}
        for (table,) in execute(file, "SELECT name FROM sqlite_master WHERE type = 'table'")
    }


def only(file: Path) -> bool:
    """Whether nothing but `file` is in its directory."""
    return [path.name for path in file.parent.iterdir()] == [file.name]


class TestOnSQLite(Behaviour):
    @pytest.fixture
    def url(self, file: Path) -> str:
        create(sqlite_url(file))
        return sqlite_url(file)


@given(
    st.lists(
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7F), min_size=1, max_size=20),
        unique=True,
        max_size=10,
    )
)
def test_any_names_come_back_in_order(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        url = sqlite_url(Path(directory) / "db")
        create(url)
        database = Database(url)
        with database.write() as writer:
            for name in names:
                writer.add_user(name, None, False)
        with database.read() as reader:
            assert [user.name.encode() for user in reader.users()] == sorted(
                name.encode() for name in names
            )
            assert all(reader.user(name) for name in names)


@pytest.mark.parametrize("name", ["plain", "a b", "a?b=c", "100%25", "#1", "a:b@c", "ü", "'\"\\"])
def test_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / name / "db"
    file.parent.mkdir()
    create(sqlite_url(file))
    with Database(sqlite_url(file)).write() as writer:
        writer.add_user("root", None, True)
    assert only(file)
    assert execute(file, "SELECT name FROM users") == [("root",)]
    execute(file, "DROP TABLE alembic_version")
    assert migrate(sqlite_url(file), clock=clock).backup == file.with_name(
        "db.backup-20240506T070809Z"
    )


def test_relative_path_means_the_same_after_chdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = sqlite_url(Path("db"))
    create(url)
    monkeypatch.chdir("/")
    assert schema_state(url) is SchemaState.CURRENT


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("", "cannot be read"),
        ("/var/lib/sigul/server.sqlite", "cannot be read"),
        ("sqlite://", "'sqlite'"),
        ("sqlite:///:memory:", "'sqlite'"),
        ("sqlite:///", "'sqlite'"),
        ("sqlite+pysqlite:////tmp/db", "'sqlite'"),
        ("mysql://sigul:sesame@db/sigul", "'mysql'"),
        ("postgresql://sigul:ses@me:x/y@db:port/sigul", "cannot be read"),
    ],
)
def test_url_of_no_use(url: str, shown: str) -> None:
    for use in (Database, create, schema_state):
        message = failure(use, url)
        assert shown in message
        assert "give the path of an SQLite file, or postgresql://" in message
        assert "ses" not in message


# -- making one -----------------------------------------------------------------------------------


def test_layout_is_that_of_1_2_to_the_letter(file: Path, tmp_path: Path) -> None:
    create(sqlite_url(file))
    query = "SELECT name, sql FROM sqlite_master WHERE name IN ('users', 'keys', 'key_accesses')"
    theirs = sorted(execute(legacy(tmp_path / "legacy"), query), key=str)
    assert len(theirs) == 3
    assert sorted(execute(file, query), key=str) == theirs


def test_limits_leave_the_three_tables_as_they_are(file: Path, tmp_path: Path) -> None:
    """And what another program deletes, or puts in its place, takes the limit with it."""
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name != ?"
    create(sqlite_url(file))
    before = execute(file, query.replace("?", "'key_access_limits'"))
    with Database(sqlite_url(file)).write() as writer:
        writer.add_user("alice", None, False)
        writer.add_key("release", KeyType.GNUPG, "ABCD")
        writer.add_access("alice", "release", b"", False, AccessLimits(frozenset({"decrypt"})))
    assert execute(file, query.replace("?", "'key_access_limits'")) == before
    limits = "SELECT operations FROM key_access_limits"
    assert execute(file, limits) == [("decrypt",)]
    execute(file, "UPDATE key_accesses SET encrypted_passphrase = x'00', key_admin = 1")
    assert execute(file, limits) == [("decrypt",)]
    # Foreign keys are not heeded here, as they are not by 1.2.
    execute(file, "DELETE FROM key_accesses")
    assert execute(file, limits) == []
    # A row that is left from without a trigger is not the next access's.
    execute(file, "INSERT INTO key_access_limits VALUES (1, 'sign-text', NULL)")
    with Database(sqlite_url(file)).read() as reader:
        assert reader.count_limits() == (0, 1)
    execute(file, "INSERT INTO key_accesses VALUES (1, 1, 1, x'00', 0)")
    assert execute(file, limits) == []


def test_a_copy_of_the_database_has_the_limits(file: Path, tmp_path: Path) -> None:
    create(sqlite_url(file))
    only = AccessLimits(frozenset({"decrypt"}), None)
    with Database(sqlite_url(file)).write() as writer:
        writer.add_user("alice", None, False)
        writer.add_key("release", KeyType.GNUPG, "ABCD")
        writer.add_access("alice", "release", b"", False, only)
    save(sqlite_url(file), tmp_path / "copy")
    with Database(sqlite_url(tmp_path / "copy")).read() as reader:
        access = reader.access("alice", "release")
    assert access is not None
    assert access.limits == only


def test_values_are_stored_as_1_2_stores_them(file: Path, tmp_path: Path) -> None:
    create(sqlite_url(file))
    with Database(sqlite_url(file)).write() as writer:
        writer.add_user("root", HASH, True)
        writer.add_key("release", KeyType.GNUPG, "ABCD")
        writer.add_access("root", "release", b"locked", True)
    query = (
        "SELECT typeof(users.name), typeof(sha512_password), typeof(admin), admin,"
        " typeof(keys.name), keytype, typeof(fingerprint),"
        " typeof(encrypted_passphrase), typeof(key_admin), key_admin"
        " FROM users JOIN key_accesses ON user_id = users.id JOIN keys ON key_id = keys.id"
        " WHERE users.name = 'root' AND keys.name = 'release'"
    )
    assert execute(file, query) == execute(legacy(tmp_path / "legacy"), query)


def test_file_is_its_owners_alone_whatever_the_umask(file: Path) -> None:
    before = os.umask(0)
    try:
        create(sqlite_url(file))
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o7777 == 0o600
    assert only(file)


def test_existing_database_is_never_touched(file: Path) -> None:
    create(sqlite_url(file))
    with Database(sqlite_url(file)).write() as writer:
        writer.add_user("root", None, True)
    file.chmod(0o640)
    before = file.read_bytes()
    assert "there is a database already" in failure(create, sqlite_url(file))
    assert file.read_bytes() == before
    assert file.stat().st_mode & 0o7777 == 0o640
    assert only(file)


def test_foreign_tables_are_left_alone(file: Path) -> None:
    execute(file, "CREATE TABLE mail (id INTEGER)")
    before = file.read_bytes()
    assert "move it away first" in failure(create, sqlite_url(file))
    assert file.read_bytes() == before


def test_dangling_link_is_not_replaced(file: Path) -> None:
    file.symlink_to(file.with_name("elsewhere"))
    assert "move it away first" in failure(create, sqlite_url(file))
    assert file.is_symlink()
    assert not file.exists()
    assert only(file)


def test_empty_file_is_filled_and_keeps_its_owner(file: Path) -> None:
    file.touch(0o644)
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
    before = file.stat()
    create(sqlite_url(file))
    after = file.stat()
    assert schema_state(sqlite_url(file)) is SchemaState.CURRENT
    assert (after.st_ino, after.st_uid, after.st_gid) == (
        before.st_ino,
        before.st_uid,
        before.st_gid,
    )
    assert after.st_mode & 0o7777 == 0o600


def test_directory_must_exist(tmp_path: Path) -> None:
    message = failure(create, sqlite_url(tmp_path / "missing" / "db"))
    assert str(tmp_path / "missing" / "db") in message
    assert "the directory must exist" in message
    assert not (tmp_path / "missing").exists()


def test_directory_must_be_writable(open_directory: Path) -> None:
    (message,) = (
        in_processes((try_create, sqlite_url(open_directory / "db")), unprivileged=True)
        if os.geteuid() == 0
        else _create_in_read_only(open_directory)
    )
    assert "writable for user" in str(message)
    assert list(open_directory.iterdir()) == []


def _create_in_read_only(directory: Path) -> list[str]:
    directory.chmod(0o555)
    return [try_create(sqlite_url(directory / "db"))]


def create_with_little_space(file: Path) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
    return try_create(sqlite_url(file))


def test_no_space_leaves_nothing(file: Path) -> None:
    (message,) = in_processes((create_with_little_space, file))
    assert str(message).startswith(f"{file}: ")
    assert "check the disk, its free space" in str(message)
    assert list(file.parent.iterdir()) == []


def test_no_space_leaves_an_empty_file_empty(file: Path) -> None:
    file.touch()
    (message,) = in_processes((create_with_little_space, file))
    assert "check the disk, its free space" in str(message)
    assert schema_state(sqlite_url(file)) is SchemaState.EMPTY
    create(sqlite_url(file))


def test_only_one_of_many_makes_the_database(file: Path) -> None:
    messages = [str(m) for m in in_processes(*((try_create, sqlite_url(file)) for _ in range(4)))]
    assert sum(message.startswith("no failure") for message in messages) == 1
    assert sum("there is a database already" in message for message in messages) == 3
    assert schema_state(sqlite_url(file)) is SchemaState.CURRENT
    assert only(file)


# -- what a server finds at its start -------------------------------------------------------------


def test_legacy_database_opens_as_it_is(file: Path) -> None:
    url = sqlite_url(legacy(file))
    before = file.read_bytes()
    assert ensure_usable(url, clock=clock) == MigrationResult(
        None, SchemaState.LEGACY, SchemaState.LEGACY
    )
    with Database(url).read() as reader:
        assert [(user.name, user.admin, user.password_hash is None) for user in reader.users()] == [
            ("alice", False, False),
            ("bob", False, True),
            ("ops", True, False),
            ("root", True, False),
        ]
        assert reader.keys() == [
            Key("codesign", KeyType.RSA, "b805eb5b0243e0df10c7dc5f51f12460bd0d90f1"),
            Key("ima", KeyType.ECC, "f6597b0096217da182ac23243ca4c79778c380dd"),
            Key("release", KeyType.GNUPG, "590E47224B3E643159772BDF3B6BFAAF4F1C07C7"),
        ]
        assert reader.key_users("release") == ["alice", "bob", "root"]
        access = reader.access("alice", "codesign")
        assert access is not None
        assert access.key_admin is True
        assert access.encrypted_passphrase.startswith(b"\x8c\x0d\x04\x09")
    assert file.read_bytes() == before
    assert only(file)


def test_legacy_database_is_written_without_a_change_of_layout(file: Path) -> None:
    url = sqlite_url(legacy(file))
    layout = execute(file, "SELECT * FROM sqlite_master")
    with Database(url).write() as writer:
        writer.modify_user("ops", new_name="operators")
        writer.delete_key("ima")
        writer.add_user("carol", HASH, False)
        writer.add_access("carol", "codesign", b"locked", False)
    assert execute(file, "SELECT * FROM sqlite_master") == layout
    assert schema_state(url) is SchemaState.LEGACY
    with Database(url).read() as reader:
        assert [user.name for user in reader.users()] == [
            "alice", "bob", "carol", "operators", "root",
        ]  # fmt: skip


def test_database_from_before_keytypes_is_migrated_at_start(file: Path) -> None:
    url = sqlite_url(before_keytype(file))
    before = dump(file)
    assert schema_state(url) is SchemaState.LEGACY_NO_KEYTYPE
    result = ensure_usable(url, clock=clock)
    backup = file.with_name("server.sqlite.backup-20240506T070809Z")
    assert result == MigrationResult(backup, SchemaState.LEGACY_NO_KEYTYPE, SchemaState.CURRENT)
    assert dump(backup) == before
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name, backup.name]
    with Database(url).read() as reader:
        assert reader.keys() == [
            Key("release", KeyType.GNUPG, "590E47224B3E643159772BDF3B6BFAAF4F1C07C7")
        ]
        assert reader.key_users("release") == ["alice", "bob", "root"]
    # The older server may come back, and knows no keytype.
    execute(file, "INSERT INTO keys (name, fingerprint) VALUES ('old', 'OLD')")
    with Database(url).write() as writer:
        assert writer.key("old") == Key("old", KeyType.GNUPG, "OLD")
        writer.add_key("new", KeyType.ECC, "new")
    assert ensure_usable(url, clock=clock).backup is None


def test_migrated_layout_has_the_columns_of_a_new_one(file: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    create(sqlite_url(new))
    for number, make in enumerate((legacy, before_keytype)):
        old = make(tmp_path / f"old{number}")
        migrate(sqlite_url(old), clock=lambda: NOW + timedelta(seconds=1))
        assert columns(old) == columns(new)
        query = "SELECT version_num FROM alembic_version"
        assert execute(old, query) == execute(new, query) == [(schema.HEAD,)]


def test_steps_from_nothing_make_the_same_columns(file: Path, tmp_path: Path) -> None:
    create(sqlite_url(file))
    from_steps = tmp_path / "steps"
    engine = sa.create_engine(f"sqlite:///{from_steps}", poolclass=sa.NullPool)
    with engine.begin() as connection:
        command.upgrade(maintenance._alembic(connection), "head")
    assert columns(from_steps) == columns(file)
    with engine.connect() as connection:
        script = ScriptDirectory.from_config(maintenance._alembic(connection))
    assert script.get_current_head() == schema.HEAD
    assert {step.revision for step in script.walk_revisions()} == schema.KNOWN


def test_legacy_database_is_stamped_when_asked_and_only_once(file: Path) -> None:
    url = sqlite_url(legacy(file))
    before = dump(file)
    result = migrate(url, clock=clock)
    assert result.backup is not None
    assert result == MigrationResult(result.backup, SchemaState.LEGACY, SchemaState.CURRENT)
    assert dump(result.backup) == before
    assert [line for line in dump(file) if "alembic_version" not in line] == before
    after = file.read_bytes()
    assert migrate(url, clock=clock) == MigrationResult(
        None, SchemaState.CURRENT, SchemaState.CURRENT
    )
    assert file.read_bytes() == after
    assert len(list(file.parent.iterdir())) == 2


def test_only_one_of_many_migrates(file: Path) -> None:
    url = sqlite_url(before_keytype(file))
    results = in_processes(*((try_migrate, url) for _ in range(4)))
    backups = [r.backup for r in results if isinstance(r, MigrationResult) and r.backup]
    assert len(backups) == 1
    assert all(isinstance(r, MigrationResult) and r.after is SchemaState.CURRENT for r in results)
    assert len(list(file.parent.iterdir())) == 2


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_backup_has_owner_and_mode_of_the_original(file: Path, mode: int) -> None:
    legacy(file)
    if os.geteuid() == 0:
        os.chown(file, 65534, 12)
    elif not mode & 0o200:
        mode |= 0o200
    file.chmod(mode)
    before = file.stat()
    backup = migrate(sqlite_url(file), clock=clock).backup
    assert backup is not None
    after = backup.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )


def test_backup_lies_beside_the_real_file(file: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    file.symlink_to(legacy(volume / "db"))
    backup = migrate(sqlite_url(file), clock=clock).backup
    assert backup == volume / "db.backup-20240506T070809Z"
    assert file.is_symlink()


def test_backup_holds_what_is_still_in_the_write_ahead_log(file: Path) -> None:
    legacy(file)
    execute(file, "PRAGMA journal_mode = WAL")
    url = sqlite_url(file)
    with closing(sqlite3.connect(file)) as site, site:
        # An open reader, so that nothing moves from the log into the file.
        site.execute("BEGIN")
        assert site.execute("SELECT count(*) FROM users").fetchone() == (4,)
        with Database(url).write() as writer:
            writer.add_user("carol", None, False)
        assert Path(f"{file}-wal").stat().st_size > 0
        backup = migrate(url, clock=clock).backup
        assert site.execute("SELECT count(*) FROM users").fetchone() == (4,)
    assert backup is not None
    assert execute(backup, "SELECT count(*) FROM users") == [(5,)]
    # The site's choice of journal stays.
    assert execute(file, "PRAGMA journal_mode") == [("wal",)]
    with Database(url).read() as reader:
        assert reader.user("carol") == User("carol", None, False)


def test_existing_backup_is_not_overwritten(file: Path) -> None:
    legacy(file)
    before = file.read_bytes()
    backup = file.with_name("server.sqlite.backup-20240506T070809Z")
    backup.write_text("precious")
    assert "try again in a second" in failure(lambda: try_migrate(sqlite_url(file)))
    assert backup.read_text() == "precious"
    assert file.read_bytes() == before


def migrate_with_little_space(job: tuple[Path, int]) -> str:
    file, size = job
    # Alembic's compiled files are not what this is about.
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return failure(try_migrate, sqlite_url(file))


def test_no_space_for_the_backup_leaves_all_as_it_was(file: Path) -> None:
    before_keytype(file)
    before = dump(file)
    (message,) = in_processes((migrate_with_little_space, (file, 8192)))
    assert str(message).startswith(f"{file}: ")
    assert "check the disk, its free space" in str(message)
    assert dump(file) == before
    assert only(file)


def test_no_space_for_the_migration_keeps_the_backup(file: Path) -> None:
    legacy(file)
    execute(file, "VACUUM")
    before = dump(file)
    # Enough for the copy; the new table needs pages more.
    (message,) = in_processes((migrate_with_little_space, (file, file.stat().st_size)))
    backup = file.with_name("server.sqlite.backup-20240506T070809Z")
    assert "check the disk, its free space" in str(message)
    assert str(message).endswith(f"nothing was changed, and {backup} is a copy of it")
    assert dump(file) == dump(backup) == before
    assert schema_state(sqlite_url(file)) is SchemaState.LEGACY


def test_damaged_database_is_not_migrated(file: Path) -> None:
    legacy(file)
    execute(
        file,
        "CREATE INDEX names ON users (admin)",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master "
        "WHERE name = 'key_accesses') WHERE name = 'names'",
    )
    before = file.read_bytes()
    message = failure(try_migrate, sqlite_url(file))
    assert message.startswith(f"{file}: ")
    assert "restore it from a backup" in message
    assert file.read_bytes() == before
    assert only(file)


def test_missing_database(file: Path) -> None:
    url = sqlite_url(file)
    assert schema_state(url) is SchemaState.MISSING
    for message in (
        failure(lambda: ensure_usable(url, clock=clock)),
        failure(lambda: migrate(url, clock=clock)),
        failure(lambda: read_users(url)),
        failure(lambda: add_carol(url)),
    ):
        assert message == (
            f"{file}: there is no database: make it with: sigul_server_create_db -c FILE "
            "(FILE is the server's configuration)"
        )
    assert not file.exists()


def test_missing_directory(tmp_path: Path) -> None:
    assert schema_state(sqlite_url(tmp_path / "no" / "db")) is SchemaState.MISSING


@pytest.mark.parametrize("statements", [[], ["CREATE TABLE t (x)", "DROP TABLE t"]])
def test_empty_database(file: Path, statements: list[str]) -> None:
    file.touch()
    execute(file, *statements)
    url = sqlite_url(file)
    assert schema_state(url) is SchemaState.EMPTY
    for use in (ensure_usable, migrate):
        message = failure(lambda use=use: use(url, clock=clock))
        assert message.startswith(f"{file}: the database has no tables: make it with: ")
        assert "sigul_server_create_db -c FILE" in message
    assert only(file)


def test_newer_database(file: Path) -> None:
    url = sqlite_url(file)
    create(url)
    execute(file, "UPDATE alembic_version SET version_num = '9999'", "DROP TABLE key_accesses")
    before = file.read_bytes()
    assert schema_state(url) is SchemaState.NEWER
    for use in (ensure_usable, migrate):
        message = failure(lambda use=use: use(url, clock=clock))
        assert message.startswith(f"{file}: a newer version of sigul-stack has changed")
        assert "install that version, or restore the backup" in message
    assert file.read_bytes() == before
    assert only(file)


def test_interrupted_stamp_counts_as_none(file: Path) -> None:
    execute(legacy(file), "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    assert schema_state(sqlite_url(file)) is SchemaState.LEGACY
    assert migrate(sqlite_url(file), clock=clock).after is SchemaState.CURRENT


@pytest.mark.parametrize(
    ("statement", "lacks"),
    [
        ("CREATE TABLE mail (id INTEGER)", "key_accesses, keys, users"),
        ("CREATE TABLE alembic_version (version_num TEXT)", "key_accesses, keys, users"),
    ],
)
def test_somebody_elses_database(file: Path, statement: str, lacks: str) -> None:
    execute(file, statement)
    message = failure(schema_state, sqlite_url(file))
    assert message == (
        f"{file}: not a Sigul server's database, or a damaged one: it lacks {lacks}: set "
        "database-path to the right one, or restore this one from a backup"
    )


def test_database_that_lacks_a_column(file: Path) -> None:
    execute(legacy(file), "ALTER TABLE users DROP COLUMN sha512_password")
    assert "it lacks users.sha512_password" in failure(schema_state, sqlite_url(file))


@pytest.mark.parametrize("content", [b"passphrase", b"text, as long as a page at least" * 200])
def test_file_that_is_no_database(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    for use in (schema_state, create):
        message = failure(use, sqlite_url(file))
        assert message.startswith(f"{file}: ")
        assert "not an SQLite database" in message
        assert "set database-path to the right file, or restore" in message
    assert file.read_bytes() == content


def test_directory_in_place_of_the_file(tmp_path: Path) -> None:
    message = failure(schema_state, sqlite_url(tmp_path))
    assert message.startswith(f"{tmp_path}: ")
    assert "must be readable and writable for user" in message


def test_torn_database(file: Path) -> None:
    legacy(file)
    os.truncate(file, 4096 * 2)
    database = Database(sqlite_url(file))
    expected = "malformed: restore it from a backup"
    with pytest.raises(DatabaseError, match=expected), database.read() as reader:
        reader.users()
        reader.keys()
        reader.key_users("release")


def in_new_python(code: str, *arguments: str) -> str:
    """What `code` prints in a Python of its own that has imported nothing yet."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_opening_a_usable_database_imports_no_alembic(file: Path) -> None:
    create(sqlite_url(file))
    code = (
        "import sys\n"
        "from datetime import UTC, datetime\n"
        "from sigul_stack.database import Database, ensure_usable\n"
        "ensure_usable(sys.argv[1], clock=lambda: datetime.now(UTC))\n"
        "with Database(sys.argv[1]).write() as writer:\n"
        "    writer.add_user('root', None, True)\n"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] in"
        " {'alembic', 'psycopg', 'mako'}))\n"
    )
    assert in_new_python(code, sqlite_url(file)) == "[]"


def test_missing_driver_is_named() -> None:
    code = (
        "import sys\n"
        "sys.modules['psycopg'] = None  # as if it were not installed\n"
        "from sigul_stack.database import Database\n"
        "from sigul_stack.errors import DatabaseError\n"
        "try:\n"
        "    Database('postgresql://sigul:sesame@db/sigul')\n"
        "except DatabaseError as error:\n"
        "    print(error)\n"
    )
    assert in_new_python(code) == (
        "postgresql://sigul@db/sigul: the driver for PostgreSQL is not installed: "
        "pip install 'sigul-stack[postgresql]'"
    )


# -- what can go wrong while it is used -----------------------------------------------------------


def read_users(url: str) -> list[User]:
    with Database(url).read() as reader:
        return reader.users()


def add_carol(url: str) -> None:
    with Database(url).write() as writer:
        writer.add_user("carol", None, False)


def read_fails(url: str) -> str:
    return failure(read_users, url)


def write_fails(url: str) -> str:
    return failure(add_carol, url)


def look_fails(url: str) -> str:
    return failure(schema_state, url)


def test_file_that_may_not_be_read(open_directory: Path) -> None:
    file = legacy(open_directory / "db")
    file.chmod(0o600 if os.geteuid() == 0 else 0)
    url = sqlite_url(file)
    for message in in_processes(
        (read_fails, url), (write_fails, url), (look_fails, url), unprivileged=True
    ):
        assert str(message).startswith(f"{file}: ")
        assert "must be readable and writable for user" in str(message)


def test_directory_that_may_not_be_entered(open_directory: Path) -> None:
    inner = open_directory / "inner"
    inner.mkdir()
    file = legacy(inner / "db")
    inner.chmod(0o700 if os.geteuid() == 0 else 0)
    # Whether there is a database cannot be seen: it must not be called missing.
    (message,) = in_processes((look_fails, sqlite_url(file)), unprivileged=True)
    inner.chmod(0o700)
    assert "and so must its directory" in str(message)
    assert "create_db" not in str(message)


def test_read_only_database_is_read_and_refuses_writing(open_directory: Path) -> None:
    file = legacy(open_directory / "db")
    file.chmod(0o444)
    open_directory.chmod(0o555)
    users, message = in_processes(
        (read_users, sqlite_url(file)), (write_fails, sqlite_url(file)), unprivileged=True
    )
    assert isinstance(users, list)
    assert len(users) == 4
    assert str(message).startswith(f"{file}: ")
    assert "readonly" in str(message)
    assert "must be writable for user" in str(message)


def test_lock_beyond_the_limit(file: Path) -> None:
    legacy(file)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        database = Database(sqlite_url(file), lock_wait=0.2)
        for transaction in (database.read, database.write):
            with pytest.raises(DatabaseError) as caught, transaction() as reader:
                reader.users()
            message = str(caught.value)
            assert message.startswith(f"{file}: another process kept it locked for more than 0.2 s")
            assert f"`fuser -v {file}`" in message
        other.execute("ROLLBACK")
    with database.write() as writer:
        writer.add_user("carol", None, False)


def test_readers_do_not_wait_for_a_writer_that_has_not_ended(file: Path) -> None:
    create(sqlite_url(file))
    database = Database(sqlite_url(file), lock_wait=0.2)
    with database.write() as writer:
        writer.add_user("carol", None, False)
        with database.read() as reader:
            assert reader.users() == []
    with database.read() as reader:
        assert [user.name for user in reader.users()] == ["carol"]


def test_commit_that_readers_keep_out_changes_nothing(file: Path) -> None:
    create(sqlite_url(file))
    database = Database(sqlite_url(file), lock_wait=0.2)
    with database.read() as reader:
        assert reader.users() == []
        with pytest.raises(DatabaseError, match="locked for more than"), database.write() as writer:
            writer.add_user("carol", None, False)
        assert reader.users() == []
    with database.read() as reader:
        assert reader.users() == []


def test_full_disk(file: Path) -> None:
    create(sqlite_url(file))
    database = Database(sqlite_url(file))
    with pytest.raises(DatabaseError) as caught, database.write() as writer:
        # SQLite's own limit on the size of the file; what it reports is the same.
        writer._connection.exec_driver_sql("PRAGMA max_page_count = 1").close()
        for number in range(1000):
            writer.add_user(f"user {number}", HASH * 10, False)
    assert str(caught.value).startswith(f"{file}: the disk is full: free space on its file system")
    with database.read() as reader:
        assert reader.users() == []


def write_with_little_space(file: Path) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    def write() -> None:
        with Database(sqlite_url(file)).write() as writer:
            for number in range(1000):
                writer.add_user(f"user {number}", HASH * 10, False)

    return failure(write)


def test_disk_that_takes_no_more(file: Path) -> None:
    legacy(file)
    before = dump(file)
    (message,) = in_processes((write_with_little_space, file))
    assert str(message).startswith(f"{file}: ")
    assert "the change was not made; check the disk, its free space" in str(message)
    assert dump(file) == before


def test_file_that_vanishes_while_the_server_runs(file: Path) -> None:
    create(sqlite_url(file))
    database = Database(sqlite_url(file))
    with database.read() as reader:
        assert reader.users() == []
    file.unlink()
    with pytest.raises(DatabaseError, match="there is no database"), database.write() as writer:
        writer.users()
    assert not file.exists()


def test_password_hash_set_by_hand_as_text(file: Path) -> None:
    execute(legacy(file), "UPDATE users SET sha512_password = '$6$by hand' WHERE name = 'bob'")
    with Database(sqlite_url(file)).read() as reader:
        assert reader.user("bob") == User("bob", b"$6$by hand", False)


def test_text_that_is_none(file: Path) -> None:
    execute(legacy(file), "UPDATE users SET name = CAST(x'ff' AS TEXT) WHERE name = 'bob'")
    with pytest.raises(DatabaseError, match=f"{file}: Could not decode to UTF-8"):
        read_users(sqlite_url(file))


def test_repr_shows_no_secrets() -> None:
    key = Key("release", KeyType.GNUPG, "ABCD")
    assert "not-for-any-log" not in repr(User("root", HASH, True))
    assert "locked" not in repr(KeyAccess("root", key, b"locked", True))
