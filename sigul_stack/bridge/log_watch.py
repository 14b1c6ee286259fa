"""The bridge as a witness: it asks servers for checkpoints of their signing logs, and keeps them.

One thread asks each server that has said the word `log`, one at a time, soon after it has said so
and then each `signing-log-interval` seconds. It takes a waiting server only where no client waits
for one and another is left, or no client is here at all. Every wait has a limit.

It never stands in a request's way: a complaint is told in the log, at the status socket and by
`sigul-stack health`, and clients refuse by what they know themselves.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ..config.bridge import BridgeSettings
from ..errors import (
    LogComplaint,
    RemoteProtocolError,
    SigulError,
    TransportError,
    quoted,
)
from ..evidence.evidence import Evidence
from ..evidence.given_files import read_keys, read_witness_key
from ..evidence.witness import Witness
from ..formats.signed_note import Checkpoint
from ..logcontext import LogContext, about
from ..logevents import tell
from ..metrics import BridgeCount
from ..protocol import messages
from ..protocol.codec import Fields
from ..protocol.knowledge import KNOWS, LOG, encode_words
from ..protocol.log_fields import LOG_SEEN, encode_seen
from ..protocol.operations import BRIDGE_USER, LOG_CHECKPOINT
from ..protocol.status import MAX_LISTED, WatchedLog
from ..protocol.versions import LATEST
from ..transport import nss
from ..transport.chunked import ChunkedStream
from ..transport.nested import inner_session
from ..transport.payload import AuthenticatedPayload
from ..transport.stream import ByteStream
from ..transport.watchdog import Watchdog
from .log_events import BridgeLog
from .session import ACKNOWLEDGE_SECONDS, BridgeResources

log = logging.getLogger(__name__)

#: Limit of each wait while a checkpoint is asked for, in seconds.
ASK_SECONDS: Final = 20.0
#: Pause until it is tried again where no server was free, or asking has failed, in seconds.
BUSY_SECONDS: Final = 1.0
FAILED_SECONDS: Final = 30.0
#: Longest wait for something to do, in seconds.
_IDLE_SECONDS: Final = 3600.0

#: Asks a waiting server for a checkpoint: given what is known of its logs, gives a reply's fields.
Ask = Callable[[ByteStream, Mapping[bytes, int]], Fields]


@dataclass(slots=True)
class _Watched:
    """The knowledge of one server's log. Times are of `time.monotonic`."""

    due: float
    checked: float | None = None
    origin: str = ""
    size: int = 0
    complaint: str = ""


class LogWatch:
    """Watches the signing logs of the servers behind one bridge process."""

    def __init__(self, resources: BridgeResources, ask: Ask, witness: Witness | None = None):
        """Raises `SigulError` where keys that the settings name cannot be read."""
        settings = resources.settings
        self._resources = resources
        self._ask = ask
        self._interval = settings.signing_log_interval
        self._witness = witness or make_witness(settings)
        self._watched: dict[str, _Watched] = {}
        #: Of the looks, for the lines of the log: a look is a request of the bridge's own.
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def start(self) -> None:
        """Watch, in a thread that ends once `BridgeResources.close` is called."""
        threading.Thread(target=self._run, name="signing-logs", daemon=True).start()

    def listed(self, now: float) -> tuple[WatchedLog, ...]:
        """Tell what is known at `now` (`time.monotonic`), up to MAX_LISTED. From any thread."""
        with self._lock:
            return tuple(
                WatchedLog(
                    name,
                    item.origin,
                    item.size,
                    -1.0 if item.checked is None else round(now - item.checked, 3),
                    item.complaint,
                )
                for name, item in list(self._watched.items())[:MAX_LISTED]
            )

    def _run(self) -> None:
        words = self._resources.server_words
        while True:
            known = words.known()
            try:
                pause = self._step(known)
            except Exception:  # noqa: BLE001 - it is logged
                tell(log, BridgeLog.LOG_WATCH_FAILED, exc_info=True)
                pause = FAILED_SECONDS
            if not words.wait(known, pause):
                return

    def _step(self, known: Mapping[str, frozenset[str]]) -> float:
        """Look at each log that is due; seconds until the next one is."""
        for name, words in known.items():
            with self._lock:
                item = self._watched.get(name)
                if item is None and (LOG in words or self._knows_log_of(name)):
                    item = self._watched[name] = _Watched(0.0)
            if item is not None and item.due <= time.monotonic():
                pause = self._look(name, item, has_log=LOG in words)
                item.due = time.monotonic() + pause
        now = time.monotonic()
        return min([_IDLE_SECONDS, *(max(0.0, item.due - now) for item in self._watched.values())])

    def _knows_log_of(self, name: str) -> bool:
        try:
            return bool(self._witness.seen(name))
        except SigulError:
            return True  # its file is damaged, which the look at it says

    def _look(self, name: str, item: _Watched, *, has_log: bool) -> float:
        """Look at one server's log; seconds until the next look."""
        with about(LogContext(f"l{next(self._numbers):x}")):
            return self._look_now(name, item, has_log=has_log)

    def _look_now(self, name: str, item: _Watched, *, has_log: bool) -> float:
        counters = self._resources.counters
        try:
            watch = self._witness.begin(name)
            if not has_log:
                watch.check(None)
                return self._interval
            server = self._take(name)
            if server is None:
                return BUSY_SECONDS
            try:
                fields = self._ask(server, watch.seen)
            except BaseException:
                server.discard()
                raise
            server.close()
            watch.check_fields(fields, None)
            watch.keep()
            evidence = Evidence.of(fields)
            if evidence is None:
                raise RemoteProtocolError("it says that it has a signing log, and shows none")
            found = Checkpoint.of(evidence.checkpoint)
            with self._lock:
                item.complaint, item.checked = "", time.monotonic()
                item.origin, item.size = found.origin, found.size
            counters.add(BridgeCount.LOG_CHECKPOINTS)
        except LogComplaint as error:
            counters.add(BridgeCount.LOG_COMPLAINTS)
            tell(log, BridgeLog.SIGNING_LOG_COMPLAINT, why=str(error))
            with self._lock:
                item.complaint = error.problem
        except (SigulError, OSError) as error:
            counters.add(BridgeCount.LOG_FAILURES)
            tell(log, BridgeLog.SIGNING_LOG_UNSEEN, server=name, why=str(error))
            return min(self._interval, FAILED_SECONDS)
        return self._interval

    def _take(self, name: str) -> ByteStream | None:
        resources = self._resources
        alone = not resources.budget.connected
        return resources.waiting.take_spare(name, last=alone)


