"""Processes of a daemon that were broken into: their parents go on, and end when they are told.

What a broken worker or serving process would write to its parent is written here through
`/proc/PID/fd`, into the pipes of real daemons. What else such a process may do:
tests/unit/test_hostile_children.py.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from tests.faults.observe import children
from tests.hostile.conftest import HonestFactory
from tests.hostile.work import Honest
from tests.site import DAEMON_SECONDS, Process, Site, wait_until

pytestmark = [
    pytest.mark.once("our own pipes"),
    pytest.mark.root,  # Daemons forbid everybody else to look at what they have open.
]


def pipes(pid: int, access: int) -> dict[str, int]:
    """The pipes that a process has open for reading or writing: their names and descriptors."""
    found = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        # Others than the lasting ones come and go meanwhile.
        with contextlib.suppress(FileNotFoundError):
            state = Path(f"/proc/{pid}/fdinfo/{path.name}").read_text()
            flags = int(state.split("flags:")[1].split()[0], 8)
            if str(path.readlink()).startswith("pipe:") and flags & os.O_ACCMODE == access:
                found[str(path.readlink())] = int(path.name)
    return found


def say(parent: int, child: int, data: bytes) -> None:
    """Write to the parent what its child did not say."""
    ends = pipes(child, os.O_WRONLY)
    events = max(ends.keys() & pipes(parent, os.O_RDONLY).keys(), key=lambda name: ends[name])
    descriptor = os.open(f"/proc/{child}/fd/{ends[events]}", os.O_WRONLY)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


SAID = {
    "a stray byte": b"\0",
    "an unknown event": b"Z\0\0",
    "an event without its body": b"A\0\0",
    "half an event": b"U\1\0half",
    "what is not a worker's to say": b"G\0\x20" + bytes(32),
}


@pytest.fixture
def site(quiet: Site) -> Site:
    """A site of the test's own, which is not running."""
    return quiet


@pytest.mark.parametrize("said", SAID)
def test_a_server_goes_on_without_the_worker(
    site: Site, honest_at: HonestFactory, said: str
) -> None:
    site.start_bridge()
    server = site.start_server(4)
    workers = children(server.popen.pid)
    broken = min(workers)
    say(server.popen.pid, broken, SAID[said])
    wait_until(lambda: broken not in children(server.popen.pid), DAEMON_SECONDS, "its end")
    assert_goes_on(server, honest_at(site), broken)


@pytest.mark.parametrize("said", ["a stray byte", "an unknown event"])
def test_a_bridge_goes_on_with_another_process(
    site: Site, honest_at: HonestFactory, said: str
) -> None:
    bridge = site.start_bridge()
    server = site.start_server(4)
    (broken,) = children(bridge.popen.pid)
    say(bridge.popen.pid, broken, SAID[said])
    wait_until(lambda: broken not in children(bridge.popen.pid), DAEMON_SECONDS, "its end")
    server.wait_for("Waiting for a request at the bridge", 8)
    assert_goes_on(bridge, honest_at(site), broken)


def assert_goes_on(daemon: Process, honest: Honest, broken: int) -> None:
    """It serves, says why it killed its child, and ends when it is told to."""
    for user in honest.passphrases:
        honest.sign(user)
    assert f"Process {broken} is killed: it broke the rules of its pipe" in daemon.text
    assert daemon.stop() == 0
