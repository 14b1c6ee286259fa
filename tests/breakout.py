"""What a hole in a tool leads to: a script that plays the tool's part, and tries everything.

`python breakout.py DIRECTORY` makes victims and what they have in DIRECTORY, runs the hole through
`programs.run` behind rpmkeys' wall, and prints as JSON what became of each attempt: "done", or what
refused it. It needs nothing but the package: tests run it on this machine and in images.
With `--no-wall` the hole runs as before there were walls, where that code is what is installed.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECRET = "a passphrase that nobody else reads"
#: Limits in seconds: how long the hole may take, and how long the victims wait.
SECONDS, VICTIM_SECONDS = 30.0, 120.0

#: What says that an attempt was refused.
REFUSED = frozenset({"EACCES", "EPERM", "ENOMEM", "EFBIG", "EAGAIN", "limited", "killed"})

HOLE = r"""
import ctypes, errno, json, mmap, os, re, resource, signal, socket, sys, time

at = json.load(sys.stdin)
libc = ctypes.CDLL(None, use_errno=True)
outcomes = {}
machine = 0 if os.uname().machine == "x86_64" else 1


def attempt(function):
    try:
        outcomes[function.__name__] = function() or "done"
    except OSError as error:
        outcomes[function.__name__] = errno.errorcode[error.errno]
    except MemoryError:
        outcomes[function.__name__] = "ENOMEM"


def call(numbers, *arguments):
    words = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    if libc.syscall(ctypes.c_long(numbers[machine]), *words) < 0:
        raise OSError(ctypes.get_errno(), "")


def refusal(*numbers):
    # With such arguments the calls fail anyway; what refuses them is seen by EPERM or EACCES.
    try:
        call(*numbers)
    except OSError as error:
        return "done" if error.errno not in (errno.EPERM, errno.EACCES) else "EPERM"


def read(path):
    with open(path, "rb") as file:
        return file.read(1 << 16)


def read_memory(pid):
    found = False
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            begin, end = (int(word, 16) for word in line.split()[0].split("-"))
            if " rw" in line:
                try:
                    memory.seek(begin)
                    found = found or at["secret"].encode() in memory.read(end - begin)
                except (OSError, ValueError):
                    pass
    assert found, "the attack does not work"


@attempt
def read_passphrase_in_pipe():
    descriptor = os.open(f"/proc/{at['holder']}/fd/{at['pipe']}", os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(descriptor, 100) == at["secret"].encode()


@attempt
def read_memory_of_tool():
    read_memory(at["openssl"])


@attempt
def read_memory_of_daemon():
    read_memory(os.getppid())


@attempt
def read_environment_of_daemon():
    read(f"/proc/{os.getppid()}/environ")


@attempt
def list_descriptors_of_daemon():
    os.listdir(f"/proc/{os.getppid()}/fd")


@attempt
def see_other_processes():
    read(f"/proc/{os.getppid()}/cmdline")


@attempt
def trace_tool():
    call((101, 117), 16, at["openssl"], 0, 0)  # PTRACE_ATTACH
    call((101, 117), 17, at["openssl"], 0, 0)


@attempt
def copy_memory_of_tool():
    return refusal((310, 270), at["openssl"], None, 0, None, 0, 0)


@attempt
def take_descriptor_of_daemon():
    descriptor = os.pidfd_open(os.getppid())
    call((438, 438), descriptor, 0, 0)


@attempt
def read_key_store():
    read(at["key"])


@attempt
def list_key_store():
    os.listdir(os.path.dirname(at["key"]))


@attempt
def read_configuration():
    read(at["configuration"])


@attempt
def delete_key():
    os.unlink(at["deleted"])


@attempt
def write_to_directory():
    open(at["key"] + ".new", "w").close()


@attempt
def write_to_tmp():
    path = f"/tmp/{os.getpid()}"
    open(path, "w").close()
    os.unlink(path)


@attempt
def connect_by_tcp():
    socket.create_connection(("127.0.0.1", at["port"]), 5).close()


@attempt
def send_by_udp():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", at["port"]))


@attempt
def connect_to_agent():
    socket.socket(socket.AF_UNIX).connect(at["agent"])


@attempt
def talk_to_the_kernel():
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()


@attempt
def kill_other():
    os.kill(at["killed"], signal.SIGKILL)


@attempt
def starve_other():
    resource.prlimit(at["openssl"], resource.RLIMIT_NOFILE, (3, 3))


@attempt
def allocate_without_end():
    mmap.mmap(-1, 4 << 30).close()


@attempt
def write_without_end():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    os.write(os.memfd_create("x"), b"x" * 100)


@attempt
def compute_without_end():
    limit = resource.getrlimit(resource.RLIMIT_CPU)[1]
    return "limited" if 0 <= limit <= at["seconds"] + 2 else "done"


@attempt
def dump_core():
    # At 1 byte there is neither a core file nor a program that is handed one (`core(5)`).
    return "limited" if resource.getrlimit(resource.RLIMIT_CORE)[1] <= 1 else "done"


@attempt
def gain_rights():
    return "limited" if libc.prctl(39, 0, 0, 0, 0) == 1 else "done"


@attempt
def use_keyrings():
    return refusal((250, 219), 0, -3, 1)  # KEYCTL_GET_KEYRING_ID


@attempt
def make_namespaces():
    return refusal((272, 97), 0)


@attempt
def use_io_uring():
    return refusal((425, 425), 0, None)


@attempt
def use_bpf():
    return refusal((321, 280), -1, None, 0)


@attempt
def trace_kernel():
    return refusal((298, 241), None, 0, 0, -1, 0)


@attempt
def stay_behind():
    # Out of the group and the session, without any mark, and in nobody's care.
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write_end, b"%d" % os.getpid())
            for descriptor in range(16):
                try:
                    os.close(descriptor)
                except OSError:
                    pass
            os.execve("/bin/sleep", ["sleep", "300"], {})
        os._exit(0)
    os.wait()
    outcomes["behind"] = int(os.read(read_end, 20))


