"""RPM packages looked at by rpm itself: `rpmkeys`, one run for all that wait at the time.

A run costs as much as it takes to check ten small packages. So who comes while one is under way
waits for the next, which takes all that have come till then. They are of one request, for each has
a process of its own: what one of them can do to rpmkeys, it does to its sender's. Where a run for
several does not find all of them good, each is looked at in a run of its own, whose words tell why.
"""

from __future__ import annotations

import logging
import re
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from ..errors import printable, shortened
from ..formats.rpm_head import CorruptRPM
from ..formats.rpm_lead import GET_AGAIN
from ..logevents import tell
from ..system.programs import Finished, run
from ..system.wall import Wall
from ..tools import RAISE_SIGNING_TIMEOUT, RPMKEYS
from .log_events import SigningEvents
from .rpm_digests import BYTES_PER_SECOND

_log = logging.getLogger(__name__)

#: Most packages of one run: each is an open file of the process.
_MOST: Final = 32

#: rpm is to look at no database of keys: what signatures there are already does not matter, and
#: looking for one would make it.
_CHECK = [
    *("rpmkeys", "--define", "_keyring fs", "--define", "_keyringpath /nonexistent"),
    *("--define", "_pkgverify_level digest", "--define", "_pkgverify_flags 0x0"),
    *("--nosignature", "--checksig"),
]
#: rpmkeys reads the package, of which nobody knows who made it, and writes nothing.
WALL = Wall(file_size=0)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A package to check: a descriptor of the file, its size in bytes, its limit in seconds."""

    descriptor: int
    size: int
    time_limit: float
    done: Future[None] = field(default_factory=Future)

    @property
    def path(self) -> str:
        return f"/proc/self/fd/{self.descriptor}"


class PackageChecks:
    """Checks of packages, which may be asked for by several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Wanted] = []
        self._under_way = False

    def check(self, descriptor: int, size: int, time_limit: float) -> None:
        """Have rpm look at a package of `size` bytes, which is read from its start.

        `time_limit` is in seconds, and what the size needs comes on top. Raises `CorruptRPM`,
        `ToolMissing`, `KeystoreError` where rpmkeys does not end.
        """
        wanted = _Wanted(descriptor, size, time_limit)
        with self._lock:
            self._waiting.append(wanted)
            leads, self._under_way = not self._under_way, True
        while leads:
            with self._lock:
                group, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                if not group:
                    self._under_way = leads = False
                    break
            _check_all(group)
        # Whoever leads has done this one, too, or fails it.
        wanted.done.result()


def _check_all(group: list[_Wanted]) -> None:
    """Check all of a group; each is told what became of it."""
    try:
        if len(group) > 1 and _all_good(group):
            for wanted in group:
                wanted.done.set_result(None)
            return
    except Exception:  # noqa: BLE001 - each is tried by itself, and has its own failure then
        tell(_log, SigningEvents.RPMS_CHECKED_ONE_BY_ONE, count=len(group))
    for wanted in group:
        try:
            _check_one(wanted)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            wanted.done.set_exception(error)
        else:
            wanted.done.set_result(None)


def _all_good(group: list[_Wanted]) -> bool:
    """Whether one run finds all of the packages good, and says so of each."""
    done = _run(group)
    said = done.stdout.decode("utf-8", "replace").splitlines()
    return not done.returncode and sorted(said) == sorted(
        f"{wanted.path}: digests OK" for wanted in group
    )


def _check_one(wanted: _Wanted) -> None:
    """Check one package. Raises `CorruptRPM` for what rpm does not take."""
    done = _run([wanted])
    if done.returncode:
        said = (done.stdout.decode("utf-8", "replace") + done.stderr).strip()
        tell(_log, SigningEvents.RPM_REFUSED, said=said[:500])
        raise CorruptRPM(_rpms_reason(said), GET_AGAIN)


def _run(group: list[_Wanted]) -> Finished:
    return run(
        [*_CHECK, *(wanted.path for wanted in group)],
        package=RPMKEYS.package,
        timeout_cure=RAISE_SIGNING_TIMEOUT,
        time_limit=max(wanted.time_limit for wanted in group)
        + sum(wanted.size for wanted in group) / BYTES_PER_SECOND,
        inherit=[wanted.descriptor for wanted in group],
        wall=WALL,
    )


def _rpms_reason(said: str) -> str:
    """The reason why rpmkeys refuses an RPM; it names the file by a descriptor of ours."""
    if "NOT OK" in said:
        return "its digests are not those of its content"
    reason = re.sub(r"(?:error: |/proc/self/fd/[0-9]+: ?)", "", (said.splitlines() or ["?"])[0])
    return f"rpm does not read it: {shortened(printable(reason), 120)}"
