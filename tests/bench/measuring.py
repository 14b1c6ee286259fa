"""Runs clients of a site and measures them: time, CPU, and memory of client and server's worker."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.bench.sites import BenchSite
from tests.site import nul

#: Seconds between two looks at the memory of a server's processes.
_LOOK: Final = 0.02
_TICKS: Final = os.sysconf("SC_CLK_TCK")

# A process keeps in ru_maxrss what the one was that forked it: so a small one does, from which the
# client is forked and whose own 9 MiB are less than any client has. Prints KiB.
_MEMORY: Final = """
import os, sys
pid = os.fork()
if not pid:
    os.execv(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
sys.stderr.write(f"{usage.ru_maxrss}\\n")
sys.exit(os.waitstatus_to_exitcode(status))
"""


def timed(work: Callable[[], object]) -> float:
    """How long `work` takes, in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def times(work: Callable[[], object], runs: int) -> list[float]:
    """How long `work` takes in each of `runs` runs, after one that does not count, in seconds."""
    work()
    return [timed(work) for _ in range(runs)]


def median(work: Callable[[], object], runs: int) -> float:
    """The median of `times`."""
    return statistics.median(times(work, runs))


def client_kib(site: BenchSite, arguments: Sequence[str], given: Sequence[str]) -> int:
    """The most memory that one client had, in KiB (VmHWM)."""
    words = [sys.executable, "-I", "-S", "-c", _MEMORY, *site.words("sigul", *arguments)]
    done = subprocess.run(
        words, input=nul(*given), env=site.environment, capture_output=True, timeout=600, check=True
    )
    return int(done.stderr.split()[-1])


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pid: int) -> float:
    """CPU of a process, of its children that ended, and of those that run, in seconds."""
    total = 0.0
    with contextlib.suppress(OSError):
        total = sum(int(ticks) for ticks in _stat(pid)[11:15]) / _TICKS
        for child in children(pid):
            total += cpu_seconds(child)
    return total


def children(pid: int) -> list[int]:
    """The children of a process."""
    try:
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(word) for task in tasks for word in task.read_text().split()]
    except OSError:
        return []


def high_water(pid: int) -> int:
    """The most memory that a process had (VmHWM), in KiB; 0 if it has gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


@dataclass
class Watched:
    """What a block cost at the daemons."""

    worker_kib: int = 0
    #: Seconds of CPU of `bridge` and `server`.
    cpu: dict[str, float] = field(default_factory=dict)


@contextlib.contextmanager
def watched(site: BenchSite) -> Iterator[Watched]:
    """CPU of the daemons, and the largest of the server's workers, while the block lasts."""
    found, done = Watched(), threading.Event()
    server = site.daemons["server"].pid

    def look() -> None:
        while not done.wait(_LOOK):
            for worker in children(server):
                found.worker_kib = max(found.worker_kib, high_water(worker))

    before = {name: cpu_seconds(daemon.pid) for name, daemon in site.daemons.items()}
    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
        for name, daemon in site.daemons.items():
            found.cpu[name] = max(0.0, cpu_seconds(daemon.pid) - before[name])


@dataclass
class Load:
    """What several clients did."""

    #: What each request took, in seconds.
    took: list[float]
    seconds: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.took) / self.seconds

    @property
    def p95(self) -> float:
        """The 95th percentile of what a request took, in seconds (nearest rank)."""
        return sorted(self.took)[math.ceil(len(self.took) * 0.95) - 1]


def load(works: Sequence[Callable[[], object]], clients: int, seconds: float) -> Load:
    """`clients` that each do one of `works` after the other, each from another one.

    Raises the first error of a client: a rate in which some failed says nothing.
    """
    took: list[float] = []
    errors: list[BaseException] = []
    began = time.perf_counter()

    def client(number: int) -> None:
        turn = number
        try:
            while time.perf_counter() - began < seconds and not errors:
                work = works[turn % len(works)]
                took.append(timed(work))
                turn += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return Load(took, time.perf_counter() - began)
