"""Trying again, with real programs: bridges that come late, close, or are busy, and what is cut."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from sigul_stack.cli.outcome import BUSY, MAY_HAVE_HAPPENED
from tests.faults.conftest import KEY, KEY_PASSPHRASE, PeerFactory
from tests.site import PROGRAM_SECONDS, Process, Site, module, nul, popen, wait_until
from tests.wire import u32

Served = tuple[Site, Process, Process]

pytestmark = pytest.mark.once("our own client's tries")

#: Far more than any of these tests takes, in seconds.
PLENTY = ("--retry", "60")
AGAIN = re.compile(
    r"^WARNING: (\{[0-9a-z]+\} )?nothing was done yet: .*; next attempt in [0-9]+\.[0-9] s$"
)


def lines(stderr: bytes) -> list[str]:
    """The lines of standard error."""
    return stderr.decode().splitlines()


def test_a_bridge_may_come_late_also_for_a_pipes_content(with_limits: Site) -> None:
    """More than 5 s: the site is started twice, the second time while the client waits."""
    site = with_limits
    with site.running():
        site.sigul("new-key", KEY, secrets=[site.admin_password, KEY_PASSPHRASE])
    command = [
        *module("sigul"), "--batch", "-c", str(site.path("client.conf")), *PLENTY,
        "sign-data", "-a", KEY, "-",
    ]  # fmt: skip
    pipe = subprocess.PIPE
    with popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=site.environment) as client:
        assert client.stdin is not None
        assert client.stderr is not None
        client.stdin.write(nul(KEY_PASSPHRASE) + b"what a pipe gives once\n")
        client.stdin.close()
        client.stdin = None
        first = client.stderr.readline().decode()
        assert AGAIN.match(first.rstrip("\n")), first
        assert "Connection refused" in first
        with site.running():
            out, err = client.communicate(timeout=PROGRAM_SECONDS)
    assert client.returncode == 0, err
    assert out.startswith(b"-----BEGIN PGP SIGNATURE-----")
    assert all(AGAIN.match(line) for line in lines(err)), err


@contextlib.contextmanager
def closing(port: int, times: int) -> Iterator[tuple[int, list[int]]]:
    """A port whose first connections are closed at once, and all others reach `port`.

    Gives it, and a list of how many connections have come.
    """
    count = [0]
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as opened:

        def move(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near, _address = listener.accept()
                    count[0] += 1
                    if count[0] <= times:
                        near.close()
                        continue
                    far = socket.create_connection(("127.0.0.1", port), timeout=PROGRAM_SECONDS)
                    opened.enter_context(near)
                    opened.enter_context(far)
                    for ends in ((near, far), (far, near)):
                        threading.Thread(target=move, args=ends, daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1], count
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PROGRAM_SECONDS)


def test_what_closes_before_the_inner_session_is_asked_again(served: Served) -> None:
    site, _bridge, server = served
    with closing(site.client_port, 2) as (port, count):
        text = site.path("client.conf").read_text()
        own = site.path("closing.conf")
        own.write_text(text.replace(f"bridge-port: {site.client_port}", f"bridge-port: {port}"))
        before = server.text.count("Request 'list-users' of user 'admin' done")
        done = site.sigul("list-users", secrets=[site.admin_password], config=own, options=PLENTY)
        assert done.stdout == b"admin\n"
        # A client that was cut off also looks whether the bridge is there yet, by connecting.
        assert count[0] >= 3
    told = lines(done.stderr)
    assert told
    assert all(AGAIN.match(line) for line in told)
    assert server.text.count("Request 'list-users' of user 'admin' done") == before + 1


def test_what_is_refused_is_asked_once(served: Served) -> None:
    """A wrong password is an answer: nobody guesses by trying again."""
    site, _bridge, server = served
    before = server.text.count("Request 'list-users' refused")
    done = site.sigul("list-users", secrets=["wrong"], code=1, options=PLENTY)
    assert lines(done.stderr) == ["Error: Authentication failed"]
    wait_until(
        lambda: server.text.count("Request 'list-users' refused") == before + 1, 10, "refused"
    )


def test_a_busy_bridge_is_asked_up_to_the_limit(with_limits: Site) -> None:
    """About 4 s: the limit, and the bridge's own."""
    site = with_limits
    site.extra["bridge"]["bridge"] += "server-wait-timeout: 0.2\n"
    site.configure()
    bridge = site.start_bridge()
    done = site.sigul("list-users", secrets=["any"], code=BUSY)
    (line,) = lines(done.stderr)
    assert line.startswith("Error: the bridge says: no signing server became free in time")
    begin = time.monotonic()
    done = site.sigul("list-users", secrets=["any"], code=BUSY, options=["--retry", "1.5"])
    assert 1.5 < time.monotonic() - begin < 10
    *again, gave_up, line = lines(done.stderr)
    assert len(again) >= 2
    assert all(AGAIN.match(told) for told in again)
    assert re.match(r"WARNING: gave up after attempt [0-9]+: the limit of 1\.5 s is over", gave_up)
    assert line.startswith("Error: the bridge says: no signing server became free in time")
    # The setting does the same, and the option comes before it.
    site.extra["client"] = {"client": "retry-seconds: 60\n"}
    site.configure()
    site.sigul("list-users", secrets=["any"], code=BUSY, options=["--retry", "0"])
    site.start_server()
    done = site.sigul("list-users", secrets=[site.admin_password])
    assert done.stdout == b"admin\n"
    assert bridge.popen.poll() is None


@pytest.mark.parametrize("how", ["abort", "reset", "notify"])
def test_what_was_cut_behind_the_secrets_is_asked_once(
    site: Site, peer: PeerFactory, how: str
) -> None:
    site.start_bridge()
    server = peer(site, "server")
    # The inner session takes less than 3000 bytes of what the server sends.
    server.start(zeros=200_000, cut=100_000, how=how, fields={"num-users": u32(1)})
    server.wait_for("waiting")
    begin = time.monotonic()
    done = site.sigul("list-users", secrets=["any"], code=MAY_HAVE_HAPPENED, options=PLENTY)
    assert time.monotonic() - begin < 30
    (line,) = lines(done.stderr)
    assert line.startswith("Error: ")
    assert "the server may have done it: look there before you ask again" in line
    server.result()
    (bridge,) = site.processes
    assert bridge.text.count("Request 'list-users' of user") == 1


def test_a_limit_that_is_none_is_a_usage_error(served: Served) -> None:
    for given in ("-1", "soon", "nan", "604801"):
        done = served[0].sigul("list-users", code=2, options=[f"--retry={given}"])
        assert b"--retry" in done.stderr