def make_witness(settings: BridgeSettings) -> Witness:
    """The witness that the settings want. Raises `SigulError` where a key cannot be read."""
    keys, own = settings.signing_log_keys, settings.signing_log_witness_key
    return Witness(
        settings.signing_log_state,
        () if keys is None else read_keys(keys),
        cosigner=None if own is None else read_witness_key(own),
    )


def checkpoint_asker(
    settings: BridgeSettings, identity: nss.TLSIdentity, watchdog: Watchdog
) -> Ask:
    """A function that asks a waiting server over TLS, inside with the bridge's certificate as well.

    It raises `SigulError`. The server has to be the same inside as outside.
    """

    def ask(server: ByteStream, seen: Mapping[bytes, int]) -> Fields:
        chunked = ChunkedStream(server, ASK_SECONDS)
        header = messages.encode_request_header(
            {"op": LOG_CHECKPOINT.encode(), "user": BRIDGE_USER.encode()}, LATEST.number
        )
        chunked.write(header + LATEST.encode_length(0))
        if not server.is_acknowledged(ACKNOWLEDGE_SECONDS):
            raise TransportError("its machine does not answer any more")
        size = messages.NEW_KEY_BYTES
        keys = messages.ReplyKeys(os.urandom(size), os.urandom(size))
        own = {KNOWS: encode_words([LOG])}
        if seen:
            own[LOG_SEEN] = encode_seen(seen)
        with inner_session(
            chunked,
            settings.nss,
            identity,
            timeout=ASK_SECONDS,
            server_hostname=server.peer.common_name,
            watchdog=watchdog,
        ) as session:
            if session.peer.fingerprint != server.peer.fingerprint:
                raise RemoteProtocolError(
                    "another certificate is shown inside than outside: refused",
                    "somebody sits between server and bridge",
                )
            nothing = hashlib.sha512(b"").digest()
            session.write(messages.encode_inner_fields(header, nothing, keys, own))
        return _reply(chunked, keys)

    return ask


def _reply(chunked: ChunkedStream, keys: messages.ReplyKeys) -> Fields:
    """The fields of the server's authentic OK reply."""
    header = chunked.parse(messages.read_reply_header(LATEST))
    if header.is_without_proof:
        raise RemoteProtocolError(f"it refuses: {quoted(header.message, 200)}")
    header.verify(keys.header)
    if header.status:
        raise RemoteProtocolError(
            f"it answers with status {header.status}: {quoted(header.message, 200)}"
        )
    payload = AuthenticatedPayload(chunked, keys.payload, "the checkpoint's reply", LATEST)
    if payload.length:
        raise RemoteProtocolError(f"a payload of {payload.length} bytes came with a checkpoint")
    payload.copy(lambda _piece: None)
    return header.fields
