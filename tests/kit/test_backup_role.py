"""How the role backup brings a backup to the control machine: nobody else may read it on the way.

The role's own tasks run against this machine, while somebody watches the directory of backups.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.commands_support import done
from tests.site import Site, module

TOP = Path(__file__).parents[2]
ANSIBLE = Path(sys.executable).with_name("ansible-playbook")
NAME = "sigul-test-20260102T030405Z.tar"

# A minute on a busy machine: Ansible starts ten times.
pytestmark = pytest.mark.long("roles/backup", "sigul_stack/backup")


@pytest.fixture(scope="module")
def passing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a signed backup, as a container leaves it; who signed is in `key.pub`."""
    directory = tmp_path_factory.mktemp("passing")
    site = Site.make(tmp_path_factory.mktemp("backed-up") / "site")
    key = directory / "key"
    site.run(*module("stack"), "backup", "make-key", str(key))
    site.extra = {"server": {"server": f"backup-signing-key: {key}\n"}}
    site.configure()
    with site.running():
        done(
            site, "new-key", "--key-admin", "admin", "--key-type", "ECC", "ecc",
            secrets=["admin-pw", "key-passphrase"],
        )  # fmt: skip
    site.run(
        *module("stack"), "backup", "create", "--unencrypted", "-c", str(site.path("server.conf")),
        str(directory / "backup.tar"),
    )  # fmt: skip
    yield directory
    shutil.rmtree(site.directory)


class Watcher:
    """Looks at a directory all the time; notes what others could read there, and what it saw."""

    def __init__(self, directory: Path) -> None:
        self.open_to_others: set[str] = set()
        self.seen: set[str] = set()
        self._directory = directory
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.002):
            self._look(self._directory, reachable=True)

    def _look(self, directory: Path, *, reachable: bool) -> None:
        try:
            # Asked first: what comes into a directory later cannot be reached either.
            mine = reachable and bool(directory.stat().st_mode & 0o011)
            for entry in os.scandir(directory):
                if entry.is_dir(follow_symlinks=False):
                    self._look(Path(entry), reachable=mine)
                    continue
                name = str(Path(entry).relative_to(self._directory))
                self.seen.add(name)
                if mine and entry.stat(follow_symlinks=False).st_mode & 0o077:
                    self.open_to_others.add(name)
        except FileNotFoundError:
            return  # moved or removed meanwhile


def play(tmp_path: Path, tasks: list[dict[str, Any]], **variables: object) -> tuple[int, str]:
    """Run tasks on the host `server`, which is this one, with a umask that lets everybody read."""
    playbook = tmp_path / "play.yml"
    playbook.write_text(
        json.dumps([{"hosts": "server", "gather_facts": False, "vars": variables, "tasks": tasks}])
    )
    result = subprocess.run(
        [
            str(ANSIBLE), "-i", "server,", "-c", "local",
            "-e", f"ansible_python_interpreter={sys.executable}", str(playbook),
        ],
        capture_output=True, check=False, timeout=300, cwd=tmp_path, umask=0,
        env={
            **os.environ,
            "ANSIBLE_ROLES_PATH": str(TOP / "roles"),
            "ANSIBLE_HOME": str(tmp_path / "ansible"),
            "ANSIBLE_LOCAL_TEMP": str(tmp_path / "ansible/tmp"),
            "ANSIBLE_NOCOLOR": "true",
        },
    )  # fmt: skip
    return result.returncode, result.stdout.decode() + result.stderr.decode()


def variables_of(passing: Path, directory: Path, tmp_path: Path) -> dict[str, object]:
    return {
        "_backup_passing": str(passing),
        "_backup_program": str(program(tmp_path)),
        "_backup_verify_key": ["--verify-key", str(passing / "key.pub")],
        "backup_directory": str(directory),
        "backup_name": NAME,
        "backup_ending": ".tar",
        "backup_signature": [".sig"],
        "backup_recipient": "",
        "backup_unsigned": False,
    }


def program(tmp_path: Path) -> Path:
    """`sigul-stack` as one program."""
    path = tmp_path / "sigul-stack"
    path.write_text(f'#!/bin/sh\nexec {" ".join(module("stack"))} "$@"\n')
    path.chmod(0o755)
    return path


ARRIVE = [{"ansible.builtin.include_tasks": str(TOP / "roles/backup/tasks/arrive.yml")}]


# Six runs of Ansible modules, each with a process or two of its own.
def test_nobody_else_can_read_a_backup_that_arrives(passing: Path, tmp_path: Path) -> None:
    directory = tmp_path / "backups"
    directory.mkdir()
    directory.chmod(0o755)
    with Watcher(directory) as watcher:
        code, said = play(tmp_path, ARRIVE, **variables_of(passing, directory, tmp_path))
    assert code == 0, said
    assert watcher.open_to_others == set()
    # It was watched on its way, too.
    assert any(name.startswith(".arriving-") for name in watcher.seen)
    assert {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()} == {
        NAME: 0o600, f"{NAME}.sig": 0o600,
    }  # fmt: skip
    assert (directory / NAME).read_bytes() == (passing / "backup.tar").read_bytes()


def test_one_that_is_fetched_first_and_changed_then_is_noticed(
    passing: Path, tmp_path: Path
) -> None:
    """The way it was: the test above fails where there is a moment in which others may read it."""
    directory = tmp_path / "backups"
    directory.mkdir()
    directory.chmod(0o755)
    made = str(directory / NAME)
    tasks = [
        {"ansible.builtin.fetch": {"src": f"{passing}/backup.tar", "dest": made, "flat": True}},
        {"ansible.builtin.file": {"path": made, "mode": "0600"}},
    ]
    with Watcher(directory) as watcher:
        code, said = play(tmp_path, tasks)
    assert code == 0, said
    assert watcher.open_to_others == {NAME}


def test_one_that_the_server_did_not_sign_gets_no_name(passing: Path, tmp_path: Path) -> None:
    other = tmp_path / "passing"
    shutil.copytree(passing, other)
    with (other / "backup.tar").open("ab") as file:
        file.write(bytes(512))
    directory = tmp_path / "backups"
    directory.mkdir()
    code, said = play(tmp_path, ARRIVE, **variables_of(other, directory, tmp_path))
    assert code != 0
    assert "the file is not the one that was signed" in said
    assert list(directory.iterdir()) == []
