"""Room for large heads at a bridge: who takes, who waits, and who is refused."""

from __future__ import annotations

import contextlib
import threading

import pytest

from sigul_stack.bridge.head_room import UNCOUNTED_BYTES, HeadRoom
from sigul_stack.kojihub import KojiError
from tests.wire import THREAD_SECONDS, in_background

SIZE = UNCOUNTED_BYTES + 1


def test_what_is_small_always_fits() -> None:
    room = HeadRoom(SIZE)
    with room.holding(0) as one, room.holding(0) as other:
        one(SIZE)
        for _ in range(3):
            other(UNCOUNTED_BYTES)


def test_one_that_is_larger_than_all_the_room_fits_alone() -> None:
    room = HeadRoom(SIZE)
    with room.holding(0) as one, room.holding(0) as other:
        one(5 * SIZE)
        one(5 * SIZE)
        with pytest.raises(KojiError, match="as many RPMs with large heads as it may"):
            other(SIZE)


def test_two_that_need_more_do_not_wait_for_each_other() -> None:
    room = HeadRoom(2 * SIZE)
    with room.holding(THREAD_SECONDS) as one, room.holding(THREAD_SECONDS) as other:
        one(SIZE)
        other(SIZE)
        with pytest.raises(KojiError):
            one(SIZE)


def test_who_waits_gets_what_is_given_back() -> None:
    room = HeadRoom(SIZE)
    waits, taken = threading.Event(), threading.Event()

    def second() -> None:
        with room.holding(THREAD_SECONDS) as take:
            waits.set()
            take(SIZE)
            taken.set()

    with contextlib.ExitStack() as first:
        first.enter_context(room.holding(0))(SIZE)
        with in_background(second):
            assert waits.wait(THREAD_SECONDS)
            assert not taken.is_set()
            first.close()
            assert taken.wait(THREAD_SECONDS)
