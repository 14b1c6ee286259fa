"""Scripted peers: programs that speak the protocol as somebody else would, each in a process.

    python -m tests.peers client --database DIR --nickname N --name BRIDGE --port P …

NSS can be opened once in a process and not before a fork, so each peer is a program of its own. It
reads scripts from standard input, one JSON object a line (`ClientScript`, `ServerScript` and
`BridgeScript` name what can be in one), follows each to its end, and writes JSON lines to standard
output: `{"event": …}` on the way, `{"result": …}` at its end. Bytes are `{"hex": …}`.
`tests.faults.scripted` is the other end of these pipes. A `crowd` is many clients in one process.

By default they behave like peers of 1.x (docs/protocol.md, "Habits of peers"): chunks of 4096
bytes, replies read strictly chunk by chunk, no outer end from a client, a serial bridge. With
`version` or `speaks` they are peers of 0.x, which differ in widths alone ("Versions"). They read
and write the chunk layer by themselves, so that a mistake of the package's cannot cancel itself
out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets as random
import select
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sigul_stack.config.shared import NSSSettings
from sigul_stack.errors import DeadlineExceeded, PeerClosed, SigulError
from sigul_stack.protocol.chunks import Stream
from sigul_stack.protocol.codec import Fields, Parser, read_fields
from sigul_stack.secret import Secret
from sigul_stack.transport import nss
from sigul_stack.transport.dialling import dial
from sigul_stack.transport.nested import loopback_pair
from tests.wire import chunk, field_map, hmac512, parse_prefix, sha512, u32

#: The operations that a bridge of 0.207 lets through, and the fields that are booleans.
OPERATIONS_OF_0_207 = frozenset(
    {
        "list-users", "new-user", "delete-user", "user-info", "modify-user", "key-user-info",
        "modify-key-user", "list-keys", "new-key", "import-key", "delete-key", "modify-key",
        "list-key-users", "grant-key-access", "revoke-key-access", "get-public-key",
        "change-passphrase", "change-key-expiration", "list-binding-methods", "sign-text",
        "sign-data", "sign-git-tag", "sign-container", "sign-ostree", "sign-rpm", "sign-rpms",
    }
)  # fmt: skip
BOOLEANS = frozenset(
    {"admin", "key-admin", "armor", "import-signature", "return-data", "v3-signature"}
)
#: Limit of every wait of a peer, in seconds, unless its script says otherwise.
PATIENCE = 30.0
#: What peers of 1.x write at once.
OLD_CHUNK = 4096
#: Asking for as much as one TLS record can hold gives one record's data.
RECORD = 16 * 1024


class Violation(Exception):
    """The other side did something that a peer in the field would fail on."""


class Refused(Violation):
    """A bridge does not take a request, and closes both connections without a word."""


class Cut(Exception):
    """The script says that the stream ends here."""


def length_bytes(version: int) -> int:
    """The width of a payload's length in this version of the protocol."""
    return 4 if version == 0 else 8


def length_of(payload: int, version: int) -> bytes:
    """A payload's length, as this version has it."""
    return payload.to_bytes(length_bytes(version), "big")


def require(condition: bool, what: str) -> None:
    """Raise `Violation` unless `condition` holds."""
    if not condition:
        raise Violation(what)


# ------------------------------------------------------------------------------------- the pipes


def _to_json(value: object) -> object:
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    raise TypeError(type(value).__name__)


def _from_json(value: dict[str, Any]) -> object:
    return bytes.fromhex(value["hex"]) if set(value) == {"hex"} else value


def dumps(value: object) -> str:
    """One line of JSON; bytes are hex."""
    return json.dumps(value, default=_to_json)


def loads(line: str) -> Any:
    """What `dumps` wrote."""
    return json.loads(line, object_hook=_from_json)


#: Held by who writes, and by who waits for the test: clients of a crowd are threads.
_writing, _waiting = threading.Lock(), threading.Lock()


def say(**message: object) -> None:
    """Tell the test something."""
    with _writing:
        sys.stdout.write(dumps(message) + "\n")
        sys.stdout.flush()


def event(name: str, **further: object) -> None:
    """Tell the test where this peer is."""
    say(event=name, **further)


def wait_for_go() -> None:
    """Wait until the test says that the script goes on; the end of input ends the peer.

    In a crowd each word of the test's is for one of those that wait.
    """
    with _waiting:
        if not sys.stdin.readline():
            os._exit(0)


# ------------------------------------------------------------------------------------ the scripts


@dataclass(frozen=True)
class Ending:
    """Where and how a peer's own stream ends, counted in bytes below the chunk layer.

    `how`: `reset` (TCP RST), `abort` (TCP end without a close-notify), `notify` (close-notify, in
    the middle), `stall` (nothing more is sent until the test says so, then abort).
    """

    cut: int | None = None
    how: str = "abort"


