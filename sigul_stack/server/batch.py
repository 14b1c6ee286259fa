"""`sign-rpms`: subrequests are read, signed several at a time and answered as they finish.

One thread reads, `signing-threads` sign and answer. What is held at once is limited: the next RPM
is read only when one of a few places is free, so that neither memory nor disk grows with the
number of RPMs. What is wrong with one RPM costs that RPM; what is wrong with the stream ends it.
No thread forks Python: the programs that sign are started by `subprocess`, which executes at once.
"""

from __future__ import annotations

import contextvars
import hmac
import logging
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, Final

from ..config.server import ServerSettings
from ..errors import PeerClosed, RemoteProtocolError, RequestRefused, SigulError, Status
from ..protocol.chunks import MAX_WRITTEN_CHUNK
from ..protocol.codec import Fields, pack_u64, read_u64
from ..protocol.messages import (
    DIGEST_BYTES,
    ChainKeys,
    ReplyKeys,
    cut_message,
    encode_sub_header,
    new_hmac,
    read_sub_header,
)
from ..protocol.operations import Operation, fault_of_subrequest
from ..transport.chunked import ChunkedStream
from ..transport.stream import Deadline
from .request import MIN_PAYLOAD_RATE
from .spool import Spool

log = logging.getLogger(__name__)

#: RPMs that lie here at once, for each signing thread: one is signed while the next one comes.
PLACES_A_THREAD: Final = 2


@dataclass(frozen=True, slots=True)
class Subrequest:
    """An RPM to sign, which has come completely. `refusal` is set where it cannot be signed.

    `authenticated` tells whether its code was right.
    """

    fields: Fields
    payload: BinaryIO
    authenticated: bool
    refusal: RequestRefused | None

    @property
    def name(self) -> str:
        """The client's own `id`, for logs."""
        return self.fields["id"].hex()


#: Signs one RPM into a new file, in several threads. Raises `RequestRefused`, `SigulError`.
Sign = Callable[[Subrequest], BinaryIO]


