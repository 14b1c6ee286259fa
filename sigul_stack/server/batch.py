"""`sign-rpms`: subrequests are read, signed several at a time and answered as they finish.

One thread reads, `signing-threads` sign and answer. What is held at once is limited: the next RPM
is read only when one of a few places is free, so that neither memory nor disk grows with the
number of RPMs. What is wrong with one RPM costs that RPM; what is wrong with the stream ends it.
Failures are told last: a client of 1.2 reads no further than the first one.
No thread forks Python: the programs that sign are started by `subprocess`, which executes at once.
"""

from __future__ import annotations

import contextlib
import contextvars
import hmac
import io
import logging
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from ..config.server import ServerSettings
from ..errors import RemoteProtocolError, RequestRefused, SigulError, Status
from ..evidence.leaf import Content
from ..logevents import tell
from ..protocol.authentication import DIGEST_BYTES, new_hmac
from ..protocol.codec import Fields, pack_u32
from ..protocol.messages import (
    ChainKeys,
    ReplyKeys,
    encode_sub_header,
    read_sub_header,
)
from ..protocol.operations import Operation, fault_of_subrequest
from ..protocol.versions import Version
from ..transport.chunked import ChunkedStream
from ..transport.payload import receive_pieces, send_payload
from ..transport.rate import SERVER_FIRST_SECONDS, RateMeter
from .capacity import Capacity
from .decisions import Made
from .log_events import ServerLog
from .request import message_field, refusal_of
from .spool import Account, Spool

log = logging.getLogger(__name__)

#: RPMs that lie here at once, for each signing thread: one is signed while the next one comes.
PLACES_A_THREAD: Final = 2
#: Of RPMs that are too large for memory no more than this lie here at once, each of them twice.
LARGE_AT_ONCE: Final = 4
#: Failures that are kept until all else is answered; with more, all are told at once.
MAX_KEPT_FAILURES: Final = 4096


@dataclass(slots=True)
class Subrequest:
    """An RPM to sign, which has come completely. `authenticated`: its HMAC was right.

    `content` is what came; `made` what its signer has made of it.
    """

    fields: Fields
    payload: BinaryIO
    authenticated: bool
    content: Content | None = None
    made: Made = field(default_factory=Made)
    #: It has one of the places for large RPMs.
    is_large: bool = False


@dataclass(frozen=True, slots=True)
class RefusedSubrequest:
    """An RPM that cannot be signed; its payload has been read past."""

    fields: Fields
    reason: RequestRefused
    content: Content | None = None
    is_large: bool = False


#: Signs one RPM into a new file, in several threads. Raises `RequestRefused`, `SigulError`.
Sign = Callable[[Subrequest], BinaryIO]


class Ledger:
    """Writes down what becomes of each RPM; this one nowhere. Used from several threads."""

    def done(self, _subrequest: Subrequest, _output: BinaryIO) -> Mapping[str, bytes]:
        """Write down that an RPM is signed, before the answer leaves; returns fields for that.

        Raises `SigulError` where it cannot be written down.
        """
        return {}

    def refused(
        self,
        received: Subrequest | RefusedSubrequest,
        refused: RequestRefused,
        error: Exception,
    ) -> None:
        """Write down that an RPM is refused, because of `error`."""


