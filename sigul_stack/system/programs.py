"""The one way to run a program: bounded in time and output, secrets through descriptors only.

Every run is behind a wall of its own (`wall`), in a session of its own, without a terminal, with a
minimal environment. Whatever becomes of it, nothing that it started lives when `run` returns: from
ABI 6 of Landlock on all that is behind its wall is killed; with an older kernel its process group,
and who has its mark in the environment. Bulk data never passes through here: the program reads and
writes the descriptors it is given.
"""

from __future__ import annotations

import math
import os
import resource
import secrets
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypedDict

from ..errors import KeystoreError, ToolMissing
from ..secret import Secret
from .wall import OWN_DOMAIN, Inside, Wall, support

#: How much of each of a program's small outputs is kept, in bytes; more ends the program.
MAX_OUTPUT = 16 << 20

#: The longest secret that goes through a pipe, in bytes: far below what a pipe takes at once.
MAX_PIPED_SECRET = 4096

#: How long a killed process may take to vanish, in seconds.
_KILL_LIMIT = 10.0
#: How often the processes with a mark are looked for: they may be starting others meanwhile.
_KILL_ROUNDS = 100
_READ_SIZE = 1 << 16
#: How often what a program writes elsewhere is looked at, in seconds.
_WATCH_SECONDS = 0.05


class _User(TypedDict, total=False):
    user: int
    group: int


_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

#: The variable whose value tells which run a process belongs to.
_MARK: Final = "SIGUL_STACK_RUN"

#: Those that `run` has started in this process and that have not ended; None once none may start.
_running: set[_Started] | None = set()
#: What ends a wait for other programs, which are not started here, at the same time.
_ended_with: list[Callable[[], None]] = []
#: Held while one is started or ended.
_changing = threading.Lock()


class ToolTimeout(KeystoreError):
    """A program did not finish in time and was killed. The same call may succeed later."""

    retryable = True


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a program, and what it wrote (`stdout` is empty where it went elsewhere)."""

    returncode: int
    stdout: bytes = field(repr=False)
    stderr: str
    status: str

    @property
    def reason(self) -> str:
        """The last line of its messages, else its exit code: what an error message says of it."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.returncode}"


def end_all() -> None:
    """Kill the programs that run in other threads, for good: from now on none is started.

    For a process that is about to end.
    """
    global _running
    with _changing:
        running, _running = _running or set(), None
        for started in running:
            started.kill()
        for end in _ended_with:
            end()


@contextmanager
def ended_with_programs(end: Callable[[], None]) -> Iterator[None]:
    """A block in which this thread waits for a program that is another's, as an agent.

    `end_all` calls `end`, from another thread, which ends that wait. Raises `KeystoreError` where
    that has come already.
    """
    with _changing:
        if _running is None:
            raise KeystoreError("nothing is waited for: this process is ending")
        _ended_with.append(end)
    try:
        yield
    finally:
        with _changing:
            _ended_with.remove(end)


@contextmanager
def secret_pipe(secret: Secret) -> Iterator[int]:
    """A descriptor from which a program can read `secret` once."""
    if len(secret.reveal()) > MAX_PIPED_SECRET:
        raise KeystoreError(f"a passphrase has more than {MAX_PIPED_SECRET} bytes", "shorten it")
    read, write = os.pipe()
    try:
        try:
            os.write(write, secret.reveal())
        finally:
            os.close(write)
        yield read
    finally:
        os.close(read)


