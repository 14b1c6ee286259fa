"""Delays after wrong secrets: the rule, by a clock of the tests', and the table that is shared."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.errors import DatabaseError, RequestRefused, SigulError, Status
from sigul_stack.metrics import ServerCount
from sigul_stack.server import guesses
from sigul_stack.server.guesses import FIRST_DELAYED, FORGOTTEN_AFTER, GuessGuard, GuessTable

LONGEST = 60.0
#: More than the table has room for.
FLOOD = 6000


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Client:
    """A client with the certificate `name`, and the events of its requests."""

    def __init__(self, table: GuessTable, name: str = "trent") -> None:
        self.told: list[ServerCount] = []
        self.table = table
        self.name = name
        self.guard = GuessGuard(table, LONGEST, self.told.append)

    def gives(self, right: bool, user: str = "trent", secret: str = "k1") -> bool:
        """Give a secret: whether it was looked at."""
        looked_at = False
        with contextlib.suppress(RequestRefused), self.guard.watch(self.name, user, secret):
            looked_at = True
            if not right:
                raise RequestRefused(Status.AUTHENTICATION_FAILED)
        return looked_at

    def delay(self, user: str = "trent", secret: str = "k1") -> float:
        """The delay that runs for a secret, in seconds."""
        return self.table.standing(self.names(user, secret), LONGEST).seconds

    def names(self, user: str = "trent", secret: str = "k1") -> tuple[bytes, bytes]:
        """The entries that a wrong secret makes."""
        return self.table.name(self.name, user), self.table.name(self.name, user, secret)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(clock: Clock) -> GuessTable:
    return GuessTable(clock)


@pytest.fixture
def client(table: GuessTable, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client whose refused requests are not held back."""
    monkeypatch.setattr(guesses, "HELD_BACK_SECONDS", 0.0)
    return Client(table)


def wrong(client: Client, clock: Clock, count: int, **what: str) -> list[float]:
    """Give so many wrong secrets, each after the delay before it: the delay after each."""
    delays = []
    for _ in range(count):
        clock.now += client.delay(**what)
        assert client.gives(right=False, **what)
        delays.append(client.delay(**what))
    return delays


# -------------------------------------------------------------------------------------- the rule


def test_delays_double_up_to_the_longest(client: Client, clock: Clock) -> None:
    assert wrong(client, clock, 11) == pytest.approx([0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60])
    # However many there were.
    assert guesses.delay_after(10**6, 7 * 24 * 3600) == 7 * 24 * 3600


def test_no_secret_is_looked_at_in_a_delay(client: Client, clock: Clock) -> None:
    wrong(client, clock, FIRST_DELAYED)
    for right in (True, False):
        assert not client.gives(right)
    assert client.told == [ServerCount.WRONG_SECRETS] * 3 + [ServerCount.DELAYED] * 2
    # What is refused unseen does not count.
    clock.now += 1
    assert client.gives(right=True)
    assert wrong(client, clock, 3) == pytest.approx([0, 0, 1])


def test_the_refusal_says_how_long(client: Client, clock: Clock) -> None:
    wrong(client, clock, 5)
    clock.now += 1.5
    with pytest.raises(RequestRefused) as refused, client.guard.watch("trent", "trent", "k1"):
        raise AssertionError("it is looked at")
    assert refused.value.status == Status.AUTHENTICATION_FAILED
    assert "for another 3 s, then try again" in str(refused.value.message)
    assert len(str(refused.value.message).encode()) < 255


