"""SHA-512 hashes and HMACs, which authenticate headers and payloads (docs/protocol.md)."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, Protocol

from ..errors import RemoteProtocolError

#: Bytes of a SHA-512 hash and of an HMAC-SHA-512.
DIGEST_BYTES: Final = 64

#: What stands in the place of an HMAC where nobody has a key: in what a bridge says by itself.
UNAUTHENTICATED_MAC: Final = bytes(DIGEST_BYTES)


class Digest(Protocol):
    """A hash or MAC that is being made, as `hashlib` and `hmac` have them."""

    def update(self, data: bytes, /) -> None:
        """Add a piece of what it is of."""

    def digest(self) -> bytes:
        """The hash or MAC of all pieces."""


def new_hmac(key: bytes) -> hmac.HMAC:
    """An HMAC-SHA-512 under `key`, to be updated with what it authenticates."""
    return hmac.new(key, digestmod=hashlib.sha512)


def check_digest(expected: bytes, received: bytes, what: str) -> None:
    """Compare two digests in constant time.

    Raises `RemoteProtocolError` naming `what` where they differ: the same text for all.
    """
    if not hmac.compare_digest(expected, received):
        raise RemoteProtocolError(
            f"{what} does not match its authentication code: the connection was tampered with or is"
            " damaged"
        )
