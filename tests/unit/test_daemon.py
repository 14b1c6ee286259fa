"""Daemons as real processes: start in the background, PID file, end."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sigul_stack.cli.daemon import default_pid_directory
from sigul_stack.errors import ConfigurationError

#: What every daemon here begins with; its directory is the first argument, `-d` or not the second.
PREAMBLE = """
import logging, os, select, sys, time
from functools import partial
from pathlib import Path
from sigul_stack.cli.daemon import Daemon
from sigul_stack.cli.logs import set_up_daemon
from sigul_stack.config.identity import drop_privileges, identity
from sigul_stack.errors import NSSError

directory, background = Path(sys.argv[1]), sys.argv[2] == "-d"
log = logging.getLogger("sigul_stack.test")

def run(work, **options):
    def logs(stream):
        set_up_daemon("sigul_test", 0, stream=stream, directory=directory)
    options.setdefault("pid_directory", directory)
    code = Daemon("sigul_test", background, set_up_logs=logs, **options).run(work)
    print("returned", code)
    sys.exit(code)

def wait_until_told(control):
    control.ready()
    while not select.select([control.stop], [], [], 60)[0]:
        pass
"""

SIMPLE = "run(wait_until_told)"


class Site:
    """A directory with a daemon's files, and the processes that were started in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pid_file = directory / "sigul_test.pid"
        self.started: list[subprocess.Popen[str]] = []

    def command(self, code: str, mode: str) -> list[str]:
        # Named as the program would be, for an old daemon is recognised by its command line.
        script = self.directory / "sigul_test"
        script.write_text(PREAMBLE + code)
        return [sys.executable, str(script), str(self.directory), mode]

    def background(self, code: str = SIMPLE) -> subprocess.CompletedProcess[str]:
        # A daemon that kept its starter's output open would hold this up.
        return subprocess.run(
            self.command(code, "-d"), capture_output=True, text=True, timeout=60, check=False
        )

    def foreground(self, code: str = SIMPLE) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.command(code, "-f"), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.started.append(process)
        return process

    def pid(self) -> int:
        return int(self.pid_file.read_text())

    @property
    def log(self) -> str:
        return (self.directory / "sigul_test.log").read_text()

    def end(self, number: int = signal.SIGTERM) -> None:
        pid = self.pid()
        os.kill(pid, number)
        eventually(lambda: not alive(pid))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 30 s"
        time.sleep(0.01)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    for process in site.started:
        process.kill()
        process.communicate(timeout=30)
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
        os.kill(site.pid(), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_in_the_background_until_told_to_end(site: Site, number: int) -> None:
    result = site.background()
    assert (result.returncode, result.stdout, result.stderr) == (0, "returned 0\n", "")
    pid = site.pid()
    assert alive(pid)
    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    for descriptor in (0, 1, 2):
        assert Path(f"/proc/{pid}/fd/{descriptor}").readlink() == Path("/dev/null")
    os.kill(pid, signal.SIGHUP)
    site.end(number)
    assert not site.pid_file.exists()
    assert "sigul_test starts" in site.log
    assert "sigul_test ends" in site.log


def test_the_starter_waits_until_the_daemon_is_ready(site: Site) -> None:
    result = site.background(
        "def work(control):\n"
        "    time.sleep(0.5)\n"
        "    (directory / 'done').write_text('')\n"
        "    wait_until_told(control)\n"
        "run(work)"
    )
    assert result.returncode == 0
    assert (site.directory / "done").exists()
    site.end()


def test_fault_7_the_work_begins_after_the_fork(site: Site) -> None:
    site.background(
        "def work(control):\n"
        "    (directory / 'worker').write_text(f'{os.getpid()}')\n"
        "    wait_until_told(control)\n"
        "run(work)"
    )
    assert int((site.directory / "worker").read_text()) == site.pid()
    site.end()


def test_an_error_at_start_is_the_starters(site: Site) -> None:
    result = site.background(
        "def work(control): raise NSSError('Provided NSS password is incorrect')\nrun(work)"
    )
    assert result.returncode == 1
    assert result.stderr == "Provided NSS password is incorrect\n"
    assert not site.pid_file.exists()
    assert "ERROR" in site.log
    assert "Provided NSS password is incorrect" in site.log


def test_in_the_foreground_the_line_that_scripts_know_follows_the_log(site: Site) -> None:
    daemon = site.foreground(
        "def work(control): raise NSSError('Provided NSS password is incorrect', 'it is old')\n"
        "run(work)"
    )
    _, told = daemon.communicate(timeout=60)
    assert daemon.returncode == 1
    logged, known = told.splitlines()[-2:]
    assert logged.endswith("Provided NSS password is incorrect; it is old")
    assert known == "Provided NSS password is incorrect"


def test_an_unforeseen_error_at_start(site: Site) -> None:
    result = site.background("run(lambda control: [][0])")
    assert result.returncode == 1
    assert "failed unexpectedly" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "IndexError" in site.log


def test_a_daemon_that_dies_while_it_starts(site: Site) -> None:
    result = site.background("run(lambda control: os.kill(os.getpid(), 9))")
    assert result.returncode == 1
    assert result.stderr == "Error: sigul_test ended while it started; its log may say why\n"


def test_a_daemon_that_dies_while_its_child_lives_on(site: Site) -> None:
    result = site.background(
        "def work(control):\n"
        "    if (child := os.fork()) == 0:\n"
        "        time.sleep(600)\n"
        "    (directory / 'child').write_text(f'{child}')\n"
        "    os._exit(3)\n"
        "run(work)"
    )
    # Which would have to end first, if the starter waited for it.
    os.kill(int((site.directory / "child").read_text()), signal.SIGKILL)
    assert result.returncode == 1
    assert "ended while it started" in result.stderr


def test_a_daemon_that_is_never_ready_is_ended(site: Site) -> None:
    """The start has some seconds, fewer here, to end by itself, and then is killed."""
    result = site.background(
        "from sigul_stack.cli import daemon\n"
        "daemon.GIVE_UP_TIMEOUT = 1.0\n"
        "run(lambda control: time.sleep(60), start_timeout=0.5)"
    )
    assert result.returncode == 1
    assert "was not ready after 0.5 s" in result.stderr
    eventually(lambda: not site.pid_file.exists() or not alive(site.pid()))


def test_an_error_after_the_start_is_in_the_log(site: Site) -> None:
    result = site.background(
        "def work(control):\n"
        "    control.ready()\n"
        "    control.ready()\n"
        "    raise NSSError('later')\n"
        "run(work)"
    )
    assert (result.returncode, result.stderr) == (0, "")
    eventually(lambda: not site.pid_file.exists())
    eventually(lambda: "later" in site.log)


def test_a_second_daemon_is_refused(site: Site) -> None:
    site.background()
    pid = site.pid()
    result = site.background()
    assert result.returncode == 1
    assert f"sigul_test is already running with PID {pid}" in result.stderr
    assert site.pid() == pid
    assert alive(pid)
    site.end()


@pytest.mark.parametrize("content", ["", "garbage\n", "999999999\n", "1\n"])
def test_a_stale_pid_file_is_replaced(site: Site, content: str) -> None:
    site.pid_file.write_text(content)
    assert site.background().returncode == 0
    assert alive(site.pid())
    site.end()
    assert not site.pid_file.exists()


def test_a_killed_daemon_leaves_a_stale_file_that_is_replaced(site: Site) -> None:
    site.background()
    killed = site.pid()
    site.end(signal.SIGKILL)
    assert site.pid() == killed
    assert site.background().returncode == 0
    assert site.pid() != killed
    site.end()


def test_an_old_daemon_that_locks_nothing_is_recognised(site: Site) -> None:
    old = subprocess.Popen(
        ["sigul_test", "-c", "import time; time.sleep(60)"], executable=sys.executable
    )
    try:
        eventually(lambda: b"sigul_test" in Path(f"/proc/{old.pid}/cmdline").read_bytes())
        site.pid_file.write_text(f"{old.pid}\n")
        result = site.background()
        assert result.returncode == 1
        assert f"already running with PID {old.pid}" in result.stderr
    finally:
        old.kill()
        old.wait(timeout=30)


def test_the_foreground_logs_to_standard_error(site: Site) -> None:
    process = site.foreground()
    eventually(lambda: site.pid_file.exists() and site.pid_file.read_text() != "")
    assert site.pid() == process.pid
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == "returned 0\n"
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("sigul_test starts")
    assert lines[1].endswith("sigul_test ends")
    assert not site.pid_file.exists()


def test_the_foreground_needs_no_pid_file(site: Site) -> None:
    process = site.foreground("run(wait_until_told, pid_directory=None)")
    assert process.stderr is not None
    assert process.stderr.readline().endswith("sigul_test starts\n")
    assert list(site.directory.glob("*.pid")) == []
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_an_error_in_the_foreground_is_one_line(site: Site) -> None:
    process = site.foreground("def work(c): raise NSSError('no\\nway')\nrun(work)")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.splitlines()[-1].endswith("no\\nway")
    assert len(err.splitlines()) == 2


def test_no_directory_for_log_or_pid_file(site: Site) -> None:
    result = site.background("run(wait_until_told, pid_directory=directory / 'none')")
    assert result.returncode == 1
    assert "--internal-pid-dir" in result.stderr
    result = site.background("directory = directory / 'none'\nrun(wait_until_told)")
    assert result.returncode == 1
    assert "--internal-log-dir" in result.stderr
    process = site.foreground("directory = directory / 'none'\nrun(wait_until_told)")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.startswith("Error: the log file")


def test_the_default_pid_directory_is_roots_or_the_users_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_pid_directory() == Path("/run")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert default_pid_directory() == Path("/run/user/1000")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with pytest.raises(ConfigurationError, match="--internal-pid-dir"):
        default_pid_directory()


NOBODY = pwd.getpwnam("nobody")


AS_NOBODY = (
    "nobody = identity('nobody', None)\n"
    "def work(control):\n"
    "    drop_privileges(nobody)\n"
    "    wait_until_told(control)\n"
    "run(work, identity=nobody)"
)


def test_a_pid_file_made_as_root_is_removed_by_a_daemon_that_no_longer_is(site: Site) -> None:
    result = site.background(AS_NOBODY)
    if os.geteuid() != 0:
        # Only root can do this; everybody else is told.
        assert result.returncode == 1
        assert "may not become user" in result.stderr
        return
    assert (result.returncode, result.stderr) == (0, "")
    pid = site.pid()
    assert Path(f"/proc/{pid}").stat().st_uid == NOBODY.pw_uid
    assert f"Groups:\t{NOBODY.pw_gid} \n" in Path(f"/proc/{pid}/status").read_text()
    site.end()
    eventually(lambda: not site.pid_file.exists())


def test_privileges_cannot_be_taken_by_who_has_none(site: Site) -> None:
    process = site.foreground(
        "if os.geteuid() == 0:\n"
        "    drop_privileges(identity('nobody', None))\n"
        "    drop_privileges(identity('nobody', None))\n"
        "drop_privileges(None)\n"
        "try: drop_privileges(identity('root', None))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    out, err = process.communicate(timeout=30)
    assert out.startswith("ConfigurationError this process (user "), err
    assert "may not become user 0" in out


SAYS_NONSENSE = """
def nonsense(control):
    # Into each pipe that it can write to, that of its starter among them.
    for number in range(3, 50):
        path = f"/proc/self/fd/{number}"
        if os.path.exists(path) and os.readlink(path).startswith("pipe:"):
            try:
                os.write(number, SAID)
            except OSError:
                pass
    wait_until_told(control)
run(nonsense)
"""


@pytest.mark.parametrize("said", [b"\0", b"R\xff\xff" + bytes(9000), b"Z\0\1\x1b"])
def test_a_daemon_that_says_what_none_says_is_ended(site: Site, said: bytes) -> None:
    result = site.background(SAYS_NONSENSE.replace("SAID", repr(said)))
    assert result.returncode == 1 or "returned 1" in result.stdout
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.rstrip("\n").isprintable()
    eventually(lambda: not site.pid_file.exists() or not alive(site.pid()))
