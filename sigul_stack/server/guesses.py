"""Delays after wrong secrets: a table that all workers of a server share, and the rule on it.

What is counted stands against the name in a client's certificate (of the inner session, which no
bridge can change) and the user it speaks for, once for all secrets together and once for each
secret. A right secret clears the first and its own; so who knows one key's passphrase gets no free
guesses at another's. Nobody else is held up: not the user with another certificate, nor another
user of the same one.

    wrong ones so far    1    2    3    4    5    …
    delay in seconds     0    0    1    2    4    … up to max-secret-delay

While a delay runs no secret is looked at, right or wrong, and the answer tells how long it is, in
the same words whether there is such a user or key. Guesses at once are no way around it: of one
pair no more secrets are looked at in one moment than may be wrong before the next delay.

Invariant: the table lies in memory that is shared by fork, of a size that never grows. Locks on it
are the kernel's and go with the process that holds them. Entries are found by hashes under a random
key, so that nobody can aim at the place of another's entry; where room is short, the one with the
fewest wrong secrets goes, so that a flood of names does not wash an entry away that is worth more.
A worker that is broken into can write anything into the table, and keep its lock: others then
wait no longer than the longest delay, or refuse, until what it wrote is forgotten.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import logging
import math
import mmap
import os
import secrets
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, NoReturn

from ..errors import RequestRefused, SigulError, Status, quoted
from ..logevents import tell
from ..metrics import ServerCount
from .log_events import ServerLog

log = logging.getLogger(__name__)

#: With this wrong secret the first delay begins.
FIRST_DELAYED: Final = 3
#: The first delay, in seconds; it is doubled with each further wrong secret.
FIRST_DELAY_SECONDS: Final = 1.0
#: An entry is forgotten so many times the longest delay after its last wrong secret: whoever waits
#: for that gets fewer guesses than who waits for each delay.
FORGOTTEN_AFTER: Final = 15
#: How long a request that comes within a delay is held back before it is refused, in seconds: who
#: asks without a pause costs less, and its place is not kept long from others.
HELD_BACK_SECONDS: Final = 1.0
#: Longest wait for other secrets of the same pair to be looked at, in seconds; that takes tenths.
TURN_SECONDS: Final = 10.0
#: Longest wait for the table, in seconds; it is held for less than a millisecond.
LOCK_SECONDS: Final = 5.0
#: Seconds between looks at what is waited for.
_STEP_SECONDS: Final = 0.02

_ROWS, _PLACES = 256, 16
#: Where counts end.
_MOST: Final = 1_000_000
#: Name, wrong secrets, by the clock: the delay's end, the last wrong secret; and the number of
#: refusals since the last right one.
_ENTRY: Final = struct.Struct("=16sIddI")
_NAME_BYTES: Final = 16
_TABLE_BYTES: Final = _ROWS * _PLACES * _ENTRY.size
#: Where locks are, in a file's bytes behind the table that need not exist: the table's own, then
#: the turns of each pair.
_TABLE_LOCK: Final = _TABLE_BYTES
_TURNS: Final = _TABLE_LOCK + 1

#: Guards a check of a secret: of the client of this name, as this user, for this secret. The block
#: raises `RequestRefused` where the secret is wrong.
Guard = Callable[[str, str, str], AbstractContextManager[None]]


def unguarded(_client_name: str, _user: str, _secret: str) -> AbstractContextManager[None]:
    """A `Guard` that lets everybody guess."""
    return contextlib.nullcontext()


def delay_after(wrong: int, longest: float) -> float:
    """The delay after so many wrong secrets, in seconds, and at most `longest`."""
    if wrong < FIRST_DELAYED:
        return 0.0
    # Far beyond any longest delay, and small enough to be a number.
    doublings = min(wrong - FIRST_DELAYED, 64)
    return float(min(longest, FIRST_DELAY_SECONDS * 2**doublings))


@dataclass(frozen=True, slots=True)
class Standing:
    """The wrong secrets that stand against somebody, and the seconds that are left of the delay."""

    wrong: int
    seconds: float

    @property
    def turns(self) -> int:
        """The number of secrets that may be looked at in one moment."""
        return max(1, FIRST_DELAYED - self.wrong)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A place in the table (an offset in bytes), and what is in it. Times are by the clock."""

    place: int
    name: bytes
    wrong: int
    until: float
    last: float
    refused: int = 0

    def is_sound(self, now: float, longest: float) -> bool:
        """Whether it counts: it is not to be forgotten, and time has no way to make it so.

        A worker that is broken into can write anything into the table.
        """
        age = now - self.last  # not a number where that is none
        return 0 <= age <= FORGOTTEN_AFTER * longest and math.isfinite(self.until)


