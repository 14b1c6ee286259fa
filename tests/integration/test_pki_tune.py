"""`sigul-stack pki tune`: certutil and NSS on databases with NSS's own rounds of key derivation."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from sigul_stack.cli import pki as command
from sigul_stack.errors import NSSError, WrongNSSPassword
from sigul_stack.pki import NSSDatabase, Permissions, Site, make_site, nss_store, tune
from sigul_stack.pki.derivation import FEW_ROUNDS, read_derivation
from sigul_stack.pki.tuning import BACKUP_NAME
from sigul_stack.secret import Secret
from tests.site import fork

BRIDGE, SERVER = "sigul-bridge.example.org", "sigul-server.example.org"
#: NSS's own number.
ROUNDS = 10_000
LIMIT = "NSS_MAX_MP_PBE_ITERATION_COUNT"


@pytest.fixture(scope="module")
def slow_site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site as plain certutil makes it, with random passwords."""
    directory = tmp_path_factory.mktemp("slow") / "site"
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(nss_store, "ITERATIONS_FOR_RANDOM_PASSWORD", None),
    ):
        # Without the limit that holds for all other tests' databases.
        del os.environ[LIMIT]
        return make_site(directory, bridge=BRIDGE, server=SERVER, users=[])


@pytest.fixture
def slow(slow_site: Site, tmp_path: Path) -> Iterator[NSSDatabase]:
    """The bridge's database, to be changed."""
    shutil.copytree(slow_site.bridge.directory, tmp_path / "nss")
    # What certutil writes is up to the code, and not to this variable.
    with mock.patch.dict(os.environ):
        del os.environ[LIMIT]
        yield NSSDatabase(tmp_path / "nss", slow_site.bridge.database.password)


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["pki", *map(str, words)])
    status = args.func(args)
    return status or 0


