"""A request's id is what its client's TLS library put into its ClientHello, whoever that is."""

from __future__ import annotations

import contextlib
import socket
import ssl

import pytest

from tests.openssl_peer import STEP_SECONDS, InnerWay, context
from tests.site import Process, Site, module, ties
from tests.wire import SampleRequest

pytestmark = pytest.mark.once("our own framing and order of messages")

Served = tuple[Site, Process, Process]
#: A hello with a random of the client's choice, and no suite that a server takes.
CHOSEN = bytes.fromhex("160301002d010000290303") + b"\x5a" * 32 + b"\0\0\2\0\2\1\0"


def inner_way(site: Site) -> InnerWay:
    """The way into the inner session of a request of the administrator's."""
    fields = {"op": b"list-users", "user": site.admin.encode()}
    return InnerWay(site, SampleRequest(fields), context(site))


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_an_id_is_of_the_hello_that_openssl_makes(served: Served, version: str) -> None:
    """Its bytes are looked at on their way, so that this does not rest on our own reading."""
    site, bridge, server = served
    inner = context(site, version=ssl.TLSVersion[version])
    with inner_way(site) as way:
        tcp = socket.create_connection(("127.0.0.1", way.port), STEP_SECONDS)
        # The server takes no TLS 1.3; it has been sent the hello all the same.
        with tcp, contextlib.suppress(ssl.SSLError, OSError):
            inner.wrap_socket(tcp, server_hostname=site.server_name).close()
        # Of the record: type (1 byte), version (2), length (2); of the message: type (1),
        # length (3), version (2), random.
        hello = bytes(way.sent)
    assert (hello[0], hello[5]) == (22, 1)
    for process in (bridge, server):
        process.wait_for(f"Request {hello[11:19].hex()} is on connection")


def test_two_requests_that_share_an_id(served: Served) -> None:
    """The client chooses it: both are taken, and `trace` says that they are two."""
    site, bridge, server = served
    for _ in range(2):
        with inner_way(site) as way:
            tcp = socket.create_connection(("127.0.0.1", way.port), STEP_SECONDS)
            with tcp, contextlib.suppress(OSError):
                tcp.sendall(CHOSEN)
                tcp.recv(100)
    shared = "5a" * 8
    for process in (bridge, server):
        process.wait_for(f"Request {shared} is on connection", 2)
        assert [id_ for id_, _ in ties(process.text)].count(shared) == 2
    told = site.run(*module("stack"), "trace", shared, str(bridge.log), str(server.log))
    first, *lines = told.stdout.decode().splitlines()
    assert first == f"{shared} is the ID of 2 requests: clients choose it. By connection:"
    assert len([line for line in lines if line.endswith(":")]) == 4