class GuessTable:
    """The entries, for this process and all that it forks from now on.

    `clock` tells seconds, the same in all processes. All methods but `name` and `turn` raise
    `SigulError` where the table cannot be had in time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._key = secrets.token_bytes(32)
        # Never closed: this process's locks would go with the first descriptor of it that is.
        self._file = os.memfd_create("wrong-secrets", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._file, _TABLE_BYTES)
        # Who shrinks a file ends every process that looks at it.
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, seals)
        self._memory = mmap.mmap(self._file, _TABLE_BYTES)

    def name(self, *parts: str) -> bytes:
        """The name of the entry for `parts`."""
        texts = [part.encode("utf-8", "surrogateescape") for part in parts]
        data = b"".join(len(text).to_bytes(4, "big") + text for text in texts)
        return hashlib.blake2b(data, digest_size=_NAME_BYTES, key=self._key).digest()

    def standing(self, names: Sequence[bytes], longest: float) -> Standing:
        """The worst of what stands against `names`; no delay is longer than `longest` seconds."""
        with self._locked():
            now = self.clock()
            found = [self._entry(name, now, longest) for name in names]
        wrong = max(entry.wrong for entry in found)
        seconds = max(entry.until - now for entry in found)
        return Standing(wrong, min(max(0.0, seconds), longest))

    def wrong(self, names: Sequence[bytes], longest: float) -> None:
        """Count a wrong secret against each of `names`, and begin the delay that it earns."""
        with self._locked():
            now = self.clock()
            for name in names:
                entry = self._entry(name, now, longest)
                wrong = min(entry.wrong + 1, _MOST)
                until = now + delay_after(wrong, longest)
                self._put(_Entry(entry.place, name, wrong, until, now, entry.refused))

    def refused(self, name: bytes, longest: float) -> int:
        """Count a refusal within a delay against `name`; how many since its last right secret."""
        with self._locked():
            entry = self._entry(name, self.clock(), longest)
            entry = dataclasses.replace(entry, name=name, refused=min(entry.refused + 1, _MOST))
            if entry.wrong:
                self._put(entry)
        return entry.refused

    def right(self, names: Sequence[bytes]) -> None:
        """Forget what stands against `names`."""
        with self._locked():
            for entry in [entry for name in names for entry in self._row(name)]:
                if entry.name in names:
                    self._put(_Entry(entry.place, bytes(_NAME_BYTES), 0, 0.0, 0.0))

    @contextlib.contextmanager
    def turn(self, pair: bytes, count: int) -> Iterator[int | None]:
        """Have one of a pair's first `count` turns in the block: its number; None: all are taken.

        The kernel frees it where this process is killed.
        """
        first = _TURNS + int.from_bytes(pair[:5], "big") * FIRST_DELAYED
        number = next((n for n in range(count) if self._lock(first + n)), None)
        try:
            yield number
        finally:
            if number is not None:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, first + number)

    # ------------------------------------------------------------------------------- the memory

    def _row(self, name: bytes) -> list[_Entry]:
        """The entries among which the one of this name is, if there is one."""
        first = int.from_bytes(name[5:7], "big") % _ROWS * _PLACES
        places = (_ENTRY.size * (first + number) for number in range(_PLACES))
        return [_Entry(place, *_ENTRY.unpack_from(self._memory, place)) for place in places]

    def _entry(self, name: bytes, now: float, longest: float) -> _Entry:
        """The entry of this name; where there is none, an empty one in the place that it may take.

        That is the one of the fewest wrong secrets, and of those the oldest.
        """
        row = [
            entry if entry.is_sound(now, longest) else _Entry(entry.place, entry.name, 0, 0.0, 0.0)
            for entry in self._row(name)
        ]
        for entry in row:
            if entry.name == name:
                return entry
        least = min(row, key=lambda entry: (entry.wrong, entry.last))
        return _Entry(least.place, name, 0, 0.0, 0.0)

    def _put(self, entry: _Entry) -> None:
        _ENTRY.pack_into(
            self._memory,
            entry.place,
            *(entry.name, entry.wrong, entry.until, entry.last, entry.refused),
        )

    # -------------------------------------------------------------------------------- the locks

    def _lock(self, offset: int) -> bool:
        """Take the lock of a byte, if nobody has it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        except BlockingIOError:
            return False
        return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        end = time.monotonic() + LOCK_SECONDS
        while not self._lock(_TABLE_LOCK):
            if time.monotonic() > end:
                raise SigulError(
                    f"a worker has kept the table of wrong secrets for over {LOCK_SECONDS:g} s",
                    "end the one that does not go on; its locks go with it",
                )
            time.sleep(_STEP_SECONDS / 10)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _TABLE_LOCK)