@dataclass(frozen=True)
class ClientScript(Ending):
    """One request. What is None is as a proper client has it.

    `order`: `plain`, or `interleaved`: the inner session's first message goes out in pieces between
    pieces of the header and payload. `finish` is how the inner session ends: `proper`
    (close-notify, inner end), `never` (neither), `late` (the close-notify follows the inner end).
    `stop`: `reply` (reads nothing of the reply), `error` (closes once it has read an error's
    header), `request` (the outer part only), `connected` (nothing at all is sent). `leave`:
    `abort` or `notify`. With `knows` in `inner` it takes a bridge's trailer. `hear`: what a bridge
    says by itself is read whenever it comes, also where sending fails, and the cut of the first
    chunks says that it is listened for; then `connected` and `request` wait for that word instead
    of the test's.
    """

    op: str = "list-users"
    user: str = "admin"
    fields: Mapping[str, bytes] = field(default_factory=dict)
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    payload: bytes = b""
    #: Zero bytes behind `payload`.
    zeros: int = 0
    version: int = 1
    #: The version whose widths it has, where that is another one, as with 1.x's hidden option.
    widths_of: int | None = None
    header: bytes | None = None
    length: int | None = None
    inner: Mapping[str, bytes | None] = field(default_factory=dict)
    inner_raw: bytes | None = None
    server_name: str | None = None
    chunk: int = OLD_CHUNK
    #: Bytes of one TLS record.
    record: int | None = None
    order: str = "plain"
    finish: str = "proper"
    outer_end: bool = False
    stop: str = ""
    leave: str = "abort"
    #: Bytes of the inner stream before anything else.
    flood: int = 0
    #: The certificate to present inside, where it is another one than outside.
    inner_nickname: str | None = None
    #: Whether the test has to say before the reply is read, and before the inner session begins.
    hold: bool = False
    hold_secrets: bool = False
    hear: bool = False
    #: Where not 0, the payload goes out so many bytes at once, `pause` seconds after each.
    trickle: int = 0
    pause: float = 0.0
    #: Seconds before each TLS record that is read.
    read_pause: float = 0.0
    #: Seconds that a reply, and what `hear` waits for, may take to begin.
    patience: float = PATIENCE
    #: Seconds for each wait before it: of one whose turn comes late.
    all_patience: float = PATIENCE


@dataclass(frozen=True)
class CrowdScript:
    """Clients that all begin at once, each by one of `scripts` (see `ClientScript`).

    The result is a list: of each client its result, its error, and how many `seconds` it took. What
    was on its wire is left out.
    """

    scripts: tuple[Mapping[str, Any], ...]
    #: How many follow each of the scripts.
    each: int = 1


@dataclass(frozen=True)
class ServerScript(Ending):
    """`requests` requests, each with the same answer, one connection after the other.

    A request whose version is not in `speaks` gets `u32 1`. `reply` is the outer stream instead of
    a proper reply; `announce` the payload's length in one. `forge` names what gets a wrong code:
    `header` or `payload`. `hour`: as 1.3 and 1.4, which end a child so many seconds after it was
    forked: closes by half, waits without limit for the bridge to close as well, and dials anew
    then; at most `hours` times. `extra` follows the reply. `cuts`: sizes of the reply's first
    chunks, before they are of `chunk` bytes. `silent`: does nothing once it is connected, until the
    test says so. `say_first` is sent while it should be waiting.
    """

    speaks: tuple[int, ...] = (1,)
    status: int = 0
    fields: Mapping[str, bytes] = field(default_factory=dict)
    payload: bytes = b""
    zeros: int = 0
    reply: bytes | None = None
    announce: int | None = None
    forge: str = ""
    extra: bytes = b""
    outer_end: bool = True
    chunk: int = OLD_CHUNK
    cuts: tuple[int, ...] = ()
    record: int | None = None
    finish: str = "proper"
    requests: int = 1
    #: Seconds between attempts to connect.
    retry: float = 5.0
    silent: bool = False
    say_first: bytes = b""
    hour: float | None = None
    hours: int = 1
    patience: float = 600.0


@dataclass(frozen=True)
class BridgeScript(Ending):
    """A serial bridge: takes a server's TCP connection, and begins TLS when a client has come too.

    `requests` pairs are served. `early`: begins TLS with the server at once. `both_ends`: passes
    nothing on of the reply before both sides have ended their inner streams. `alter` flips a bit in
    a direction (`request`, `reply`, `secrets`, `answers`: the last two are the inner streams), at
    an offset of that stream. With `cut`, `direction` says which of `request` and `reply` ends.
    `speaks`: the versions of the protocol that it knows; of another one it closes both connections.
    Of version 0 it knows the operations of 0.207, and booleans of four bytes.
    """

    speaks: tuple[int, ...] = ()

    requests: int = 1
    early: bool = False
    both_ends: bool = False
    #: Whether the server has to close before the client is told that the reply is complete;
    #: else its outer end is enough.
    wait_for_close: bool = False
    chunk: int = OLD_CHUNK
    alter: str = ""
    offset: int = 0
    direction: str = ""
    #: Bytes of the outer stream before its end towards the client, and whether the end follows.
    trailer: bytes = b""
    stalls: bool = False
    patience: float = 600.0


