"""Backups that somebody else wrote: whole in themselves, and made to do harm where they are read.

Each of them passes for whole with the versions before these rules.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sigul_stack.keystore.gnupg.directory import AGENT_CONFIGURATION
from tests.site import Site, module

from .backup_forging import content_of, forged
from .commands_support import stored_fingerprints
from .test_backup import config, signs, stack, with_keys, without_state

GRIP = "A" * 40
DATABASE = "database/server.sqlite"


@pytest.fixture(scope="module")
def keyed(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A stopped site with two keys, whose state no test changes."""
    yield from with_keys(Site.copy(template, tmp_path_factory.mktemp("hostile-backup") / "site"))


@pytest.fixture(scope="module")
def backup(keyed: Site) -> bytes:
    """A backup of it."""
    return stack(keyed, "create", "--unencrypted", *config(keyed), "-")[0]


@pytest.fixture
def empty(keyed: Site, tmp_path: Path) -> Site:
    """A site whose server has lost everything."""
    return without_state(keyed, tmp_path / "site")


#: Runs a command, and writes down the names of the processes that it left without a parent on the
#: way, as an agent that goes into the background is: ended or not, they become this one's children.
ORPHANS = """
import ctypes, pathlib, subprocess, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
code = subprocess.run(sys.argv[2:]).returncode
pids = pathlib.Path("/proc/self/task", str(__import__("os").getpid()), "children").read_text()
names = [pathlib.Path("/proc", pid, "comm").read_text() for pid in pids.split()]
pathlib.Path(sys.argv[1]).write_text("".join(names))
sys.exit(code)
"""


def orphans(site: Site, directory: Path, *command: str, stdin: bytes = b"") -> tuple[str, str]:
    """Run a command; its standard error, and the names of the processes that it orphaned."""
    told = directory / "orphans"
    result = site.run(sys.executable, "-c", ORPHANS, str(told), *command, stdin=stdin)
    return result.stderr.decode(), told.read_text()


def hostile_settings(directory: Path) -> tuple[dict[str, bytes | None], list[Path]]:
    """Settings that write a file and run a program, and what would be there if they did."""
    log, trace = directory / "written-by-the-backup", directory / "ran"
    program = directory / "program"
    program.write_text(f"#!/bin/sh\necho ran >> {trace}\nexit 1\n")
    program.chmod(0o755)
    lines = f"log-file {log}\ndebug-level guru\npinentry-program {program}\n"
    return {
        "gnupg/gpg-agent.conf": f"{lines}scdaemon-program {program}\n".encode(),
        "gnupg/gpg.conf": f"log-file {log}\nagent-program {program}\n".encode(),
        "gnupg/common.conf": b"use-keyboxd\n",
        "gnupg/dirmngr.conf": f"log-file {log}\n".encode(),
        "gnupg/scdaemon.conf": f"log-file {log}\n".encode(),
    }, [log, trace]


# More than 5 s: the restored site is started, and signs.
def test_settings_in_a_backup_write_nothing_and_start_nothing(
    keyed: Site, backup: bytes, empty: Site, tmp_path: Path
) -> None:
    settings, traces = hostile_settings(tmp_path)
    bad = forged(backup, settings)
    program = [*module("stack"), "backup"]
    said, left = orphans(keyed, tmp_path, *program, "verify", "-", stdin=bad)
    assert said.startswith("whole: "), said
    assert "left out, for such files are not restored: gnupg/gpg-agent.conf" in said
    assert left == ""
    assert not [path for path in traces if path.exists()]

    said, left = orphans(
        keyed, tmp_path, *program, "restore", "--unsigned", *config(empty), "-", stdin=bad
    )
    assert "restored: " in said, said
    assert left == ""
    home = empty.path("server/gnupg")
    assert (home / "gpg-agent.conf").read_text() == AGENT_CONFIGURATION
    assert {path.name for path in home.iterdir() if path.name.endswith(".conf")} == {
        "gpg-agent.conf"
    }
    assert stored_fingerprints(empty) == stored_fingerprints(keyed)
    with empty.running():
        signs(empty, tmp_path)
    assert not [path for path in traces if path.exists()]


