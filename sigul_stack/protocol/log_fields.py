"""Inner fields of a request that are about the signing log, and no secrets.

Layouts (docs/protocol.md, "The signing log"):

    `log-seen`    "KEYID SIZE,KEYID SIZE": IDs of logs' keys (8 hexadecimal digits), and the sizes
                  at which the sender last saw those logs
    `file-name`   UTF-8: the last part of the name of the file that the payload is

Both are a peer's word alone. What is none is passed over: neither makes a request fail.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ..errors import printable, shortened

LOG_SEEN: Final = "log-seen"
FILE_NAME: Final = "file-name"

_MAX_VALUE_BYTES: Final = 255
_SEEN: Final = re.compile(rb"([0-9a-f]{8}) (0|[1-9][0-9]{0,18})")


def encode_seen(seen: Mapping[bytes, int]) -> bytes:
    """The value of `log-seen`: sizes of logs by the IDs of their keys (4 bytes).

    The first ones, as many as fit.
    """
    value = b""
    for identity, size in seen.items():
        item = f"{identity.hex()} {size}".encode()
        longer = value + b"," + item if value else item
        if len(longer) > _MAX_VALUE_BYTES:
            break
        value = longer
    return value


def read_seen(fields: Mapping[str, bytes]) -> dict[bytes, int]:
    """Sizes by IDs of keys in the field `log-seen`; empty where it is absent."""
    found = (_SEEN.fullmatch(item) for item in fields.get(LOG_SEEN, b"").split(b","))
    return {bytes.fromhex(item[1].decode()): int(item[2]) for item in found if item is not None}


def encode_file_name(name: str) -> bytes:
    """The value of `file-name` for a file of this name; directories in it are left out."""
    return _base_name(name).encode()


def read_file_name(fields: Mapping[str, bytes]) -> str:
    """The name in the field `file-name`, as one printable line; empty where it is absent."""
    return _base_name(fields.get(FILE_NAME, b"").decode("utf-8", "backslashreplace"))


def _base_name(name: str) -> str:
    return shortened(printable(name.rpartition("/")[2]), _MAX_VALUE_BYTES)
