"""Hashes of OpenPGP signatures: their numbers (RFC 9580, 9.5), and what computes them.

An algorithm's `name` is `hashlib`'s, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives import hashes

#: Those that signatures are made with, by their numbers: not those that are broken.
HASHES: Final[Mapping[int, hashes.HashAlgorithm]] = MappingProxyType(
    {8: hashes.SHA256(), 9: hashes.SHA384(), 10: hashes.SHA512(), 11: hashes.SHA224()}
)
#: Their numbers, by their names.
NUMBERS: Final[Mapping[str, int]] = MappingProxyType(
    {known.name: number for number, known in HASHES.items()}
)
#: Those of self-signatures that count, by their numbers. gpg takes SHA-1 there, too: where it is
#: broken is a signature over what another chose, and these are over the key's own.
SELF_SIGNATURE_HASHES: Final[Mapping[int, hashes.HashAlgorithm]] = MappingProxyType(
    {2: hashes.SHA1(), **HASHES}  # noqa: S303
)
