"""OpenPGP as text: armour, and the framework of clear-signed text (RFC 9580, 6 and 7).

    armour = -----BEGIN PGP TITLE-----, headers, empty line, Base64 in lines, "=" and CRC-24, END
    clear  = -----BEGIN PGP SIGNED MESSAGE-----, "Hash: NAME", empty line, text, armoured signature

Of a text that is clear-signed the lines are hashed without blanks at their ends, with CR LF between
them; it is written as it is, with "- " before a line that begins with "-" or "From ". That is what
gpg does, byte for byte.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from hashlib import _Hash

#: Most bytes of a line that can be clear-signed, its end not counted: what gpg takes, and leaves
#: off the rest of longer ones.
MAX_LINE: Final = 19_993

_LINE: Final = 48  # bytes in a line of Base64: 64 characters
_CRC_START, _CRC_POLYNOMIAL = 0xB704CE, 0x1864CFB
#: What is not hashed at a line's end. RFC 9580 does not have the zero byte there, but gpg has, both
#: where it signs and where it verifies.
_BLANKS: Final = b" \t\r\n\0"


class LineTooLong(ValueError):
    """A line of the text is longer than `MAX_LINE`."""


def armored(title: str, data: bytes, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """The text form of `data`, a "SIGNATURE" or the like, with headers as ("Comment", text)."""
    lines = [f"-----BEGIN PGP {title}-----".encode()]
    lines += [f"{name}: {value}".encode() for name, value in headers]
    lines.append(b"")
    lines += [base64.b64encode(data[at : at + _LINE]) for at in range(0, len(data), _LINE)]
    lines.append(b"=" + base64.b64encode(_crc24(data).to_bytes(3, "big")))
    lines.append(f"-----END PGP {title}-----\n".encode())
    return b"\n".join(lines)


def _crc24(data: bytes) -> int:
    crc = _CRC_START
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= _CRC_POLYNOMIAL
    return crc


class ClearText:
    """Text that is being clear-signed: written with `write` as it comes, and hashed in `state`.

    `hash_name` is that of the hash in the header, as "SHA512"; with `escape_from` lines that begin
    like the head of a mail are escaped, too.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        state: _Hash,
        hash_name: str,
        *,
        escape_from: bool = True,
    ) -> None:
        self._write = write
        self._state = state
        self._escaped = (b"-", b"From ") if escape_from else (b"-",)
        #: The bytes of a line whose end has not come yet.
        self._rest = b""
        #: The last line has ended, so that one more may follow it.
        self._ended = False
        write(f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: {hash_name}\n\n".encode())

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the text. Raises `LineTooLong`."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if lines:
            self._take([line + b"\n" for line in lines])
        _check_length(self._rest)

    def finish(self) -> None:
        """End the text, with a line end where it has none; the signature is to follow."""
        if self._rest:
            self._take([self._rest])
        if not self._ended:
            self._write(b"\n")

    def _take(self, lines: list[bytes]) -> None:
        hashed, written = [], []
        for line in lines:
            _check_length(line)
            if self._ended:
                hashed.append(b"\r\n")
            hashed.append(line.rstrip(_BLANKS))
            self._ended = line.endswith(b"\n")
            written.append(b"- " + line if line.startswith(self._escaped) else line)
        self._state.update(b"".join(hashed))
        self._write(b"".join(written))


def _check_length(line: bytes) -> None:
    if len(line.rstrip(b"\n")) > MAX_LINE:
        raise LineTooLong
