"""The time that each use of a private key in an NSS database takes, and whether it need to.

NSS encrypts each secret number of a key (six of an RSA key, one of an EC key) with a key of its
own, which it derives from the password whenever the number is read, with as many rounds of PBKDF2
as stand beside it in `key4.db`, table `nssPrivate` (PKCS#5, RFC 8018, appendix A):

    PBES2-params = … { pkcs5PBKDF2, { OCTET STRING salt, INTEGER rounds, … } } …

Rounds slow down who has the file and tries passwords: they are worth their time where a person has
chosen the password. A random one of 128 bits and more is not found in the life of the sun with one
round as with 10,000, so that rounds add nothing to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sqlite3
import string
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..secret import Secret

#: A database that takes longer is slow, in seconds: a request uses such a key four times.
SLOW_SECONDS: Final = 0.01

#: pkcs5PBKDF2 in DER, then a SEQUENCE that begins with an OCTET STRING, each of a short length.
_PBKDF2: Final = re.compile(rb"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0c\x30.\x04(.)", re.DOTALL)
#: Rounds by which this machine's speed is measured, some 10 ms.
_MEASURED_ROUNDS: Final = 10_000

_SHORTEST, _SHORTEST_OF_TWO_CLASSES = 22, 32
_LEAST_DIFFERENT, _LEAST_DIFFERENT_DIGITS = 12, 8
_HEXADECIMAL: Final = re.compile(rb"[0-9a-f]{32,}|[0-9A-F]{32,}")
_CLASSES: Final = tuple(
    frozenset(letters.encode())
    for letters in (string.ascii_lowercase, string.ascii_uppercase, string.digits)
)


@dataclass(frozen=True, slots=True)
class KeyCost:
    """The cost of one use of a database's dearest private key, as it is protected.

    `rounds` is the most for one of its numbers; `seconds` are for all of them, by this machine's
    speed.
    """

    rounds: int
    seconds: float

    @property
    def is_slow(self) -> bool:
        """Whether it is worth the while to do something about it."""
        return self.seconds > SLOW_SECONDS

    @property
    def text(self) -> str:
        """The cost in words."""
        return f"{self.seconds * 1000:.0f} ms a use ({self.rounds} rounds of key derivation)"


def key_cost(directory: Path) -> KeyCost:
    """The cost of the private keys in the `sql:` database in `directory`, without its password.

    No cost where there is no key, or none can be read.
    """
    rounds: list[list[int]] = []
    with (
        contextlib.suppress(sqlite3.Error, OSError),
        contextlib.closing(
            sqlite3.connect(f"{(directory / 'key4.db').absolute().as_uri()}?mode=ro", uri=True)
        ) as database,
    ):
        rounds += [
            _rounds(b"".join(value for value in row if isinstance(value, bytes)))
            for row in database.execute("SELECT * FROM nssPrivate")
        ]
    dearest = max(rounds, key=sum, default=[])
    total = sum(dearest)
    return KeyCost(max(dearest, default=0), total * _seconds_a_round() if total else 0.0)


def _rounds(row: bytes) -> list[int]:
    """The rounds of each encrypted number in a row of the table."""
    found = []
    for match in _PBKDF2.finditer(row):
        at = match.end() + match[1][0]
        if row[at : at + 1] == b"\x02":
            found.append(int.from_bytes(row[at + 2 : at + 2 + row[at + 1]], "big"))
    return found


def _seconds_a_round() -> float:
    began = time.perf_counter()
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", _MEASURED_ROUNDS)
    return (time.perf_counter() - began) / _MEASURED_ROUNDS


def looks_random(password: Secret | None) -> bool:
    """Whether a password looks like one that a program has drawn, of 128 bits or more.

    That is 32 hexadecimal digits, eight of them different; or 22 characters without blanks, twelve
    of them different, with letters of both cases and digits; of 32 characters two of the three
    will do.
    """
    if password is None:
        return False
    value = password.reveal()
    if _HEXADECIMAL.fullmatch(value):
        return len(set(value)) >= _LEAST_DIFFERENT_DIGITS
    classes = sum(not letters.isdisjoint(value) for letters in _CLASSES)
    enough = len(value) >= _SHORTEST and classes == len(_CLASSES)
    enough = enough or (len(value) >= _SHORTEST_OF_TWO_CLASSES and classes == len(_CLASSES) - 1)
    return enough and len(set(value)) >= _LEAST_DIFFERENT and not value.split()[1:]