@contextmanager
def memory_file(content: bytes | memoryview = b"") -> Iterator[int]:
    """A descriptor of an anonymous file in memory with `content`, at its beginning."""
    descriptor = os.memfd_create("sigul")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def run(
    arguments: Sequence[str],
    *,
    package: str,
    time_limit: float,
    stdin: int | bytes = b"",
    stdout: int | None = None,
    inherit: Sequence[int] = (),
    status_option: str | None = None,
    environment: Mapping[str, str] = _NOTHING,
    directory: Path | None = None,
    timeout_cure: str = "",
    watch: Callable[[], None] | None = None,
    max_file_size: int | None = None,
    wall: Wall = OWN_DOMAIN,
) -> Finished:
    """Run a program to its end; how it ended is for the caller to judge.

    `package` is where the program comes from, for the error where it is missing; `time_limit` is
    in seconds, and `timeout_cure` says what to do where it is too short. It reads `stdin` (a
    descriptor, or data), writes descriptor `stdout` (None: captured), inherits the descriptors
    `inherit` and runs in `directory` (None: the current one). `environment` is added to PATH, and
    the C locale in UTC. `status_option` makes it write machine readable messages: that option is
    put before the others, with the number of a descriptor. `watch` is called many times a second
    while it runs, and once it has ended: what that raises ends the program, and is raised. No file
    that it writes becomes larger than `max_file_size` bytes (None: what the wall says): the kernel
    ends it before. It runs behind `wall`.

    Raises `ToolMissing`, `ToolTimeout`, and `KeystoreError` where it cannot be started or writes
    too much.
    """
    deadline = time.monotonic() + time_limit
    program, *options = arguments
    with ExitStack() as cleanup:
        source = cleanup.enter_context(memory_file(stdin)) if isinstance(stdin, bytes) else stdin
        readers: dict[str, int] = {}
        inherited = list(inherit)
        if status_option is not None:
            readers["status"], status = os.pipe()
            cleanup.callback(os.close, readers["status"])
            inherited.append(status)
            options = [status_option, str(status), *options]
        variables = {**_environment(), **environment, _MARK: secrets.token_hex(16)}

        def start() -> subprocess.Popen[bytes]:
            # A session of its own makes the process group that is killed, and has no terminal.
            return subprocess.Popen(
                [*_limits(wall, time_limit, max_file_size), program, *options],
                stdin=source,
                stdout=subprocess.PIPE if stdout is None else stdout,
                stderr=subprocess.PIPE,
                pass_fds=inherited,
                start_new_session=True,
                cwd=directory,
                env=variables,
                **_user(),
            )

        try:
            with _changing:
                if _running is None:
                    raise KeystoreError(f"{program} is not started: this process is ending")
                started = _Started(
                    wall.with_program(_find(program, package, variables["PATH"])),
                    [source, *inherited],
                    start,
                    variables[_MARK],
                )
                _running.add(started)
        except OSError as error:
            where = "" if directory is None else f" in '{directory}'"
            raise KeystoreError(
                f"{program} cannot be run{where}: {error.strerror}", "see who may use it"
            ) from None
        finally:
            if status_option is not None:
                os.close(status)  # else its end would never be seen
        process = started.process
        for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
            if pipe is not None:
                cleanup.enter_context(pipe)
                readers[name] = pipe.fileno()
        cleanup.callback(_end, started)
        _be_as_nice(process.pid)
        try:
            found = _collect(readers, started, deadline, watch)
            returncode = started.finish()
        except TimeoutError:
            raise ToolTimeout(
                f"{program} did not finish within {time_limit:g} s and was stopped", timeout_cure
            ) from None
        except _TooMuch:
            raise KeystoreError(
                f"{program} wrote more than {MAX_OUTPUT} bytes of messages and was stopped",
                "what it was given is not what it is for",
            ) from None
    if watch is not None:
        watch()
    return Finished(
        returncode,
        found.get("stdout", b""),
        found["stderr"].decode("utf-8", "replace"),
        found.get("status", b"").decode("utf-8", "replace"),
    )


