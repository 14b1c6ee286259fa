"""A program that is forked finds what one finds that was started, and ends as it does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import site as sites
from tests.fork_server import FEW_BYTES
from tests.site import BRIDGE_NAME, Site, has_ended, module, popen, wait_until

from .commands_support import rows

PROBE = [sys.executable, "-m", "tests.fork_probe"]
TOP = Path(__file__).parent.parent.parent
SECONDS = 60


def start(idle: Site, *words: str, fork: bool, **how: Any) -> subprocess.Popen[Any]:
    """The probe, by a fork or not."""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": TOP, **how}
    begin = sites._forks().start if fork else subprocess.Popen
    return begin([*PROBE, *words], env={**idle.environment, "ONE": "\udcff ü"}, **how)


def finish(program: subprocess.Popen[Any], given: bytes | None = None) -> dict[str, Any]:
    """What it prints."""
    with program:
        output, errors = program.communicate(given, SECONDS)
    assert output, errors
    return json.loads(output)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def idle(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site that is not running."""
    return Site.copy(template, tmp_path_factory.mktemp("idle") / "site")


@pytest.mark.parametrize("where", ["pipe", "file"])
def test_a_forked_program_finds_what_a_started_one_finds(
    idle: Site, tmp_path: Path, where: str
) -> None:
    (tmp_path / "input").write_bytes(b"\0ab\r\n")
    found = []
    for fork in (True, False):
        if where == "pipe":
            told = finish(start(idle, "a", "", "ü", fork=fork, stdin=subprocess.PIPE), b"\0ab\r\n")
        else:
            with (tmp_path / "input").open("rb") as given, (tmp_path / "out").open("w+b") as out:
                with start(idle, "a", "", "ü", fork=fork, stdin=given, stdout=out) as program:
                    program.wait(SECONDS)
                told = json.loads((tmp_path / "out").read_bytes())
        found.append(told)
    assert found[0]["same"] == found[1]["same"]
    assert found[0]["same"]["input"] == b"\0ab\r\n".hex()
    assert found[0]["same"]["environment"]["ONE"] == "\udcff ü"


def test_each_forked_program_is_a_process_of_its_own(idle: Site) -> None:
    first, second = (finish(start(idle, fork=True, stdin=subprocess.DEVNULL)) for _ in range(2))
    assert first["own"]["pid"] != second["own"]["pid"]
    assert first["own"]["random"] != second["own"]["random"]


def test_host_names_are_looked_up_as_in_every_program_of_a_site(idle: Site) -> None:
    for fork in (True, False):
        word = f"host={BRIDGE_NAME}"
        told = finish(start(idle, word, fork=fork, stdin=subprocess.DEVNULL))
        assert told["own"]["host"] == ["127.0.0.1", 80]


def test_a_site_with_other_hosts_or_another_interpreters_setting_is_not_forked(site: Site) -> None:
    command = module("sigul")
    forks = sites._forks()
    assert forks.can_start(command, site.environment)
    for name, text in (("PYTHONOPTIMIZE", "1"), ("LC_ALL", "POSIX"), ("LD_PRELOAD", "")):
        assert not forks.can_start(command, {**site.environment, name: text})
    assert not forks.can_start(["setsid", *command], site.environment)
    site.addresses = {BRIDGE_NAME: "127.0.0.2"}
    site.configure()
    assert not forks.can_start(command, site.environment)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["exit=0"], 0),
        (["exit=3"], 3),
        (["text"], 1),
        (["signal=15"], -15),
        (["signal=9"], -9),
        (["signal=2"], -2),  # a KeyboardInterrupt that nobody handles
    ],
    ids=str,
)
def test_how_a_program_ends_is_told(idle: Site, words: list[str], code: int) -> None:
    for fork in (True, False):
        with start(idle, *words, fork=fork, stdin=subprocess.DEVNULL) as program:
            _output, errors = program.communicate(timeout=SECONDS)
        assert program.returncode == code
        assert (b"LookupError: not handled" in errors) == (words == ["text"])


def test_a_program_has_its_limit_in_time_and_can_be_signalled(idle: Site) -> None:
    with start(idle, "wait", fork=True, stdin=subprocess.DEVNULL) as program:
        assert program.stdout is not None
        assert program.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(0.05)
        assert program.poll() is None
        program.send_signal(signal.SIGTERM)
        assert program.wait(SECONDS) == -signal.SIGTERM
        assert has_ended(program.pid)


def test_site_run_ends_a_program_that_takes_too_long(idle: Site) -> None:
    pid = idle.path("pid")
    words = ["sh", "-c", f"echo $$ >{pid}; exec sleep 60"]
    for command in (words, [*module("server"), "-c", str(idle.path("server.conf"))]):
        with pytest.raises(subprocess.TimeoutExpired):
            idle.run(*command, seconds=1)
    wait_until(lambda: has_ended(int(pid.read_text())), SECONDS, "the end")


KILLED = """
import os, signal, subprocess, sys
from pathlib import Path
from tests.site import Site, popen
site = Site(Path(sys.argv[1]))
program = popen([sys.executable, "-m", "sigul_stack.cli.sigul_server", "-c", sys.argv[2]],
                env=site.environment, stdin=subprocess.DEVNULL)
print(program.pid, program._server._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_all_ends_where_the_tests_are_killed(idle: Site) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, idle.directory, idle.path("server.conf")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=SECONDS, cwd=TOP, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    for pid in done.stdout.split():
        wait_until(lambda pid=int(pid): has_ended(pid), SECONDS, f"the end of {pid}")


def test_sigul_is_forked_and_started_with_the_same_result(running_site: Site) -> None:
    """The program itself, both ways: nothing that is imported here hides an import it lacks."""
    forked, started = (
        running_site.sigul("list-users", secrets=["admin-pw"], fresh=fresh)
        for fresh in (False, True)
    )
    assert (forked.stdout, forked.stderr) == (started.stdout, started.stderr) == (b"admin\n", b"")
    with popen(module("sigul"), env=running_site.environment, stderr=subprocess.DEVNULL) as program:
        assert type(program) is not subprocess.Popen
        program.wait(SECONDS)
    assert os.getpid() != program.pid


def test_an_envelope_of_a_forked_server_is_opened_with_little_hashing(running_site: Site) -> None:
    """What a started one writes: test_commands_access."""
    running_site.sigul("new-key", "k", "--key-type", "ECC", secrets=["admin-pw", "k-pw"])
    ((sealed,),) = rows(running_site, "SELECT encrypted_passphrase FROM key_accesses")
    running_site.sigul("delete-key", "k", secrets=["admin-pw"])
    assert isinstance(sealed, bytes)
    # Packet 3 of 13 bytes, version 4, AES-256, iterated SHA-256, 8 bytes of salt.
    assert sealed.startswith(b"\x8c\x0d\x04\x09\x03\x08")
    assert sealed[14] == FEW_BYTES
