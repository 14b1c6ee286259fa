"""One budget a name: what is over it waits for its own, or is refused; others are never held up."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.bridge import budget as budget_module
from sigul_stack.bridge import waiting
from sigul_stack.bridge.budget import REFUSALS_PER_USER, Budget, Download, OverBudget
from sigul_stack.config.bridge import BridgeSettings
from sigul_stack.config.shared import BridgeKojiSettings, NSSSettings
from sigul_stack.errors import DeadlineExceeded, TransportError
from sigul_stack.metrics import BridgeCount, Counters
from sigul_stack.transport import memory
from sigul_stack.transport.stream import ByteStream, Deadline
from tests.wire import eventually, in_background, socket_pair

LONG = 10.0
MIB = 1024**2
SETTINGS = BridgeSettings(nss=NSSSettings(directory="sql:/nonexistent"), max_requests_per_user=2)


def client(name: str = "ann") -> ByteStream:
    """A client of this name, who stays."""
    return memory.pair(memory.nobody(name))[0]


def soon() -> Deadline:
    """A limit that a test meets only where something is wrong."""
    return Deadline(LONG, "the test")


def at_once() -> Deadline:
    """A limit that leaves no time to wait."""
    return Deadline(0.05, "the test")


def make(**further: object) -> Budget:
    """A budget with these settings, two requests for everybody."""
    settings = dataclasses.replace(SETTINGS, **further)  # type: ignore[arg-type]
    return Budget(settings, Counters(BridgeCount))


def refused(budget: Budget) -> int:
    """How often it has said no."""
    return budget._counters.values()["over_budget_total"]


@pytest.fixture
def budget() -> Budget:
    """Two requests for everybody."""
    return make()


@contextlib.contextmanager
def under_way(budget: Budget, count: int, name: str = "ann") -> Iterator[contextlib.ExitStack]:
    """So many requests of this name under way, which the stack ends."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(budget.turn(client(name), 0, soon()))
        yield stack


def test_a_request_over_the_limit_waits_for_one_of_its_own(budget: Budget) -> None:
    got = threading.Event()

    def third() -> None:
        with budget.turn(client(), 0, soon()):
            got.set()

    with under_way(budget, 2) as both, in_background(third):
        assert eventually(lambda: budget._turns.count("ann") == 1)
        assert not got.is_set()
        both.close()
        assert got.wait(LONG)


def test_others_are_not_held_up(budget: Budget) -> None:
    with under_way(budget, 2, "ann"), under_way(budget, 2, "bob"):
        for name in ("ann", "bob"):
            with pytest.raises(DeadlineExceeded, match=f"'{name}' has 2 .*max-requests-per-user"):
                budget.turn(client(name), 0, at_once()).__enter__()
        with budget.turn(client("eve"), 0, at_once()):
            pass


def test_who_waits_for_its_own_holds_nobody_up(budget: Budget) -> None:
    def third() -> None:
        with budget.turn(client(), 0, soon()):
            pass

    with under_way(budget, 2) as both, in_background(third):
        assert eventually(lambda: budget._turns.count("ann") == 1)
        with budget.turn(client("bob"), 0, at_once()):
            pass
        both.close()


def test_those_that_wait_are_served_in_order() -> None:
    budget = make(max_requests_per_user=1)
    order: list[int] = []

    def wait(number: int) -> None:
        with budget.turn(client(), 0, soon()):
            order.append(number)

    with under_way(budget, 1):
        threads = []
        for number in range(4):
            threads.append(threading.Thread(target=wait, args=(number,), daemon=True))
            threads[-1].start()
            assert eventually(lambda number=number: budget._turns.count("ann") == number + 1)
        assert order == []
    for thread in threads:
        thread.join(LONG)
    assert order == sorted(order)
    assert len(order) == 4


def test_nothing_is_kept_of_what_has_ended(budget: Budget) -> None:
    with under_way(budget, 2), pytest.raises(DeadlineExceeded):
        budget.turn(client(), 0, at_once()).__enter__()
    assert not budget._counts
    assert not budget._turns._tickets
    with under_way(budget, 2):
        pass


