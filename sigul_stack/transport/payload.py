"""Payloads on the outer stream: sent and received piece by piece, with a hash or MAC on the way.

    length │ payload, in chunks │ HMAC-SHA-512 of it (64 bytes; not of a request's)

No payload is held in memory or read twice (docs/protocol.md, "A request").
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Final

from ..errors import DeadlineExceeded, PeerClosed, RemoteProtocolError, SigulError
from ..protocol.authentication import DIGEST_BYTES, Digest, check_digest, new_hmac
from ..protocol.chunks import MAX_WRITTEN_CHUNK
from ..protocol.codec import U32_BYTES, Widths
from .chunked import ChunkedStream
from .rate import RateMeter
from .stream import Deadline

#: Largest piece of a payload that is sent, in bytes. With its chunk's head it fills whole TLS
#: records: four bytes more would cost a record of their own, here and at each peer that reads it.
PIECE_BYTES: Final = MAX_WRITTEN_CHUNK - U32_BYTES
#: What to do about an input that somebody writes to.
_AGAIN: Final = "nothing was signed: try again once nobody writes to it, or give a copy"


def payload_pieces(source: BinaryIO, length: int) -> Iterator[bytes]:
    """The next `length` bytes of a file, in pieces that fit into a chunk.

    Raises `SigulError` where the file ends before, or does not end there, or cannot be read.
    """
    left = length
    while left:
        piece = _read(source, min(left, PIECE_BYTES))
        if not piece:
            raise SigulError("the input file became shorter while it was being sent", _AGAIN)
        yield piece
        left -= len(piece)
    if _read(source, 1):
        raise SigulError("the input file grew while it was being sent", _AGAIN)


def _read(source: BinaryIO, count: int) -> bytes:
    try:
        return source.read(count)
    except OSError as error:
        # Not the caller's `OSError`: who writes an output meanwhile would take it for its own.
        name = getattr(source, "name", None)
        what = f"'{name}'" if isinstance(name, str) else "the input"
        raise SigulError(
            f"{what} cannot be read to its end: {error.strerror}", "name a file that can be"
        ) from error


def send_pieces(chunked: ChunkedStream, pieces: Iterable[bytes], digest: Digest) -> None:
    """Send a payload, and add it to `digest`."""
    for piece in pieces:
        digest.update(piece)
        chunked.write(piece)


def send_payload(chunked: ChunkedStream, payload: BinaryIO, key: bytes, widths: Widths) -> None:
    """Send a payload's length, all of the seekable file, and their HMAC under `key`."""
    length = payload.seek(0, os.SEEK_END)
    payload.seek(0)
    chunked.write(widths.encode_length(length))
    mac = new_hmac(key)
    send_pieces(chunked, payload_pieces(payload, length), mac)
    chunked.write(mac.digest())


def receive_pieces(
    chunked: ChunkedStream, length: int, message: str, meter: RateMeter | None = None
) -> Iterator[bytes]:
    """A payload of `length` bytes as it comes; `message` ("the request") is for errors.

    Raises `TooSlow` where it comes slower than `meter` allows; `PeerClosed` where it ends too
    early.
    """
    left = length
    while left:
        piece = chunked.read(left) if meter is None else _read_metered(chunked, left, meter)
        if not piece:
            raise PeerClosed(f"{message} ended {left} bytes before its payload did")
        yield piece
        left -= len(piece)


def _read_metered(chunked: ChunkedStream, left: int, meter: RateMeter) -> bytes:
    limit = min(meter.limit(), chunked.timeout)
    begin = time.monotonic()
    try:
        piece = chunked.read(left, Deadline(limit, "waiting for more of a payload"))
    except DeadlineExceeded:
        if limit == chunked.timeout:
            raise
        raise meter.exceeded() from None
    meter.waited(time.monotonic() - begin, len(piece))
    return piece


class AuthenticatedPayload:
    """A payload that is being received, with its HMAC under `key`, of "the reply" or the like."""

    def __init__(self, chunked: ChunkedStream, key: bytes, message: str, widths: Widths) -> None:
        self._chunked = chunked
        self._message = message
        #: All of it, in bytes.
        self.length = chunked.parse(widths.read_length())
        self._mac = new_hmac(key)
        self._pieces = receive_pieces(chunked, self.length, message)
        #: True once all of it, its MAC included, has been read; and once the MAC was right.
        self.finished = self.verified = False

    def copy(self, write: Callable[[bytes], object]) -> None:
        """Give all of it, or what is left where `write` raised, to `write`, and check the HMAC.

        Raises `RemoteProtocolError`, and what `receive_pieces` raises.
        """
        for piece in self._pieces:
            self._mac.update(piece)
            write(piece)
        received = self._chunked.read_exactly(DIGEST_BYTES)
        self.finished = True
        check_digest(self._mac.digest(), received, f"{self._message}'s payload")
        self.verified = True

    def skip_dropped(self) -> None:
        """Read past a payload that the bridge has dropped: its MAC is of what is not there.

        Raises `RemoteProtocolError` where there is one.
        """
        if self.length:
            raise RemoteProtocolError("a payload came where none was to come back")
        self._chunked.read_exactly(DIGEST_BYTES)
        self.finished = True
