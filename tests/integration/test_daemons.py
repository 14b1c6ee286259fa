"""The daemons as a system starts them: in the background, with PID files, as other users."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.observe import workers
from tests.site import DAEMON_SECONDS, PROGRAM_SECONDS, Site, has_ended, module, wait_until

from .commands_support import ADMIN, Dialogue, done, person

pytestmark = pytest.mark.once("processes, their users and PID files")

#: Whom the daemons become. Only root can become somebody else; others show it as whoever they are.
ACCOUNT = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
OTHER, GROUP = ACCOUNT.pw_uid, ACCOUNT.pw_gid
#: What stands before a command line to run it as that user from the start.
AS_OTHER = (
    ("setpriv", f"--reuid={OTHER}", f"--regid={GROUP}", "--clear-groups")
    if os.geteuid() == 0
    else ()
)


def background(site: Site, program: str, *options: str) -> list[str]:
    """The command line that starts a daemon in the background."""
    return [
        *module(program), "-d", "-c", str(site.path(f"{program}.conf")),
        f"--internal-log-dir={site.path('log')}", f"--internal-pid-dir={site.path('run')}",
        *options,
    ]  # fmt: skip


def pid_of(site: Site, program: str) -> int:
    """The number in a daemon's PID file."""
    text = site.path(f"run/sigul_{program}.pid").read_text()
    assert text == f"{int(text)}\n"
    return int(text)


#: Prints what the status socket gives.
READ_STATUS = (
    "import sys\nfrom pathlib import Path\n"
    "from sigul_stack.transport.status_socket import read_status\n"
    f"print(read_status(Path(sys.argv[1]), {DAEMON_SECONDS}).decode())"
)


@contextlib.contextmanager
def ended_afterwards(site: Site) -> Iterator[None]:
    """Whatever has a PID file at the end of the block is ended."""
    try:
        yield
    finally:
        for program in ("server", "bridge"):
            if site.path(f"run/sigul_{program}.pid").exists():
                end(site, program)


def end(site: Site, program: str, number: signal.Signals = signal.SIGTERM) -> None:
    """End a daemon by its PID file, and see that both are gone."""
    pid = pid_of(site, program)
    os.kill(pid, number)
    wait_until(lambda: has_ended(pid), DAEMON_SECONDS, f"the {program}'s end")
    assert not site.path(f"run/sigul_{program}.pid").exists()


def test_in_the_background(site: Site) -> None:
    with ended_afterwards(site):
        for program in ("bridge", "server"):
            # It returns once the daemon is ready, and says nothing.
            result = site.run(*background(site, program), stdin=b"")
            assert (result.stdout, result.stderr) == (b"", b"")
            pid = pid_of(site, program)
            assert os.getsid(pid) != os.getsid(0)
            log = site.path(f"log/sigul_{program}.log")
            assert f"[{pid}] sigul_{program} starts" in log.read_text()
            assert stat.S_IMODE(log.stat().st_mode) & 0o007 == 0
        assert done(site, "list-users", secrets=[ADMIN]) == b"admin\n"
        server, bridge = pid_of(site, "server"), pid_of(site, "bridge")
        end(site, "server", signal.SIGQUIT)
        end(site, "bridge")
        for name, pid in (("server", server), ("bridge", bridge)):
            text = site.path(f"log/sigul_{name}.log").read_text()
            assert f"[{pid}] sigul_{name} ends" in text
        assert list(site.path("run").iterdir()) == []


@pytest.mark.root  # Nobody else is told of a process that gives no core dumps where it is.
def test_a_daemon_holds_no_file_system(site: Site) -> None:
    with ended_afterwards(site):
        site.run(*background(site, "bridge"), stdin=b"")
        assert Path(f"/proc/{pid_of(site, 'bridge')}/cwd").readlink() == Path("/")
        end(site, "bridge")


def test_relative_paths_start_where_the_daemon_was_started(site: Site) -> None:
    """At start, and when the configuration is read again from the root directory."""
    with ended_afterwards(site):
        for program in ("bridge", "server"):
            path = site.path(f"{program}.conf")
            path.write_text(path.read_text().replace(f"{site.directory}/", ""))
            command = [
                *module(program), "-d", "-c", path.name, "--internal-log-dir=log",
                "--internal-pid-dir=run",
            ]  # fmt: skip
            result = site.run(*command, stdin=b"", cwd=site.directory)
            assert (result.stdout, result.stderr) == (b"", b"")
            log = site.path(f"log/sigul_{program}.log")
            pid = pid_of(site, program)
            wait_until(lambda pid=pid: children(pid), DAEMON_SECONDS, "the first children")
            serving = children if program == "bridge" else workers
            wait_until(
                lambda pid=pid, of=serving: of(pid), DAEMON_SECONDS, "a first one that serves"
            )
            before = set(serving(pid))
            os.kill(pid, signal.SIGHUP)
            wait_until(
                lambda pid=pid, before=before, of=serving: not before & set(of(pid)),
                DAEMON_SECONDS,
                f"new children\n{log.read_text()}",
            )
            assert "is not taken" not in log.read_text()
        assert done(site, "list-users", secrets=[ADMIN]) == b"admin\n"