def test_a_client_that_leaves_gives_its_place_up(
    budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "CLIENT_CHECK_SECONDS", 0.05)
    near, far = socket_pair(memory.nobody("ann"))
    far.close()
    with near.end, under_way(budget, 2), pytest.raises(TransportError, match="client left"):
        budget.turn(near, 0, soon()).__enter__()


def test_the_end_of_the_bridge_is_the_end_of_all_waiting(budget: Budget) -> None:
    def wait() -> None:
        with pytest.raises(TransportError, match="bridge is ending"):
            budget.turn(client(), 0, soon()).__enter__()

    with under_way(budget, 2), in_background(wait):
        assert eventually(lambda: bool(budget._turns.count("ann")))
        budget.close()


# -------------------------------------------------------------------------------------- connections


def connected(stack: contextlib.ExitStack, budget: Budget, count: int, name: str = "ann") -> None:
    """So many connections of this name, until the stack ends."""
    for _ in range(count):
        stack.enter_context(budget.connection(client(name)))


def test_a_name_has_so_many_connections_and_is_told() -> None:
    budget = make(max_connections_per_user=5)
    with contextlib.ExitStack() as stack:
        connected(stack, budget, 5)
        with pytest.raises(OverBudget, match=r"'ann' has 5 connections.*max-connections-per-user"):
            connected(stack, budget, 1)
        connected(stack, budget, 1, "bob")
        assert (refused(budget), budget.connected) == (1, 6)
    assert not budget._counts
    with contextlib.ExitStack() as stack:
        connected(stack, budget, 5)


def test_the_last_places_are_for_names_with_few_connections() -> None:
    """However many names work together, each gets only a few of them."""
    budget = make(max_clients=40, client_reserve=10, max_connections_per_user=25)
    with contextlib.ExitStack() as stack:
        connected(stack, budget, 20, "ann")
        connected(stack, budget, 10, "bob")
        for name in ("ann", "bob"):
            with pytest.raises(
                OverBudget, match=rf"30 clients .*\(max-clients\), and '{name}' has"
            ):
                connected(stack, budget, 1, name)
        connected(stack, budget, 4, "eve")
        with pytest.raises(OverBudget, match="'eve' has 4"):
            connected(stack, budget, 1, "eve")
        connected(stack, budget, 4, "joe")
        connected(stack, budget, 2, "sue")
        with pytest.raises(OverBudget, match=r"40 clients are connected already \(max-clients\)"):
            connected(stack, budget, 1, "tim")


def test_a_small_site_keeps_most_places_for_whoever_comes() -> None:
    budget = make(max_clients=16, client_reserve=32)
    with contextlib.ExitStack() as stack:
        connected(stack, budget, 12)
        with pytest.raises(OverBudget, match="max-clients"):
            connected(stack, budget, 1)


def test_only_a_few_of_a_name_are_waited_for_while_they_are_refused() -> None:
    budget = make()
    with contextlib.ExitStack() as stack:
        told = [stack.enter_context(budget.refusal(client())) for _ in range(20)]
        assert told == [True] * REFUSALS_PER_USER + [False] * (20 - REFUSALS_PER_USER)
        assert stack.enter_context(budget.refusal(client("bob")))
    assert not budget._counts


# ---------------------------------------------------------------------------------- payload, rate


def test_the_bytes_of_a_name_wait_for_its_own_and_a_single_request_has_any_size() -> None:
    budget = make(max_bytes_in_flight_per_user=10 * MIB)
    with budget.turn(client(), 2**40, soon()):
        with pytest.raises(DeadlineExceeded, match="max-bytes-in-flight-per-user"):
            budget.turn(client(), 1, at_once()).__enter__()
        with (
            budget.turn(client("bob"), 9 * MIB, at_once()),
            budget.turn(client("bob"), MIB, soon()),
        ):
            pass
    with budget.turn(client(), 9 * MIB, soon()), budget.turn(client(), MIB, soon()):
        pass
    assert refused(budget) == 1
    assert not budget._counts


def test_an_rpm_of_a_batch_counts_while_it_passes() -> None:
    budget = make(max_bytes_in_flight_per_user=10 * MIB)
    with budget.turn(client(), 0, soon()):
        with budget.payload(client(), 2**40) as only:
            assert only
        with budget.turn(client(), 9 * MIB, soon()):
            with budget.payload(client(), MIB) as first, budget.payload(client(), 1) as second:
                assert (first, second) == (True, False)
            with budget.payload(client(), MIB) as third:
                assert third
    assert not budget._counts


