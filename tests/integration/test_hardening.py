"""What holds of every process of every program: no core file, nobody may look in, locked memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.observe import children
from tests.site import PROGRAM_SECONDS, Process, Site, module, wait_until

from .commands_support import ADMIN, done
from .test_daemons import AS_OTHER, OTHER

pytestmark = pytest.mark.once("processes of this machine's kernel")

TOP = Path(__file__).parents[2]
#: How each program is brought to wait: it opens a FIFO, which nobody writes to.
FIFO = "FIFO"
CALLS = {
    "sigul": [["-c", FIFO, "list-users"]],
    "sigul_bridge": [["-c", FIFO]],
    "sigul_server": [["-c", FIFO]],
    "sigul_server_create_db": [["-c", FIFO]],
    "sigul_server_add_admin": [["-c", FIFO]],
    "sigul_server_add_pkcs11_token": [
        ["-c", FIFO, "-a", "a", "-k", "pkcs11:token=t", "-n", "n", "-t", "pin", "-p", "file"]
    ],
    "sigul_setup_client": [["--batch", "--certificate", FIFO]],
    "sigul-stack": [
        ["pki", "import", "--into", "new", "--ca", FIFO],
        ["database", "state", "-c", FIFO],
        ["backup", "create", "-c", FIFO, "new.tar"],
        ["check-config", "server", FIFO],
        ["health", "client", "-c", FIFO],
        ["doctor", "client", "-c", FIFO],
        ["diagnose", "-c", FIFO, "--output", "new.tar"],
        ["requests", "list", "-c", FIFO],
        ["status", "-c", FIFO],
    ],
}
EACH = [(program, *call) for program, calls in CALLS.items() for call in calls]


def limit(pid: int, name: str) -> str:
    """The soft limit of a process."""
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith(name):
            return line.removeprefix(name).split()[0]
    raise AssertionError(name)


def locked(pid: int) -> int:
    """Memory that a process has locked, in KiB."""
    (line,) = (
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmLck" in line
    )
    return int(line.split()[1])


def test_each_program_is_here() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    assert CALLS.keys() == project["scripts"].keys()
    # Its other subcommands hold no file that they wait for: demo makes a site.
    listed = subprocess.run(
        [*module("stack"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    commands = {line.split()[0] for line in listed.splitlines() if line.startswith("    ")}
    assert {call[0] for call in CALLS["sigul-stack"]} == commands & {
        "pki", "database", "backup", "check-config", "health", "doctor", "diagnose", "requests",
        "status",
    }  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory of the other user's, with a FIFO for whoever reads a file."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_mode & 0o001 == 0 and directory.stat().st_uid == os.geteuid():
            directory.chmod(0o711)
    os.mkfifo(tmp_path / FIFO, 0o644)
    os.chown(tmp_path, OTHER, -1)
    yield tmp_path


@pytest.mark.parametrize("call", EACH, ids=" ".join)
def test_no_core_file_and_nobody_may_look_in(place: Path, call: tuple[str, ...]) -> None:
    """From before the first file that a program reads."""
    program = Path(sys.executable).parent / call[0]
    words = [str(place / word) if word in (FIFO, "new", "new.tar") else word for word in call[1:]]
    writer: list[int] = []
    with subprocess.Popen(
        [*AS_OTHER, sys.executable, str(program), *words], cwd=place, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as started:  # fmt: skip

        def reads() -> bool:
            assert started.poll() is None, started.communicate()
            with contextlib.suppress(OSError):  # nobody reads it yet
                writer.append(os.open(place / FIFO, os.O_WRONLY | os.O_NONBLOCK))
            return bool(writer)

        try:
            wait_until(reads, PROGRAM_SECONDS, "its look at the file")
            process = Path(f"/proc/{started.pid}")
            assert limit(started.pid, "Max core file size") in ("0", "1")
            # What the kernel says of a process that nobody may look into.
            assert (process / "environ").stat().st_uid == 0
        finally:
            started.kill()
            for descriptor in writer:
                os.close(descriptor)


def test_programs_that_are_started_leave_no_core_file() -> None:
    code = (
        "import subprocess\n"
        "from sigul_stack.cli.hardening import harden_process\n"
        "harden_process()\n"
        "done = subprocess.run(['sh', '-c', 'ulimit -c; kill -ABRT $$'], check=False)\n"
        "print(done.returncode, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    size, code = done.stdout.split()
    assert size in ("0", "1")
    assert code == "-6"


#: Takes root's right to take limits away; what is left is what a service or container has.
LIMITED = ("prlimit", "--memlock=65536:65536", "setpriv", "--bounding-set=-sys_resource,-ipc_lock")
UNLOCKED = "Memory that holds secrets is not kept from swap"


def may_lock() -> bool:
    """Whether whoever runs the tests has no limit, or the right to pass it."""
    code = (
        "from sigul_stack.system.memory import lock_memory\nprint(lock_memory(changes_user=False))"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, check=True).stdout == b"True\n"


def of_site(bridge: Process, server: Process) -> list[int]:
    """All processes of the two daemons."""
    parents = [bridge.popen.pid, server.popen.pid]
    return [*parents, *(child for parent in parents for child in children(parent))]


@pytest.mark.root
def test_memory_is_locked_where_the_limit_allows(site: Site) -> None:
    site.workers = 4
    site.configure()
    with site.running() as (bridge, server):
        server.wait_for("Waiting for a request at the bridge", 4)
        processes = of_site(bridge, server)
        assert len(processes) >= 2 + 1 + 4
        if may_lock():
            assert {pid: locked(pid) for pid in processes if locked(pid) < 10_000} == {}
            assert UNLOCKED not in bridge.text + server.text
        else:  # root of a container with a limit
            assert {locked(pid) for pid in processes} == {0}
            assert UNLOCKED in bridge.text
            assert UNLOCKED in server.text
        # What is mapped later is locked as well, but for payloads; a request needs both.
        assert done(site, "list-users", secrets=[ADMIN]) == b"admin\n"


@pytest.mark.root
def test_a_small_limit_is_told_and_harms_nothing(site: Site) -> None:
    bridge = site.start("bridge", prefix=LIMITED)
    bridge.wait_for("[BRIDGE_REQUEST] Waiting for the server to connect")
    server = site.start_server(2, prefix=LIMITED)
    assert {locked(pid) for pid in of_site(bridge, server)} == {0}
    for daemon in (bridge, server):
        assert daemon.text.count(UNLOCKED) == 1
    assert done(site, "list-users", secrets=[ADMIN]) == b"admin\n"
    assert done(site, "new-key", "k", secrets=[ADMIN, "a passphrase of k"])
    site.stop_all()


def test_a_payload_is_mapped_without_being_locked(tmp_path: Path) -> None:
    """It may be larger than the memory of the machine."""
    code = (
        "import sys, re\n"
        "from sigul_stack.system.memory import lock_memory, mapped\n"
        "def locked():\n"
        "    with open('/proc/self/status') as file:\n"
        "        return int(re.search(r'VmLck:\\s+(\\d+)', file.read())[1])\n"
        "print(lock_memory(changes_user=False), locked() > 0)\n"
        "with open(sys.argv[1], 'rb') as file:\n"
        "    before = locked()\n"
        "    view = mapped(file.fileno())\n"
        "    print(len(view), bytes(view[:1]), bytes(view[-1:]), locked() - before < 32_000)\n"
    )
    path = tmp_path / "payload"
    with path.open("wb") as file:
        file.truncate(64 * 1024**2)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] in ("True True", "False False")
    assert lines[1] == rf"{64 * 1024**2} b'\x00' b'\x00' True"
