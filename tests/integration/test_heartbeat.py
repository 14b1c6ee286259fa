"""The bridge's heartbeat: a file that probes look at, as old as the last round of its loop."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.bridge.control import BEAT_SECONDS
from tests.site import DAEMON_SECONDS, Site, module, wait_until

pytestmark = pytest.mark.once("our own file and processes")


@pytest.fixture
def beating(site: Site) -> Iterator[tuple[Site, subprocess.Popen[bytes], Path]]:
    """A bridge with a heartbeat, which was started where an old one lay."""
    file = site.path("run/sigul_bridge.heartbeat")
    file.write_text("of another one\n")
    command = [*module("bridge"), "-c", str(site.path("bridge.conf"))]
    command.append(f"--internal-pid-dir={file.parent}")
    bridge = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=site.environment)
    try:
        wait_until(
            lambda: file.exists() and file.read_text() != "of another one\n",
            DAEMON_SECONDS,
            "the first heartbeat",
        )
        yield site, bridge, file
    finally:
        bridge.kill()
        bridge.wait(DAEMON_SECONDS)


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


# Waits for longer than a beat: that none comes can be seen in no other way.
@pytest.mark.timeout(180)
def test_it_lives_as_long_as_the_loop_goes_round(
    beating: tuple[Site, subprocess.Popen[bytes], Path],
) -> None:
    site, bridge, file = beating
    # Both ports listen by then, without any server.
    for port in (site.client_port, site.server_port):
        socket.create_connection(("127.0.0.1", port)).close()
    assert abs(int(file.read_text()) - time.time()) < DAEMON_SECONDS
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    child = child_of(bridge.pid)
    os.kill(child, signal.SIGSTOP)
    # One may have been on its way.
    time.sleep(0.5)
    stopped = file.stat().st_mtime_ns
    time.sleep(BEAT_SECONDS + 1)
    assert file.stat().st_mtime_ns == stopped
    os.kill(child, signal.SIGCONT)
    wait_until(lambda: file.stat().st_mtime_ns > stopped, DAEMON_SECONDS, "the next heartbeat")
    # Whoever takes over goes on with it.
    os.kill(child, signal.SIGKILL)
    before = file.stat().st_mtime_ns
    wait_until(lambda: file.stat().st_mtime_ns > before, DAEMON_SECONDS, "another's heartbeat")
    assert child_of(bridge.pid) != child
    bridge.terminate()
    assert bridge.wait(DAEMON_SECONDS) == 0
    assert not file.exists()


def test_there_is_none_where_a_port_is_taken(site: Site) -> None:
    file = site.path("run/sigul_bridge.heartbeat")
    file.write_text("of another one\n")
    with socket.create_server(("127.0.0.1", site.client_port)):
        site.run(
            *module("bridge"), "-c", str(site.path("bridge.conf")),
            f"--internal-pid-dir={file.parent}", code=1,
        )  # fmt: skip
    assert list(file.parent.iterdir()) == []


def test_without_a_directory_for_it_there_is_none(site: Site) -> None:
    with site.running():
        assert list(site.path("run").iterdir()) == []
