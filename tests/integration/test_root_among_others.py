"""Root's tools on what is another user's: his NSS database runs his code, with his rights alone."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sigul_stack.config.identity import other_owner, rights_of_owner
from sigul_stack.errors import ConfigurationError
from sigul_stack.pki import make_site
from tests.checkout import TOP

#: A user for whom nothing on the machine is meant.
UID = 65534
#: Seconds; a limit against hanging alone.
SECONDS = 100
NAMED = ("--nickname", "sigul-bridge-cert")
STACK = [sys.executable, "-m", "sigul_stack.cli.stack"]

pytestmark = pytest.mark.root

#: A PKCS#11 module that tells whose rights it was loaded with, in a file beside itself.
MODULE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <libgen.h>
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void loaded(void) {
    uid_t real, effective, saved;
    char path[4096], log[4200];
    Dl_info own;
    getresuid(&real, &effective, &saved);
    if (!dladdr(loaded, &own)) return;
    snprintf(path, sizeof path, "%s", own.dli_fname);
    snprintf(log, sizeof log, "%s/loaded", dirname(path));
    FILE *file = fopen(log, "a");
    if (file) { fprintf(file, "%u %u %u\n", real, effective, saved); fclose(file); }
}
"""


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory of root's that every user can reach, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="sigul-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a site's NSS databases, and the module."""
    path = tmp_path_factory.mktemp("prepared")
    make_site(path / "site", bridge="bridge.example.org", server="server.example.org", users=[])
    source = path / "module.c"
    source.write_text(MODULE)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", path / "module.so", source], timeout=SECONDS, check=True
    )
    return path


@pytest.fixture
def his(prepared: Path, top: Path) -> Path:
    """An NSS database of the user's, which names a module of his."""
    path = top / "his"
    shutil.copytree(prepared / "site", top / "site")
    shutil.copytree(top / "site/bridge", path)
    shutil.copy(prepared / "module.so", path)
    with (path / "pkcs11.txt").open("a") as file:
        file.write(f"\nlibrary={path}/module.so\nname=his\nNSS=trustOrder=100\n")
    for one in (path, *path.iterdir()):
        os.chown(one, UID, UID)
    return path


def stack(*arguments: str, code: int = 0) -> str:
    """What `sigul-stack` prints, run by root."""
    done = subprocess.run(
        [*STACK, *arguments],
        cwd=TOP, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def configured(top: Path, his: Path, user: str) -> Path:
    """A bridge's configuration with that database; it is root's."""
    path = top / "bridge.conf"
    path.write_text(
        f"[nss]\nnss-dir: {his}\nnss-password-file: {his}/nss-password\n"
        f"[bridge]\nbridge-cert-nickname: sigul-bridge-cert\n[daemon]\n{user}"
    )
    return path


def loaded(his: Path) -> set[str]:
    """Whose rights the module had: real, effective and saved user."""
    return set((his / "loaded").read_text().splitlines())


@pytest.mark.parametrize(
    "command",
    [
        lambda top, his: ("pki", "list", str(his)),
        lambda top, his: ("pki", "check", str(his), "--role", "bridge"),
        lambda top, his: ("pki", "renew", str(his), *NAMED, "--ca", str(top / "site/ca")),
        lambda top, his: ("pki", "remove", str(his), *NAMED),
    ],
    ids=["list", "check", "renew", "remove"],
)
def test_a_module_of_his_has_his_rights_in_pki(
    command: Callable[[Path, Path], tuple[str, ...]], top: Path, his: Path
) -> None:
    stack(*command(top, his))
    assert loaded(his) == {f"{UID} {UID} {UID}"}
    assert {path.stat().st_uid for path in his.iterdir()} == {UID}


@pytest.mark.parametrize(
    "user",
    [
        "",
        pytest.param(
            f"unix-user: {UID}\nunix-group: {UID}\n",
            marks=pytest.mark.once("our own setting; NSS loads the module as without it"),
        ),
    ],
)
@pytest.mark.parametrize("tool", ["doctor", "health"])
def test_a_module_of_his_has_his_rights_in_checks(
    tool: str, user: str, top: Path, his: Path
) -> None:
    path = configured(top, his, user)
    # Nothing listens: what matters comes before that.
    done = subprocess.run(
        [*STACK, tool, "bridge", "-c", str(path)],
        cwd=TOP, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert "sigul-bridge-cert" in done.stdout
    assert loaded(his) == {f"{UID} {UID} {UID}"}


@pytest.mark.once("our own files and owners")
def test_what_he_puts_in_a_file_s_place_is_not_given_to_him(top: Path, his: Path) -> None:
    """His password file leads to a file of root's, which root would read, and give to him."""
    secret = top / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    (his / "nss-password").unlink()
    (his / "nss-password").symlink_to(secret)
    said = stack("pki", "check", str(his), "--role", "bridge", code=1)
    assert "Permission denied" in said
    assert (secret.stat().st_uid, stat.S_IMODE(secret.stat().st_mode)) == (0, 0o600)


@pytest.mark.once("our own files and owners")
def test_a_database_is_made_for_another_user(top: Path) -> None:
    """Twice: the second time the directory is his."""
    stack("pki", "init-ca", "--dir", str(top / "ca"))
    for _ in range(2):
        stack("pki", "issue", "--ca", str(top / "ca"), "--into", str(top / "new/nss"),
              "--role", "bridge", "--name", "bridge.example.org",
              "--owner", f"{UID}:{UID}")  # fmt: skip
        new = top / "new/nss"
        assert {(path.stat().st_uid, path.stat().st_gid) for path in (new, *new.iterdir())} == {
            (UID, UID)
        }
        stack("pki", "remove", str(new), *NAMED)
    assert (top / "new").stat().st_uid == 0


@pytest.mark.once("our own files and owners")
def test_a_directory_that_is_anybody_s_is_refused(top: Path) -> None:
    shared = top / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(ConfigurationError, match="is root's, but others may change it"):
        other_owner(shared)
    stack("pki", "list", str(shared), code=1)


@pytest.mark.once("our own files and owners")
def test_a_file_that_goes_meanwhile_says_nothing(tmp_path: Path) -> None:
    """As a journal of SQLite's goes while somebody else works with an NSS database."""
    over = threading.Event()
    directory = tmp_path / "nss"
    directory.mkdir()

    def come_and_go() -> None:
        while not over.is_set():
            for number in range(20):
                (directory / str(number)).touch()
            for path in directory.iterdir():
                path.unlink()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(2000):
            assert other_owner(directory) is None
    finally:
        over.set()
        thread.join(10)


@pytest.mark.once("our own files and owners")
def test_whose_a_directory_is(top: Path) -> None:
    (top / "a").mkdir()
    assert other_owner(top / "a") is None
    assert other_owner(top / "a/b/c") is None
    (top / "a/file").touch()
    os.chown(top / "a/file", UID, UID)
    found = other_owner(top / "a")
    assert found is not None and found.uid == UID
    os.chown(top / "a", UID, 0)
    found = other_owner(top / "a/b/c")
    assert found is not None and found.uid == UID and 0 not in (found.gid, *found.groups)
    (top / "private").mkdir(mode=0o700)
    (top / "private/b").mkdir()
    os.chown(top / "private/b", UID, UID)
    assert other_owner(top / "private/b") is None
    (top / "link").symlink_to(top / "a")
    found = other_owner(top / "link")
    assert found is not None and found.uid == UID
    with rights_of_owner(top / "a"):
        assert (os.geteuid(), os.getuid()) == (UID, 0)
        with rights_of_owner(top / "a"):
            assert os.geteuid() == UID
    assert os.geteuid() == 0