def test_requests_at_once_are_let_in_and_then_as_many_a_second_as_are_allowed() -> None:
    now = [1000.0]
    budget = Budget(
        dataclasses.replace(SETTINGS, max_request_rate=4), Counters(BridgeCount), lambda: now[0]
    )
    for _ in range(16):
        assert not budget.await_rate(client(), at_once())
    # The next one would have to wait for 0.25 s.
    with pytest.raises(OverBudget, match=r"'ann' .* 4 requests a second .*max-request-rate"):
        budget.await_rate(client(), at_once())
    assert not budget.await_rate(client("bob"), at_once())
    now[0] += 0.25
    assert not budget.await_rate(client(), at_once())
    with pytest.raises(OverBudget):
        budget.await_rate(client(), at_once())
    now[0] += 60
    for _ in range(16):
        assert not budget.await_rate(client(), at_once())
    assert refused(budget) == 2


def test_a_request_over_the_rate_waits_for_its_time() -> None:
    budget = make(max_request_rate=10)
    waited = [budget.await_rate(client(), soon()) for _ in range(43)]
    assert waited[:40] == [False] * 40
    assert waited[42]


def test_names_that_asked_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_module, "MAX_TIMES", 10)
    now = [0.0]
    budget = Budget(SETTINGS, Counters(BridgeCount), lambda: now[0])
    for number in range(100):
        now[0] += 1
        budget.await_rate(client(f"user-{number}"), at_once())
        assert len(budget._times) <= 11


# -------------------------------------------------------------------------------------- downloads


def koji(directory: Path, **further: int) -> Budget:
    """A budget with these settings of `[koji]`."""
    return make(koji=BridgeKojiSettings(download_directory=directory, **further))  # type: ignore[arg-type]


def test_a_name_has_so_many_downloads_and_waits_for_one_to_end(tmp_path: Path) -> None:
    budget = koji(tmp_path, max_downloads_per_user=2)
    places = [budget.download(client(), soon()) for _ in range(2)]
    with pytest.raises(DeadlineExceeded, match=r"2 RPMs .* 'ann'.*max-downloads-per-user"):
        budget.download(client(), at_once())
    others = budget.download(client("bob"), at_once())
    got: list[Download] = []
    with in_background(lambda: got.append(budget.download(client(), soon()))):
        assert eventually(lambda: budget._downloads.count("ann") == 1)
        places[0].close()
    for place in (*places, *got, others):
        place.close()
        place.close()
    assert not budget._counts


def test_no_name_fills_more_than_half_of_the_room(tmp_path: Path) -> None:
    budget = koji(tmp_path, max_download_size=100 * MIB)
    first, second = (budget.download(client(), at_once()) for _ in range(2))
    with pytest.raises(OverBudget, match="over half of max-download-size"):
        first.promise(50 * MIB + 1)
    first.promise(50 * MIB)
    with pytest.raises(DeadlineExceeded, match="max-download-size"):
        second.promise(1)
    bob, eve = (budget.download(client(name), at_once()) for name in ("bob", "eve"))
    bob.promise(50 * MIB)
    with pytest.raises(DeadlineExceeded, match="max-download-size"):
        eve.promise(1)
    # What was promised and has not come is free again.
    bob.has_come(20 * MIB)
    eve.promise(30 * MIB)
    for place in (first, second, bob, eve):
        place.close()
    assert not budget._counts


def test_the_download_directorys_file_system_is_not_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = koji(tmp_path)
    monkeypatch.setattr(budget_module, "FREE_PART", 1.0)
    monkeypatch.setattr(budget_module, "FREE_BYTES", 2**62)
    place = budget.download(client(), at_once())
    with pytest.raises(DeadlineExceeded, match="free in download-directory"):
        place.promise(1)
    place.close()


def test_the_end_of_the_bridge_ends_all_that_wait_for_room(tmp_path: Path) -> None:
    budget = koji(tmp_path, max_download_size=2)
    full = budget.download(client(), at_once())
    full.promise(1)
    place = budget.download(client(), soon())

    def wait() -> None:
        with pytest.raises(TransportError, match="bridge is ending"):
            place.promise(1)

    with in_background(wait):
        budget.close()
