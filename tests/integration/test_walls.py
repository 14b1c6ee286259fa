"""What a hole in a tool leads to: nothing (attempts: tests/breakout.py), with every kernel."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sigul_stack.checks import State
from sigul_stack.config.server import ServerSettings
from sigul_stack.config.shared import NSSSettings
from sigul_stack.errors import KeystoreError, SigulError
from sigul_stack.health.configuration_checks import wall_checks
from sigul_stack.server import startup
from sigul_stack.system import programs, wall
from sigul_stack.system.programs import run
from sigul_stack.system.wall import OWN_DOMAIN, Reach, Support, Wall, all_but
from tests.breakout import REFUSED, lives

BREAKOUT = Path(__file__).parent.parent / "breakout.py"
#: Limit of what ends long before, in seconds.
SECONDS = 60.0

#: Each attempt: see `breakout.HOLE`.
ATTEMPTS = (
    "read_passphrase_in_pipe", "read_memory_of_tool", "read_memory_of_daemon",
    "read_environment_of_daemon", "list_descriptors_of_daemon", "see_other_processes",
    "trace_tool", "copy_memory_of_tool", "take_descriptor_of_daemon", "read_key_store",
    "list_key_store", "read_configuration", "delete_key", "write_to_directory", "write_to_tmp",
    "connect_by_tcp", "send_by_udp", "connect_to_agent", "talk_to_the_kernel", "kill_other",
    "starve_other", "allocate_without_end", "write_without_end", "compute_without_end",
    "dump_core", "gain_rights", "use_keyrings", "make_namespaces", "use_io_uring", "use_bpf",
    "trace_kernel", "stay_behind",
)  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What became of the attempts of a hole behind rpmkeys' wall."""
    done = subprocess.run(
        [sys.executable, BREAKOUT, tmp_path_factory.mktemp("breakout")],
        capture_output=True,
        text=True,
        timeout=5 * SECONDS,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.system
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_hole_leads_nowhere(outcomes: dict[str, object], attempt: str) -> None:
    assert outcomes[attempt] in REFUSED


@pytest.mark.system
def test_no_other_attempt_is_known(outcomes: dict[str, object]) -> None:
    assert set(outcomes) == {*ATTEMPTS, "the_other_lives"}
    assert outcomes["the_other_lives"] is True


# --- Nothing of a run survives it ----------------------------------------------------------------

#: Starts a child outside of its group and session, tells its number, and keeps its own pipes open.
LEAVE = "setsid sh -c 'echo $$; exec sleep 300' & sleep 0.5; exit 3"
STAY = "setsid sh -c 'echo $$ >&2; exec sleep 300' & exec sleep 300"


@pytest.fixture(params=[7, 5, 0], ids=["ABI 7", "ABI 5", "no Landlock"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Support:
    """The answer of this kernel, or of one that has less."""
    has = Support(min(request.param, wall.support().landlock), wall.support().seccomp)
    for module in (wall, programs):
        monkeypatch.setattr(module, "support", lambda: has)
    return has


def ended(number: int) -> bool:
    """True once the process has ended: old kernels do not tell when."""
    deadline = time.monotonic() + SECONDS
    while lives(number) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not lives(number)


@pytest.mark.system
def test_what_a_tool_leaves_behind_is_killed(kernel: Support) -> None:
    began = time.monotonic()
    done = run(["sh", "-c", LEAVE], package="dash", time_limit=SECONDS, wall=OWN_DOMAIN)
    # It is not waited for, either, though it has the tool's pipes.
    assert time.monotonic() - began < SECONDS / 2
    assert done.returncode == 3
    assert not lives(int(done.stdout)) if kernel.scopes_signals else ended(int(done.stdout))


@pytest.mark.system
def test_a_tool_that_does_not_end_is_killed_with_all_of_it(kernel: Support, tmp_path: Path) -> None:
    with (tmp_path / "number").open("w+") as file:
        command = STAY.replace("$$ >&2", f"$$ >/proc/self/fd/{file.fileno()}")
        with pytest.raises(programs.ToolTimeout):
            run(["sh", "-c", command], package="dash", time_limit=1.0, inherit=[file.fileno()])
        assert ended(int(Path(file.name).read_text()))


@pytest.mark.system
def test_a_process_that_is_about_to_end_takes_all_with_it() -> None:
    # As server.ending does: the process goes on for a moment, and then ends at once.
    script = f"""
import os, sys, threading, time
from sigul_stack.system import programs
def work():
    try:
        programs.run(["sh", "-c", {STAY!r}], package="dash", time_limit=60, stdout=1)
    except programs.KeystoreError:
        pass
threading.Thread(target=work, daemon=True).start()
time.sleep(2)
programs.end_all()
os._exit(0)
""".replace("$$ >&2", "$$")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert ended(int(done.stdout))


@pytest.mark.system
def test_a_program_ends_with_the_process_that_runs_it_even_killed() -> None:
    script = """
from sigul_stack.system import programs
programs.run(["sh", "-c", "echo $$; exec sleep 60"], package="dash", time_limit=60, stdout=1)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        assert lives(number)
        process.kill()
        assert ended(number)


@pytest.mark.system
def test_runs_at_once_end_alone() -> None:
    import concurrent.futures

    def one(seconds: str) -> bytes:
        command = f"(setsid sleep 300 &) ; sleep {seconds}; echo {seconds}"
        return run(["sh", "-c", command], package="dash", time_limit=SECONDS).stdout

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        times = [f"0.{n}" for n in range(8)]
        assert list(pool.map(one, times)) == [f"{text}\n".encode() for text in times]


# --- Kernels that have less ----------------------------------------------------------------------

ASK = """
import os, socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
    try:
        socket.socket(family, socket.SOCK_DGRAM)
        print("made")
    except OSError:
        print("refused")
"""


@pytest.mark.system
@pytest.mark.parametrize(
    ("reach", "expected"),
    [(Reach.NOTHING, "refused refused refused"), (Reach.LOCAL, "refused refused made"),
     (Reach.NETWORK, "made made made")],
)  # fmt: skip
def test_no_network_with_any_kernel(kernel: Support, reach: Reach, expected: str) -> None:
    done = run(["/usr/bin/env", "python3", "-I", "-S", "-c", ASK], package="python3",
               time_limit=SECONDS, wall=Wall(reach=reach))  # fmt: skip
    assert done.stdout.decode().split() == expected.split(), done.stderr


def test_what_a_kernel_lacks_is_said_with_what_to_do() -> None:
    assert Support(7, True).lacks() == []
    assert [cure for _, cure in Support(5, True).lacks()] == ["boot Linux 6.12 or later"]
    ((problem, cure),) = Support(0, True).lacks()
    assert "no Landlock" in problem
    assert "lsm=" in cure
    landlock, seccomp = Support(0, False).lacks()
    assert "Landlock" in landlock[0]
    assert "CONFIG_SECCOMP_FILTER" in seccomp[1]


@pytest.mark.parametrize("has", [Support(7, True), Support(3, True), Support(0, False)])
def test_doctor_says_what_a_kernel_lacks(has: Support) -> None:
    checks = list(wall_checks(has))
    assert [(check.finding, check.cure) for check in checks if check.state is not State.OK] == (
        has.lacks()
    )
    assert checks


def test_a_server_says_at_start_what_its_kernel_lacks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(startup, "support", lambda: Support(0, True))
    settings = ServerSettings(
        bridge_hostname="bridge.example",
        nss=NSSSettings(directory="sql:/nonexistent"),
        database_path=tmp_path / "none" / "database",
    )
    with pytest.raises(SigulError):
        startup.prepare(settings)
    assert "no Landlock" in caplog.text


# --- What a wall leaves open ---------------------------------------------------------------------


@pytest.mark.system
def test_paths_of_a_wall(tmp_path: Path) -> None:
    for name in ("open", "shut", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    command = f"cd {tmp_path}; cat open/file; cat shut/file; echo x >open/y; echo x >new/y; ls new"
    done = run(["sh", "-c", command], package="dash", time_limit=SECONDS,
               wall=Wall(read=(tmp_path / "open",), write=(tmp_path / "new",), children=True),
               directory=tmp_path)  # fmt: skip
    assert done.stdout.decode() == "openfile\ny\n"
    assert done.stderr.count("Permission denied") == 2


@pytest.mark.system
def test_inherited_files_can_be_opened_again_and_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    with path.open("r+b") as file:
        name = f"/proc/self/fd/{file.fileno()}"
        done = run(["sh", "-c", f"cat {name}; echo x >{name}"], package="dash",
                   time_limit=SECONDS, inherit=[file.fileno()],
                   wall=Wall(children=True))  # fmt: skip
    assert done.stdout == b"content"
    assert path.read_text() == "content"


def test_all_but_what_is_hidden(tmp_path: Path) -> None:
    for name in ("home/me/.sigul", "home/me/work", "home/you", "usr"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("home/me/.sigul")
    assert set(all_but([tmp_path / "home/me/.sigul"], tmp_path)) == {
        tmp_path / "home/me/work", tmp_path / "home/you", tmp_path / "usr",
    }  # fmt: skip


@pytest.mark.system
def test_a_program_that_cannot_be_run_leaves_no_thread() -> None:
    import threading

    before = threading.active_count()
    with pytest.raises(KeystoreError, match="not installed"):
        run(["no-such-program"], package="none", time_limit=SECONDS)
    assert threading.active_count() == before
