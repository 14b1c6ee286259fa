"""Machines of a test's own, each with its network, processes, engine and SSH server.

They are namespaces on this machine: they share its programs, and nothing under the directories in
`_OWN`. Their addresses are those of inventories/three_host, from the blocks that RFC 5737 keeps for
documentation, and a router that is a namespace too joins their networks.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.site import wait_until

#: The control machine's address.
CONTROL: Final = "10.99.1.2"
#: Directories that each machine has for itself, empty at first and in memory.
_OWN: Final = ("/run", "/srv", "/root")
_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Machine:
    """A machine; its first process has the ID `pid`."""

    name: str
    address: str
    pid: int
    #: Which namespaces are its own, as `nsenter` and `unshare` call them.
    spaces: tuple[str, ...]

    def command(self, *command: str) -> list[str]:
        """The command line that runs a command there as root."""
        return ["nsenter", "--target", str(self.pid), *self.spaces, "--", *command]

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command there as root."""
        done = subprocess.run(
            self.command(*command), capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `docker` there."""
        return self.run("docker", *arguments, check=check)


class Machines:
    """Machines that reach each other; they end with the block, and all that runs on them."""

    def __init__(self, files: Path) -> None:
        self._files = files
        self._stack = contextlib.ExitStack()
        self._key = files / "key"

    def __enter__(self) -> Machines:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self._key], check=True, timeout=60
        )
        with contextlib.ExitStack() as stack:
            self._router = stack.enter_context(self._network("router", ""))
            self._router.run("ip", "link", "set", "lo", "up")
            self._router.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def ssh_key(self) -> Path:
        """The private key that opens all machines for root."""
        return self._key

    def control(self) -> Machine:
        """The machine that Ansible runs on: it shares all files with this one, its engine too."""
        machine = self._stack.enter_context(self._network("control", CONTROL))
        self._cabled(machine)
        return machine

    def machine(self, name: str, address: str) -> Machine:
        """A machine with an engine and an SSH server."""
        machine = self._stack.enter_context(self._whole(name, address))
        self._cabled(machine)
        self._stack.enter_context(self._engine(machine))
        self._stack.enter_context(self._ssh_server(machine))
        return machine

    # --- What a machine is made of ----------------------------------------------------------------

    @contextlib.contextmanager
    def _network(self, name: str, address: str) -> Iterator[Machine]:
        """A machine that shares all but the network with this one."""
        with _held("unshare", "--net", "sh", "-c") as process:
            yield Machine(name, address, process.pid, ("--net",))

    @contextlib.contextmanager
    def _whole(self, name: str, address: str) -> Iterator[Machine]:
        """A machine with processes and directories of its own."""
        state = self._files / name
        state.mkdir()
        Path("/var/lib/docker").mkdir(exist_ok=True)
        mounts = [f"mount -t tmpfs -o mode=755 tmpfs {directory}" for directory in _OWN]
        mounts.append(f"mount --bind {state} /var/lib/docker")
        spaces = ("--mount", "--net", "--pid")
        # When the first process of a PID namespace ends, the kernel ends all others in it.
        with _held(
            *("unshare", *spaces, "--fork", "--kill-child", "--mount-proc", "sh", "-ec"),
            before=" && ".join(mounts) + " && ",
        ) as process:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            yield Machine(name, address, int(children), spaces)

    def _cabled(self, machine: Machine) -> None:
        """Join a machine's network with the router's, which is the first host in it."""
        gateway = machine.address.rpartition(".")[0] + ".1"
        machine.run("ip", "link", "set", "lo", "up")
        link = f"to-{machine.name}"[:15]
        self._router.run(
            *("ip", "link", "add", link, "type", "veth"),
            *("peer", "name", "uplink", "netns", f"/proc/{machine.pid}/ns/net"),
        )
        for where, name, own in (
            (machine, "uplink", machine.address),
            (self._router, link, gateway),
        ):
            where.run("ip", "address", "add", f"{own}/24", "dev", name)
            where.run("ip", "link", "set", name, "up")
        machine.run("ip", "route", "add", "default", "via", gateway)

    @contextlib.contextmanager
    def _engine(self, machine: Machine) -> Iterator[None]:
        with self._server(machine, "dockerd"):
            wait_until(
                lambda: machine.docker("info", check=False).returncode == 0, _SECONDS, "an engine"
            )
            yield

    @contextlib.contextmanager
    def _ssh_server(self, machine: Machine) -> Iterator[None]:
        public = self._key.with_suffix(".pub")
        machine.run("install", "-D", "-m", "600", str(public), "/root/.ssh/authorized_keys")
        machine.run("dropbearkey", "-t", "ed25519", "-f", "/run/host-key")
        with self._server(machine, "dropbear", "-F", "-E", "-s", "-r", "/run/host-key"):
            wait_until(
                lambda: machine.run("ss", "-Htln", "sport = :22").stdout,
                _SECONDS,
                "an SSH server",
            )
            yield

    @contextlib.contextmanager
    def _server(self, machine: Machine, *command: str) -> Iterator[None]:
        with (
            (self._files / f"{machine.name}-{command[0]}.log").open("wb") as log,
            subprocess.Popen(
                machine.command(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            ) as process,
        ):
            try:
                yield
            finally:
                process.terminate()
                process.wait(_SECONDS)


@contextlib.contextmanager
def _held(*command: str, before: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A shell that has run `before` and does nothing until the end of the block."""
    with subprocess.Popen(
        [*command, f"{before}echo ready && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin and process.stdout
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.stdin.close()
            process.wait(_SECONDS)