class Batch:
    """The subrequests of one request, and their answers."""

    def __init__(
        self,
        settings: ServerSettings,
        operation: Operation,
        *,
        subrequests: ChainKeys,
        subreplies: ChainKeys,
        sign: Sign,
    ) -> None:
        self._settings = settings
        self._operation = operation
        self._subrequests = subrequests
        self._subreplies = subreplies
        self._sign = sign
        self._places = threading.BoundedSemaphore(PLACES_A_THREAD * settings.signing_threads)
        self._lock = threading.Lock()
        self._answered = 0
        self._failure: Exception | None = None

    def run(self, chunked: ChunkedStream) -> None:
        """Serve subrequests until the client ends them and all are answered.

        Raises `ProtocolError` or `TransportError` where the stream is broken.
        """
        count = total = 0
        with ThreadPoolExecutor(self._settings.signing_threads, "sign-rpms") as pool:
            try:
                while True:
                    self._places.acquire()
                    self._check()
                    received = self._receive(chunked, self._subrequests.numbered(count), total)
                    if received is None:
                        break
                    subrequest, length = received
                    count, total = count + 1, total + length
                    context = contextvars.copy_context()
                    pool.submit(context.run, self._serve, chunked, subrequest)
                    # It may hold a file: kept by the thread that works on it alone.
                    del received, subrequest
            except BaseException as error:
                # No answer may follow; whoever is about to send one is stopped, too.
                self._fail(chunked, error)
                raise
        self._check()
        log.info("%d RPMs answered", self._answered)

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
    ) -> tuple[Subrequest, int] | None:
        """The next subrequest and its payload's length as far as it counts; None at the end."""
        header = chunked.parse_unless_ended(read_sub_header())
        if header is None:
            return None
        # The `id` must be trusted, so this is no matter of one RPM.
        header.verify(keys)
        fault = fault_of_subrequest(header.fields)
        length = chunked.parse(read_u64())
        if length > self._operation.max_subpayload:
            raise RemoteProtocolError(f"a subrequest's payload of {length} bytes is over the limit")
        refusal = (
            self._over_limit(length, total)
            if fault is None
            else RequestRefused(Status.UNKNOWN_ERROR, str(fault))
        )
        spool = Spool(
            0 if refusal else length,
            in_memory_limit=self._settings.max_memory_payload_size,
            directory=self._settings.spool_directory,
        )
        try:
            authenticated = self._receive_payload(chunked, spool, length, keys, refusal is None)
        except BaseException:
            spool.file.close()
            raise
        if spool.failure is not None and refusal is None:
            refusal = RequestRefused(Status.UNKNOWN_ERROR, spool.failure)
        counted = 0 if refusal else length
        return Subrequest(header.fields, spool.file, authenticated, refusal), counted

    def _receive_payload(
        self, chunked: ChunkedStream, spool: Spool, length: int, keys: ReplyKeys, keep: bool
    ) -> bool:
        """Read an RPM into the spool, or past it; whether its code is right."""
        code = new_hmac(keys.payload)
        deadline = Deadline(
            self._settings.idle_timeout + length / MIN_PAYLOAD_RATE,
            f"receiving an RPM of {length} bytes",
        )
        left = length
        while left:
            deadline.remaining()
            piece = chunked.read(left)
            if not piece:
                raise PeerClosed(f"the request ended {left} bytes before an RPM did")
            code.update(piece)
            if keep:
                spool.write(piece)
            left -= len(piece)
        spool.finish()
        return hmac.compare_digest(code.digest(), chunked.read_exactly(DIGEST_BYTES))

    def _over_limit(self, length: int, total: int) -> RequestRefused | None:
        settings = self._settings
        if settings.max_file_payload_size is not None and length > settings.max_file_payload_size:
            name, limit = "max-file-payload-size", settings.max_file_payload_size
        elif total + length > settings.max_rpms_payloads_size:
            name, limit = "max-rpms-payloads-size", settings.max_rpms_payloads_size
        else:
            return None
        return RequestRefused(
            Status.UNKNOWN_ERROR,
            f"with its {length} bytes it is over the server's {name} of {limit} bytes",
        )

    # -------------------------------------------------------------------------------- answering

    def _serve(self, chunked: ChunkedStream, subrequest: Subrequest) -> None:
        """Sign one RPM and answer; in a thread of the pool. Never raises."""
        try:
            with subrequest.payload:
                if self._failure is None:
                    self._answer(chunked, subrequest)
        except Exception as error:  # noqa: BLE001 - raised by the reading thread
            self._fail(chunked, error)
        finally:
            self._places.release()

    def _answer(self, chunked: ChunkedStream, subrequest: Subrequest) -> None:
        signed: BinaryIO | None = None
        try:
            if subrequest.refusal is not None:
                raise subrequest.refusal
            signed = self._sign(subrequest)
        except RequestRefused as refused:
            log.info("RPM %s refused: %s", subrequest.name, refused)
            self._send(chunked, subrequest, refused.status, refused.message, None)
            return
        except (SigulError, OSError) as error:
            log.error("RPM %s failed: %s", subrequest.name, error)
            self._send(chunked, subrequest, Status.UNKNOWN_ERROR, None, None)
            return
        except Exception:
            log.exception("RPM %s failed in an unforeseen way", subrequest.name)
            self._send(chunked, subrequest, Status.UNKNOWN_ERROR, None, None)
            return
        with signed:
            self._send(chunked, subrequest, Status.OK, None, signed)
        log.info("RPM %s signed", subrequest.name)

    def _send(
        self,
        chunked: ChunkedStream,
        subrequest: Subrequest,
        status: int,
        message: str | None,
        payload: BinaryIO | None,
    ) -> None:
        fields: Mapping[str, bytes | int] = {"id": subrequest.fields["id"], "status": int(status)}
        if message:
            fields = {**fields, "message": cut_message(message)}
        with self._lock:
            keys = self._subreplies.numbered(self._answered)
            self._answered += 1
            chunked.write(encode_sub_header(fields, keys))
            length = 0 if payload is None else payload.seek(0, os.SEEK_END)
            chunked.write(pack_u64(length))
            code = new_hmac(keys.payload)
            if payload is not None:
                payload.seek(0)
                while piece := payload.read(MAX_WRITTEN_CHUNK):
                    code.update(piece)
                    chunked.write(piece)
            chunked.write(code.digest())
