"""The words of a worker about the request that it has served: its phases, and what became of it.

    body of MEASURED:  result, version of the protocol (255: not known), flags (a byte each),
                       the seconds of each phase (double, network order; not a number: there was
                       none), the operation's name as far as one is known

Where a phase is inside another one, that time is the inner one's alone: what a key's envelope costs
to write anew is `store`, not `unlock`. RPMs that are signed in several threads at once add up. The
supervisor takes it from a worker for what it is: a claim, of which it checks the form. No name of
anybody or anything is in here.
"""

from __future__ import annotations

import enum
import math
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from ..protocol.operations import BRIDGE_OPERATIONS, OPERATIONS
from ..protocol.versions import VERSIONS
from ..system.pipes import require


class Phase(enum.StrEnum):
    """The phases, by the values of a label of `sigul_server_phase_seconds`."""

    #: From the request's first byte until its header and payload are there.
    RECEIVE = "receive"
    #: The handshake of the inner session.
    INNER_TLS = "inner_tls"
    #: Passwords, passphrases and what they open; a delay after wrong ones included.
    UNLOCK = "unlock"
    #: Making signatures, and looking at them.
    SIGN = "sign"
    #: Changes of the database and the key store, with the keys that are made for it.
    STORE = "store"
    #: Until the signing log has the decision.
    LOG = "log"
    #: Sending the reply. A request whose reply goes on while it signs (`sign-rpms`) has none.
    REPLY = "reply"


class Outcome(enum.StrEnum):
    """The ends of a request, by the values of a label of `sigul_server_requests_total`."""

    OK = "ok"
    #: It may not be, or is none.
    REFUSED = "refused"
    #: By who may, or because its rights or its client went.
    ENDED = "ended"
    FAILED = "failed"


#: The operation and version of a request that did not get so far.
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Measured:
    """The facts about a request that is over: `op` and `version` may be `UNKNOWN`.

    `proven`: its user has proven who he is. `unlogged`: the signing log could not be written.
    """

    outcome: Outcome
    op: str = UNKNOWN
    version: str = UNKNOWN
    proven: bool = False
    unlogged: bool = False
    seconds: Mapping[Phase, float] = field(default_factory=dict)


class Phases:
    """The seconds of each phase that there was, safe to use from threads, and the rest to tell.

    `outcome` is what the request comes to if it ends here.
    """

    def __init__(self) -> None:
        self.outcome = Outcome.FAILED
        self.op = ""
        self.version: int | None = None
        self.proven = False
        self.unlogged = False
        self._lock = threading.Lock()
        self._seconds: dict[Phase, float] = {}
        self._thread = threading.local()

    @contextmanager
    def measured(self, phase: Phase) -> Iterator[None]:
        """Count the time of the block as this phase's, however the block ends."""
        before: float = getattr(self._thread, "inside", 0.0)
        self._thread.inside = 0.0
        begun = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - begun
            with self._lock:
                own = max(0.0, took - self._thread.inside)
                self._seconds[phase] = self._seconds.get(phase, 0.0) + own
            self._thread.inside = before + took

    def encode(self) -> bytes:
        """All of it as the body of an event, for `decode`."""
        with self._lock:
            seconds = [self._seconds.get(phase, math.nan) for phase in Phase]
        flags = _PROVEN * self.proven | _UNLOGGED * self.unlogged
        version = _NO_VERSION if self.version is None else self.version
        head = _HEAD.pack(list(Outcome).index(self.outcome), version, flags, *seconds)
        return head + (self.op.encode() if _is_known(self.op) else b"")


_HEAD: Final = struct.Struct(f"!BBB{len(Phase)}d")
_NO_VERSION: Final = 255
_PROVEN, _UNLOGGED = 1, 2
#: More than any request takes, in seconds, however many threads it has.
_MOST_SECONDS: Final = 1e7


def _is_known(op: str) -> bool:
    return op in OPERATIONS or op in BRIDGE_OPERATIONS


def decode(body: bytes) -> Measured:
    """The worker's words about its request. Raises `BadEvent`."""
    require(len(body) >= _HEAD.size, "it tells too little of its request")
    outcome, version, flags, *seconds = _HEAD.unpack_from(body)
    op = body[_HEAD.size :].decode("latin-1")
    outcomes = list(Outcome)
    require(outcome < len(outcomes), "its request came to nothing that is known")
    require(version in (*VERSIONS, _NO_VERSION), "there is no such version of the protocol")
    require(flags <= _PROVEN | _UNLOGGED, "it tells of its request what nobody knows")
    require(not op or _is_known(op), "there is no such operation")
    there = {
        phase: value for phase, value in zip(Phase, seconds, strict=True) if not math.isnan(value)
    }
    require(all(0 <= value < _MOST_SECONDS for value in there.values()), "no phase takes that long")
    return Measured(
        outcomes[outcome],
        op or UNKNOWN,
        UNKNOWN if version == _NO_VERSION else str(version),
        bool(flags & _PROVEN),
        bool(flags & _UNLOGGED),
        there,
    )
