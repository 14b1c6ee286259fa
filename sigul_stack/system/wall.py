"""The wall around a program: what a hole in it, opened by a hostile file, leads to.

A `Wall` says as data what a program needs. `Inside` is a thread that goes behind such a wall for
good, starts the program from there, and can kill whatever runs behind it. Linux keeps all parts of
a wall per thread and hands them on to what the thread starts, so nothing of it touches the rest of
this process, and no launcher is needed:

* `no_new_privs`: no program behind it gains rights by being executed.
* A Landlock domain of its own for each run: files outside of what it needs cannot be opened, and
  no process outside of the domain can be traced, nor its memory, environment or descriptors be
  read through /proc; so one tool's passphrase is not another's. No TCP from ABI 4 on; no signal
  and no abstract socket across the wall from ABI 6 on.
* A filter of system calls (`seccomp`) that refuses what no tool has a use for, and sockets of the
  network, which also holds where Landlock knows no network.
* Limits on memory, processor time, processes and file sizes, set by `system.programs`.

Numbers and structures are those of Linux's include/uapi/linux: landlock.h, prctl.h.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import functools
import os
import platform
import select
import signal
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Generic, TypeVar

from . import seccomp

Result = TypeVar("Result")

MIB: Final = 1 << 20


class Reach(enum.Enum):
    """The sockets that a program may make."""

    NOTHING = "none"
    LOCAL = "Unix sockets with a path"
    NETWORK = "all"


@dataclass(frozen=True, slots=True)
class Wall:
    """All that a program may do; the rest is refused. It always may read the system's programs and
    libraries, the few files that those need, and the descriptors that it inherits.

    It reads and executes what is in `read`, and reads, writes, makes and removes in `write`
    (files, or directories with all below them; what does not exist does not count). With
    `everything` files are as its user has them. `memory` is its address space and `file_size` the
    largest file that it writes, in bytes (None: no limit). `children`: it may start others.
    `keyrings`: it may use the kernel's. `lasting`: what it leaves behind stays when it has ended.
    """

    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    everything: bool = False
    reach: Reach = Reach.NOTHING
    children: bool = False
    keyrings: bool = False
    lasting: bool = False
    memory: int | None = 1024 * MIB
    file_size: int | None = None

    @property
    def may_have_children(self) -> bool:
        """Whether what runs there may have started others; root's limit of processes is none."""
        return self.children or os.geteuid() == 0

    def with_program(self, path: str) -> Wall:
        """This wall around the program at `path`, wherever it is installed."""
        return replace(self, read=(*self.read, Path(path)))


#: Around programs that parse nothing hostile, and use tokens or whatever a person has set up: they
#: see no other program's secrets, gain no rights, and nothing of them outlives its run.
OWN_DOMAIN: Final = Wall(
    everything=True, reach=Reach.NETWORK, children=True, keyrings=True, memory=None
)

#: What programs and libraries themselves consist of and read. No configuration, keys or /proc/PID.
_SYSTEM: Final = tuple(
    Path(name)
    for name in (
        "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64",
        "/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime",
        "/etc/passwd", "/etc/group", "/etc/nsswitch.conf",
        "/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf", "/etc/crypto-policies",
        "/etc/gcrypt", "/etc/gnupg", "/etc/rpm", "/etc/popt", "/etc/popt.d",
        "/proc/sys", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu",
        "/dev/zero", "/dev/random", "/dev/urandom",
    )
)  # fmt: skip
#: What every program may write to.
DEVICES: Final = (Path("/dev/null"),)


def all_but(hidden: Sequence[Path], below: Path = Path("/")) -> Iterator[Path]:
    """Paths of all there is below a directory besides `hidden`, which are free of links.

    The directories that they are in are not among them, only what else is there.
    """
    with os.scandir(below) as entries:
        for entry in entries:
            path = Path(entry.path)
            if path in hidden or entry.is_symlink():
                continue
            if any(path in other.parents for other in hidden):
                with suppress(OSError):
                    yield from all_but(hidden, path)
            else:
                yield path


class Unsupported(OSError):
    """The kernel says that it can make a wall, and does not."""


