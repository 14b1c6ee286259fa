"""Lock files of GnuPG in a home, and whether who made one is gone.

GnuPG locks a file by making `FILE.lock` beside it: the process number in ten places, a newline, the
host's name, a newline (its common/dotlock.c). It removes one whose process is of this host and no
more, and waits without end for any other: for one of a container that was killed, whose host name
no new container has, and for one whose number another process has by now.

Invariant: a lock is removed only where its owner is surely gone. That is: a process of this host
that is no program of GnuPG's, or began after the lock was made; or one of another host, where the
file system is this machine's alone and the lock was made before the machine started, or lies there
for `OLD_SECONDS` though this server has the home to itself (`locked_keys`): GnuPG keeps a lock for
a fraction of a second.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...errors import KeystoreError, quoted
from ...logevents import tell
from ..log_events import KeystoreLog
from ..storage import locked_keys

_log = logging.getLogger(__name__)

#: From when on a lock of another host is old, in seconds.
OLD_SECONDS: Final = 120.0
#: Where GnuPG makes locks: in the home, and where newer ones keep public keys.
_PATTERNS: Final = ("*.lock", "public-keys.d/*.lock")
#: Our own lock has no owner in it.
_OURS: Final = "sigul-stack-"
_CONTENT: Final = re.compile(rb" {0,9}([0-9]{1,10})\n([^\n\0]{1,255})\n")
_PROGRAMS: Final = ("gpg", "keyboxd", "dirmngr", "scdaemon")
#: File systems that no other machine writes to at the same time.
_LOCAL: Final = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"}
)


@dataclass(frozen=True, slots=True)
class ForeignLock:
    """A lock that GnuPG waits for without end. `gone`: its owner surely is."""

    path: Path
    pid: int
    host: str
    gone: bool

    def error(self) -> KeystoreError:
        """The error of a change that the lock is in the way of. Fits a reply."""
        return KeystoreError(
            f"the GnuPG home is locked by process {self.pid} of host {quoted(self.host, 60)}",
            f"when that is no more (a killed container): rm {self.path.name} in the server's"
            " gnupg-home, or start the server anew two minutes after the lock was made",
        )

    @property
    def finding(self) -> str:
        """The state of the lock, in one sentence."""
        return (
            f"{quoted(str(self.path))} is a lock of process {self.pid} of host {quoted(self.host)},"
            " for which GnuPG waits without end, so that keys cannot be changed"
        )

    @property
    def cure(self) -> str:
        """The cure."""
        return f"when that process is no more: rm '{self.path}'"


@contextlib.contextmanager
def locked_home(home: Path, time_limit: float) -> Iterator[None]:
    """`locked_keys`, and no lock of GnuPG's that its programs would wait for without end.

    Raises `KeystoreError` where there is one whose owner may still be at work, and `OSError`.
    """
    with locked_keys(home, time_limit):
        remove_stale_locks(home)
        for lock in foreign_locks(home):
            raise lock.error()
        yield


def foreign_locks(home: Path) -> Iterator[ForeignLock]:
    """The locks in `home` that GnuPG does not see through by itself."""
    for pattern in _PATTERNS:
        for path in sorted(home.glob(pattern)):
            if not path.name.startswith(_OURS) and (found := _read(path)) is not None:
                yield found


def remove_stale_locks(home: Path) -> None:
    """Remove the locks whose owners are surely gone, and name the others in the log.

    For a caller who has the home to itself (`locked_keys`). Raises `OSError`.
    """
    for lock in foreign_locks(home):
        if not lock.gone:
            tell(_log, KeystoreLog.LOCK_IN_THE_WAY, problem=lock.finding, cure=lock.cure)
            continue
        tell(_log, KeystoreLog.LOCK_REMOVED, path=str(lock.path), process=lock.pid, host=lock.host)
        lock.path.unlink(missing_ok=True)


def _read(path: Path) -> ForeignLock | None:
    try:
        made = path.stat().st_mtime
        with path.open("rb") as file:
            found = _CONTENT.fullmatch(file.read(300))
    except OSError:  # it is gone by now, or nobody's to read: gpg says so
        return None
    if found is None:  # being written, or no lock of GnuPG's
        return None
    pid, host = int(found[1]), found[2].decode("utf-8", "replace")
    if host != os.uname().nodename:
        return ForeignLock(path, pid, host, _is_past(path, made))
    if not Path(f"/proc/{pid}").exists() or _may_be_owner(pid, made):
        return None
    return ForeignLock(path, pid, host, gone=True)


def _may_be_owner(pid: int, made: float) -> bool:
    """True if the process, which is one of this host's, may have made a lock at that time."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return True
    began = _boot_time() + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    # Two seconds for clocks that count in other steps.
    return name.startswith(_PROGRAMS) and began <= made + 2


def _is_past(path: Path, made: float) -> bool:
    """True if a lock of another host, made at that time, has no owner any more."""
    if _file_system(path) not in _LOCAL:
        return False
    return made < _boot_time() or made + OLD_SECONDS < _present(path.parent)


def _present(directory: Path) -> float:
    """The time by the clock that dates files in `directory`; 0 where none can be made there."""
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=directory) as file:
        return os.fstat(file.fileno()).st_mtime
    return 0.0


def _boot_time() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _file_system(path: Path) -> str:
    """The type of the file system that holds `path`, as the kernel names it."""
    found, longest = "", -1
    real = path.resolve()
    for line in Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        place = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), before.split()[4]))
        # Of two at one place the later one covers the other.
        if real.is_relative_to(place) and len(place.parts) >= longest:
            found, longest = after.split()[0], len(place.parts)
    return found
