"""Room for the large heads of RPMs that a bridge holds until a signature is stored in Koji.

A head may have 128 MiB, and all of a bridge's requests are one process: so that they hold so much
together, and no more. One head always finds room where no other is held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ..kojihub import KojiError

#: What all requests may hold together, in bytes; while one is sent on, it is there twice. A role's
#: container has 512 MiB for everything.
MOST_BYTES: Final = 96 << 20
#: Parts of a head up to this many bytes are not counted: nearly all have less in all.
UNCOUNTED_BYTES: Final = 1 << 20


class HeadRoom:
    """The room of one process."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def holding(self, seconds: float) -> Iterator[Callable[[int], None]]:
        """Gives a function that takes so many bytes; they are given back behind the block.

        It waits `seconds` for others to give theirs back, and raises `KojiError` then.
        """
        own = 0

        def take(count: int) -> None:
            nonlocal own
            if count <= UNCOUNTED_BYTES:
                return
            with self._changed:
                # Who holds some already may not wait for another one who does the same.
                fits = self._changed.wait_for(
                    lambda: self._held in (0, own) or self._held + count <= self._most,
                    0 if own else seconds,
                )
                if not fits:
                    raise KojiError(
                        "the bridge holds as many RPMs with large heads as it may",
                        "try again later, or with fewer at once",
                    )
                self._held += count
                own += count

        try:
            yield take
        finally:
            with self._changed:
                self._held -= own
                self._changed.notify_all()


#: All requests of a process share its memory.
HEAD_ROOM: Final = HeadRoom()
