"""Words by which this project's peers know each other, so that old ones never notice.

Layouts (docs/protocol.md, "How our own peers know each other"):

    field `knows`   words of `a-z`, `0-9` and `-`, separated by commas; inner field of a request,
                    field of the OK reply to one that had it, and of a trailer
    trailer         one field map, between a reply's last code and the end of the outer stream

The server's reply to a client is under its HMAC; a trailer is the bridge's, under the outer TLS
session alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from ..errors import LocalProtocolError, RemoteProtocolError
from .codec import Fields, Parser, encode_fields, read_fields

#: The field, of all three: a request's inner fields, a reply, a trailer.
KNOWS: Final = "knows"
#: Takes notes in replies, or has them (docs/protocol.md, "Notes").
NOTES: Final = "notes"
#: Takes evidence of the signing log in replies, or has one (docs/protocol.md, "The signing log").
LOG: Final = "log"
#: Tells a client that listens why it is refused (docs/protocol.md, "What a bridge says by itself").
REASONS: Final = "reasons"

#: The words of this project's peers.
CLIENT_WORDS: Final = frozenset({NOTES, LOG})
SERVER_WORDS: Final = frozenset({NOTES, LOG})
BRIDGE_WORDS: Final = frozenset({REASONS})

#: Largest trailer that a client reads, in bytes.
MAX_TRAILER_BYTES: Final = 4096
_MAX_VALUE_BYTES: Final = 255
_WORD: Final = re.compile(rb"[a-z0-9-]+")


def encode_words(words: Iterable[str]) -> bytes:
    """The value of a field `knows`. Raises `LocalProtocolError` where it would be too long."""
    value = ",".join(sorted(words)).encode("ascii")
    if len(value) > _MAX_VALUE_BYTES:
        raise LocalProtocolError(f"words of {len(value)} bytes do not fit a field")
    return value


def words_in(fields: Mapping[str, bytes]) -> frozenset[str] | None:
    """The words of field `knows`; None where it is absent. What is no word is passed over."""
    value = fields.get(KNOWS)
    if value is None:
        return None
    return frozenset(word.decode() for word in value.split(b",") if _WORD.fullmatch(word))


def encode_trailer() -> bytes:
    """The trailer of this project's bridge, behind the reply to a client that knows trailers."""
    return encode_fields({KNOWS: encode_words(BRIDGE_WORDS)})


def read_trailer() -> Parser[Fields]:
    """Parse a bridge's trailer. Raises `ProtocolError`, also for one that is too large."""
    parser, left = read_fields(), MAX_TRAILER_BYTES
    try:
        wanted = next(parser)
        while True:
            left -= wanted
            if left < 0:
                raise RemoteProtocolError(
                    f"the bridge's trailer has more than {MAX_TRAILER_BYTES} bytes"
                )
            wanted = parser.send((yield wanted))
    except StopIteration as end:
        found: Fields = end.value
        return found
