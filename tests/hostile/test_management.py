"""Hostile programs on the bridge's own machine, at its management address."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sigul_stack.bridge.management import MAX_PEERS
from tests.hostile.conftest import HonestFactory
from tests.site import DAEMON_SECONDS, Site, free_port

pytestmark = [
    pytest.mark.once("the bridge's own threads and limits"),
    # Twenty seconds of signatures: tests/unit/test_management.py has each attack by itself.
    pytest.mark.long("sigul_stack/bridge/management.py", "sigul_stack/bridge/sight.py"),
]

#: Seconds that a scrape may take meanwhile: the 256 connections that wait in the kernel are taken
#: at 50 a second, which is 5.1 s. Prometheus gives it 10.
SCRAPE_SECONDS = 8.0


def silent(peer: socket.socket) -> None:
    """Say nothing."""


def slow(peer: socket.socket) -> None:
    """Say a header that has no end, a byte now and then."""
    peer.sendall(b"GET / HTTP/1.1\r\n")
    for _ in range(20):
        peer.sendall(b"x")
        time.sleep(0.05)


def huge(peer: socket.socket) -> None:
    """Say a header that is far too long."""
    peer.sendall(b"GET / HTTP/1.1\r\nx: " + b"x" * 1_000_000)


def deaf(peer: socket.socket) -> None:
    """Ask for the page, and read nothing."""
    peer.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    time.sleep(0.5)


def hungry(peer: socket.socket) -> None:
    """Ask for the page as fast as may be."""
    peer.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    while peer.recv(65536):
        pass


def attack(port: int, way: Callable[[socket.socket], None], over: threading.Event) -> None:
    """Connect again and again."""
    held: list[socket.socket] = []
    while not over.is_set():
        with contextlib.suppress(OSError):
            peer = socket.create_connection(("127.0.0.1", port), 1)
            held.append(peer)
            peer.settimeout(1)
            way(peer)
        if len(held) > 2 * MAX_PEERS:
            held.pop(0).close()
        over.wait(0.005)
    for peer in held:
        peer.close()


def test_programs_on_its_machine_hold_nobody_up(quiet: Site, honest_at: HonestFactory) -> None:
    port = free_port()
    quiet.extra["bridge"] = {"management": f"listen: 127.0.0.1:{port}\n"}
    quiet.configure()
    with quiet.running() as (bridge, server):
        server.wait_for("Waiting for a request at the bridge", 4)
        files = Path(f"/proc/{bridge.serving}/fd")
        threads = Path(f"/proc/{bridge.serving}/task")
        honest = honest_at(quiet)
        over = threading.Event()
        attackers = [
            threading.Thread(target=attack, args=(port, way, over))
            for way in (silent, slow, huge, deaf, hungry, hungry)
        ]
        most = [0, 0]
        scrapes = 0
        try:
            with honest.during("hostile programs at the management address"):
                for thread in attackers:
                    thread.start()
                for _ in range(5):
                    begin = time.monotonic()
                    connection = http.client.HTTPConnection(
                        "127.0.0.1", port, timeout=DAEMON_SECONDS
                    )
                    with contextlib.closing(connection):
                        connection.request("GET", "/metrics")
                        answer = connection.getresponse()
                        scrapes += answer.status == 200 and b"sigul_bridge_info" in answer.read()
                    assert time.monotonic() - begin < SCRAPE_SECONDS
                    most[0] = max(most[0], len(list(files.iterdir())))
                    most[1] = max(most[1], len(list(threads.iterdir())))
                    time.sleep(0.1)
        finally:
            over.set()
            for thread in attackers:
                thread.join()
        assert scrapes == 5
        # Of the bridge's own there are some, and those of the honest people's requests.
        assert most[0] < MAX_PEERS + 60
        assert most[1] < 40
        assert "unforeseen" not in bridge.text
