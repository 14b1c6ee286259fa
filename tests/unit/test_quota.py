"""Requests of one client wait for each other, and for nobody else's."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from sigul_stack.bridge import waiting
from sigul_stack.bridge.quota import RequestQuota
from sigul_stack.errors import DeadlineExceeded, TransportError
from sigul_stack.transport import memory
from sigul_stack.transport.stream import ByteStream, Deadline
from tests.wire import eventually, in_background, socket_pair

LONG = 10.0


def client(name: str = "ann") -> ByteStream:
    """A client of this name, who stays."""
    return memory.pair(memory.nobody(name))[0]


def soon() -> Deadline:
    """A limit that a test meets only where something is wrong."""
    return Deadline(LONG, "the test")


def at_once() -> Deadline:
    """A limit that leaves no time to wait."""
    return Deadline(0.05, "the test")


@pytest.fixture
def quota() -> RequestQuota:
    """Two requests for everybody."""
    return RequestQuota(max_clients=2, max_per_user=2)


@contextlib.contextmanager
def under_way(quota: RequestQuota, count: int, name: str = "ann") -> Iterator[contextlib.ExitStack]:
    """So many requests of this name under way, which the stack ends."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(quota.turn(client(name), soon()))
        yield stack


def test_a_request_over_the_limit_waits_for_one_of_its_own(quota: RequestQuota) -> None:
    got = threading.Event()

    def third() -> None:
        with quota.turn(client(), soon()):
            got.set()

    with under_way(quota, 2) as both, in_background(third):
        assert eventually(lambda: len(quota._lines["ann"]) == 1)
        assert not got.is_set()
        both.close()
        assert got.wait(LONG)


def test_others_are_not_held_up(quota: RequestQuota) -> None:
    with under_way(quota, 2, "ann"), under_way(quota, 2, "bob"):
        for name in ("ann", "bob"):
            with pytest.raises(DeadlineExceeded, match=f"'{name}' has 2 .*max-requests-per-user"):
                quota.turn(client(name), at_once()).__enter__()
        with quota.turn(client("eve"), at_once()):
            pass


def test_those_that_wait_are_served_in_order() -> None:
    quota = RequestQuota(max_clients=1, max_per_user=1)
    order: list[int] = []

    def wait(number: int) -> None:
        with quota.turn(client(), soon()):
            order.append(number)

    with under_way(quota, 1):
        threads = []
        for number in range(4):
            threads.append(threading.Thread(target=wait, args=(number,), daemon=True))
            threads[-1].start()
            assert eventually(lambda number=number: len(quota._lines["ann"]) == number + 1)
        assert order == []
    for thread in threads:
        thread.join(LONG)
    assert order == sorted(order)
    assert len(order) == 4


def test_nothing_is_kept_of_what_has_ended(quota: RequestQuota) -> None:
    with under_way(quota, 2), pytest.raises(DeadlineExceeded):
        quota.turn(client(), at_once()).__enter__()
    assert not quota._counts
    assert not quota._lines
    with under_way(quota, 2):
        pass


def test_a_client_that_leaves_gives_its_place_up(
    quota: RequestQuota, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "CLIENT_CHECK_SECONDS", 0.05)
    near, far = socket_pair(memory.nobody("ann"))
    far.close()
    with near.end, under_way(quota, 2), pytest.raises(TransportError, match="client left"):
        quota.turn(near, soon()).__enter__()


def test_the_end_of_the_bridge_is_the_end_of_all_waiting(quota: RequestQuota) -> None:
    def wait() -> None:
        with pytest.raises(TransportError, match="bridge is ending"):
            quota.turn(client(), soon()).__enter__()

    with under_way(quota, 2), in_background(wait):
        assert eventually(lambda: bool(quota._lines))
        quota.close()