def test_what_keeps_a_daemon_from_the_background_is_told(site: Site) -> None:
    with ended_afterwards(site):
        site.run(*background(site, "bridge"), stdin=b"")
        result = site.run(*background(site, "bridge"), stdin=b"", code=1)
        assert f"{pid_of(site, 'bridge')}" in result.stderr.decode()
        for program, name in (("server", "server"), ("bridge", "bridge")):
            (site.path("pki") / name / "nss-password").write_text("wrong")
            if program == "bridge":
                end(site, "bridge")
            result = site.run(*background(site, program), stdin=b"", code=1)
            assert result.stderr == b"Provided NSS password is incorrect\n"
            assert not site.path(f"run/sigul_{program}.pid").exists()


def test_the_nss_password_is_asked_for_before_the_terminal_is_left(site: Site) -> None:
    passwords = {}
    for name in ("bridge", "server"):
        file = site.path("pki") / name / "nss-password"
        passwords[name] = file.read_text().strip()
        path = site.path(f"{name}.conf")
        path.write_text(path.read_text().replace(f"nss-password-file: {file}\n", ""))
        file.unlink()
    with ended_afterwards(site):
        for name, password in passwords.items():
            dialogue = Dialogue(site, *background(site, name))
            dialogue.answer("NSS database password", password)
            assert dialogue.end() == "NSS database password: \n"
        assert done(site, "list-users", secrets=[ADMIN]) == b"admin\n"
        # Each worker that is forked later has it, too.
        for _ in range(6):
            done(site, "list-users", secrets=[ADMIN])


def test_a_log_that_is_moved_away_is_begun_anew(site: Site) -> None:
    with ended_afterwards(site):
        for program in ("bridge", "server"):
            site.run(*background(site, program), stdin=b"")
            site.path(f"log/sigul_{program}.log").rename(site.path(f"log/{program}.1"))
        done(site, "list-users", secrets=[ADMIN])
    for program, mark in (("bridge", "Client connected"), ("server", "[DOUBLE_TLS]")):
        assert mark in site.path(f"log/sigul_{program}.log").read_text()
        assert f"sigul_{program} starts" in site.path(f"log/{program}.1").read_text()


def test_a_stale_pid_file_is_replaced(site: Site) -> None:
    with ended_afterwards(site):
        site.run(*background(site, "bridge"), stdin=b"")
        pid = pid_of(site, "bridge")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: has_ended(pid), DAEMON_SECONDS, "the bridge's end")
        assert pid_of(site, "bridge") == pid
        site.run(*background(site, "bridge"), stdin=b"")
        assert pid_of(site, "bridge") != pid


# -------------------------------------------------------------------------------- as another user


@pytest.fixture
def reachable(template: Site) -> Iterator[Site]:
    """A site in a directory that every user can reach, unlike pytest's."""
    top = Path(tempfile.mkdtemp(prefix="sigul-", dir="/tmp"))
    top.chmod(0o755)
    site = Site.copy(template, top / "site")
    try:
        yield site
    finally:
        site.stop_all()
        shutil.rmtree(top)


def give_away(path: Path) -> None:
    """Give a directory and all in it to the other user."""
    for item in (path, *path.rglob("*")):
        os.chown(item, OTHER, GROUP)


def identity(pid: int) -> dict[str, list[int]]:
    """A process's user, group and supplementary groups, as the kernel has them."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: sorted(map(int, fields[name].split())) for name in ("Uid", "Gid", "Groups")}


def children(pid: int) -> list[int]:
    """The numbers of a process's children."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return list(map(int, text.split()))


