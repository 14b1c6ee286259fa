"""Memory that a server's workers share, with one slot for each of them, and a turn.

A slot is three words of 8 bytes: the bytes that its worker's request has in the spool; whether that
request has yet to prove its rights; and a hash of the name in its client's certificate, 0 until
that is known. The supervisor makes the memory before it forks, gives a worker its slot, and clears
that when it has reaped the worker: one that crashed gives back what it held.

There are no locks. A worker writes its own slot first and then adds up all of them, so that of two
that take something at the same moment at least one sees the other.

A worker that is broken into can write anything into any slot. The supervisor acts on none: it knows
by itself which are taken, and reads the bytes for a metric alone. Others count with what they find,
whatever it is, and what their own slot holds is a matter of their own memory; so the most that
comes of it is that requests are refused room until that worker has ended.
"""

from __future__ import annotations

import hashlib
import mmap
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from ..errors import SigulError
from ..system.turns import Turns

#: Slots where nobody says how many: more than most servers ever have workers.
USUAL_SLOTS: Final = 1024

_WORDS: Final = 3
_SPOOLED, _UNPROVEN, _NAME = range(_WORDS)


def name_hash(name: str) -> int:
    """A number for a certificate's name, the same in every process; never 0."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") | 1


class Slots:
    """All slots; `own` is the one of this process, which the supervisor sets behind a fork.

    Without `turns`, whoever wants a turn has it at once.
    """

    def __init__(self, count: int = USUAL_SLOTS, turns: Turns | None = None) -> None:
        # Anonymous and shared: the same memory in this process and in all that it forks.
        self._words = memoryview(mmap.mmap(-1, count * _WORDS * 8)).cast("Q")
        self._count = count
        self._turns = turns
        #: The supervisor's.
        self._taken: set[int] = set()
        self.own = 0

    @property
    def own(self) -> int:
        """The slot of this process, which has nothing in it where it is set."""
        return self._own

    @own.setter
    def own(self, slot: int) -> None:
        self._own = slot
        #: What this process has written there.
        self._mine = [0] * _WORDS

    # ---------------------------------------------------------------------------- the supervisor's

    def take(self) -> int:
        """Take a free slot for a worker; the last one is shared where there are none left."""
        for slot in range(self._count):
            if slot not in self._taken:
                break
        self._taken.add(slot)
        return slot

    def clear(self, slot: int) -> None:
        """Free the slot of a worker that has ended, with all that it held."""
        self._taken.discard(slot)
        for word in range(_WORDS):
            self._words[slot * _WORDS + word] = 0

    # --------------------------------------------------------------------------------- a worker's

    def begin(self) -> None:
        """A request begins, whose client and rights are unknown."""
        self._set(_UNPROVEN, 1)

    def add(self, count: int) -> None:
        """The own request has `count` bytes more in the spool; fewer where that is negative."""
        self._set(_SPOOLED, max(0, self._mine[_SPOOLED] + count))

    def set_name(self, name: str) -> None:
        """The own client's certificate has this name."""
        self._set(_NAME, name_hash(name))

    def set_proven(self) -> None:
        """The own request has proven its rights."""
        self._set(_UNPROVEN, 0)

    def turn(self, seconds: float, error: SigulError) -> AbstractContextManager[None]:
        """The turn at what needs much memory; those of one name in a certificate are in one line.

        Raises `error` where it does not come in `seconds`.
        """
        if self._turns is None:
            return nullcontext()
        return self._turns.turn(self._mine[_NAME], seconds, error)

    def _set(self, word: int, value: int) -> None:
        self._mine[word] = value
        self._words[self._own * _WORDS + word] = value

    # ------------------------------------------------------------------------------ what all hold

    @property
    def mine(self) -> int:
        """Bytes that the own request has in the spool."""
        return self._mine[_SPOOLED]

    @property
    def is_proven(self) -> bool:
        """Whether the own request has proven its rights."""
        return not self._mine[_UNPROVEN]

    @property
    def spooled(self) -> int:
        """Bytes that all requests have in the spool."""
        return sum(self._column(_SPOOLED))

    @property
    def spooled_unproven(self) -> int:
        """Bytes that those requests have in the spool which have not proven their rights."""
        pairs = zip(self._column(_SPOOLED), self._column(_UNPROVEN), strict=True)
        return sum(size for size, unproven in pairs if unproven)

    @property
    def spooled_by_name(self) -> int:
        """Bytes that requests of the own client's name have in the spool; 0 while it is unknown."""
        own = self._mine[_NAME]
        pairs = zip(self._column(_SPOOLED), self._column(_NAME), strict=True)
        return sum(size for size, name in pairs if name == own) if own else 0

    @property
    def others_of_name(self) -> int:
        """Other requests of the own client's name that are served now."""
        own = self._mine[_NAME]
        return max(0, self._column(_NAME).count(own) - 1) if own else 0

    def _column(self, word: int) -> list[int]:
        return self._words[word::_WORDS].tolist()