def dumped(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return list(database.iterdump())


def test_a_database_is_rewritten_under_the_same_password(
    slow: NSSDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_derivation(slow.directory)
    assert before.most_rounds == ROUNDS
    assert before.rounds_a_use >= 12 * ROUNDS  # each of an RSA key's attributes, and its signature
    assert before.is_slow
    assert before.milliseconds_a_use() > 5
    inode = (slow.directory / "key4.db").stat().st_ino
    old = dumped(slow.directory / "key4.db")
    held = slow.certificates()

    assert run("tune", "--json", slow.directory) == 0

    (told,) = json.loads(capsys.readouterr().out)
    assert told["changed"] is True
    assert (told["rounds_before"], told["rounds"]) == (ROUNDS, 1)
    assert read_derivation(slow.directory).most_rounds == 1
    # In place, and the old keys beside it.
    assert (slow.directory / "key4.db").stat().st_ino == inode
    assert dumped(slow.directory / BACKUP_NAME) == old
    assert NSSDatabase(slow.directory, slow.password).certificates() == held
    assert all(item.trust for item in held)
    # Again: there is nothing to do.
    assert run("tune", slow.directory) == 0
    assert "are 1 already" in capsys.readouterr().out


def test_owner_and_mode_stay(slow: NSSDatabase) -> None:
    path = slow.directory / "key4.db"
    path.chmod(0o640)
    owner = path.stat().st_uid, path.stat().st_gid
    if os.geteuid() == 0:
        owner = 1234, 4321
        for file in (slow.directory, *slow.directory.iterdir()):
            os.chown(file, *owner)
    tune(slow)
    for file in (path, slow.directory / BACKUP_NAME):
        found = file.stat()
        assert (found.st_uid, found.st_gid) == owner
        assert stat.S_IMODE(found.st_mode) == 0o640


@pytest.mark.parametrize(
    "password", ["nss-pw", "correct horse battery staple and then some", "0123456789abcdef" * 3]
)
def test_a_weak_password_is_refused(
    tmp_path: Path, password: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delenv(LIMIT)
    directory = tmp_path / "nss"
    with NSSDatabase(directory, Secret(password)).making(Permissions()):
        pass
    (directory / "nss-password").write_text(password)
    content = (directory / "key4.db").read_bytes()
    assert run("tune", directory) == 1
    said = capsys.readouterr().err
    assert "is not tuned: its password " in said
    assert "certutil -W" in said
    assert password not in said
    assert (directory / "key4.db").read_bytes() == content
    assert not (directory / BACKUP_NAME).exists()
    assert read_derivation(directory).most_rounds > FEW_ROUNDS


def test_a_wrong_password_changes_nothing(slow: NSSDatabase) -> None:
    content = (slow.directory / "key4.db").read_bytes()
    with pytest.raises(WrongNSSPassword):
        tune(NSSDatabase(slow.directory, Secret.random(43)))
    assert (slow.directory / "key4.db").read_bytes() == content


def test_a_program_that_has_it_open_goes_on(slow: NSSDatabase, slow_site: Site) -> None:
    """It looks its key up once more, after the database was rewritten under it."""
    order = {
        "directory": str(slow.directory),
        "password_file": str(slow.directory / "nss-password"),
        "nickname": slow_site.bridge.nickname,
        "hostname": None, "tls": None, "wait": "use",
    }  # fmt: skip
    program = fork(
        [sys.executable, "-m", "tests.nss_peer", json.dumps(order)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert program.stdout is not None
        first = json.loads(program.stdout.readline())
        tune(slow)
        output, _ = program.communicate("\n", timeout=60)
    finally:
        program.kill()
        program.wait(60)
    assert program.returncode == 0
    last = json.loads(output.splitlines()[-1])
    assert last["serial"] == first["serial"]
    # The key was decrypted both times, the second time for less.
    assert last["use_seconds"] < first["use_seconds"] / 2


def children(pid: int) -> list[int]:
    """The processes that it has started, and theirs."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [item for child in map(int, listed) for item in (*children(child), child)]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize("late", [0.0, 0.01])
def test_killed_while_it_writes_it_is_all_old_or_all_new(slow: NSSDatabase, late: float) -> None:
    """The rewriting certutil, and whoever started it, killed `late` seconds after it has begun."""
    path = slow.directory / "key4.db"
    held = slow.certificates()
    script = "import sys; from sigul_stack.cli.stack import main; sys.exit(main(sys.argv[1:]))"
    program = subprocess.Popen(
        [sys.executable, "-c", script, "pki", "tune", str(slow.directory)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    # SQLite's journal is there from the first write to the end of the transaction.
    while not path.with_name("key4.db-journal").exists() and program.poll() is None:
        assert time.monotonic() < deadline
    time.sleep(late)
    killed = (*children(program.pid), program.pid)
    for pid in killed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    program.wait(30)
    while any(alive(pid) for pid in killed):
        assert time.monotonic() < deadline
    assert (slow.directory / BACKUP_NAME).exists()

    # NSS, which reads the journal, finds all keys under the password, and a second try works.
    assert slow.certificates() == held
    slow.export_key("sigul-bridge-cert")
    assert read_derivation(slow.directory).most_rounds in (1, ROUNDS)
    assert tune(slow).after.most_rounds == 1
    assert slow.certificates() == held
    assert not path.with_name("key4.db-journal").exists()


def test_killed_while_it_puts_it_in_place_the_journal_is_read(slow: NSSDatabase) -> None:
    """The moment that matters, which chance hits once in a hundred: the pages are half written."""
    path, held = slow.directory / "key4.db", slow.certificates()
    # A cache of one page is written to the file in the middle of the transaction, as a commit is.
    script = (
        "import os, signal, sqlite3, sys; d = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "d.execute('PRAGMA cache_size=1'); d.execute('PRAGMA cache_spill=1'); d.execute('BEGIN');"
        "d.execute('UPDATE metaData SET item1 = zeroblob(5000), item2 = zeroblob(5000)');"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    journal = path.with_name("key4.db-journal")
    assert journal.read_bytes()[:8].hex() == "d9d505f920a163d7"
    order = {
        "directory": str(slow.directory),
        "password_file": str(slow.directory / "nss-password"),
        "nickname": "sigul-bridge-cert",
        "hostname": None, "tls": None, "wait": False,
    }  # fmt: skip
    # NSS by itself gives up; what is ours undoes what was cut off.
    peer = [sys.executable, "-m", "tests.nss_peer", json.dumps(order)]
    assert subprocess.run(peer, capture_output=True, timeout=60).returncode != 0
    assert slow.certificates() == held
    assert not journal.exists()
    assert subprocess.run(peer, capture_output=True, timeout=60).returncode == 0
    assert tune(slow).after.most_rounds == 1


def test_doctor_names_the_cost_and_the_cure(slow: NSSDatabase, tmp_path: Path) -> None:
    """Nobody answers, and the password is wrong: it is told all the same, before either."""
    config = tmp_path / "bridge.conf"
    (tmp_path / "wrong").write_text("wrong")
    config.write_text(
        f"[bridge]\nserver-cn: {SERVER}\n[nss]\nnss-dir: {slow.directory}\n"
        f"nss-password-file: {tmp_path / 'wrong'}\n"
    )

    def examined() -> dict[str, dict[str, object]]:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "sigul_stack.cli.stack"),
                *("doctor", "bridge", "-c", str(config), "--batch", "--json"),
            ],
            capture_output=True, timeout=60,
        )  # fmt: skip
        checks = json.loads(done.stdout)["checks"]
        return {item["finding"]: item for item in checks if item["layer"] == "NSS database"}

    (finding,) = [item for text, item in examined().items() if "rounds" in text]
    assert finding["state"] == "warning"
    assert re.search(r"has 10000 rounds .* takes \d+ ms of CPU time", str(finding["finding"]))
    assert f"sigul-stack pki tune {slow.directory}" in str(finding["cure"])
    values = finding["values"]
    assert isinstance(values, dict)
    assert values["key_use_ms"] > 5
    tune(slow)
    assert not any("rounds" in text for text in examined())


def test_what_has_no_database_is_named(tmp_path: Path) -> None:
    with pytest.raises(NSSError, match="does not contain a valid NSS database"):
        tune(NSSDatabase(tmp_path, Secret.random(43)))
    with pytest.raises(NSSError, match="cannot be read"):
        read_derivation(tmp_path)