print(json.dumps(outcomes))
"""


def main(directory: Path, walled: bool) -> dict[str, object]:
    """Run the hole between its victims; what became of its attempts."""
    from sigul_stack.secret import Secret
    from sigul_stack.system.programs import run, secret_pipe

    options = {}
    if walled:
        from sigul_stack.signing import rpm_checks

        options["wall"] = rpm_checks.WALL
    # Directories as a server has them.
    (directory / "keys").mkdir()
    for name in ("keys/key", "keys/deleted", "server.conf"):
        (directory / name).write_text("secret")
    for name in ("unopened", "empty"):
        os.mkfifo(directory / name)
    silent = os.open(directory / "empty", os.O_RDWR)
    agent = socket.socket(socket.AF_UNIX)
    agent.bind(str(directory / "agent"))
    agent.listen()
    listening = socket.create_server(("127.0.0.1", 0))

    victims: list[threading.Thread] = []

    def victim(*command: str, inherit: tuple[int, ...] = ()) -> int:
        """Start a program through `run` in a thread; its process ID."""
        before = children()
        thread = threading.Thread(
            target=lambda: run(command, package="x", time_limit=VICTIM_SECONDS, inherit=inherit),
            daemon=True,
        )
        thread.start()
        victims.append(thread)
        (number,) = wait(lambda: children() - before)
        wait(lambda: Path(f"/proc/{number}/comm").read_text().strip() == command[0])
        return number

    def decrypt(name: str, passphrase: int) -> int:
        return victim(
            *("openssl", "enc", "-d", "-aes-256-cbc", "-pbkdf2", "-pass", f"fd:{passphrase}"),
            *("-in", str(directory / name)),
            inherit=(passphrase,),
        )

    secret = Secret(SECRET.encode())
    with secret_pipe(secret) as held, secret_pipe(secret) as read:
        at = {
            "secret": SECRET,
            # It waits for somebody to open its input, and then reads its passphrase.
            "holder": decrypt("unopened", held),
            "pipe": held,
            # It has read its passphrase, and waits for its input.
            "openssl": decrypt("empty", read),
            "killed": victim("sleep", "100"),
            "key": str(directory / "keys/key"),
            "deleted": str(directory / "keys/deleted"),
            "configuration": str(directory / "server.conf"),
            "agent": str(directory / "agent"),
            "port": listening.getsockname()[1],
            "seconds": SECONDS,
        }
        wait(lambda: is_read(read))
        # Paths that its wall has: it would be the same as rpmkeys from here on.
        done = run(
            ["/usr/bin/env", "python3", "-I", "-S", "-c", HOLE],
            package="python3",
            time_limit=SECONDS,
            stdin=json.dumps(at).encode(),
            **options,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        outcomes = json.loads(done.stdout)
        if (behind := outcomes.pop("behind", None)) is not None and not lives(behind):
            outcomes["stay_behind"] = "killed"
        outcomes["the_other_lives"] = lives(at["killed"])
        # So that the victims end, and their threads: their secrets are of no use to anybody.
        for name in ("holder", "openssl", "killed", "behind"):
            number = behind if name == "behind" else at[name]
            if number is not None and lives(number):
                os.kill(number, 9)
        for thread in victims:
            thread.join(SECONDS)
    os.close(silent)
    return outcomes


def children() -> set[int]:
    """Process IDs of this process's children, whichever thread started them."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == os.getpid():
            found.add(int(path.parent.name))
    return found


def is_read(pipe: int) -> bool:
    import fcntl
    import struct
    import termios

    (left,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return bool(left == 0)


def lives(number: int) -> bool:
    """True unless the process is gone, or has ended and is not collected yet."""
    try:
        text = Path(f"/proc/{number}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def wait(condition: Callable[[], Any]) -> Any:
    """What `condition` returns, once that is true."""
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"{condition} does not come to be")
        time.sleep(0.01)
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), "--no-wall" not in sys.argv), indent=1))
