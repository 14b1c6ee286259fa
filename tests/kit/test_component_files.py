"""The module that puts a component's files in place, by itself, whatever its user has put there.

Needs no engine: it runs as Ansible runs it, in a process of its own.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

MODULE = Path(__file__).parents[2] / "roles/component/library/component_files.py"
#: Runs the module with the arguments on standard input.
RUN = """
import json, runpy, sys
from ansible.module_utils.testing import patch_module_args
with patch_module_args(json.load(sys.stdin)):
    runpy.run_path(sys.argv[1], run_name="__main__")
"""
DIRECTORIES = ["etc", "etc/nss", "etc/secrets", "nss", "secrets", "state", "state/keys"]
#: Whom the containers run as, where that is not who runs the module.
NOBODY = 65534
SECRET = "se-cret \u00e4"


@dataclass
class Component:
    """A component's directory, which the module looks after."""

    home: Path
    #: Whom all in it belongs to.
    owner: int = os.getuid()

    def run(self, step: str = "put", **arguments: Any) -> dict[str, Any]:
        """Run the module; its result."""
        for kind in ("secrets", "nss"):
            if kind in arguments:
                arguments[kind] = {
                    name: base64.b64encode(content.encode()).decode()
                    for name, content in arguments[kind].items()
                }
        given = {
            "component": "bridge", "home": str(self.home), "owner": self.owner,
            "group": self.owner, "step": step, **arguments,
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", RUN, MODULE], input=json.dumps(given), capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.stdout, done.stderr
        assert base64.b64encode(SECRET.encode()).decode() not in done.stdout
        assert SECRET not in done.stdout
        result: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (1 if result.get("failed") else 0)
        return result

    def put(self, certificate: str = "first", **arguments: Any) -> dict[str, Any]:
        """Have everything in place."""
        arguments = {
            "directories": DIRECTORIES, "secrets": {"nss-password": SECRET},
            "nss": {"cert9.db": certificate, "key4.db": "key", "pkcs11.txt": ""},
            "configuration": "[bridge]\n", **arguments,
        }  # fmt: skip
        return self.run(**arguments)

    def there(self) -> dict[str, tuple[str, int]]:
        """All that is there: links with where they lead, files with what they hold, and modes."""
        return {
            str(path.relative_to(self.home)): (
                str(path.readlink()) if path.is_symlink() else path.read_text() if path.is_file()
                else "", path.lstat().st_mode & 0o777,
            )
            for path in self.home.rglob("*")
        }  # fmt: skip

    @property
    def states(self) -> set[str]:
        """Directories of states of the NSS database."""
        return {path.name for path in (self.home / "nss").iterdir() if not path.is_symlink()}

    @property
    def current(self) -> str:
        """The current state."""
        return str((self.home / "nss/current").readlink())


@pytest.fixture
def component(tmp_path: Path) -> Component:
    return Component(tmp_path / "root" / "bridge")


@pytest.fixture
def made(component: Component) -> Iterator[Component]:
    """One that is complete, with a configuration that was found good."""
    assert component.put()["configuration"] is True
    component.run("accept")
    yield component


def test_everything_is_put_in_place_once(made: Component) -> None:
    there = made.there()
    state = made.current
    assert made.home.parent.stat().st_mode & 0o777 == 0o700
    assert there == {
        **dict.fromkeys((*DIRECTORIES, f"nss/{state}"), ("", 0o700)),
        "etc/bridge.conf": ("[bridge]\n", 0o400),
        "secrets/nss-password": (SECRET, 0o400),
        "nss/current": (state, 0o777),
        f"nss/{state}/cert9.db": ("first", 0o400),
        f"nss/{state}/key4.db": ("key", 0o400),
        f"nss/{state}/pkcs11.txt": ("", 0o400),
    }
    again = made.put()
    assert (again["changed"], again["paths"], again["configuration"]) == (False, [], False)
    assert made.there() == there


def test_check_mode_says_all_and_makes_nothing(component: Component) -> None:
    said = component.put(_ansible_check_mode=True)
    assert said["changed"] and said["configuration"]
    assert {"secrets/nss-password", "nss/current", "etc/bridge.conf", *DIRECTORIES} <= {
        *said["paths"]
    }
    assert component.run("compare", _ansible_check_mode=True)["changed"]
    assert not component.home.parent.exists()


def test_what_is_not_as_it_should_be_is_replaced(made: Component) -> None:
    """By a new file: nobody who has the old one open reads half of each."""
    secret, certificate = made.home / "secrets/nss-password", made.home / "nss/current/cert9.db"
    secret.chmod(0o644)
    (made.home / "etc").chmod(0o755)
    certificate.chmod(0o600)
    certificate.write_text("by hand")
    inodes = {path: path.stat().st_ino for path in (secret, certificate)}
    # Of a run that was cut off.
    (made.home / "secrets/.nss-password.new").write_text("")
    state = made.current
    assert made.put()["paths"] == ["etc", "secrets/nss-password", f"nss/{state}/cert9.db"]
    assert certificate.read_text() == "first"
    assert secret.stat().st_mode & 0o777 == 0o400
    assert all(path.stat().st_ino != inode for path, inode in inodes.items())
    assert not made.put()["changed"]
    assert not (made.home / "secrets/.nss-password.new").exists()


def test_the_state_before_stays_until_the_next_one(made: Component) -> None:
    first = made.current
    made.put("second")
    second = made.current
    assert made.states == {first, second}
    # And back: which of the two is newer is not the question.
    made.put("first")
    assert (made.current, made.states) == (first, {first, second})
    made.put("third")
    assert made.states == {first, made.current}


def test_a_configuration_waits_for_its_check(made: Component) -> None:
    old, new = made.home / "etc/bridge.conf", made.home / "etc/new/bridge.conf"
    inode = old.stat().st_ino
    said = made.put(configuration="[bridge]\nmax-clients: 4\n")
    assert said["paths"] == ["etc/bridge.conf"]
    assert said["diff"][1]["after"] == new.read_text()
    assert (old.stat().st_ino, said["diff"][1]["before"]) == (inode, old.read_text())
    made.run("discard")
    assert not new.parent.exists() and old.stat().st_ino == inode
    # Of a run that was cut off before the check; what is wanted now is the old one.
    made.put(configuration="[bridge]\nmax-clients: 4\n")
    assert not made.put()["changed"]
    assert not new.parent.exists()
    made.put(configuration="[bridge]\nmax-clients: 4\n")
    made.run("accept")
    assert old.read_text() == "[bridge]\nmax-clients: 4\n"
    assert not new.parent.exists()


def test_what_was_read_is_remembered(made: Component) -> None:
    """Also of a file that was changed, and changed back."""
    compared = made.run("compare")
    assert compared["changed"]
    made.run("remember", loaded=compared["loaded"])
    assert not made.run("compare")["changed"]
    for changed in (made.home / "secrets/nss-password", made.home / "etc/bridge.conf"):
        content = changed.read_text()
        changed.unlink()
        changed.write_text(content)
        compared = made.run("compare")
        assert compared["changed"]
        made.run("remember", loaded=compared["loaded"])
    made.put("second")
    assert made.run("compare")["changed"]


@pytest.mark.parametrize("directory", ["", "etc", "nss", "secrets", "state/keys"])
def test_no_link_to_a_directory_is_followed(
    made: Component, tmp_path: Path, directory: str
) -> None:
    others = tmp_path / "others"
    others.mkdir(0o755)
    link = made.home / directory
    link.rename(tmp_path / "moved")
    link.symlink_to(others)
    said = made.put("second")
    assert said["failed"]
    assert "is a link or a file; have a directory there" in said["msg"]
    assert list(others.iterdir()) == []
    assert others.stat().st_mode & 0o777 == 0o755


def test_no_link_to_a_file_is_followed(made: Component, tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.write_text(SECRET)
    others.chmod(0o644)
    names = [made.home / "secrets/nss-password", made.home / "etc/bridge.conf"]
    for name in names:
        name.unlink()
        name.symlink_to(others)
    (made.home / "secrets/.nss-password.new").symlink_to(others)
    made.put()
    made.run("accept")
    assert not any(name.is_symlink() for name in names)
    assert (others.read_text(), others.stat().st_mode & 0o777) == (SECRET, 0o644)


def test_a_current_state_elsewhere_is_not_looked_at(made: Component, tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    (tmp_path / "others/file").write_text("")
    current = made.home / "nss/current"
    current.unlink()
    current.symlink_to("../../../others")
    assert "others" not in made.run("compare")["loaded"]
    state = made.states
    made.put()
    assert {made.current} == state
    assert (tmp_path / "others/file").exists()


@pytest.mark.root
@pytest.mark.parametrize("made_before", [False, True], ids=["new", "of an earlier version"])
def test_the_containers_user_changes_nothing_beside_his_directories(
    tmp_path: Path, made_before: bool
) -> None:
    """Root runs and loads what lies in the site's directory: the rules of the packet filter."""
    tmp_path.chmod(0o755)
    component = Component(tmp_path / "site" / "server", NOBODY)
    if made_before:
        (tmp_path / "site/server").mkdir(parents=True)
        for path in (tmp_path / "site", tmp_path / "site/server"):
            path.chmod(0o700)
            os.chown(path, NOBODY, NOBODY)
    assert component.run("home")["changed"]
    assert not component.run("home")["changed"]
    (tmp_path / "site/egress").mkdir()
    component.put()
    assert not component.run("home")["changed"]
    for path in (component.home, component.home.parent):
        assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), os.getgid())
        assert path.stat().st_mode & 0o777 == 0o700
    inside = [component.home / name for name in (*DIRECTORIES, "secrets/nss-password")]
    assert {path.stat().st_uid for path in inside} == {NOBODY}
    moved = subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
         "mv", tmp_path / "site/egress", tmp_path / "site/server/state/"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert moved.returncode != 0
    assert "Permission denied" in moved.stderr
    assert (tmp_path / "site/egress").is_dir()
