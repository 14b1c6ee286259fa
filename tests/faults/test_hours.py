"""Servers of 1.3 and 1.4, whose connection ends an hour after their child was forked.

They close by half and then wait without limit for the bridge to close as well: until it does, they
dial no new connection. (The hour of the scripted one is shorter.)
"""

from __future__ import annotations

import pytest

from sigul_stack.errors import Status
from tests.faults.conftest import PeerFactory
from tests.site import Site
from tests.wire import u32

pytestmark = pytest.mark.once("our own framing and order of messages")

PASSWORD = {"password": b"admin-pw"}
USERS = {"fields": {"num-users": u32(1)}, "payload": b"admin\0"}


def test_a_waiting_server_that_closes_by_half_is_closed_at_once(
    site: Site, peer: PeerFactory
) -> None:
    bridge = site.start_bridge()
    server = peer(site, "server")
    server.start(hour=0.3, hours=3, requests=2, **USERS)
    for _hour in range(3):
        server.wait_for("waiting")
        server.wait_for("half-closed")
        # Without a client that comes, and without anything else that happens at the bridge.
        server.wait_for("closed")
    server.wait_for("waiting")
    bridge.wait_for("has gone; dropped", count=3)
    for _request in range(2):
        told = peer(site, "client").run(secrets=PASSWORD)
        assert (told["status"], told["payload"]) == (Status.OK, b"admin\0")
    server.result()


def test_a_client_that_waits_meanwhile_gets_the_next_connection(
    site: Site, peer: PeerFactory
) -> None:
    site.start_bridge()
    server = peer(site, "server")
    server.start(hour=0.3, hours=1, requests=1, **USERS)
    server.wait_for("half-closed")
    told = peer(site, "client").run(secrets=PASSWORD)
    assert (told["status"], told["payload"]) == (Status.OK, b"admin\0")
    server.result()