def test_the_log_has_the_first_refusal_and_then_ever_fewer(
    client: Client, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[int]:
        return [
            int(record.getMessage().rpartition(" ")[2][:-1])
            for record in caplog.records
            if record.levelname == "WARNING"
        ]

    wrong(client, clock, 10)
    for _ in range(300):
        assert not client.gives(right=False)
    assert told() == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    # Once it is right, a next series is told of anew; another client's is one of its own.
    clock.now += 60
    assert client.gives(right=True)
    caplog.clear()
    wrong(client, clock, 5)
    assert not client.gives(right=True)
    bob = Client(client.table, "bob")
    wrong(bob, clock, 5)
    assert not bob.gives(right=True)
    assert told() == [1, 1]


def test_it_is_held_back_for_a_moment(
    client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    waits: list[float] = []
    monkeypatch.setattr(guesses.time, "sleep", waits.append)
    wrong(client, clock, 8)
    assert not client.gives(right=True)
    assert waits == [guesses.HELD_BACK_SECONDS]
    assert guesses.HELD_BACK_SECONDS <= 2


def test_nobody_else_is_delayed(client: Client, clock: Clock, table: GuessTable) -> None:
    wrong(client, clock, 9)
    assert client.delay() == LONGEST
    assert Client(table, "owner").gives(right=True)
    assert client.gives(right=True, user="another")
    # Nor is this ended by that, and names are not run together.
    assert client.delay() == LONGEST
    assert Client(table, "tren").gives(right=True, user="ttrent")


def test_a_right_secret_ends_its_own_count_and_the_users(client: Client, clock: Clock) -> None:
    wrong(client, clock, 5)
    clock.now += LONGEST
    assert client.gives(right=True)
    assert wrong(client, clock, 2) == [0, 0]
    assert client.gives(right=True)
    # A guess at one key after each right secret for another.
    seen = []
    for _ in range(6):
        clock.now += client.delay()
        assert client.gives(right=False)
        seen.append(client.delay())
        clock.now += client.delay(secret="k2")
        assert client.gives(right=True, secret="k2")
    assert seen == pytest.approx([0, 0, 1, 2, 4, 8])


def test_many_secrets_of_one_user_are_one_count(client: Client, clock: Clock) -> None:
    """As keys that do not exist are: else each would have guesses of its own."""
    for number in range(FIRST_DELAYED):
        assert client.gives(right=False, secret=f"key-{number}")
    assert not client.gives(right=False, secret="another")


def test_what_fails_is_neither_right_nor_wrong(client: Client, clock: Clock) -> None:
    wrong(client, clock, 2)
    with pytest.raises(DatabaseError), client.guard.watch("trent", "trent", "k1"):
        raise DatabaseError("it is not there")
    assert wrong(client, clock, 1) == pytest.approx([1])


def test_it_is_forgotten_in_time(client: Client, clock: Clock) -> None:
    wrong(client, clock, 9)
    clock.now += FORGOTTEN_AFTER * LONGEST
    assert wrong(client, clock, 1) == [LONGEST]
    clock.now += FORGOTTEN_AFTER * LONGEST + 1
    assert wrong(client, clock, 3) == pytest.approx([0, 0, 1])
    # Waiting for that gives fewer guesses than waiting for delays.
    assert FIRST_DELAYED / FORGOTTEN_AFTER < 1


def test_a_flood_of_names_washes_nothing_away(client: Client, clock: Clock) -> None:
    wrong(client, clock, 5)
    left = client.delay()
    flood = Client(client.table, "flood")
    for number in range(FLOOD):
        client.table.wrong(flood.names(f"user-{number}"), LONGEST)
    assert client.delay() == pytest.approx(left)
    # And what comes new is counted all the same, in a place of one of those.
    newcomer = Client(client.table, "newcomer")
    assert wrong(newcomer, clock, 4) == pytest.approx([0, 0, 1, 2])


def test_what_a_cut_off_writer_left_is_no_long_delay(client: Client, clock: Clock) -> None:
    """A process may be killed while it writes an entry: whatever is in there has a bound."""
    entry = client.table._entry(client.names()[0], clock.now, LONGEST)
    client.table._put(guesses._Entry(entry.place, entry.name, 2**32 - 1, 1e300, clock.now))
    assert client.delay() == LONGEST
    clock.now += FORGOTTEN_AFTER * LONGEST + 1
    assert client.gives(right=True)


# ------------------------------------------------------------------------------- many processes


@contextlib.contextmanager
def other(work: Callable[[], object]) -> Iterator[int]:
    """Another process does `work` and then waits to be killed, at the latest behind the block."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
            os.write(writer, b".")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"."
        yield child
    finally:
        os.close(reader)
        kill(child)


def kill(child: int) -> None:
    """End a process, if it is there still."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def lock_turn(client: Client, number: int) -> None:
    """Take one turn of a client's user, by its number, and keep it."""
    first = guesses._TURNS + int.from_bytes(client.names()[0][:5], "big") * FIRST_DELAYED
    assert client.table._lock(first + number)


def turn_of(client: Client, count: int = FIRST_DELAYED) -> int | None:
    """The number of a turn that can be had."""
    with client.table.turn(client.names()[0], count) as number:
        return number


def test_processes_share_what_they_count(client: Client, clock: Clock) -> None:
    with other(lambda: wrong(client, clock, FIRST_DELAYED)):
        assert client.delay() == pytest.approx(1)


def test_a_killed_process_keeps_nothing(client: Client) -> None:
    def lock() -> None:
        lock_turn(client, 0)
        client.table._lock(guesses._TABLE_LOCK)

    with other(lock) as child:
        assert turn_of(client, 1) is None
        assert turn_of(client) == 1
        kill(child)
        assert turn_of(client) == 0
        assert client.gives(right=True)


def test_turns_are_as_many_as_may_be_wrong_before_a_delay(client: Client, clock: Clock) -> None:
    turns = [client.table.standing(client.names(), LONGEST).turns]
    for _ in range(4):
        wrong(client, clock, 1)
        turns.append(client.table.standing(client.names(), LONGEST).turns)
    assert turns == [3, 2, 1, 1, 1]


def test_who_waited_for_a_turn_sees_the_delay_that_began(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guesses at once: those behind the wrong ones are not looked at."""

    def meanwhile(_seconds: float) -> None:
        for _ in range(FIRST_DELAYED):
            client.table.wrong(client.names(), LONGEST)
        kill(child)

    with other(lambda: [lock_turn(client, number) for number in range(FIRST_DELAYED)]) as child:
        monkeypatch.setattr(guesses.time, "sleep", meanwhile)
        assert not client.gives(right=True)
    assert client.told == [ServerCount.DELAYED]


def test_a_wait_for_a_turn_has_an_end(
    client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then who has done nothing wrong is served; another is refused, with the reason."""
    monkeypatch.setattr(guesses, "TURN_SECONDS", 0.1)
    with other(lambda: [lock_turn(client, number) for number in range(FIRST_DELAYED)]):
        assert client.gives(right=False)
        assert not client.gives(right=True)
    assert client.gives(right=True)


def test_a_table_that_is_kept_is_an_error(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "LOCK_SECONDS", 0.1)
    with (
        other(lambda: client.table._lock(guesses._TABLE_LOCK)),
        pytest.raises(SigulError, match=r"has kept the table of wrong secrets for over 0\.1 s"),
    ):
        client.delay()


# ------------------------------------------------------------------- a worker that was broken into


@pytest.mark.parametrize("until", [math.inf, -math.inf, math.nan, 1e300, 0.0])
@pytest.mark.parametrize("last", [math.inf, -math.inf, math.nan, 1e300, 0.0, 1000.0])
@pytest.mark.parametrize("wrong", [0, 1, 0xFFFFFFFF])
def test_whatever_stands_in_the_table_is_forgotten_in_time(
    client: Client, clock: Clock, table: GuessTable, wrong: int, until: float, last: float
) -> None:
    """What a broken worker writes may delay others, as wrong secrets do, and no longer."""
    for name in client.names():
        place = table._entry(name, clock.now, LONGEST).place
        table._put(guesses._Entry(place, name, wrong, until, last))
    assert 0 <= client.delay() <= LONGEST
    client.gives(False)
    clock.now += (FORGOTTEN_AFTER + 1) * LONGEST + 1
    assert client.delay() == 0
    assert client.gives(True)


@given(st.binary(min_size=1, max_size=64))
def test_any_bytes_in_the_table_are_a_delay_or_none(noise: bytes) -> None:
    clock = Clock()
    table = GuessTable(clock)
    size = len(table._memory)
    table._memory[:] = (noise * (size // len(noise) + 1))[:size]
    names = Client(table).names()
    standing = table.standing(names, LONGEST)
    assert 0 <= standing.seconds <= LONGEST
    assert standing.turns >= 1
    table.wrong(names, LONGEST)
    table.right(names)
    assert table.standing(names, LONGEST).wrong == 0


def test_nobody_takes_the_table_s_memory_away(table: GuessTable) -> None:
    """Who looks at what is no longer there is ended by the kernel."""
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(table._file, size)