# ------------------------------------------------------------------------------- the chunk layer


class Wire:
    """The chunk layer on a TLS connection, as a strict old peer has it.

    Whole chunks are kept in `outer` and `inner`, in the order in which they came; `records` tells
    for each TLS record which chunks began in it, as (stream, length), and `offsets` how many of its
    bytes came before each. A chunk's head that is split over records is a `Violation`.
    """

    def __init__(self, stream: nss.TLSConnection, script: Any, ending: bool = True) -> None:
        self.stream = stream
        self.outer: deque[bytes] = deque()
        self.inner: deque[bytes] = deque()
        self.records: list[list[tuple[str, int]]] = []
        self.offsets: list[list[int]] = []
        self.sent: list[tuple[str, int]] = []
        self.ended = False
        self._ending: Ending = script if ending else Ending()
        self._chunk: int = script.chunk
        self._record: int | None = getattr(script, "record", None)
        self._read_pause: float = getattr(script, "read_pause", 0.0)
        #: Seconds for a write, and for the inner session to go on.
        self.patience = script.all_patience if isinstance(script, ClientScript) else PATIENCE
        self._data = bytearray()
        self._written = 0
        self._lock = threading.RLock()

    # ------------------------------------------------------------------------------------ reading

    def receive(self, timeout: float = PATIENCE) -> None:
        """Read one TLS record. Sets `ended` at the connection's end, orderly or not."""
        time.sleep(self._read_pause)
        try:
            data = self.stream.read(RECORD, timeout)
        except PeerClosed:
            data = b""
        if not data:
            require(not self._data, "the connection ended in the middle of a chunk")
            self.ended = True
            return
        heads: list[tuple[str, int]] = []
        self.records.append(heads)
        self.offsets.append([])
        known = len(self._data)
        self._data += data
        position = 0
        while len(self._data) - position >= 4:
            (head,) = struct.unpack_from(">I", self._data, position)
            length = head & 0x7FFF_FFFF
            if position >= known:
                heads.append(("inner" if head >> 31 else "outer", length))
                self.offsets[-1].append(position - known)
            if len(self._data) - position - 4 < length:
                break
            whole = bytes(self._data[position + 4 : position + 4 + length])
            (self.inner if head >> 31 else self.outer).append(whole)
            position += 4 + length
        del self._data[:position]
        require(not 0 < len(self._data) < 4, "a chunk's head is split over TLS records")

    def next_outer(self, timeout: float = PATIENCE) -> bytes:
        """The next outer chunk, whole; empty for the outer end. `Violation` where none comes."""
        while not self.outer:
            require(not self.ended, "the connection ended where an outer chunk was due")
            self.receive(timeout)
        return self.outer.popleft()

    def parse(self, parser: Parser[Any], kept: bytearray) -> Any:
        """Run `parser` on the outer stream, however it is cut; `kept` holds what is left over."""
        try:
            wanted = next(parser)
            while True:
                wanted = parser.send(self.exactly(wanted, kept))
        except StopIteration as end:
            return end.value

    def exactly(self, count: int, kept: bytearray) -> bytes:
        """`count` bytes of the outer stream."""
        while len(kept) < count:
            piece = self.next_outer()
            require(piece != b"", "the outer stream ended in the middle")
            kept += piece
        piece = bytes(kept[:count])
        del kept[:count]
        return piece

    # ------------------------------------------------------------------------------------ writing

    def write(self, data: bytes) -> None:
        """Send bytes below the chunk layer, up to where the script ends the stream."""
        with self._lock:
            ending = self._ending
            if ending.cut is not None and self._written + len(data) > ending.cut:
                self._write(data[: ending.cut - self._written])
                self._written = ending.cut
                raise Cut
            self._write(data)
            self._written += len(data)

    def _write(self, data: bytes) -> None:
        size = self._record or max(1, len(data))
        for start in range(0, len(data), size):
            self.stream.write(data[start : start + size], self.patience)

    def send(self, stream: Stream, data: bytes) -> None:
        """Send `data` in chunks as large as the script has them; the stream's end if empty."""
        for start in range(0, max(1, len(data)), self._chunk):
            piece = data[start : start + self._chunk]
            with self._lock:
                self.sent.append((stream.value, len(piece)))
                self.write(chunk(stream, piece))

    def leave(self, how: str) -> None:
        """End the connection: `notify` says so in TLS, `reset` and `abort` do not."""
        if how == "stall":
            event("stalled")
            wait_for_go()
        if how == "notify":
            self.stream.close()
            return
        if how == "reset":
            self.stream._os.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.stream._os.close()
            # NSS's own descriptor is the last one of the connection: its close sends the reset.
            self.stream._tls.close()
            return
        self.stream.discard()


