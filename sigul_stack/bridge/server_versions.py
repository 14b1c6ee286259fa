"""The versions of the protocol that the servers behind a bridge speak, as far as it knows.

A waiting server does not say. The configuration may tell; else the bridge learns it from a server
that answers that it does not know a request's version, and from one that does know it after all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

#: Most names of servers that something is learnt of; of more, that of the oldest is forgotten.
MAX_LEARNT: Final = 256


class ServerVersions:
    """The knowledge of servers, by the common names in their certificates; for all threads.

    `told` are names with a version each that they speak, a name once for each of its versions.
    """

    def __init__(self, told: Iterable[tuple[str, int]] = ()) -> None:
        self._told: dict[str, set[int]] = {}
        for name, number in told:
            self._told.setdefault(name, set()).add(number)
        #: Versions that a server has said that it does not know.
        self._unknown: dict[str, set[int]] = {}
        self._lock = threading.Lock()

    def may_speak(self, name: str, number: int) -> bool:
        """Tell whether nothing is known against giving `name` a request of this version."""
        with self._lock:
            if name in self._told:
                return number in self._told[name]
            return number not in self._unknown.get(name, ())

    def learn(self, name: str, number: int, *, speaks: bool) -> None:
        """Take note of how a server took a request of this version."""
        with self._lock:
            unknown = self._unknown.pop(name, set())
            unknown = unknown - {number} if speaks else unknown | {number}
            if unknown:
                self._unknown[name] = unknown
                if len(self._unknown) > MAX_LEARNT:
                    del self._unknown[next(iter(self._unknown))]
