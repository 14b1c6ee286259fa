"""What a storm must not leave: threads, descriptors, processes, files, half-open connections.

Read from /proc, from outside the processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.site import Process, Site, wait_until

#: Seconds for things to settle after a storm.
SETTLE_SECONDS = 20.0
_ESTABLISHED, _CLOSE_WAIT, _LISTEN = "01", "08", "0A"
_MIB = 1024**2


def descriptors(pid: int, *ports: int) -> int:
    """How many descriptors a process has open.

    The daemons forbid others to look (they hold secrets); who may not gets the number of
    connections at the process's `ports` instead, without those that the kernel alone still has.
    """
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except PermissionError:
        states = [state for port in ports for state in connections(port)]
        return states.count(_ESTABLISHED) + states.count(_CLOSE_WAIT)


def threads(pid: int) -> int:
    """How many threads a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def children(pid: int) -> dict[int, str]:
    """A process's children and the state of each (`Z` is a zombie)."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
                found[int(child)] = state
    return found


def workers(pid: int) -> dict[int, str]:
    """As `children`, for a server: without the writer of its signing log, its first child."""
    return dict(list(children(pid).items())[1:])


def peak_memory(pid: int) -> int:
    """The most memory that a process has ever had resident, in bytes; 0 if it is ending."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def connections(port: int) -> list[str]:
    """The TCP states of the connections at this local port, as the kernel's table has them."""
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        if int(columns[1].rpartition(":")[2], 16) == port and columns[3] != _LISTEN:
            found.append(columns[3])
    return found


def half_closed(site: Site) -> bool:
    """Whether the bridge has connections whose peer has closed (CLOSE_WAIT)."""
    return any(_CLOSE_WAIT in connections(port) for port in (site.client_port, site.server_port))


def stop_process(pid: int) -> None:
    """Freeze a process."""
    os.kill(pid, signal.SIGSTOP)


def works(site: Site) -> None:
    """A whole request, by our own client."""
    done = site.sigul("list-users", secrets=[site.admin_password])
    assert (done.stdout, done.stderr) == (f"{site.admin}\n".encode(), b"")


@dataclass
class Storm:
    """A running site, and what its processes had before the storm."""

    site: Site
    bridge: Process
    server: Process
    workers: int = 4

    def __post_init__(self) -> None:
        self._settle_workers()
        self.descriptors = self._settled_descriptors()
        self.threads = threads(self.bridge.serving)

    def _settle_workers(self) -> None:
        """All workers wait at the bridge: each has one connection there."""

        def settled() -> bool:
            states = workers(self.server.popen.pid)
            return len(states) == self.workers and "Z" not in states.values()

        wait_until(settled, SETTLE_SECONDS, f"{self.workers} workers and no zombie")
        wait_until(self._all_wait, SETTLE_SECONDS, "all workers' connections at the bridge")

    def _descriptors(self) -> int:
        ports = self.site.client_port, self.site.server_port
        return descriptors(self.bridge.serving, *ports)

    def _settled_descriptors(self) -> int:
        """How many there are when the bridge has taken in what the kernel has established."""
        readings = [self._descriptors()]

        def settled() -> bool:
            readings.append(self._descriptors())
            return readings[-10:] == 10 * readings[-1:]

        wait_until(settled, SETTLE_SECONDS, "a number of descriptors that stays")
        return readings[-1]

    def _all_wait(self) -> bool:
        """Each worker's connection has been taken into the pool, by the bridge's own word."""
        return connections(self.site.server_port).count(_ESTABLISHED) >= self.workers

    def check(self) -> None:
        """The site serves on, and nothing was left behind."""
        site = self.site
        works(site)
        assert self.bridge.popen.poll() is None
        assert self.server.popen.poll() is None
        self._settle_workers()
        pid = self.bridge.serving
        wait_until(
            lambda: self._descriptors() <= self.descriptors,
            SETTLE_SECONDS,
            f"at most {self.descriptors} descriptors in the bridge (now {self._descriptors()})",
        )
        wait_until(
            lambda: threads(pid) <= self.threads,
            SETTLE_SECONDS,
            f"at most {self.threads} threads in the bridge (now {threads(pid)})",
        )
        assert list(site.path("server/spool").iterdir()) == []
        wait_until(
            lambda: not half_closed(site), SETTLE_SECONDS, "the end of connections in CLOSE_WAIT"
        )
        for process in (self.bridge, self.server):
            assert "Traceback" not in process.text, process.text
            assert "unforeseen" not in process.text, process.text

    def memory_is_small(self) -> None:
        """Neither bridge, supervisor nor any worker has ever had much memory."""
        for pid in (self.bridge.serving, self.server.popen.pid, *children(self.server.popen.pid)):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                assert peak_memory(pid) < 200 * _MIB


@contextlib.contextmanager
def storm(site: Site, bridge: Process, server: Process) -> Iterator[Storm]:
    """After the block the site must be as it was before."""
    weather = Storm(site, bridge, server)
    yield weather
    weather.check()
