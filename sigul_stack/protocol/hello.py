"""A request's id: the first 8 bytes of the random in the inner session's ClientHello.

Client, bridge and server see that message in the clear, whatever version their peers are, so all
three write the same id into their logs. Layout of what is looked at (RFC 8446, 4.1.2 and 5.1; the
same in TLS 1.2, RFC 5246, 6.2.1 and 7.4.1.2):

    record      type = 22 (1 byte), version (2), length (2)
    handshake   type = 1 (1 byte), length (3)
    ClientHello version (2), random (32)

The client chooses it: it tells lines apart, and is never a key to anything.
"""

from __future__ import annotations

import re
from typing import Final

#: Bytes of the random that are the id.
ID_BYTES: Final = 8
_RECORD_HEADER: Final = 5
_BEFORE_RANDOM: Final = _RECORD_HEADER + 4 + 2
#: Bytes that have to be there, from the first of the stream.
_NEEDED: Final = _BEFORE_RANDOM + ID_BYTES
_HANDSHAKE_RECORD: Final = 22
_CLIENT_HELLO: Final = 1

_ID: Final = re.compile(rf"[0-9a-f]{{{2 * ID_BYTES}}}")


def is_request_id(text: str) -> bool:
    """Whether `text` is an id as `HelloWatch` gives it."""
    return _ID.fullmatch(text) is not None


class HelloWatch:
    """Looks for the id in what a client sends in an inner session; it changes and keeps nothing."""

    def __init__(self) -> None:
        self._head: bytearray | None = bytearray()

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come of it: the id was found, or there is none."""
        return self._head is None

    def feed(self, data: bytes) -> str | None:
        """The id, 16 hex digits, once: when the bytes that hold it are whole.

        Never again, and not at all where the stream does not begin with a ClientHello.
        """
        if self._head is None:
            return None
        self._head += data[: _NEEDED - len(self._head)]
        if len(self._head) < _NEEDED:
            return None
        head, self._head = self._head, None
        length = int.from_bytes(head[3:5], "big")
        begins = head[0] == _HANDSHAKE_RECORD and head[_RECORD_HEADER] == _CLIENT_HELLO
        if not begins or length < _NEEDED - _RECORD_HEADER:
            return None
        return head[_BEFORE_RANDOM:].hex()
