"""The journal's own protocol, as far as we speak it: each value with its length.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
"""

from __future__ import annotations

import re
import struct


def fields_of(data: bytes) -> dict[str, bytes]:
    """The fields of a datagram. Anything else in it is a failure."""
    found: dict[str, bytes] = {}
    while data:
        name, _, rest = data.partition(b"\n")
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]{0,63}", name), name
        assert len(rest) > 8, name
        (length,) = struct.unpack("<Q", rest[:8])
        value, end, data = rest[8 : 8 + length], rest[8 + length : 9 + length], rest[9 + length :]
        assert len(value) == length
        assert end == b"\n"
        assert name.decode() not in found
        found[name.decode()] = value
    return found