def test_root_becomes_the_configured_user(reachable: Site, tmp_path: Path) -> None:
    site = reachable
    daemon = f"unix-user: {ACCOUNT.pw_name}\nunix-group: {GROUP}\n"
    site.extra = {"bridge": {"daemon": daemon}, "server": {"daemon": daemon}}
    site.workers = 4
    site.configure()
    give_away(site.path("server"))
    # Root alone may read certificates, keys and their passwords: they are read before.
    for name in ("bridge", "server"):
        assert (site.path("pki") / name / "key4.db").stat().st_uid == os.geteuid()
        assert stat.S_IMODE((site.path("pki") / name).stat().st_mode) & 0o077 == 0
    groups = sorted(os.getgrouplist(ACCOUNT.pw_name, GROUP))
    other = {"Uid": [OTHER] * 4, "Gid": [GROUP] * 4, "Groups": groups}
    with site.running() as (bridge, server):
        assert identity(bridge.serving) == other
        server.wait_for("Waiting for a request at the bridge", 4)
        # The writer of the signing log, and four workers.
        assert len(children(server.popen.pid)) == 5
        for child in children(server.popen.pid):
            assert identity(child) == other
        for kind in ("gnupg", "ECC"):
            done(site, "new-key", kind, "--key-type", kind, secrets=[ADMIN, "k-pw"])
        (tmp_path / "data").write_bytes(b"data")
        done(site, "sign-data", "gnupg", str(tmp_path / "data"), "-o", str(tmp_path / "sig"),
             secrets=["k-pw"])  # fmt: skip
        public = done(site, "get-public-key", "gnupg", secrets=["k-pw"])
        with person(tmp_path / "person", public) as gpg:
            gpg.signer(tmp_path / "sig", tmp_path / "data")
        done(site, "new-user", "zoe", secrets=[ADMIN])
    for path in (site.path("server"), *site.path("server").rglob("*")):
        assert path.lstat().st_uid == OTHER, path


def test_what_root_prepares_belongs_to_the_configured_user(reachable: Site) -> None:
    site = reachable
    metrics = site.path("server/sigul_server.prom")
    site.extra = {
        "server": {"daemon": f"unix-user: {ACCOUNT.pw_name}\n", "metrics": f"file: {metrics}\n"}
    }
    site.configure()
    database = site.path("server/server.sqlite")
    database.unlink()
    give_away(site.path("server"))
    configuration = str(site.path("server.conf"))
    site.run(*module("server_create_db"), "-c", configuration, stdin=b"")
    site.run(*module("server_add_admin"), "-c", configuration, "--batch", "-n", "admin",
             secrets=[ADMIN])  # fmt: skip
    assert database.stat().st_uid == OTHER
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    with site.running():
        assert done(site, "list-users", secrets=[ADMIN]) == b"admin\n"
    assert (metrics.stat().st_uid, stat.S_IMODE(metrics.stat().st_mode)) == (OTHER, 0o644)


def test_key_stores_that_are_missing_are_made_for_the_configured_user(reachable: Site) -> None:
    """Where the directory is root's alone, too, so that he cannot."""
    site = reachable
    site.extra = {"server": {"daemon": f"unix-user: {ACCOUNT.pw_name}\n"}}
    site.configure()
    give_away(site.path("server"))
    stores = [site.path("stores/gnupg"), site.path("stores/keys")]
    for name, store in zip(("gnupg", "keys"), stores, strict=True):
        configuration = site.path("server.conf")
        text = configuration.read_text()
        configuration.write_text(text.replace(f": {site.path('server')}/{name}\n", f": {store}\n"))
    (site.path("stores")).mkdir(mode=0o755)
    with site.running():
        for kind in ("gnupg", "ECC"):
            done(site, "new-key", kind, "--key-type", kind, secrets=[ADMIN, "k-pw"])
    for store in stores:
        found = store.stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (OTHER, 0o700)


def test_a_pid_file_of_root_goes_with_a_daemon_that_is_nobody(reachable: Site) -> None:
    site = reachable
    daemon = f"unix-user: {ACCOUNT.pw_name}\n"
    site.extra = {"bridge": {"daemon": daemon}, "server": {"daemon": daemon}}
    site.configure()
    give_away(site.path("server"))
    with ended_afterwards(site):
        for program in ("bridge", "server"):
            site.run(*background(site, program), stdin=b"")
        assert identity(children(pid_of(site, "bridge"))[0])["Uid"] == [OTHER] * 4
        assert done(site, "list-users", secrets=[ADMIN]) == b"admin\n"
        for program in ("bridge", "server"):
            pid = pid_of(site, program)
            os.kill(pid, signal.SIGTERM)
            path = site.path(f"run/sigul_{program}.pid")
            wait_until(lambda path=path: not path.exists(), DAEMON_SECONDS, "the PID file's end")
            # The directory is root's alone: what has been opened is written to until the end.
            log = site.path(f"log/sigul_{program}.log").read_text()
            assert f"[{pid}] sigul_{program} ends" in log


