"""Clear-signed text, as gpg writes and digests it (RFC 9580, 7).

    text = "-----BEGIN PGP SIGNED MESSAGE-----", "Hash: NAME", "", lines, the signature's armour

A line that begins with "-" or "From " has "- " before it. What is digested are the lines as they
were, without the blanks, tabs and CRs at their ends, with CR LF between them: neither the last
line's end nor "- " is digested. A text whose last line has no end gets one. "Line" is what LF ends:
a lone CR is a character as any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..errors import RequestRefused, Status
from .openpgp_signatures import HASHES, Hash

#: The longest line, in bytes without its LF: gpg cuts what is longer, and reads no more of it.
MAX_LINE: Final = 19_993

#: What is no part of a line for the digest, where it stands at the line's end. RFC 9580 does not
#: have the zero byte there, but gpg has, both where it signs and where it verifies.
_TRAILING: Final = b" \t\r\n\0"


class ClearTextWriter:
    """Writes a text, which comes in pieces cut anywhere, as clear text, and digests it.

    `write` gets what is to be written, `state` is a new state of hashlib. After `end`, `state` is
    what a signature of kind `TEXT` is made of; the armoured signature is to be written by who has
    it. Without `escape_from` lines that begin with "From " stay as they are, as with gpg's option
    `no-escape-from-lines`. Holds no more than a piece and a line. Not safe for several threads.
    """

    def __init__(
        self, write: Callable[[bytes], object], state: Hash, *, escape_from: bool = True
    ) -> None:
        self._escaped = (b"-", b"From ") if escape_from else b"-"
        self._write = write
        self._state = state
        self._rest: list[bytes] = []  # of a line that has no end yet
        self._rest_bytes = 0
        self._first = True
        if state.name not in HASHES:
            raise ValueError(f"no digest of OpenPGP: {state.name}")
        write(f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: {state.name.upper()}\n\n".encode())

    def update(self, piece: bytes) -> None:
        """Go on with `piece`. Raises `RequestRefused` for a line that is too long."""
        lines, found, rest = piece.rpartition(b"\n")
        if found:
            self._take(b"".join((*self._rest, lines)).split(b"\n"))
            self._rest, self._rest_bytes = [], 0
        if rest:
            self._rest.append(rest)
            self._rest_bytes += len(rest)
            if self._rest_bytes > MAX_LINE:
                raise _too_long()

    def end(self) -> None:
        """Write and digest what is left: nothing, or a line without an end."""
        if self._rest:
            self._take([b"".join(self._rest)])
        elif self._first:
            self._write(b"\n")
        self._rest = []

    def _take(self, lines: list[bytes]) -> None:
        """Write and digest whole lines, given without their ends."""
        if max(map(len, lines)) > MAX_LINE:
            raise _too_long()
        escaped = [b"- " + line if line.startswith(self._escaped) else line for line in lines]
        self._write(b"\n".join(escaped) + b"\n")
        digested = b"\r\n".join([line.rstrip(_TRAILING) for line in lines])
        self._state.update(digested if self._first else b"\r\n" + digested)
        self._first = False


def _too_long() -> RequestRefused:
    return RequestRefused(
        Status.UNKNOWN_ERROR,
        "a line of the text is too long to be clear-signed; break it up, or use sign-data",
    )