# --- What the kernel has -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Support:
    """The parts of walls that this kernel has: Landlock's ABI (0: none), and seccomp filters."""

    landlock: int
    seccomp: bool

    @property
    def scopes_signals(self) -> bool:
        """True where a domain is all that its members can signal: so it can be killed as one."""
        return self.landlock >= _ABI_SCOPES

    def lacks(self) -> list[tuple[str, str]]:
        """The things that do not hold here, each with what to do about it; empty where all does."""
        found = []
        if not self.landlock:
            found.append(
                (
                    "the kernel offers no Landlock: a tool with a hole, opened by a hostile file,"
                    " reads what its user may, other tools' passphrases among it",
                    "boot Linux 5.13 or later with landlock among its lsm=, and see that the"
                    " container engine's seccomp profile allows it",
                )
            )
        elif not self.scopes_signals:
            found.append(
                (
                    f"the kernel's Landlock (ABI {self.landlock}) keeps no process behind a wall"
                    " for certain: one that a tool leaves behind may outlive its run",
                    "boot Linux 6.12 or later",
                )
            )
        if not self.seccomp:
            found.append(
                (
                    "there are no seccomp filters here: tools that parse hostile files may make"
                    " all system calls, and use the network where Landlock knows none",
                    "use a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64",
                )
            )
        return found


@functools.cache
def support() -> Support:
    """The parts that this kernel has, asked once."""
    abi = _system_call(_CREATE_RULESET, None, 0, _VERSION)
    # A filter at address 0 is refused with EFAULT where filters are known, else with EINVAL.
    known = _libc().prctl(_PR_SET_SECCOMP, _MODE_FILTER, None, 0, 0) < 0
    filters = known and ctypes.get_errno() == errno.EFAULT
    return Support(max(abi, 0), filters and platform.machine() in seccomp.PROCESSORS)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _system_call(number: int, *arguments: object) -> int:
    words = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    return int(_libc().syscall(ctypes.c_long(number), *words))


