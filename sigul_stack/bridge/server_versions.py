"""The versions of the protocol that the servers behind a bridge speak, and the words they know.

A waiting server does not say. The configuration may tell the versions; else the bridge learns them
from a server that answers that it does not know a request's version, and from one that does know it
after all. Words it learns from the replies to clients that know words.
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


class ServerWords:
    """The words that servers said last, by the common names in their certificates; for all threads.

    What words are: docs/protocol.md, "How our own peers know each other".
    """

    def __init__(self) -> None:
        self._words: dict[str, frozenset[str]] = {}
        self._changed = threading.Condition()
        self._closed = False

    def learn(self, name: str, words: frozenset[str] | None) -> None:
        """Take note of what a server said; None: nothing, for its client knows no words."""
        with self._changed:
            if words is None or self._words.get(name) == words:
                return
            self._words[name] = words
            if len(self._words) > MAX_LEARNT:
                del self._words[next(iter(self._words))]
            self._changed.notify_all()

    def known(self) -> dict[str, frozenset[str]]:
        """The words of each, by its name."""
        with self._changed:
            return dict(self._words)

    def wait(self, known: dict[str, frozenset[str]], seconds: float) -> bool:
        """Wait until something else than `known` was said, so long at most; False once it ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._words != known, seconds)
            return not self._closed

    def close(self) -> None:
        """End all waiting, for good."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