def test_files_in_directories_of_the_configured_user(reachable: Site) -> None:
    """They work for him; what he puts in their places is not for root to follow."""
    site = reachable
    programs = ("bridge", "server")
    sockets = {name: site.path(f"run/{name}.sock") for name in programs}
    for name in programs:
        daemon = f"unix-user: {ACCOUNT.pw_name}\nstatus-socket: {sockets[name]}\n"
        site.extra[name] = {"daemon": daemon}
    site.configure()
    for name in ("server", "log", "run"):
        give_away(site.path(name))
    victim = site.path("of-root")
    victim.write_text("root's")
    with ended_afterwards(site):
        for name in programs:
            site.run(*background(site, name), stdin=b"")
            log, moved = site.path(f"log/sigul_{name}.log"), site.path(f"log/{name}.1")
            log.rename(moved)
            log.symlink_to(victim)
            os.kill(pid_of(site, name), signal.SIGHUP)
            text = f"[{pid_of(site, name)}] Reading configuration"
            wait_until(lambda moved=moved, text=text: text in moved.read_text(),
                       DAEMON_SECONDS, "the message of the process that stays root")  # fmt: skip
            log.unlink()
        assert victim.read_text() == "root's"
        done(site, "list-users", secrets=[ADMIN])
        for name in programs:
            os.kill(pid_of(site, name), signal.SIGHUP)
            log = site.path(f"log/sigul_{name}.log")
            text = f"[{pid_of(site, name)}] Reading configuration"
            wait_until(lambda log=log, text=text: log.exists() and text in log.read_text(),
                       DAEMON_SECONDS, "a new log")  # fmt: skip
            status = subprocess.run(
                [*AS_OTHER, sys.executable, "-c", READ_STATUS, str(sockets[name])],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=site.environment,
                timeout=PROGRAM_SECONDS, check=True,
            ).stdout  # fmt: skip
            assert f'"component": "{name}"'.encode() in status
            for path in (log, sockets[name], site.path(f"run/sigul_{name}.pid")):
                assert path.lstat().st_uid == OTHER, path
    assert list(site.path("run").iterdir()) == []


#: A module for NSS that notes who loads it.
MODULE = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
__attribute__((constructor)) static void load(void)
{
    uid_t real, effective, saved;
    FILE *file = fopen(getenv("TEST_WHO_LOADS"), "a");
    getresuid(&real, &effective, &saved);
    fprintf(file, "%d %d %d\n", (int)real, (int)effective, (int)saved);
    fclose(file);
}
"""


def test_what_the_configured_user_has_nss_load_is_loaded_as_him(reachable: Site) -> None:
    site = reachable
    who, module_file = site.path("who"), site.path("module.so")
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-x", "c", "-o", str(module_file), "-"],
        input=MODULE.encode(), timeout=PROGRAM_SECONDS, check=True,
    )  # fmt: skip
    site.variables["TEST_WHO_LOADS"] = str(who)
    daemon = f"unix-user: {ACCOUNT.pw_name}\n"
    site.extra = {"bridge": {"daemon": daemon}, "server": {"daemon": daemon}}
    site.configure()
    give_away(site.path("server"))
    for name in ("bridge", "server"):
        with (site.path("pki") / name / "pkcs11.txt").open("a") as modules:
            modules.write(f"\nlibrary={module_file}\nname=test\n")
        give_away(site.path("pki") / name)

    def loaded_by(start: Callable[[], object]) -> set[str]:
        who.write_text("")
        who.chmod(0o666)
        start()
        return set(who.read_text().splitlines())

    theirs = {f"{OTHER} {OTHER} {OTHER}"}
    try:
        assert loaded_by(site.start_bridge) == theirs
        assert loaded_by(site.start_server) == theirs
        done(site, "list-users", secrets=[ADMIN])
    finally:
        site.stop_all()
    add_admin = [*module("server_add_admin"), "-c", str(site.path("server.conf")), "--batch"]
    assert loaded_by(lambda: site.run(*add_admin, "-n", "eve", secrets=["eve-pw"])) == theirs


def test_who_may_not_become_another_is_told(reachable: Site) -> None:
    site = reachable
    site.extra = {"bridge": {"daemon": "unix-user: daemon\n"}}
    site.configure()
    give_away(site.directory)
    result = subprocess.run(
        [*AS_OTHER, *module("bridge"), "-c", str(site.path("bridge.conf"))],
        stdin=subprocess.DEVNULL, capture_output=True, env=site.environment,
        timeout=PROGRAM_SECONDS, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert f"this process (user {OTHER}) may not become user" in result.stderr.decode()


def test_a_whole_site_without_root(reachable: Site) -> None:
    """Nothing but starting as root and becoming another needs root."""
    site = reachable
    text = site.path("text")
    text.write_bytes(b"some text\n")
    give_away(site.directory)
    site.prefix = AS_OTHER
    with site.running() as (bridge, server):
        for process in (bridge, server):
            assert identity(process.popen.pid)["Uid"] == [OTHER] * 4
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        assert b"some text\n" in done(site, "sign-text", "k", str(text), secrets=["k-pw"])