def test_an_agent_would_be_noticed(keyed: Site, tmp_path: Path) -> None:
    """The test above fails where an agent is started, even one that has ended since."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    shell = f"gpg --homedir {home} -K; gpgconf --homedir {home} --launch gpg-agent"
    shell += f"; gpgconf --homedir {home} --kill gpg-agent"
    assert "gpg-agent" in orphans(keyed, tmp_path, "sh", "-c", shell)[1]


def test_a_backup_takes_no_settings_and_says_so(keyed: Site, tmp_path: Path) -> None:
    site = Site.copy(keyed, tmp_path / "site")
    (site.path("server/gnupg") / "gpg.conf").write_text("no-greeting\n")
    (site.path("server/keys") / "notes.txt").write_text("mine")
    data, said = stack(site, "create", "--unencrypted", *config(site), "-")
    names = set(content_of(data)[1])
    assert not [name for name in names if name.endswith((".conf", ".txt"))]
    (told,) = re.findall(r"^left out, for such files are in no backup: (.*)$", said, re.M)
    # The agent's are those that a restored home gets.
    assert {Path(path).name for path in told.split(", ")} == {
        "gpg.conf", "notes.txt",
    }  # fmt: skip


@pytest.mark.once("our own list of names")
@pytest.mark.parametrize(
    "name",
    [
        "gnupg/S.gpg-agent", "gnupg/evil.so", "gnupg/private-keys-v1.d/run.sh",
        f"gnupg/private-keys-v1.d/{GRIP.lower()}.key", f"gnupg/private-keys-v1.d/{GRIP}.key.tmp",
        f"gnupg/{GRIP}.key", f"gnupg/a/private-keys-v1.d/{GRIP}.key", "gnupg/.bashrc",
        "keys/authorized_keys", f"keys/{'a' * 40}.cert.no1.pem", f"keys/{'a' * 40}.key.pem",
        f"keys/.{'a' * 40}.pem", f"keys/sub/{'a' * 40}.pem", f"keys/{'a' * 40}.pem;x",
        "database/server.sqlite-wal", "database/server.sqlite-journal", "database/other.sqlite",
        "nss/libevil.so", "nss/policy.cfg", "configuration/server.conf",
    ],
)  # fmt: skip
def test_a_file_that_belongs_to_no_server_is_refused(backup: bytes, empty: Site, name: str) -> None:
    before = sorted(empty.path("server").rglob("*"))
    bad = forged(backup, {name: b"hostile content"})
    wanted = f"there are files in it that belong to no signing server: {name}; see who made this"
    _, said = stack(empty, "verify", "-", stdin=bad, code=1)
    assert wanted in said
    _, said = stack(empty, "restore", "--unsigned", *config(empty), "-", stdin=bad, code=1)
    assert wanted in said
    assert sorted(empty.path("server").rglob("*")) == before
    # Who knows what it is goes on, and still does not get it.
    stack(
        empty, "restore", "--unsigned", "--skip-strangers", "--others", str(empty.path("others")),
        *config(empty), "-", stdin=bad,
    )  # fmt: skip
    assert not [
        path
        for path in empty.directory.rglob("*")
        if path.is_file() and b"hostile content" in path.read_bytes()
    ]


def test_modules_that_a_backup_names_for_nss_are_not_loaded(
    keyed: Site, empty: Site, tmp_path: Path
) -> None:
    data, _ = stack(keyed, "create", "--unencrypted", "--with-nss", *config(keyed), "-")
    bad = forged(
        data, {"nss/pkcs11.txt": b"library=/tmp/evil.so\nname=Evil\n", "nss/secmod.db": b"x"}
    )
    others = tmp_path / "others"
    stack(empty, "restore", "--unsigned", "--others", str(others), *config(empty), "-", stdin=bad)
    assert {path.name for path in (others / "nss").iterdir()} == {
        "cert9.db", "key4.db", "nss-password", "pkcs11.txt.from-backup", "secmod.db.from-backup",
    }  # fmt: skip
    # NSS takes the database as it is, and no module with it.
    told = subprocess.run(
        ["certutil", "-L", "-d", f"sql:{others / 'nss'}"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "sigul-server-cert" in told.stdout
    modules = subprocess.run(
        ["modutil", "-list", "-dbdir", f"sql:{others / 'nss'}"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "Evil" not in modules.stdout + told.stdout


def write_schema(connection: sqlite3.Connection, kind: str, name: str, sql: str) -> None:
    """Write a row of the schema that says something else than its SQL does."""
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("INSERT INTO sqlite_schema VALUES (?, ?, 'users', 0, ?)", (kind, name, sql))


HOSTILE_SCHEMAS: list[Callable[[sqlite3.Connection], object]] = [
    lambda db: db.execute(
        "CREATE TRIGGER later AFTER INSERT ON keys BEGIN UPDATE users SET admin = 1; END"
    ),
    lambda db: db.execute(
        "CREATE TRIGGER key_access_limits_delete AFTER DELETE ON key_accesses BEGIN"
        " UPDATE users SET admin = 1; END"
    ),
    lambda db: db.execute("CREATE VIEW more AS SELECT hex(zeroblob(1000)) FROM users"),
    lambda db: db.execute("CREATE VIRTUAL TABLE more USING fts5(a)"),
    lambda db: db.execute("CREATE TABLE more (a INTEGER, b AS (hex(zeroblob(a))))"),
    lambda db: db.execute("CREATE TABLE more (a INTEGER CHECK (length(zeroblob(a)) > 0))"),
    lambda db: db.execute("CREATE TABLE more (a INTEGER DEFAULT (random()))"),
    lambda db: db.execute("CREATE INDEX more ON users (lower(name))"),
    lambda db: db.execute("CREATE INDEX more ON users (name) WHERE abs(id) > 0"),
    lambda db: write_schema(
        db, "table", "more",
        "CREATE TRIGGER more AFTER INSERT ON keys BEGIN UPDATE users SET admin = 1; END",
    ),
]  # fmt: skip


@pytest.mark.once("SQLite's text of a schema, and our own reading")
@pytest.mark.parametrize("change", HOSTILE_SCHEMAS)
def test_a_database_that_runs_something_is_refused(
    backup: bytes, empty: Site, tmp_path: Path, change: Callable[[sqlite3.Connection], object]
) -> None:
    path = tmp_path / "db"
    path.write_bytes(content_of(backup)[1][DATABASE])
    with sqlite3.connect(path) as database:
        change(database)
    database.close()
    bad = forged(backup, {DATABASE: path.read_bytes()})
    for arguments in (("verify",), ("restore", "--unsigned", *config(empty))):
        _, said = stack(empty, *arguments, "-", stdin=bad, code=1)
        assert "its database is not what a server makes: " in said
    assert not empty.path("server/server.sqlite").exists()


@pytest.mark.once("SQLite's text of a schema, and our own reading")
def test_a_database_with_limits_and_a_table_of_the_site_is_taken(
    keyed: Site, backup: bytes, tmp_path: Path
) -> None:
    """What this project's servers make besides, and 1.2's checks, are no reason to refuse it."""
    path = tmp_path / "db"
    path.write_bytes(content_of(backup)[1][DATABASE])
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE notes (a TEXT DEFAULT 'x', b BOOLEAN, CHECK (b IN (0, 1)))")
        database.execute("CREATE UNIQUE INDEX fast ON users (name)")
    database.close()
    _, said = stack(keyed, "verify", "-", stdin=forged(backup, {DATABASE: path.read_bytes()}))
    assert said.startswith("whole: ")


@pytest.mark.parametrize("content", [b"", b"KBXf" * 100, os.urandom(4096), b"\x99\xff\xff" * 99])
def test_a_key_ring_that_is_none_is_refused(backup: bytes, keyed: Site, content: bytes) -> None:
    _, said = stack(
        keyed, "verify", "-", stdin=forged(backup, {"gnupg/pubring.kbx": content}), code=1
    )
    assert re.search("secret part of these keys|listing the keys in|cannot be used", said), said


def test_secrets_go_in_encrypted_or_when_told(keyed: Site, tmp_path: Path) -> None:
    """What stands in the configuration itself, and the password beside the NSS database."""
    site = Site.copy(keyed, tmp_path / "site")
    site.extra = {"server": {"binding": "pkcs11_tokens: a\npkcs11_a_pin: 123456\n"}}
    site.configure()
    target = tmp_path / "backup.tar"
    _, said = stack(site, "create", "--with-configuration", *config(site), str(target), code=1)
    assert "secrets would go into the backup as they are: " in said
    assert "[binding] pkcs11_a_pin; encrypt it with --recipient-file KEY" in said
    assert "123456" not in said
    _, said = stack(site, "create", "--with-nss", *config(site), str(target), code=1)
    assert "server/nss-password; encrypt it" in said
    assert not target.exists()
    # Without them it is as it was, with a warning.
    _, said = stack(site, "create", *config(site), str(target))
    assert "warning: it is not encrypted" in said
    _, said = stack(site, "create", "--with-configuration", "--unencrypted", *config(site), "-")
    assert "warning: it is not encrypted" not in said