def _must(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise Unsupported(number, f"{what}: {os.strerror(number)}")
    return result


# --- Going behind it -----------------------------------------------------------------------------

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2


def enter(wall: Wall, descriptors: Iterable[int] = (), has: Support | None = None) -> None:
    """Put the calling thread, and all that it starts, behind `wall` for good.

    The files of `descriptors` may be opened anew for reading. `has` is what the kernel has (None:
    asked). Raises `OSError`.
    """
    has = has or support()
    _must(_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if has.landlock:
        _restrict_files(wall, descriptors, has.landlock)
    if has.seccomp:
        refused = seccomp.Refused(
            keyrings=not wall.keyrings,
            signals=not has.scopes_signals and wall.reach is not Reach.NETWORK,
            other_limits=not wall.everything,
            sockets=wall.reach is not Reach.NETWORK,
            local_sockets=wall.reach is Reach.NOTHING,
        )
        code = seccomp.program(refused, platform.machine())
        buffer = ctypes.create_string_buffer(code, len(code))
        address = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
        _must(_libc().prctl(_PR_SET_SECCOMP, _MODE_FILTER, address, 0, 0), "seccomp")


_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF, _VERSION = 444, 445, 446, 1
_RULE_PATH_BENEATH = 1
_ABI_REFER, _ABI_TRUNCATE, _ABI_NETWORK, _ABI_IOCTL, _ABI_SCOPES = 2, 3, 4, 5, 6
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIRECTORY = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHARACTER, _MAKE_BLOCK, _REFER = 1 << 6, 1 << 11, 1 << 13
_TRUNCATE, _IOCTL_DEVICE = 1 << 14, 1 << 15
#: The rights of the first ABI; and those that a file can have that is no directory.
_FIRST_RIGHTS = (1 << 13) - 1
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE
_BIND_AND_CONNECT_TCP = 1 << 0 | 1 << 1
_ABSTRACT_SOCKETS, _SIGNALS = 1 << 0, 1 << 1


def _restrict_files(wall: Wall, descriptors: Iterable[int], abi: int) -> None:
    rights = _FIRST_RIGHTS
    for since, right in (
        (_ABI_REFER, _REFER), (_ABI_TRUNCATE, _TRUNCATE), (_ABI_IOCTL, _IOCTL_DEVICE),
    ):  # fmt: skip
        rights |= right if abi >= since else 0
    network = wall.reach is Reach.NETWORK
    ports = _BIND_AND_CONNECT_TCP if abi >= _ABI_NETWORK and not network else 0
    scopes = 0
    if abi >= _ABI_SCOPES:
        scopes = _SIGNALS if network else _SIGNALS | _ABSTRACT_SOCKETS
    # Older kernels know fewer fields, and take the others where they are 0.
    attributes = struct.pack("=QQQ", rights, ports, scopes)
    ruleset = _must(_system_call(_CREATE_RULESET, attributes, len(attributes), 0), "Landlock")
    try:
        reading = _EXECUTE | _READ_FILE | _READ_DIRECTORY
        writing = rights & ~(_EXECUTE | _MAKE_CHARACTER | _MAKE_BLOCK | _IOCTL_DEVICE)
        granted = (
            [(rights, (Path("/"),))]
            if wall.everything
            else [(reading, (*_SYSTEM, *wall.read)), (writing, (*DEVICES, *wall.write))]
        )
        for allowed, paths in granted:
            for path in paths:
                # What cannot be opened is not there, or out of reach anyway.
                with suppress(OSError):
                    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
                    try:
                        _allow(ruleset, beneath, allowed & rights)
                    finally:
                        os.close(beneath)
        for descriptor in descriptors:
            # The others (pipes, files in memory) are in no directory: they are not restricted.
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                with suppress(Unsupported):
                    _allow(ruleset, descriptor, _READ_FILE)
        _must(_system_call(_RESTRICT_SELF, ruleset, 0), "Landlock")
    finally:
        os.close(ruleset)


def _allow(ruleset: int, beneath: int, rights: int) -> None:
    if not stat.S_ISDIR(os.fstat(beneath).st_mode):
        rights &= _OF_FILES
    rule = struct.pack("=Qi", rights, beneath)
    _must(_system_call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0), "Landlock's rule")


# --- A thread behind it --------------------------------------------------------------------------

#: How long what was killed may take to end, in seconds.
_VANISH_SECONDS = 5.0


class Inside(Generic[Result]):
    """A thread behind `wall` that calls `start` there; `result` is what that returned.

    Raises what `start` raises, and `OSError` where there can be no such wall.
    """

    result: Result

    def __init__(self, wall: Wall, descriptors: Sequence[int], start: Callable[[], Result]) -> None:
        self._scoped = support().scopes_signals and not wall.lasting
        self._error: BaseException | None = None
        self._called, self._over, self._killed = (threading.Event() for _ in range(3))
        self._thread = threading.Thread(
            target=self._live, args=(wall, descriptors, start), name="wall", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, str(error)) from error
        self._called.wait()
        self._see_start()

    def _see_start(self) -> None:
        if self._error is not None:
            self._thread.join()
            raise self._error

    def _live(self, wall: Wall, descriptors: Sequence[int], start: Callable[[], Result]) -> None:
        processes = None
        try:
            # Opened out here: behind the wall nothing of it can be.
            processes = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            enter(wall, descriptors)
            self.result = start()
            self._called.set()
            if wall.lasting:
                return
            # The program ends with this thread, so with this process, however that ends.
            self._over.wait()
            if self._scoped:
                _kill_all()
                self._killed.set()
                if wall.may_have_children:
                    _wait_for_all(processes)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for it
            self._error = error
        finally:
            self._called.set()
            self._killed.set()
            if processes is not None:
                os.close(processes)

    def kill(self) -> bool:
        """Kill all that runs behind the wall; False where the kernel has no way to do so."""
        self._over.set()
        if self._scoped:
            self._killed.wait()
        return self._scoped

    def wait(self) -> None:
        """Wait, after `kill`, until all of it is gone."""
        if self._scoped:
            self._thread.join()


def _kill_all() -> None:
    """Kill all that runs behind the wall of this thread.

    For in here, "all processes" are those behind the wall, whatever they did to get away, and never
    this one. That `enter` did not fail is what makes it right; so would a signal to the parent, if
    it did, tell that it is not.
    """
    if (parent := os.getppid()) > 0:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(parent, 0)
            raise Unsupported(errno.ENOTSUP, "Landlock lets signals out")
    # It fails where there are none on the machine, and does not tell whether there were any here.
    with suppress(ProcessLookupError, PermissionError):
        os.kill(-1, signal.SIGKILL)


def _wait_for_all(processes: int) -> None:
    """Wait until all that was killed has ended. `processes` is /proc."""
    deadline = time.monotonic() + _VANISH_SECONDS
    for name in os.listdir(processes):
        if name.isdigit() and int(name) != os.getpid():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(int(name), 0)  # fails for those on the other side
                _wait_for(int(name), deadline)


def _wait_for(number: int, deadline: float) -> None:
    """Wait until that process has ended; who collects it is another question."""
    process = os.pidfd_open(number)
    try:
        select.select([process], [], [], max(0.0, deadline - time.monotonic()))
    finally:
        os.close(process)