class Inner:
    """An inner TLS session on a `Wire`. While it lasts a thread reads the connection."""

    def __init__(self, wire: Wire) -> None:
        near, self._far = loopback_pair()
        self.tls = nss.TLSConnection(near, "the inner session", None)
        self.wire = wire
        #: Where set, data for the inner stream is given to it instead of being sent.
        self.take: Callable[[bytes], None] | None = None
        self.error: BaseException | None = None
        self._held = bytearray()
        #: Held while data is on its way from the session to the connection.
        self._carrying = threading.Lock()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def _carry(self) -> None:
        try:
            while self._step():
                pass
        except (Violation, Cut, SigulError, OSError) as error:
            self.error = error
        finally:
            with contextlib.suppress(OSError):
                self._far.shutdown(socket.SHUT_RDWR)
            self._far.close()

    def _step(self) -> bool:
        while self.wire.inner:
            piece = self.wire.inner.popleft()
            # The session may be closed on this side while the other still ends it.
            with contextlib.suppress(OSError):
                if piece:
                    self._far.sendall(piece)
                else:
                    self._far.shutdown(socket.SHUT_WR)
        if self.wire.ended:
            return False
        poll = select.poll()
        poll.register(self._far, select.POLLIN)
        poll.register(self.wire.stream.fileno(), select.POLLIN)
        ready = [descriptor for descriptor, _events in poll.poll(self.wire.patience * 1000)]
        if not ready:
            raise DeadlineExceeded("the inner session did not go on")
        if self._far.fileno() in ready:
            with self._carrying:
                data = self._far.recv(OLD_CHUNK)
                if not data:
                    return False
                (self.take or (lambda piece: self.wire.send(Stream.INNER, piece)))(data)
        if self.wire.stream.fileno() in ready or self.wire.stream.pending():
            self.wire.receive()
        return True

    def finish(self, how: str) -> None:
        """End the session: `proper`, `never`, or `late` with the close-notify behind the end."""
        if how == "late":
            until(self._hold_when_idle, "the session's data on the connection")
        if how == "never":
            self.tls.abort()
        else:
            self.tls.end_writing()
        self.tls.close()
        self._thread.join(PATIENCE)
        require(not self._thread.is_alive(), "the inner session did not end")
        if self.error is not None:
            raise self.error
        if how != "never":
            self.wire.send(Stream.INNER, b"")
        if how == "late":
            require(len(self._held) > 0, "there was no close-notify to send late")
            self.wire.send(Stream.INNER, bytes(self._held))

    def _hold_when_idle(self) -> bool:
        with self._carrying:
            if not select.select([self._far], [], [], 0)[0]:
                self.take = self._held.extend
        return self.take is not None

    def give_up(self) -> None:
        """The session failed, or is to be left as it is."""
        self.tls.discard()
        self._thread.join(PATIENCE)


# --------------------------------------------------------------------------------------- client


@dataclass(frozen=True)
class Place:
    """Who a peer is and where: its NSS settings and identity, the bridge's name, address, ports."""

    settings: NSSSettings
    identity: nss.TLSIdentity
    name: str
    address: str
    port: int
    second_port: int
    server_name: str


