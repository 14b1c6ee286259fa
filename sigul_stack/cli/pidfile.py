"""The PID file of a daemon: made at start, locked while the daemon lives, removed at its end.

The lock, not the file, says that a daemon is running: the kernel lets go of it however the process
ends, so a file that nobody holds is stale and is replaced. The lock is a POSIX one, which children
do not inherit. A daemon that gives up its privileges may no longer remove a file that it made as
root; then a small process stays behind that does. Whoever is root works on the file with
`rights_for` the daemon's user, who may own its directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from ..config.identity import Identity, rights_for
from ..errors import ConfigurationError, SigulError
from ..logevents import tell
from .log_events import ProgramLog
from .standard_streams import detach_standard_descriptors

log = logging.getLogger(__name__)

#: Seconds that a daemon which is just ending has to let go of its file.
PATIENCE = 0.5

_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class AlreadyRunning(SigulError):
    """Another process of the same daemon is running; the message has its PID."""


@contextlib.contextmanager
def held(path: Path, identity: Identity | None = None) -> Iterator[None]:
    """Hold the PID file `path` with this process's PID; remove it at the end.

    `identity` is what the process or its children will run as, if they are going to change. Raises
    `AlreadyRunning`, or `ConfigurationError` where the file cannot be made.
    """
    try:
        with rights_for(identity, path.parent):
            descriptor = _lock(path)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        user = "" if identity is None else f", which user {identity.uid} must be able to write to"
        raise ConfigurationError(
            f"the PID file '{path}' cannot be written: {error.strerror}",
            f"make its directory{user}, or name another with --internal-pid-dir=DIR",
        ) from error
    if identity is not None and identity.uid != 0 and os.geteuid() == 0:
        _leave_a_remover(path, identity)
    try:
        yield
    finally:
        # Removed while still locked: nobody else can have made it theirs in between.
        with (
            contextlib.suppress(PermissionError, FileNotFoundError),
            rights_for(identity, path.parent),
        ):
            path.unlink()
        os.close(descriptor)


def _lock(path: Path) -> int:
    """Open and lock the file `path`, made if need be. Raises `AlreadyRunning` or OSError."""
    deadline = time.monotonic() + PATIENCE
    while True:
        descriptor = os.open(path, _FLAGS | os.O_CREAT, 0o644)
        try:
            locked = _try_lock(descriptor)
            found = _content(descriptor)
            if locked and _same_file(descriptor, path):
                if found and _is_this_daemon(found, path.stem):
                    raise _running(path, found)
                if found:
                    tell(log, ProgramLog.STALE_PID_FILE, path=str(path), process=found)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        # Locked, but another file by now: its last holder has removed it in between. Not locked:
        # its holder may be about to end.
        if time.monotonic() > deadline:
            raise _running(path, found)
        if not locked:
            time.sleep(0.05)


def _content(descriptor: int) -> str:
    return os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _running(path: Path, pid: str) -> AlreadyRunning:
    return AlreadyRunning(
        f"{path.stem} is already running with PID {pid or 'unknown'} ('{path}')",
        "stop it first, or give this one another --internal-pid-dir=DIR",
    )


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_this_daemon(pid: str, name: str) -> bool:
    """Tell whether process `pid` is another one called `name`: old daemons do not lock the file."""
    if not pid.isdecimal() or int(pid) == os.getpid():
        return False
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(Path(os.fsdecode(argument)).name == name for argument in arguments[:3])


def _leave_a_remover(path: Path, identity: Identity) -> None:
    """Leave a process behind that removes `path` once this one is gone.

    It holds nothing, does nothing but wait, and is nobody's child, so that the daemon never meets
    it among its own.
    """
    daemon = os.getpid()
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(reader)  # the writing end stays open as long as this process lives
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            os.close(writer)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            detach_standard_descriptors()
            os.read(reader, 1)
            with rights_for(identity, path.parent):
                _remove(path, daemon)
    finally:
        os._exit(0)


def _remove(path: Path, pid: int) -> None:
    """Remove the PID file of process `pid`, which has ended, unless it is another's by now."""
    descriptor = os.open(path, _FLAGS)
    if _try_lock(descriptor) and _same_file(descriptor, path) and _content(descriptor) == str(pid):
        path.unlink()
    os.close(descriptor)
