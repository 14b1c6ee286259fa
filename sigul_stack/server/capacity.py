"""The number of a server's processes and threads where its configuration leaves it to the machine.

A request waits for its client, its bridge and the signing log for about half of its time, so that
two workers for each processor keep it busy; and a large upload, which does little but wait, should
hold up nobody. The most are what the bridge takes from one server (`max-waiting-servers`) with room
for others, and what the memory of a machine with so many processors has room for (a request takes
some 20 MiB).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..config.server import ServerSettings
from ..system.processors import usable_processors


@dataclass(frozen=True, slots=True)
class _Rule:
    """So many for each processor, but not fewer and not more than these."""

    each: int
    least: int
    most: int

    def of(self, processors: int) -> int:
        return min(max(self.each * processors, self.least), self.most)


_WORKERS: Final = _Rule(2, 4, 16)
_REQUESTS: Final = _Rule(8, 16, 64)
#: As many RPMs are checked by one run of rpmkeys, and their leaves appended together: each run and
#: each append costs more than the RPM in it.
_THREADS: Final = _Rule(4, 8, 16)


@dataclass(frozen=True, slots=True)
class Capacity:
    """Processes that wait, requests at once beside those, and threads of one request for RPMs."""

    workers: int
    max_requests: int
    signing_threads: int

    @classmethod
    def of(cls, settings: ServerSettings, processors: int | None = None) -> Capacity:
        """The numbers in `settings`; where those say nothing, what fits so many `processors`.

        None: those of this process.
        """
        count = usable_processors() if processors is None else processors
        return cls(
            settings.workers or _WORKERS.of(count),
            settings.max_requests or _REQUESTS.of(count),
            settings.signing_threads or _THREADS.of(count),
        )
