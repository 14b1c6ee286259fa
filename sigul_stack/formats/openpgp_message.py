"""Encrypted OpenPGP messages (RFC 9580, 10.3.3).

message = session key encrypted to a key or with a passphrase …, data encrypted with it
"""

from __future__ import annotations

from typing import Final

from .openpgp_keys import dearmored
from .openpgp_packets import Buffer, MalformedPacket, PacketType, split_packet

#: Most packets before the encrypted data that are looked through.
MAX_SESSION_KEYS: Final = 1_000

_MARKER: Final = 10  # "PGP", to be ignored (RFC 9580, 5.8)


def without_passphrases(message: bytes) -> bytes:
    """A message, armoured or not, without the session keys that passphrases open; not armoured.

    Raises `MalformedPacket`.
    """
    kept: list[Buffer] = []
    rest: Buffer = memoryview(dearmored(message, b"MESSAGE"))
    for _ in range(MAX_SESSION_KEYS):
        kind, _body, after = split_packet(rest)
        if kind not in (PacketType.TO_KEY, PacketType.SESSION_KEY, _MARKER):
            return b"".join([*kept, rest])
        if kind != PacketType.SESSION_KEY:
            kept.append(rest[: len(rest) - len(after)])
        rest = after
    raise MalformedPacket(f"it has more than {MAX_SESSION_KEYS} session keys")