class GuessGuard:
    """The rule, for one worker: delays of at most `longest` seconds; `count` counts."""

    def __init__(
        self, table: GuessTable, longest: float, count: Callable[[ServerCount], None]
    ) -> None:
        self._table = table
        self._longest = longest
        self._count = count

    @contextlib.contextmanager
    def watch(self, client_name: str, user: str, secret: str) -> Iterator[None]:
        """See `Guard`. Raises `RequestRefused` (AUTHENTICATION_FAILED) while a delay runs."""
        names = self._table.name(client_name, user), self._table.name(client_name, user, secret)
        with self._turn(names, f"{quoted(client_name)} as user {quoted(user)}"):
            try:
                yield
            except RequestRefused:
                self._table.wrong(names, self._longest)
                self._count(ServerCount.WRONG_SECRETS)
                raise
            self._table.right(names)

    @contextlib.contextmanager
    def _turn(self, names: Sequence[bytes], who: str) -> Iterator[None]:
        """Have a turn in the block, once there is one and no delay runs."""
        end = time.monotonic() + TURN_SECONDS
        while True:
            before = self._table.standing(names, self._longest)
            if before.seconds:
                self._refuse(names[0], who, before.seconds)
            with self._table.turn(names[0], before.turns) as turn:
                # Whoever had it before may have been wrong meanwhile.
                now = self._table.standing(names, self._longest)
                if turn is not None and not now.seconds and turn < now.turns:
                    yield
                    return
            if time.monotonic() > end:
                # Held up by what is slow, not by what is wrong: nobody is refused for that.
                if not before.wrong:
                    yield
                    return
                self._refuse(names[0], who, FIRST_DELAY_SECONDS)
            time.sleep(_STEP_SECONDS)

    def _refuse(self, name: bytes, who: str, left: float) -> NoReturn:
        """Refuse, after a moment. `left` is in seconds.

        Some programs try again every few seconds for as long as they may: the log has the first
        refusal, the second, the fourth and so on, each with their number, and not all of them.
        """
        self._count(ServerCount.DELAYED)
        seconds, count = math.ceil(left), self._table.refused(name, self._longest)
        is_told = count & (count - 1) == 0
        event = ServerLog.GUESSES_REFUSED if is_told else ServerLog.MORE_GUESSES_REFUSED
        tell(log, event, who=who, seconds=seconds, count=count)
        time.sleep(min(HELD_BACK_SECONDS, self._longest))
        raise RequestRefused(
            Status.AUTHENTICATION_FAILED,
            "wrong passwords or passphrases came before from this certificate for this user: no"
            f" secret is looked at for another {seconds} s, then try again",
        )
