"""How a worker ends its connection, whatever comes of the request: in memory, without TLS."""

from __future__ import annotations

import contextvars
import os
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from sigul_stack.config.server import ServerSettings
from sigul_stack.config.shared import NSSSettings
from sigul_stack.database import Database
from sigul_stack.errors import SigulError
from sigul_stack.server import worker as worker_module
from sigul_stack.server.worker import Worker
from sigul_stack.system.pipes import ParentPipes
from sigul_stack.transport import nss
from tests.wire import LIST_USERS, OUTER_END, SocketStream, outer, socket_pair

SETTINGS = ServerSettings(
    bridge_hostname="bridge.example", nss=NSSSettings(directory="sql:/nonexistent"), idle_timeout=5
)


class Connection(SocketStream):
    """A connection to a bridge, as far as a worker asks."""

    def acknowledge(self) -> None:
        """See `TLSConnection.acknowledge`."""


class Told:
    """A worker, its connection, and what the supervisor heard of it."""

    def __init__(self) -> None:
        near, self.bridge = socket_pair()
        self.connection = Connection(near.end)
        self._news, told = os.pipe()
        os.set_blocking(self._news, False)
        self._worker = Worker(SETTINGS, ParentPipes(control=-1, events=told))
        self._told = told

    def serve(self) -> bool:
        """Serve the request that has been sent; its id in logs is nobody else's."""
        return contextvars.copy_context().run(
            self._worker._serve,
            cast(nss.TLSConnection, self.connection),
            cast(nss.TLSIdentity, None),
            cast(Database, None),
        )

    def is_busy(self) -> bool:
        """Whether the supervisor was told of a request."""
        try:
            return os.read(self._news, 100).startswith(b"B")
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Free what is left."""
        os.close(self._news)
        os.close(self._told)
        self.bridge.close()


@pytest.fixture
def told() -> Iterator[Told]:
    found = Told()
    yield found
    found.close()


@pytest.mark.parametrize("error", [OSError("no room"), MemoryError(), KeyboardInterrupt()])
def test_an_unforeseen_failure_breaks_the_connection_off(
    told: Told, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_arguments: object, **_named: object) -> None:
        raise error

    monkeypatch.setattr(worker_module, "serve_request", fail)
    told.bridge.send(outer(LIST_USERS.head))
    with pytest.raises(type(error)):
        told.serve()
    assert told.connection.discarded
    assert told.is_busy()


def test_a_foreseen_failure_is_the_requests_alone(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_named: object) -> None:
        raise SigulError("no")

    monkeypatch.setattr(worker_module, "serve_request", fail)
    told.bridge.send(outer(LIST_USERS.head))
    assert told.serve()
    assert told.connection.discarded


@pytest.mark.parametrize("said", [b"", OUTER_END + outer(b"x")])
def test_what_is_no_request_leaves_the_worker_to_dial_again(told: Told, said: bytes) -> None:
    told.bridge.send(said)
    told.bridge.shutdown(socket.SHUT_WR)
    assert not told.serve()
    assert told.connection.discarded
    assert not told.is_busy()
