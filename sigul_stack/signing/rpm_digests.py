"""The digests of a plain RPM package, compared here with what it records (`formats.rpm_plain`).

This takes the place of rpmkeys where it says yes, and there alone: a package of which it does not
know that rpm takes it, or in which anything differs, is left to rpmkeys, which also has the words
for what is wrong. The package is read once, in pieces, whatever its size.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from typing import BinaryIO, Final

from ..errors import KeystoreError
from ..formats.rpm_head import Head
from ..formats.rpm_plain import plain_digests
from ..system.programs import ToolTimeout, ended_with_programs
from ..tools import RAISE_SIGNING_TIMEOUT

#: How much of a package is digested in a second on the slowest machine that is supported, in bytes.
BYTES_PER_SECOND: Final = 10 << 20
_PIECE: Final = 1 << 20


def digests_hold(package: BinaryIO, size: int, head: Head, time_limit: float) -> bool:
    """Whether a package of `size` bytes is plain, and all its digests are those of its content.

    `head` is its head, `time_limit` in seconds; what its size needs comes on top. Raises
    `ToolTimeout` where that is too little, `KeystoreError` where this process is ending.
    """
    recorded = plain_digests(head)
    if recorded is None or recorded.sizes - {size - head.main_offset}:
        return False
    payload = hashlib.sha256()
    md5 = None
    if recorded.md5 is not None:
        md5 = hashlib.md5(head.main.raw, usedforsecurity=False)
    deadline = time.monotonic() + time_limit + size / BYTES_PER_SECOND
    ending = threading.Event()
    left = size - head.length
    package.seek(head.length)
    with ended_with_programs(ending.set):
        while left > 0 and (piece := package.read(min(_PIECE, left))):
            if ending.is_set():
                raise KeystoreError("no RPM is checked any more: this process is ending")
            if time.monotonic() > deadline:
                raise ToolTimeout(
                    "checking the RPM's digests took longer than the server's signing-timeout",
                    RAISE_SIGNING_TIMEOUT,
                )
            payload.update(piece)
            if md5 is not None:
                md5.update(piece)
            left -= len(piece)
    if left or not hmac.compare_digest(payload.digest(), recorded.payload):
        return False
    return md5 is None or hmac.compare_digest(md5.digest(), recorded.md5 or b"")
