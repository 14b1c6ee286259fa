"""Decompression that neither size nor memory nor time can be blown up by."""

from __future__ import annotations

import bz2
import lzma
import time
import zlib
from collections.abc import Callable
from typing import Final, Protocol

from .contents import BundleError

#: Most bytes of a tar archive.
MAX_TAR: Final = 64 << 20
#: Memory for xz in bytes: a dictionary of 128 MiB, and what the decoder needs besides.
_XZ_MEMORY: Final = (128 + 1) << 20
#: Seconds for all of it.
_SECONDS: Final = 60.0
_STEP: Final = 1 << 20


class _Decompressor(Protocol):
    """A decompressor of one stream, as those of `lzma` and `bz2` are."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib's decompressor with the methods of the others."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


#: What a stream begins with, and what reads it.
_FORMATS: Final[tuple[tuple[bytes, Callable[[], _Decompressor]], ...]] = (
    (b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)),
    (b"\x1f\x8b", _Gzip),
    (b"BZh", bz2.BZ2Decompressor),
)


def decompressed(data: bytes, clock: Callable[[], float] = time.monotonic) -> bytes:
    """The content of xz, gzip or bzip2; `data` itself where it is none of these.

    Streams may follow each other, and zero bytes them. Raises `BundleError`.
    """
    make = next((make for begin, make in _FORMATS if data.startswith(begin)), None)
    if make is None:
        return _limited(data)
    deadline = clock() + _SECONDS
    found = bytearray()
    try:
        while data:
            stream, given = make(), data
            while not stream.eof:
                if given == b"" and stream.needs_input:
                    raise BundleError("the bundle's archive is cut short", "make it again")
                found += stream.decompress(given, min(_STEP, MAX_TAR + 1 - len(found)))
                given = b""
                _limited(found)
                if clock() > deadline:
                    raise BundleError(
                        f"the bundle's archive is not decompressed within {_SECONDS:g} s",
                        "make a smaller one",
                    )
            data = stream.unused_data.lstrip(b"\0")
    except (lzma.LZMAError, zlib.error, OSError, EOFError, ValueError) as error:
        # The texts are the libraries' own: "Memory usage limit exceeded".
        raise BundleError(
            f"the bundle's archive cannot be decompressed: {error}", "make it with xz -6 or gzip"
        ) from None
    return bytes(found)


def _limited(data: bytes | bytearray) -> bytes:
    if len(data) > MAX_TAR:
        raise BundleError(
            f"the bundle's archive has more than {MAX_TAR >> 20} MiB",
            "put nothing but .sigul/ into it",
        )
    return data if isinstance(data, bytes) else b""