class Batch:
    """The subrequests of one request, and their answers."""

    def __init__(
        self,
        settings: ServerSettings,
        version: Version,
        operation: Operation,
        *,
        subrequests: ChainKeys,
        subreplies: ChainKeys,
        sign: Sign,
        account: Account | None = None,
        is_ending: Callable[[], bool] = lambda: False,
        ledger: Ledger | None = None,
    ) -> None:
        """`is_ending` tells whether the request is being ended, so that nothing is to wait."""
        self._is_ending = is_ending
        self._ledger = ledger or Ledger()
        self._account = account or Account()
        self._settings = settings
        self._version = version
        self._operation = operation
        self._subrequests = subrequests
        self._subreplies = subreplies
        self._sign = sign
        # One for all: RPM by RPM, a trickle would begin with new credit.
        self._meter = RateMeter(
            settings.min_payload_rate, "the subrequests' payloads came", SERVER_FIRST_SECONDS
        )
        self._threads = Capacity.of(settings).signing_threads
        self._places = threading.BoundedSemaphore(PLACES_A_THREAD * self._threads)
        self._large_places = threading.BoundedSemaphore(LARGE_AT_ONCE)
        self._lock = threading.Lock()
        self._answered = 0
        #: The fields of the failures that are told last.
        self._kept: list[dict[str, bytes]] = []
        self._failure: Exception | None = None

    def run(self, chunked: ChunkedStream) -> None:
        """Serve subrequests until the client ends them and all are answered.

        Raises `ProtocolError` or `TransportError` where the stream is broken.
        """
        count = total = 0
        with ThreadPoolExecutor(self._threads, "sign-rpms") as pool:
            try:
                while True:
                    self._places.acquire()
                    self._check()
                    received = self._receive(chunked, self._subrequests.numbered(count), total)
                    if received is None:
                        break
                    count += 1
                    if isinstance(received, Subrequest):
                        total += received.payload.seek(0, os.SEEK_END)
                        received.payload.seek(0)
                    context = contextvars.copy_context()
                    pool.submit(context.run, self._serve, chunked, received)
                    # It may hold a file: kept by the thread that works on it alone.
                    del received
            except BaseException as error:
                # No answer may follow; whoever is about to send one is stopped, too.
                self._fail(chunked, error)
                raise
        self._check()
        self._tell_kept(chunked)
        tell(log, ServerLog.RPMS_ANSWERED, count=self._answered)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, chunked: ChunkedStream, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error if isinstance(error, Exception) else SigulError(str(error))
        chunked.stream.abort()

    # -------------------------------------------------------------------------------- receiving

    def _receive(
        self, chunked: ChunkedStream, keys: ReplyKeys, total: int
    ) -> Subrequest | RefusedSubrequest | None:
        """The next subrequest; None at the end. `total` bytes of RPMs have been taken before."""
        header = chunked.parse_unless_ended(read_sub_header())
        if header is None:
            return None
        # The `id` must be trusted, so this is no matter of one RPM.
        header.verify(keys)
        fault = fault_of_subrequest(header.fields)
        length = chunked.parse(self._version.read_length())
        if length > self._operation.max_subpayload:
            raise RemoteProtocolError(f"a subrequest's payload of {length} bytes is over the limit")
        refusal = (
            self._over_limit(length, total) if fault is None else RequestRefused.because(fault)
        )
        is_large = length > self._settings.max_memory_payload_size
        if is_large and refusal is None:
            self._large_places.acquire()
            self._check()
        pieces = receive_pieces(chunked, length, "the subrequest", self._meter)
        if refusal is not None:
            for _ in pieces:
                pass
            chunked.read_exactly(DIGEST_BYTES)
            return RefusedSubrequest(header.fields, refusal)
        mac = new_hmac(keys.payload)
        spool = Spool(
            length,
            in_memory_limit=self._settings.max_memory_payload_size,
            directory=self._settings.spool_directory,
            account=self._account,
        )
        with contextlib.ExitStack() as unless_kept:
            unless_kept.enter_context(spool.file)
            for piece in pieces:
                mac.update(piece)
                spool.write(piece)
            spool.finish()
            authenticated = hmac.compare_digest(mac.digest(), chunked.read_exactly(DIGEST_BYTES))
            if spool.failure is not None:
                return RefusedSubrequest(header.fields, spool.failure, spool.content, is_large)
            unless_kept.pop_all()
        return Subrequest(
            header.fields, spool.file, authenticated, spool.content, is_large=is_large
        )

    def _over_limit(self, length: int, total: int) -> RequestRefused | None:
        for setting, limit, size in (
            ("max-file-payload-size", self._settings.max_file_payload_size, length),
            ("max-rpms-payloads-size", self._settings.max_rpms_payloads_size, total + length),
        ):
            if limit is not None and size > limit:
                return RequestRefused(
                    Status.UNKNOWN_ERROR,
                    f"with its {length} bytes it is over the server's {setting} of {limit} bytes",
                )
        return None

    # -------------------------------------------------------------------------------- answering

    def _serve(self, chunked: ChunkedStream, received: Subrequest | RefusedSubrequest) -> None:
        """Sign one RPM and answer; in a thread of the pool. Never raises."""
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(self._places.release)
            if received.is_large:
                cleanup.callback(self._large_places.release)
            try:
                if isinstance(received, Subrequest):
                    cleanup.enter_context(received.payload)
                if self._failure is None:
                    self._answer(chunked, received)
            except Exception as error:  # noqa: BLE001 - raised by the reading thread
                self._fail(chunked, error)

    def _answer(self, chunked: ChunkedStream, received: Subrequest | RefusedSubrequest) -> None:
        name = f"RPM {received.fields['id'].hex()}"
        try:
            if isinstance(received, RefusedSubrequest):
                raise received.reason
            signed = self._sign(received)
            # One that cannot be sent in this version of the protocol is a failure.
            self._version.encode_length(signed.seek(0, os.SEEK_END))
            proof = self._ledger.done(received, signed)
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs this RPM alone
            refused = refusal_of(error, name, proven=True)
            self._ledger.refused(received, refused, error)
            self._fail_one(chunked, received.fields["id"], refused)
            return
        with signed, self._lock:
            fields = {"id": received.fields["id"], "status": pack_u32(Status.OK), **proof}
            self._send(chunked, fields, signed)
        tell(log, ServerLog.RPM_SIGNED, rpm=name)

    def _fail_one(self, chunked: ChunkedStream, number: bytes, refused: RequestRefused) -> None:
        """Keep a failure, or tell all at once where no more is to be signed, or there are many."""
        with self._lock:
            self._kept.append(
                {"id": number, "status": pack_u32(refused.status), **message_field(refused)}
            )
            waits = refused.status != Status.AUTHENTICATION_FAILED and not self._is_ending()
            if waits and len(self._kept) < MAX_KEPT_FAILURES:
                return
            self._tell_kept(chunked)

    def _tell_kept(self, chunked: ChunkedStream) -> None:
        for fields in self._kept:
            self._send(chunked, fields, io.BytesIO())
        self._kept.clear()

    def _send(self, chunked: ChunkedStream, fields: Mapping[str, bytes], payload: BinaryIO) -> None:
        """Send a subreply; for whoever holds the lock, or is alone."""
        keys = self._subreplies.numbered(self._answered)
        self._answered += 1
        chunked.write(encode_sub_header(fields, keys))
        send_payload(chunked, payload, keys.payload, self._version)
