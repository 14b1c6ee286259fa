"""The server's database on a PostgreSQL server of our own, which sorts unlike SQLite.

Needs the Debian packages `postgresql` and `util-linux`, and psycopg.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from sigul_stack.database import (
    UNLIMITED,
    AccessLimits,
    Database,
    Key,
    KeyType,
    MigrationResult,
    SchemaState,
    User,
    create,
    ensure_usable,
    load,
    migrate,
    save,
    schema_report,
    schema_state,
    sqlite_url,
)
from sigul_stack.database.engine import Engine, Purpose
from sigul_stack.database.target import parse
from sigul_stack.errors import DatabaseError, RequestRefused, Status
from tests.unit.test_database import (
    HASH,
    Behaviour,
    add_carol,
    clock,
    failure,
    in_processes,
    read_users,
    try_create,
    try_migrate,
)

pytestmark = pytest.mark.once("our SQL; the client library comes with the wheel")

COMMAND_SECONDS = 60
PORT = 5999
SECRET = "sesame/open@me"
SECRET_IN_URL = "sesame%2Fopen%40me"


def program(name: str) -> str:
    """A program of the newest PostgreSQL installed."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4])
    )
    found = str(versions[-1]) if versions else shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is missing: install the Debian package postgresql")
    return found


def run(*arguments: str) -> None:
    """Run a program of PostgreSQL, which refuses to be run as root."""
    as_user: list[str] = []
    if os.geteuid() == 0:
        runuser = shutil.which("runuser")
        if runuser is None:
            pytest.fail("runuser is missing: install the Debian package util-linux")
        as_user = [runuser, "-u", "postgres", "--"]
    with tempfile.TemporaryFile() as output:
        # A file, for the server that pg_ctl starts would keep a pipe open.
        done = subprocess.run(
            [*as_user, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS,
            check=False,
            cwd="/",
        )
        output.seek(0)
        assert done.returncode == 0, output.read().decode(errors="replace")


@dataclass(frozen=True)
class Cluster:
    """A running server, reached through a socket in `directory`."""

    directory: Path

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run SQL as the administrator, past our own code."""
        with psycopg.connect(
            host=str(self.directory),
            port=PORT,
            user="postgres",
            dbname=database,
            autocommit=True,
            connect_timeout=10,
        ) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def url(self, database: str, user: str = "sigul", password: str = SECRET_IN_URL) -> str:
        """What a site would write into its configuration."""
        return f"postgresql://{user}:{password}@/{database}?host={self.directory}&port={PORT}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # Directly in /tmp: the path of a socket must be short, and the server's user must get there.
    directory = Path(tempfile.mkdtemp(prefix="sigul-pg-", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(directory, "postgres", "postgres")
    data = directory / "data"
    control = (program("pg_ctl"), "-D", str(data), "-t", str(COMMAND_SECONDS), "-w")
    try:
        run(
            program("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8",
            "--locale-provider=icu", "--icu-locale=en", "--locale=C.UTF-8", "--no-sync",
        )  # fmt: skip
        rules = data / "pg_hba.conf"
        rules.write_text("local all sigul scram-sha-256\n" + rules.read_text())
        options = f"-k {directory} -p {PORT} -c listen_addresses='' -c fsync=off"
        run(*control, "-l", str(directory / "log"), "-o", options, "start")
        try:
            running = Cluster(directory)
            running.execute(f"CREATE USER sigul PASSWORD '{SECRET}'")
            yield running
        finally:
            run(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(directory)


_numbers = itertools.count()


@pytest.fixture
def empty(cluster: Cluster) -> str:
    """The name of a new database without tables."""
    name = f"sigul{next(_numbers)}"
    cluster.execute(f"CREATE DATABASE {name} OWNER sigul")
    return name


@pytest.fixture
def name(cluster: Cluster, empty: str) -> str:
    """The name of a new database with tables."""
    create(cluster.url(empty))
    return empty


@pytest.fixture
def url(cluster: Cluster, name: str) -> str:
    return cluster.url(name)


class TestOnPostgreSQL(Behaviour):
    """All that holds on SQLite."""


def test_the_server_sorts_by_a_locale(cluster: Cluster) -> None:
    # Else the tests of sorted names would show nothing here.
    assert cluster.execute("SELECT 'alice' < 'Root'") == [(True,)]


def test_layout(cluster: Cluster, name: str) -> None:
    query = (
        "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
        " WHERE table_schema = 'public' ORDER BY table_name, ordinal_position"
    )
    assert cluster.execute(query, name) == [
        ("alembic_version", "version_num", "character varying", "NO"),
        ("key_accesses", "id", "integer", "NO"),
        ("key_accesses", "key_id", "integer", "NO"),
        ("key_accesses", "user_id", "integer", "NO"),
        ("key_accesses", "encrypted_passphrase", "bytea", "NO"),
        ("key_accesses", "key_admin", "boolean", "NO"),
        ("keys", "id", "integer", "NO"),
        ("keys", "name", "text", "NO"),
        ("keys", "keytype", "character varying", "NO"),
        ("keys", "fingerprint", "text", "NO"),
        ("users", "id", "integer", "NO"),
        ("users", "name", "text", "NO"),
        ("users", "sha512_password", "bytea", "YES"),
        ("users", "admin", "boolean", "NO"),
    ]


def test_missing_empty_and_made(cluster: Cluster, empty: str) -> None:
    missing = cluster.url("nowhere")
    assert schema_state(missing) is SchemaState.MISSING
    for message in (
        failure(create, missing),
        failure(lambda: ensure_usable(missing, clock=clock)),
        failure(lambda: read_users(missing)),
    ):
        assert "postgresql://sigul@" in message
        assert "sigul_server_create_db -c FILE" in message
    assert "make it with createdb" in failure(create, missing)
    assert schema_state(cluster.url(empty)) is SchemaState.EMPTY
    assert "the database has no tables: make it with: sigul_server_create_db" in failure(
        lambda: ensure_usable(cluster.url(empty), clock=clock)
    )
    create(cluster.url(empty))
    assert schema_state(cluster.url(empty)) is SchemaState.CURRENT


def test_existing_database_is_never_touched(url: str) -> None:
    with Database(url).write() as writer:
        writer.add_user("root", HASH, True)
    assert "there is a database already" in failure(create, url)
    with Database(url).read() as reader:
        assert reader.users() == [User("root", HASH, True)]


def test_foreign_tables_are_left_alone(cluster: Cluster, empty: str) -> None:
    cluster.execute("CREATE TABLE mail (id INTEGER)", empty)
    assert "move it away first" in failure(create, cluster.url(empty))
    assert "lacks key_accesses, keys, users" in failure(schema_state, cluster.url(empty))


def test_failed_creation_leaves_nothing(cluster: Cluster, empty: str) -> None:
    # The last table cannot be made, for a type has its name.
    cluster.execute("CREATE TYPE key_accesses AS (x INTEGER)", empty)
    assert "already exists" in failure(create, cluster.url(empty))
    assert schema_state(cluster.url(empty)) is SchemaState.EMPTY


def test_only_one_of_many_makes_the_database(cluster: Cluster, empty: str) -> None:
    messages = [str(m) for m in in_processes(*((try_create, cluster.url(empty)) for _ in range(4)))]
    assert sum(message.startswith("no failure") for message in messages) == 1
    assert sum("there is a database already" in message for message in messages) == 3


def test_legacy_database_opens_as_it_is_and_is_stamped_when_asked(
    cluster: Cluster, url: str, name: str
) -> None:
    cluster.execute("DROP TABLE alembic_version", name)
    legacy = MigrationResult(None, SchemaState.LEGACY, SchemaState.LEGACY)
    assert ensure_usable(url, clock=clock) == legacy
    with Database(url).write() as writer:
        writer.add_user("root", HASH, True)
    assert ensure_usable(url, clock=clock) == legacy
    assert migrate(url, clock=clock).after is SchemaState.CURRENT
    assert migrate(url, clock=clock).before is SchemaState.CURRENT
    with Database(url).read() as reader:
        assert reader.users() == [User("root", HASH, True)]


def test_database_from_before_keytypes_is_migrated_at_start(
    cluster: Cluster, url: str, name: str
) -> None:
    with Database(url).write() as writer:
        writer.add_key("release", KeyType.ECC, "ABCD")
    cluster.execute("DROP TABLE alembic_version; ALTER TABLE keys DROP COLUMN keytype", name)
    result = ensure_usable(url, clock=clock)
    assert result == MigrationResult(None, SchemaState.LEGACY_NO_KEYTYPE, SchemaState.CURRENT)
    with Database(url).read() as reader:
        assert reader.keys() == [Key("release", KeyType.GNUPG, "ABCD")]


def test_only_one_of_many_migrates(cluster: Cluster, url: str, name: str) -> None:
    cluster.execute("DROP TABLE alembic_version; ALTER TABLE keys DROP COLUMN keytype", name)
    results = in_processes(*((try_migrate, url) for _ in range(4)))
    changed = [r for r in results if isinstance(r, MigrationResult) and r.before is not r.after]
    assert len(changed) == 1
    assert schema_state(url) is SchemaState.CURRENT


def test_newer_database(cluster: Cluster, url: str, name: str) -> None:
    cluster.execute("UPDATE alembic_version SET version_num = '9999'", name)
    assert schema_state(url) is SchemaState.NEWER
    assert "install that version" in failure(lambda: ensure_usable(url, clock=clock))


def test_reader_sees_one_state_and_keeps_nobody_out(url: str) -> None:
    database = Database(url, lock_wait=0.5)
    with database.read() as reader:
        assert reader.users() == []
        with database.write() as writer:
            writer.add_user("root", None, True)
        assert reader.users() == []
        assert reader.user("root") is None
    with database.read() as reader:
        assert reader.users() == [User("root", None, True)]


def test_readers_do_not_wait_for_a_writer_that_has_not_ended(url: str) -> None:
    database = Database(url, lock_wait=0.5)
    with database.write() as writer:
        writer.add_user("root", None, True)
        with database.read() as reader:
            assert reader.users() == []


def test_reading_transaction_cannot_write(url: str) -> None:
    engine = Engine(parse(url))
    with (
        pytest.raises(DatabaseError, match="read-only transaction: connect to the primary"),
        engine.transaction(Purpose.READ) as connection,
    ):
        connection.exec_driver_sql("INSERT INTO users (name, admin) VALUES ('x', true)")


def test_lock_beyond_the_limit(cluster: Cluster, url: str, name: str) -> None:
    database = Database(url, lock_wait=0.2)
    with psycopg.connect(
        host=str(cluster.directory), port=PORT, user="postgres", dbname=name, connect_timeout=10
    ) as other:
        other.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        for transaction in (database.read, database.write):
            with pytest.raises(DatabaseError) as caught, transaction() as reader:
                reader.users()
            assert "others kept it locked for more than 0.2 s" in str(caught.value)
            assert "pg_stat_activity" in str(caught.value)
        other.rollback()
    with database.write() as writer:
        writer.add_user("root", None, True)


def test_statement_beyond_the_limit_is_not_called_a_lock(url: str) -> None:
    with pytest.raises(DatabaseError) as caught, Database(url).write() as writer:
        writer.add_user("root", None, True)
        writer._connection.exec_driver_sql("SET LOCAL statement_timeout = 100")
        writer._connection.exec_driver_sql("SELECT pg_sleep(60)")
    assert "canceling statement due to statement timeout: nothing was changed" in str(caught.value)
    assert "locked" not in str(caught.value)
    assert read_users(url) == []


def test_every_statement_has_a_limit(url: str) -> None:
    engine = Engine(parse(url))
    for purpose in Purpose:
        with engine.transaction(purpose) as connection:
            for setting, limit in (("lock_timeout", "10s"), ("statement_timeout", "30s")):
                assert connection.exec_driver_sql(f"SHOW {setting}").scalar_one() == limit


def test_wrong_password_is_said_and_not_shown(cluster: Cluster, name: str) -> None:
    url = cluster.url(name, password="wrong-sesame")
    for use in (schema_state, create, read_users):
        message = failure(use, url)
        assert message.startswith("postgresql://sigul@")
        assert "password authentication failed" in message
        assert "check host, port, user and password in the URL" in message
        assert "sesame" not in message


def test_server_that_is_not_there(tmp_path: Path) -> None:
    url = f"postgresql://sigul:{SECRET_IN_URL}@/sigul?host={tmp_path}&password=sesame"
    message = failure(schema_state, url)
    assert message.startswith(f"postgresql://sigul@{tmp_path}/sigul: cannot connect: ")
    assert "that PostgreSQL runs" in message
    assert "sesame" not in message


def test_port_where_nobody_listens() -> None:
    message = failure(schema_state, "postgresql://sigul:sesame@127.0.0.1:1/sigul")
    assert message.startswith("postgresql://sigul@127.0.0.1:1/sigul: cannot connect: ")
    assert "sesame" not in message


def test_user_without_rights(cluster: Cluster, name: str) -> None:
    cluster.execute("CREATE USER guest")
    url = cluster.url(name, user="guest", password="")
    for use in (read_users, add_carol):
        message = failure(use, url)
        assert "permission denied" in message
        assert "must own the database or its tables" in message


def test_a_role_that_may_not_make_the_table_of_limits(cluster: Cluster, name: str) -> None:
    cluster.execute("CREATE USER clerk")
    for statement in (
        "GRANT SELECT, INSERT, UPDATE, DELETE ON users, keys, key_accesses TO clerk",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO clerk",
        "REVOKE CREATE ON SCHEMA public FROM public",
    ):
        cluster.execute(statement, name)
    url = cluster.url(name, user="clerk", password="")
    only = AccessLimits(frozenset({"decrypt"}))
    with Database(url).write() as writer:
        writer.add_user("alice", None, admin=False)
        writer.add_key("key", KeyType.ECC, "ab")
        writer.add_access("alice", "key", b"", key_admin=False)
    with pytest.raises(RequestRefused) as refused, Database(url).write() as writer:
        writer.modify_access("alice", "key", limits=only)
    assert refused.value.status == Status.UNKNOWN_ERROR
    assert "GRANT CREATE ON SCHEMA public" in str(refused.value.message)
    # All else goes on, and with the table there it may be used.
    with Database(url).write() as writer:
        writer.modify_access("alice", "key", key_admin=True)


def test_server_that_dies_in_a_transaction(cluster: Cluster, url: str, name: str) -> None:
    database = Database(url)
    with pytest.raises(DatabaseError) as caught, database.write() as writer:
        writer.add_user("root", None, True)
        cluster.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'sigul'"
        )
        writer.users()
    assert str(caught.value).startswith("postgresql://sigul@")
    with database.read() as reader:
        assert reader.users() == []


def test_no_connection_is_left_open(cluster: Cluster, url: str) -> None:
    database = Database(url)
    with database.read() as reader:
        assert reader.users() == []
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'sigul'"
    limit = time.monotonic() + COMMAND_SECONDS
    while cluster.execute(query) != [(0,)]:
        # The server notices a moment later that we are gone.
        assert time.monotonic() < limit, "a connection is still open"
        time.sleep(0.01)


def test_saved_to_a_file_and_loaded_again(cluster: Cluster, name: str, tmp_path: Path) -> None:
    source, file = cluster.url(name), tmp_path / "saved.sqlite"
    limits = AccessLimits(frozenset({"sign-rpm"}), ("a*",))
    with Database(source).write() as writer:
        writer.add_user("alice", HASH, admin=True)
        writer.add_user("Root", None, admin=False)
        writer.add_key("key", KeyType.ECC, "ab")
        writer.add_access("alice", "key", b"\0envelope\xff", key_admin=True)
        writer.add_access("Root", "key", b"", key_admin=False, limits=limits)
    save(source, file)
    assert file.stat().st_mode & 0o777 == 0o600

    cluster.execute("CREATE DATABASE loaded OWNER sigul")
    target = cluster.url("loaded")
    load(file, target)
    for url in (sqlite_url(file), target):
        with Database(url).read() as reader:
            assert [user.name for user in reader.users()] == ["Root", "alice"]
            assert reader.user("alice") == User("alice", HASH, True)
            access = reader.access("alice", "key")
            assert access is not None
            assert access.encrypted_passphrase == b"\0envelope\xff"
            assert access.limits == UNLIMITED
            access = reader.access("Root", "key")
            assert access is not None
            assert access.limits == limits
    # Numbers go on behind those that came with the rows.
    with Database(target).write() as writer:
        writer.add_user("carol", None, admin=False)
    assert "in this database: name an empty one" in failure(lambda: load(file, target))
    assert "an SQLite database is not loaded" in failure(lambda: load(file, sqlite_url(file)))


def test_what_the_scripts_of_1_1_and_1_3_leave_is_told_and_mended(cluster: Cluster) -> None:
    name = "migrated"
    cluster.execute(f"CREATE DATABASE {name} OWNER sigul")
    with psycopg.connect(
        host=str(cluster.directory), port=PORT, user="sigul", password=SECRET, dbname=name
    ) as connection:
        connection.execute(
            "CREATE TABLE users (id SERIAL PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
            " sha512_password BYTEA, admin BOOLEAN NOT NULL);"
            "CREATE TABLE keys (id SERIAL PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
            " fingerprint TEXT NOT NULL UNIQUE);"
            "CREATE TABLE key_accesses (id SERIAL PRIMARY KEY,"
            " key_id INTEGER NOT NULL REFERENCES keys (id),"
            " user_id INTEGER NOT NULL REFERENCES users (id),"
            " encrypted_passphrase BYTEA NOT NULL, key_admin BOOLEAN NOT NULL,"
            " UNIQUE (key_id, user_id));"
            "INSERT INTO users (name, admin) VALUES ('root', true);"
            "INSERT INTO keys (name, fingerprint) VALUES ('old', 'AB01');"
            "INSERT INTO key_accesses (key_id, user_id, encrypted_passphrase, key_admin)"
            " VALUES (1, 1, 'x', true);"
            "CREATE TABLE keys_new (id SERIAL PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
            " keytype VARCHAR(5) NOT NULL, fingerprint TEXT NOT NULL UNIQUE,"
            " CONSTRAINT keytypeenum CHECK (keytype IN ('gnupg', 'ECC')));"
            "INSERT INTO keys_new (name, keytype, fingerprint)"
            " SELECT name, 'gnupg', fingerprint FROM keys;"
            "ALTER TABLE keys RENAME TO keys_v10;"
            "ALTER TABLE keys_new RENAME TO keys;"
        )
    url = cluster.url(name)
    told = "\n".join(finding.problem for finding in schema_report(url).findings)
    assert schema_report(url).layout.startswith("v1.1")
    assert "key_accesses.key_id leads to keys_v10" in told
    assert "refuses the types RSA, PKCS11" in told
    assert "room for less than 6 characters" in told
    assert "the table keys_v10 is left over" in told

    def grant() -> None:
        with Database(url).write() as writer:
            writer.add_key("new", KeyType.PKCS11, "pkcs11:token=a;object=b")
            writer.add_access("root", "new", b"sealed", True)

    with pytest.raises(DatabaseError):
        grant()
    result = migrate(url, clock=clock)
    assert result.after is SchemaState.CURRENT
    assert schema_report(url).findings == ()
    assert migrate(url, clock=clock).before is SchemaState.CURRENT
    grant()
    with Database(url).read() as reader:
        found = reader.keys()
        assert [key.name for key in found] == ["new", "old"]
        assert reader.key_users("old") == ["root"]
    with pytest.raises(DatabaseError), Database(url).write() as writer:
        writer._connection.exec_driver_sql("UPDATE key_accesses SET key_id = 99")
