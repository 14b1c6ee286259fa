"""A scripted peer that is many clients of one certificate at once: `tests.peers crowd …`.

Each of its connections sends a request's beginning, and then what its `CrowdScript` says, piece by
piece; none ever opens an inner session, so none proves any right. What the bridge says to each is
read, and counted in the end.
"""

from __future__ import annotations

import collections
import contextlib
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sigul_stack.errors import DeadlineExceeded, SigulError
from sigul_stack.protocol.chunks import Stream
from sigul_stack.protocol.codec import read_fields
from sigul_stack.transport import nss
from tests.wire import chunk, field_map, parse_prefix, u32, u64

if TYPE_CHECKING:
    from tests.peers import Place

#: Limit of a step of one connection, in seconds: the others wait meanwhile.
_STEP_SECONDS = 10.0
#: Seconds between looks at all connections.
_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class CrowdScript:
    """`count` connections, each with the same request, whose payload is said to be of `length`.

    Every `every` seconds each sends `piece` bytes of payload. They stay until the test says go, and
    `linger` seconds longer to hear what is said to them.
    """

    count: int = 1
    op: str = "sign-data"
    user: str = "admin"
    fields: Mapping[str, bytes] = field(default_factory=dict)
    length: int = 0
    every: float = 1.0
    piece: int = 0
    linger: float = 0.0


@dataclass(eq=False)
class _Caller:
    """One connection, and what it has heard. `end`: how it ended; empty where it has not."""

    stream: nss.TLSConnection
    heard: bytearray = field(default_factory=bytearray)
    end: str = ""


class Crowd:
    """Follows a `CrowdScript`. `said`: how many `held` on to the end, and what was `told`."""

    def __init__(self, place: Place, script: CrowdScript) -> None:
        self._place = place
        self._script = script
        self._callers: list[_Caller] = []
        self._failed: collections.Counter[str] = collections.Counter()
        self._go = threading.Event()
        self.said: dict[str, Any] = {}

    def run(self) -> None:
        """Dial, hold on, and leave."""
        from tests.peers import event

        waiter = threading.Thread(target=self._wait_for_go, daemon=True)
        waiter.start()
        for _ in range(self._script.count):
            self._dial()
            self._listen()
        event("crowded")
        due = time.monotonic()
        while not self._go.wait(_LOOK_SECONDS):
            if self._script.piece and time.monotonic() >= due:
                due += self._script.every
                self._send_pieces()
            self._listen()
        end = time.monotonic() + self._script.linger
        while time.monotonic() < end and not all(caller.end for caller in self._callers):
            self._listen()
            time.sleep(_LOOK_SECONDS)
        waiter.join()
        ends = collections.Counter(caller.end for caller in self._callers if caller.end)
        self.said = {
            "held": sum(not caller.end for caller in self._callers),
            "told": dict(ends + self._failed),
        }
        for caller in self._callers:
            if not caller.end:
                caller.stream.discard()

    def _wait_for_go(self) -> None:
        sys.stdin.readline()
        self._go.set()

    def _dial(self) -> None:
        place, script = self._place, self._script
        try:
            stream = nss.dial(
                place.address, place.port, hostname=place.name, settings=place.settings,
                identity=place.identity, connect_timeout=_STEP_SECONDS,
                handshake_timeout=_STEP_SECONDS,
            )  # fmt: skip
        except SigulError as error:
            self._failed[f"no handshake: {error}"] += 1
            return
        caller = _Caller(stream)
        self._callers.append(caller)
        fields = {"op": script.op.encode(), "user": script.user.encode(), **script.fields}
        head = u32(1) + field_map(fields) + u64(script.length)
        self._send(caller, chunk(Stream.OUTER, head))

    def _send(self, caller: _Caller, data: bytes) -> None:
        # It may have been refused: then there is something to read.
        with contextlib.suppress(SigulError):
            caller.stream.write(data, _STEP_SECONDS)

    def _send_pieces(self) -> None:
        for caller in self._callers:
            if not caller.end:
                self._send(caller, chunk(Stream.OUTER, bytes(self._script.piece)))

    def _listen(self) -> None:
        for caller in self._callers:
            if caller.end or not caller.stream.has_input():
                continue
            try:
                data = caller.stream.read(16 * 1024, _STEP_SECONDS)
            except DeadlineExceeded:
                continue
            except SigulError:
                data = b""
            caller.heard += data
            if not data:
                caller.end = _told(bytes(caller.heard))
                caller.stream.discard()


def _told(heard: bytes) -> str:
    """What the bridge's own reply says; `cut off` where there is none."""
    # A chunk's head, then status and fields: what refuses is cut so.
    if len(heard) < 12:
        return "cut off"
    fields, _rest = parse_prefix(read_fields(), heard[8:])
    return str(dict(fields)["message"].decode())