class _Started:
    """A program that runs behind its wall, with all that it has started."""

    def __init__(
        self,
        wall: Wall,
        descriptors: Sequence[int],
        start: Callable[[], subprocess.Popen[bytes]],
        mark: str,
    ) -> None:
        self._wall = wall
        self._mark = f"{_MARK}={mark}".encode()
        self._inside = Inside(wall, descriptors, start)
        self.process = self._inside.result
        #: Readable once the program has ended, before its number is another's.
        self.ended = os.pidfd_open(self.process.pid)

    def kill(self) -> None:
        """Kill all of it that still lives."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        wall = self._wall
        if not self._inside.kill() and not wall.lasting and wall.may_have_children:
            _kill_marked(self._mark)

    def finish(self) -> int:
        """Kill what it has left behind, once it has ended, and return its exit code."""
        if self.process.returncode is None and not self._wall.lasting:
            if not support().scopes_signals:
                self.kill()  # while its number still is that of its group
            self.process.wait(_KILL_LIMIT)
            self.kill()
            self._inside.wait()
        return self.process.wait(_KILL_LIMIT)


def _kill_marked(mark: bytes) -> None:
    """Kill the processes with that variable in their environment, until there is none."""
    for _ in range(_KILL_ROUNDS):
        found = False
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes():
                    os.kill(int(path.parent.name), signal.SIGKILL)
                    found = True
        if not found:
            return


def _find(program: str, package: str, path: str) -> str:
    found = shutil.which(program, path=path)
    if found is None:
        raise ToolMissing(f"{program} is not installed", f"install the package {package}")
    return found


def _limits(wall: Wall, time_limit: float, file_size: int | None) -> Iterator[str]:
    """The command that starts a program with its limits, which hold from its first moment on.

    It ends with whoever runs it, however that ends.
    """
    # Its time limit ends it, too, but not where this process has been killed meanwhile.
    limits: dict[str, int | None] = {
        "core": 1,  # see cli.hardening
        "as": wall.memory,
        "fsize": wall.file_size if file_size is None else file_size,
        "cpu": None if wall.lasting else math.ceil(time_limit) + 1,
        "nproc": None if wall.children else 0,
    }
    yield _find("prlimit", "util-linux", os.defpath)
    for name, limit in limits.items():
        if limit is not None:
            hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
            lowest = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            yield f"--{name}={lowest}:{lowest}"
    if not wall.lasting:
        yield from (_find("setpriv", "util-linux", os.defpath), "--pdeathsig", "KILL")
    yield "--"


def _user() -> _User:
    """For `Popen`: where this process acts as another user, a program is that one for good."""
    if os.geteuid() == os.getuid():
        return {}
    return {"user": os.geteuid(), "group": os.getegid()}


def _be_as_nice(pid: int) -> None:
    """Have a program's session as nice as this process; its processes are that by themselves.

    Linux may share processors out between sessions first (autogroup), by their own niceness.
    """
    if niceness := os.getpriority(os.PRIO_PROCESS, 0):
        # There is none in a control group with shares of its own, and not too often otherwise.
        with suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text(str(niceness), encoding="ascii")


def _environment() -> dict[str, str]:
    # gpg takes a day for noon local time; every other place here counts days in UTC.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


class _TooMuch(Exception):
    """A program writes without end."""


def _collect(
    readers: Mapping[str, int],
    started: _Started,
    deadline: float,
    watch: Callable[[], None] | None,
) -> dict[str, bytes]:
    """Read each of the descriptors `readers` to its end, and wait for the program's end."""
    found = {name: bytearray() for name in readers}
    with selectors.DefaultSelector() as selector:
        for name, descriptor in readers.items():
            selector.register(descriptor, selectors.EVENT_READ, found[name])
        selector.register(started.ended, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if watch is not None:
                watch()
            ready = selector.select(left if watch is None else min(left, _WATCH_SECONDS))
            if not ready and time.monotonic() >= deadline:
                raise TimeoutError
            for key, _ in ready:
                if key.fd == started.ended:
                    # What it has left behind may have its pipes open.
                    started.finish()
                    selector.unregister(key.fd)
                    continue
                data = os.read(key.fd, _READ_SIZE)
                if not data:
                    selector.unregister(key.fd)
                key.data.extend(data)
                if len(key.data) > MAX_OUTPUT:
                    raise _TooMuch
    return {name: bytes(data) for name, data in found.items()}


def _end(started: _Started) -> None:
    """Kill what is left of a program and what it started, and wait until it is gone."""
    with _changing:
        if _running is not None:
            _running.discard(started)
        if started.process.returncode is None:
            started.kill()
    try:
        started.finish()
    except subprocess.TimeoutExpired:
        raise KeystoreError(
            f"process {started.process.pid} does not end even when killed",
            "look at its disk or mount",
        ) from None
    finally:
        os.close(started.ended)
