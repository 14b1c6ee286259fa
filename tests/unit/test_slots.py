"""What workers share: slots that all see, and turns that go with their process."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sigul_stack.errors import RequestRefused, SigulError
from sigul_stack.server.slots import Slots
from sigul_stack.server.spool import STEP_BYTES, Account, SpoolFile, SpoolLimits
from sigul_stack.system.turns import Turns
from tests.wire import THREAD_SECONDS, in_background

BUSY = SigulError("busy")


@contextlib.contextmanager
def child(work: Callable[[], None]) -> Iterator[int]:
    """A process that has done `work` and lives on while the block lasts, unless it is killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            work()
            os.write(writer, b"x")
            signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(reader, 1) == b"x"
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def another(slots: Slots, slot: int, name: str, size: int) -> None:
    """Have so much in the spool as another worker."""
    slots.own = slot
    slots.begin()
    slots.set_name(name)
    slots.add(size)


def test_workers_see_what_others_have_until_it_is_cleared() -> None:
    slots = Slots(4)
    slots.own, other = slots.take(), slots.take()
    assert (slots.own, other) == (0, 1)
    slots.begin()
    slots.set_name("alice")
    slots.add(5)
    with child(lambda: another(slots, other, "alice", 100)):
        seen = slots.spooled, slots.spooled_unproven, slots.spooled_by_name, slots.others_of_name
        assert seen == (105, 105, 105, 1)
        slots.set_proven()
        assert (slots.is_proven, slots.spooled_unproven) == (True, 100)
    # It was killed; the supervisor clears its slot.
    assert slots.spooled == 105
    slots.clear(other)
    seen = slots.spooled, slots.spooled_unproven, slots.spooled_by_name, slots.others_of_name
    assert seen == (5, 0, 5, 0)
    assert slots.take() == other


def test_names_are_told_apart_and_nobody_counts_for_no_name() -> None:
    slots = Slots(4)
    slots.add(1)
    with child(lambda: another(slots, 1, "bob", 100)):
        assert (slots.spooled_by_name, slots.others_of_name) == (0, 0)
        slots.set_name("alice")
        assert (slots.spooled_by_name, slots.others_of_name) == (1, 0)


def test_where_no_slot_is_free_the_last_one_is_shared() -> None:
    slots = Slots(2)
    assert [slots.take() for _ in range(3)] == [0, 1, 1]


@pytest.mark.parametrize(
    ("limits", "proven", "told"),
    [
        (SpoolLimits(max_spool_size=16 * STEP_BYTES), False, "leaves for others (max-spool-size)"),
        (SpoolLimits(max_spool_size=4 * STEP_BYTES), True, "over its max-spool-size"),
        (SpoolLimits(max_spool_size_per_user=4 * STEP_BYTES), False, "max-spool-size-per-user of"),
        (SpoolLimits(spool_min_free=1 << 60), True, "stay free (spool-min-free)"),
    ],
)
def test_each_limit_is_told_by_its_name(
    limits: SpoolLimits, proven: bool, told: str, tmp_path: Path
) -> None:
    refused: list[int] = []
    account = Account(limits, Slots(2), lambda: refused.append(1))
    account.slots.begin()
    account.slots.set_name("alice")
    if proven:
        account.slots.set_proven()
    with SpoolFile(tmp_path, account) as file:
        file.write(bytes(STEP_BYTES))
        with pytest.raises(RequestRefused) as caught:
            for _ in range(5):
                file.write(bytes(STEP_BYTES))
        assert told in str(caught.value.message)
        assert refused == [1]
        # What is refused is not held, and what was held goes with the file.
        assert account.slots.mine <= 4 * STEP_BYTES
    assert account.slots.mine == 0


def test_before_proof_each_gets_less_and_none_gets_all(tmp_path: Path) -> None:
    slots, got = Slots(8), []
    with contextlib.ExitStack() as stack:
        for slots.own in range(5):
            slots.begin()
            limits = SpoolLimits(max_spool_size=64 * STEP_BYTES)
            file = stack.enter_context(SpoolFile(tmp_path, Account(limits, slots)))
            with contextlib.suppress(RequestRefused):
                while True:
                    file.write(bytes(STEP_BYTES))
            got.append(slots.mine // STEP_BYTES)
    # Half of all is theirs together: of what is left of that, each one gets a half.
    assert got == [16, 8, 4, 2, 1]


def test_what_a_program_writes_counts_as_well(tmp_path: Path) -> None:
    account = Account(SpoolLimits(max_spool_size=4 * STEP_BYTES), Slots(1))
    with SpoolFile(tmp_path, account) as file:
        os.ftruncate(file.fileno(), 3 * STEP_BYTES)
        file.grown()
        assert account.slots.mine == 2 * STEP_BYTES
        os.ftruncate(file.fileno(), 9 * STEP_BYTES)
        with pytest.raises(RequestRefused, match="max-spool-size"):
            file.grown()


# ------------------------------------------------------------------------------------------- turns


def test_a_turn_is_one_process_at_a_time_and_goes_with_it() -> None:
    turns = Turns()
    held = contextlib.ExitStack()
    with child(lambda: held.enter_context(turns.turn(1, 1, BUSY))) as pid:
        with pytest.raises(SigulError, match="busy"), turns.turn(2, 0.1, BUSY):
            pass
        os.kill(pid, signal.SIGKILL)
        with turns.turn(2, THREAD_SECONDS, BUSY):
            pass


def test_a_turn_is_one_thread_at_a_time() -> None:
    turns = Turns()

    def second() -> None:
        with pytest.raises(SigulError, match="busy"), turns.turn(1, 0.1, BUSY):
            pass

    with turns.turn(1, 1, BUSY), in_background(second):
        pass
    with turns.turn(1, 1, BUSY):
        pass


def test_many_of_one_name_wait_in_their_own_line() -> None:
    """Who waits for the name that has the turn does not stand before another name's."""
    turns = Turns()
    held = contextlib.ExitStack()
    with child(lambda: held.enter_context(turns._locked(1 + 1, 0, BUSY))):
        # The first of line 1 is there, and does not have the turn.
        with pytest.raises(SigulError, match="busy"), turns.turn(1, 0.1, BUSY):
            pass
        with turns.turn(2, 0.1, BUSY):
            pass


# ------------------------------------------------------------------- a worker that was broken into


def scribble(slots: Slots, value: int) -> None:
    """Write the same to each word of each slot."""
    for at in range(len(slots._words)):
        slots._words[at] = value


@pytest.mark.parametrize("value", [0, 1, (1 << 63) - 1, (1 << 64) - 1])
def test_whatever_a_worker_writes_harms_no_other(value: int, tmp_path: Path) -> None:
    slots = Slots(4)
    slots.own, other = slots.take(), slots.take()
    slots.begin()
    slots.set_name("alice")
    with child(lambda: scribble(slots, value)):
        # The supervisor knows which are taken, and a worker what it has itself.
        assert (slots.take(), slots.mine, slots.is_proven) == (2, 0, False)
        slots.add(5)
        assert slots.mine == 5
        assert slots.others_of_name >= 0
        with slots.turn(1, BUSY):
            pass
        account = Account(SpoolLimits(max_spool_size=64 * STEP_BYTES), slots)
        with SpoolFile(tmp_path, account) as file, contextlib.suppress(RequestRefused):
            file.write(bytes(STEP_BYTES))
        slots.add(-5)
        assert slots.mine == 0
    slots.clear(other)
    assert slots.take() == other