class OldClient:
    """A client that follows a `ClientScript`."""

    def __init__(self, place: Place, script: ClientScript) -> None:
        self._place = place
        self._script = script
        fields = {"op": script.op.encode(), "user": script.user.encode(), **script.fields}
        proper = u32(script.version) + field_map(fields)
        self._header = proper if script.header is None else script.header
        self._payload = script.payload + bytes(script.zeros)
        self._keys = random.token_bytes(64), random.token_bytes(64)
        self._widths = script.version if script.widths_of is None else script.widths_of
        self.said: dict[str, Any] = {}

    def run(self) -> None:
        """Send the request, read the reply; `said` is what was read of it."""
        script, place = self._script, self._place
        connection = dial(
            place.address, place.port, hostname=place.name, settings=place.settings,
            identity=place.identity, connect_timeout=PATIENCE, handshake_timeout=PATIENCE,
        )  # fmt: skip
        wire = Wire(connection, script)
        event("connected")
        how = script.leave
        try:
            if script.stop == "connected":
                self._stall(wire)
            else:
                self._exchange(wire)
        except Cut:
            how = script.how
        except (SigulError, Violation, OSError) as error:
            # It may have been told why before its sending failed.
            with contextlib.suppress(SigulError, Violation, OSError):
                if script.hear:
                    self._read_reply(wire)
            if "bridge" not in self.said:
                raise error
        finally:
            self.said["sent"] = wire.sent
            self.said["records"] = wire.records
            self.said["offsets"] = wire.offsets
            wire.leave(how)

    def _stall(self, wire: Wire) -> None:
        """Do nothing until the test says so, or, where the script is to `hear`, the bridge."""
        event("stalled")
        if self._script.hear:
            self._read_reply(wire)
        else:
            wait_for_go()

    def _send_payload(self, wire: Wire) -> None:
        script = self._script
        if not script.trickle:
            wire.send(Stream.OUTER, self._payload)
            return
        for start in range(0, len(self._payload), script.trickle):
            wire.send(Stream.OUTER, self._payload[start : start + script.trickle])
            if start == 0:
                event("trickling")
            time.sleep(script.pause)

    def _exchange(self, wire: Wire) -> None:
        script = self._script
        length = len(self._payload) if script.length is None else script.length
        head = self._header + length_of(length, self._widths)
        for _ in range(script.flood // OLD_CHUNK):
            wire.send(Stream.INNER, bytes(OLD_CHUNK))
        if script.order == "interleaved":
            self._interleaved(wire, head + self._payload)
        else:
            if script.hear:
                # So does a client that listens to the bridge's own word.
                wire.send(Stream.OUTER, head[:1])
                wire.send(Stream.OUTER, head[1:4])
                head = head[4:]
            wire.send(Stream.OUTER, head)
            if self._payload:
                self._send_payload(wire)
            if script.outer_end:
                wire.send(Stream.OUTER, b"")
            if script.stop == "request":
                self._stall(wire)
                return
            if script.hold_secrets:
                event("sent")
                wait_for_go()
            self._whisper(Inner(wire))
        if script.hold:
            event("whispered")
            wait_for_go()
        if script.stop != "reply":
            self._read_reply(wire)

    def _interleaved(self, wire: Wire, outer: bytes) -> None:
        """Outer pieces of 1, 2, 3 … bytes, and inner ones of 7 between them."""
        inner = Inner(wire)
        greeting = bytearray()
        inner.take = greeting.extend
        shaker = threading.Thread(target=self._handshake, args=(inner,), daemon=True)
        shaker.start()
        until(lambda: len(greeting) > 0, "the inner session's first message")
        position, size = 0, 1
        # The last inner piece stays for the end, so that all later ones are behind it.
        while position < len(outer):
            wire.send(Stream.OUTER, outer[position : position + size])
            position, size = position + size, min(size + 1, OLD_CHUNK)
            if len(greeting) > 7:
                wire.send(Stream.INNER, bytes(greeting[:7]))
                del greeting[:7]
        while len(greeting) > 7:
            wire.send(Stream.INNER, bytes(greeting[:7]))
            del greeting[:7]
        inner.take = None
        wire.send(Stream.INNER, bytes(greeting))
        shaker.join(PATIENCE)
        self._say_secrets(inner)

    def _handshake(self, inner: Inner) -> None:
        place, script = self._place, self._script
        identity = place.identity
        if script.inner_nickname is not None:
            identity = nss.load_identity(script.inner_nickname)
        inner.tls.handshake_as_client(
            place.settings,
            identity,
            script.server_name or place.server_name,
            script.all_patience,
        )

    def _whisper(self, inner: Inner) -> None:
        try:
            self._handshake(inner)
        except SigulError:
            inner.give_up()
            if inner.error is not None:
                raise inner.error from None
            raise
        self._say_secrets(inner)

    def _say_secrets(self, inner: Inner) -> None:
        script = self._script
        fields: dict[str, bytes | None] = {
            **script.secrets,
            "header-auth-sha512": sha512(self._header),
            "payload-auth-sha512": sha512(self._payload),
            "header-auth-key": self._keys[0],
            "payload-auth-key": self._keys[1],
            **script.inner,
        }
        data = script.inner_raw
        if data is None:
            data = field_map({name: value for name, value in fields.items() if value is not None})
        self.said["server"] = inner.tls.peer.common_name
        inner.tls.write(data, script.all_patience)
        inner.finish(script.finish)

    def _read_reply(self, wire: Wire) -> None:
        """Read a reply as the strictest client does: each part in chunks of its own.

        `said` has a `bridge`'s own refusal, if the script is to `hear` one.
        """
        header = wire.next_outer(self._script.patience)
        require(len(header) >= 4, "the reply's header is cut within its status")
        status = int.from_bytes(header[:4], "big")
        self.said["status"] = status
        if status == 1 and len(header) == 4:
            return
        fields, code = parse_prefix(read_fields(), header[4:])
        require(len(code) == 64, "the header's chunk is not status, fields and code alone")
        if self._script.hear and status != 0 and code == bytes(64):
            self.said["bridge"] = dict(fields).get("message", b"").decode()
            return
        require(code == hmac512(self._keys[0], header[:-64]), "the header's code is wrong")
        self.said["fields"] = dict(fields)
        if status != 0 and self._script.stop == "error":
            return
        length = wire.next_outer()
        require(
            len(length) == length_bytes(self._widths),
            f"the payload's length is a chunk of {len(length)} bytes",
        )
        left = int.from_bytes(length, "big")
        payload = bytearray()
        while len(payload) < left:
            piece = wire.next_outer()
            require(piece != b"", "the reply ended within its payload")
            payload += piece
            require(len(payload) <= left, "a payload chunk goes on behind the payload's end")
        code = wire.next_outer()
        require(len(code) == 64, f"the payload's code is a chunk of {len(code)} bytes")
        require(code == hmac512(self._keys[1], bytes(payload)), "the payload's code is wrong")
        self.said["payload"] = bytes(payload)
        end = wire.next_outer()
        if end and "knows" in self._script.inner:
            self.said["trailer"] = end
            end = wire.next_outer()
        require(end == b"", "the outer end does not follow the reply")
        self.said["ended"] = True


class Crowd:
    """Many clients that follow a `CrowdScript`, each in a thread."""

    def __init__(self, place: Place, script: CrowdScript) -> None:
        self._place = place
        self._scripts = [item for item in script.scripts for _ in range(script.each)]
        self.said: list[dict[str, Any]] = [{} for _ in self._scripts]

    def run(self) -> None:
        """Begin all at once, and wait until all have ended; `said` has what became of each."""
        threads = [
            threading.Thread(target=self._follow, args=(number,), daemon=True)
            for number in range(len(self._scripts))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _follow(self, number: int) -> None:
        actor = OldClient(self._place, ClientScript(**self._scripts[number]))
        began = time.monotonic()
        failure = None
        try:
            actor.run()
        except (SigulError, Violation, OSError) as error:
            failure = f"{type(error).__name__}: {error}"
        for name in ("sent", "records", "offsets"):
            actor.said.pop(name, None)
        seconds = round(time.monotonic() - began, 3)
        self.said[number] = {"result": actor.said, "error": failure, "seconds": seconds}


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for another thread of this process."""
    end = time.monotonic() + PATIENCE
    while not condition():
        require(time.monotonic() < end, f"{what} did not come")
        time.sleep(0.002)


# --------------------------------------------------------------------------------------- server


class OldServer:
    """A server that follows a `ServerScript`."""

    def __init__(self, place: Place, script: ServerScript) -> None:
        self._place = place
        self._script = script
        self.said: list[dict[str, Any]] = []
        self._hours = 0

    def run(self) -> None:
        """Serve as many requests as the script has; `said` is what came in each."""
        while len(self.said) < self._script.requests:
            self._serve(self._dial())

    def _dial(self) -> nss.TLSConnection:
        place, script = self._place, self._script
        for _attempt in range(6):
            try:
                return dial(
                    place.address, place.port, hostname=place.name, settings=place.settings,
                    identity=place.identity, connect_timeout=PATIENCE, handshake_timeout=PATIENCE,
                )  # fmt: skip
            except SigulError as error:
                event("refused", reason=str(error))
                time.sleep(script.retry)
        raise Violation("the bridge was not there")

    def _serve(self, connection: nss.TLSConnection) -> None:
        script = self._script
        wire = Wire(connection, script)
        how = "abort"
        event("waiting")
        told: dict[str, Any] = {}
        try:
            if script.say_first:
                wire.write(script.say_first)
            if script.hour is not None and self._hours < script.hours:
                try:
                    wire.receive(script.hour)
                except DeadlineExceeded:
                    self._hours += 1
                    connection.end_writing()
                    event("half-closed")
                    wire.receive(script.patience)
                    require(wire.ended, "the bridge said something to a server that has closed")
                    event("closed")
                    return
            else:
                wire.receive(script.patience)
            if not wire.ended:
                event("called")
                self.said.append(told)
                if script.silent:
                    wait_for_go()
                else:
                    self._answer(wire, told)
                    how = "notify"
            elif script.say_first:
                self.said.append({"sent-away": True})
        except Cut:
            how = script.how
        finally:
            told["records"] = wire.records
            wire.leave(how)

    def _answer(self, wire: Wire, told: dict[str, Any]) -> None:
        script, place = self._script, self._place
        kept = bytearray()
        version = int.from_bytes(wire.exactly(4, kept), "big")
        if version not in script.speaks:
            told.update(version=version)
            self._refuse_version(wire)
            return
        fields: Fields = wire.parse(read_fields(), kept)
        length = int.from_bytes(wire.exactly(length_bytes(version), kept), "big")
        payload = wire.exactly(length, kept)
        told.update(version=version, fields=dict(fields), length=length)
        inner = Inner(wire)
        try:
            inner.tls.handshake_as_server(place.settings, place.identity, PATIENCE)
        except SigulError:
            inner.give_up()
            if inner.error is not None:
                raise inner.error from None
            raise
        told["client"] = inner.tls.peer.common_name
        said: Fields = nss_parse(inner.tls, read_fields())
        inner.finish(script.finish)
        told["secrets"] = dict(said)
        require(said["header-auth-sha512"] == sha512(u32(version) + field_map(fields)), "header")
        require(said["payload-auth-sha512"] == sha512(payload), "payload")
        self._send(wire, self._reply(said, version) + script.extra)
        if script.outer_end:
            wire.send(Stream.OUTER, b"")
        self._listen_to_the_end(wire)

    def _refuse_version(self, wire: Wire) -> None:
        wire.send(Stream.OUTER, u32(1))
        wire.send(Stream.OUTER, b"")
        wire.send(Stream.INNER, b"")
        self._listen_to_the_end(wire)

    @staticmethod
    def _listen_to_the_end(wire: Wire) -> None:
        event("answered")
        with contextlib.suppress(Violation, SigulError):
            while not wire.ended:
                wire.receive()

    def _reply(self, said: Fields, version: int) -> bytes:
        script = self._script
        if script.reply is not None:
            return script.reply
        payload = script.payload + bytes(script.zeros)
        header = u32(script.status) + field_map(script.fields)
        codes = {
            "header": hmac512(said["header-auth-key"], header),
            "payload": hmac512(said["payload-auth-key"], payload),
        }
        if script.forge:
            codes[script.forge] = flip(codes[script.forge], 0)
        length = len(payload) if script.announce is None else script.announce
        return header + codes["header"] + length_of(length, version) + payload + codes["payload"]

    def _send(self, wire: Wire, data: bytes) -> None:
        position = 0
        for size in self._script.cuts:
            if position < len(data):
                wire.send(Stream.OUTER, data[position : position + size])
                position += size
        if position < len(data):
            wire.send(Stream.OUTER, data[position:])


def nss_parse(stream: nss.TLSConnection, parser: Parser[Any]) -> Any:
    """Run `parser` on a TLS session without a chunk layer."""
    kept = bytearray()
    try:
        wanted = next(parser)
        while True:
            while len(kept) < wanted:
                data = stream.read(RECORD, PATIENCE)
                require(data != b"", "the inner session ended in the middle")
                kept += data
            piece = bytes(kept[:wanted])
            del kept[:wanted]
            wanted = parser.send(piece)
    except StopIteration as end:
        return end.value


def flip(data: bytes, position: int) -> bytes:
    """`data` with one bit changed."""
    return data[:position] + bytes((data[position] ^ 1,)) + data[position + 1 :]


# --------------------------------------------------------------------------------------- bridge


class OldBridge:
    """A bridge that follows a `BridgeScript`."""

    def __init__(self, place: Place, script: BridgeScript) -> None:
        self._place = place
        self._script = script
        self.said: list[dict[str, Any]] = []

    def run(self) -> None:
        """Serve pairs, one after the other; `said` is what passed in each."""
        place, script = self._place, self._script
        with (
            socket.create_server(("127.0.0.1", place.port)) as servers,
            socket.create_server(("127.0.0.1", place.second_port)) as clients,
        ):
            event("listening")
            while len(self.said) < script.requests:
                self._serve(servers, clients)

    def _serve(self, servers: socket.socket, clients: socket.socket) -> None:
        script = self._script
        for listener in (servers, clients):
            listener.settimeout(script.patience)
        server_tcp, _address = servers.accept()
        event("server")
        server = self._secure(server_tcp) if script.early else None
        client_tcp, _address = clients.accept()
        event("client")
        if server is None:
            server = self._secure(server_tcp)
        pair = _Pair(self._secure(client_tcp), server, script)
        self.said.append(pair.told)
        pair.run()

    def _secure(self, tcp: socket.socket) -> nss.TLSConnection:
        connection = nss.TLSConnection(tcp, "a peer", None)
        connection.handshake_as_server(self._place.settings, self._place.identity, PATIENCE)
        return connection


class _Pair:
    """A client and a server of an `OldBridge`."""

    def __init__(
        self, client: nss.TLSConnection, server: nss.TLSConnection, script: BridgeScript
    ) -> None:
        self._script = script
        cut = script.direction
        self._client = Wire(client, script, ending=cut == "reply")
        self._server = Wire(server, script, ending=cut == "request")
        self._complete = False
        self._inner_ends = 0
        self._ends = threading.Condition()
        #: What has passed.
        self.told: dict[str, Any] = {"ended": []}
        #: The beginning of the request, as long as it is not known to be one.
        self._head: bytearray | None = bytearray() if script.speaks else None

    def run(self) -> None:
        """Forward both ways until the server is done."""
        up = threading.Thread(target=self._up, daemon=True)
        up.start()
        try:
            self._move(self._server, self._client, "reply", "answers")
            if "cut" not in self.told:
                with contextlib.suppress(SigulError, Violation, Cut):
                    if self._script.trailer:
                        self._client.write(chunk(Stream.OUTER, self._script.trailer))
                    if self._script.stalls:
                        self._wait_for_client()
                    self._client.write(chunk(Stream.OUTER, b""))
                    self._client.stream.end_writing()
        finally:
            self._server.stream.abort()
            up.join(PATIENCE)
            if up.is_alive():
                self._client.stream.abort()
                up.join(PATIENCE)
        self.told["request-records"] = self._client.records
        self.told["reply-records"] = self._server.records
        how = self._script.how if "cut" in self.told else "abort"
        self._client.leave(how)
        self._server.leave(how)

    def _wait_for_client(self) -> None:
        """Say nothing until the client leaves."""
        end = time.monotonic() + PATIENCE
        while not self._client.ended:
            require(time.monotonic() < end, "the client did not leave")
            time.sleep(0.01)

    def _up(self) -> None:
        self._move(self._client, self._server, "request", "secrets")

    def _move(self, source: Wire, target: Wire, outer: str, inner: str) -> None:
        offsets = {Stream.OUTER: 0, Stream.INNER: 0}
        names = {Stream.OUTER: outer, Stream.INNER: inner}
        try:
            while not (source.ended or (self._complete and source is self._server)):
                source.receive(self._script.patience)
                for stream, queue in ((Stream.INNER, source.inner), (Stream.OUTER, source.outer)):
                    while queue:
                        piece = queue.popleft()
                        self._pass_on(target, stream, names[stream], offsets[stream], piece)
                        offsets[stream] += len(piece)
        except Cut:
            self.told["cut"] = names[Stream.OUTER]
            for wire in (self._client, self._server):
                wire.stream.abort()
        except (SigulError, Violation) as error:
            self.told.setdefault("errors", []).append(f"{outer}: {error}")
            if isinstance(error, Refused):
                for wire in (self._client, self._server):
                    wire.stream.abort()

    def _pass_on(self, target: Wire, stream: Stream, name: str, offset: int, piece: bytes) -> None:
        script = self._script
        if not piece:
            self.told["ended"].append(name)
            if stream is Stream.OUTER and name == "reply":
                self._complete = not script.wait_for_close
                return  # told to the client once all else is done
            if stream is Stream.INNER:
                with self._ends:
                    self._inner_ends += 1
                    self._ends.notify_all()
        if name == "request" and self._head is not None:
            self._head += piece
            if not self._is_known():
                return
            piece, self._head = bytes(self._head), None
        if piece and script.alter == name and offset <= script.offset < offset + len(piece):
            piece = flip(piece, script.offset - offset)
        if script.both_ends and name == "reply":
            with self._ends:
                both = self._ends.wait_for(lambda: self._inner_ends == 2, PATIENCE)
            require(both, "one side never ended its inner stream")
        target.send(stream, piece)

    def _is_known(self) -> bool:
        """Whether the request's header has come; it is one that this bridge takes then."""
        assert self._head is not None
        data = bytes(self._head)
        version = int.from_bytes(data[:4], "big")
        if len(data) >= 4 and version not in self._script.speaks:
            raise Refused(f"Unknown protocol version {version}")
        try:
            fields, rest = parse_prefix(read_fields(), data[4:])
        except AssertionError:  # there is more to come
            return False
        if len(rest) < length_bytes(version):
            return False
        self.told.update(version=version, fields=dict(fields))
        if version == 0:
            if fields.get("op", b"").decode() not in OPERATIONS_OF_0_207:
                raise Refused("Unknown operation")
            for name in BOOLEANS & fields.keys():
                if fields[name] not in (u32(0), u32(1)):
                    raise Refused(f"{name} is no boolean")
        return True


# -------------------------------------------------------------------------------------- programs

_PEERS: dict[str, tuple[type, Callable[[Place, Any], Any]]] = {
    "client": (ClientScript, OldClient),
    "crowd": (CrowdScript, Crowd),
    "server": (ServerScript, OldServer),
    "bridge": (BridgeScript, OldBridge),
}


def _scripts() -> Iterator[dict[str, Any]]:
    while line := sys.stdin.readline():
        # An empty one was for a client of a crowd that no longer waited.
        if line.strip():
            yield loads(line)


def main() -> int:
    """Follow the scripts on standard input."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description=__doc__)
    parser.add_argument("peer", choices=sorted(_PEERS))
    parser.add_argument("--database", required=True, type=Path)
    parser.add_argument("--nickname", required=True)
    parser.add_argument("--name", required=True, help="the bridge's host name")
    parser.add_argument("--address", default="127.0.0.1", help="where the bridge is")
    parser.add_argument("--server-name", required=True, help="the signing server's host name")
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--second-port", type=int, default=0, help="a bridge's port for clients")
    parser.add_argument("--tls", default="tls1.2", help="the one TLS version to speak")
    options = parser.parse_args()
    password = (options.database / "nss-password").read_text().strip()
    settings = NSSSettings(
        directory=f"sql:{options.database}",
        password=Secret(password),
        min_tls=options.tls,
        max_tls=options.tls,
    )
    nss.open_database(settings)
    place = Place(
        settings,
        nss.load_identity(options.nickname),
        options.name,
        options.address,
        options.port,
        options.second_port,
        options.server_name,
    )
    kind, peer = _PEERS[options.peer]
    event("ready")
    for script in _scripts():
        actor = peer(place, kind(**script))
        failure = None
        try:
            actor.run()
        except (SigulError, Violation, OSError) as error:
            failure = f"{type(error).__name__}: {error}"
        say(result=actor.said, error=failure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
