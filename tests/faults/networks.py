"""Two machines in one: network namespaces of a test's own, joined by a cable that can be pulled.

Needs no rights on the machine where user namespaces are allowed, and none of its addresses.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.site import wait_until

#: The two machines' addresses, which exist in these namespaces only.
HERE, THERE = "10.99.0.1", "10.99.0.2"
_SECONDS = 10.0


@dataclass(frozen=True)
class Machine:
    """A namespace; `prefix` before a command line runs it there."""

    prefix: tuple[str, ...]

    def run(self, *command: str) -> None:
        """Run a command in the namespace; it must succeed."""
        done = subprocess.run(
            [*self.prefix, *command], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


@dataclass(frozen=True)
class Network:
    """Two machines and the cable between them."""

    here: Machine
    there: Machine

    def pull_cable(self) -> None:
        """From now on nothing that either machine sends arrives."""
        self.there.run("ip", "link", "set", "sigul1", "down")


@contextlib.contextmanager
def _namespace(*prefix: str) -> Iterator[int]:
    """A process that does nothing in a namespace of its own; its ID."""
    holder = subprocess.Popen([*prefix, "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert holder.stdin is not None
    try:
        yield holder.pid
    finally:
        holder.stdin.close()
        holder.wait(_SECONDS)


def _network_of(pid: int | str) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Two machines, at `HERE` and `THERE`."""
    # Root needs no user namespace, and may not have the right to make one.
    user = () if os.geteuid() == 0 else ("--user",)
    mapped = () if not user else ("--user", "--map-root-user")
    with _namespace("unshare", *mapped, "--net") as here_pid:
        wait_until(lambda: _network_of(here_pid) != _network_of("self"), _SECONDS, "a namespace")
        enter = ("nsenter", *user, *(("--preserve-credentials",) if user else ()), "--net")
        here = Machine((*enter, "--target", str(here_pid)))
        with _namespace(*here.prefix, "unshare", "--net") as there_pid:
            wait_until(
                lambda: _network_of(there_pid) not in (_network_of("self"), _network_of(here_pid)),
                _SECONDS,
                "a second namespace",
            )
            there = Machine((*enter, "--target", str(there_pid)))
            here.run(
                "ip", "link", "add", "sigul0", "type", "veth",
                "peer", "name", "sigul1", "netns", str(there_pid),
            )  # fmt: skip
            for machine, link, address in ((here, "sigul0", HERE), (there, "sigul1", THERE)):
                machine.run("ip", "address", "add", f"{address}/24", "dev", link)
                machine.run("ip", "link", "set", link, "up")
                machine.run("ip", "link", "set", "lo", "up")
            yield Network(here, there)
