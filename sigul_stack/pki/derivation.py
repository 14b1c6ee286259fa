"""The key derivation rounds that an NSS database asks for, read from `key4.db` without a password.

Layout: each encrypted attribute of a key (`nssPrivate`), and each entry of `metaData` that protects
one or the password's check, begins with the DER of an AlgorithmIdentifier, whose first INTEGER is
the number of rounds: of PBES2 and PBMAC1 with PBKDF2, and of the older PKCS#12 schemes.

To use a key, NSS derives one after the other the keys of all that protects its attributes. So its
cost is the sum of their rounds, at the speed of this machine's PBKDF2 (measured: NSS 3.87 takes 32
ms where the sum says 34). Reads only, and through SQLite alone: `key4.db` is never copied.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..config.identity import rights_of_owner
from ..errors import NSSError

#: What earlier versions gave databases of random passwords costs 3 ms a use, and is let be.
FEW_ROUNDS: Final = 1000

_BUSY_SECONDS: Final = 5.0
_MEASURED_ROUNDS: Final = 20_000
#: No NSS writes more; a number beyond it is damage.
_MOST_ROUNDS: Final = 100_000_000

_SEQUENCE: Final = 0x30
_INTEGER: Final = 0x02
_KEY_ENTRY = re.compile(r"sig_key_([0-9a-f]+)_[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Derivation:
    """The rounds of key derivation in a database; 0 where there is nothing to derive for."""

    #: Of the entry with the most, among private keys and the check of the password.
    most_rounds: int
    #: All that one use of the dearest private key derives.
    rounds_a_use: int

    @property
    def is_slow(self) -> bool:
        """Tell whether it has more rounds than a random password needs."""
        return self.most_rounds > FEW_ROUNDS

    def milliseconds_a_use(self) -> float:
        """The CPU time that one use of a private key takes here, in ms; takes some ms itself."""
        begun = time.thread_time()
        hashlib.pbkdf2_hmac("sha256", b"speed", b"of this machine", _MEASURED_ROUNDS)
        return self.rounds_a_use * (time.thread_time() - begun) / _MEASURED_ROUNDS * 1000


def read_derivation(directory: Path) -> Derivation:
    """Look at the database in `directory`. Raises `NSSError`."""
    per_key: Counter[int] = Counter()
    most = 0
    try:
        with rights_of_owner(directory), _opened(directory / "key4.db") as database:
            for identity, rounds in _entries(database):
                most = max(most, rounds)
                if identity is not None:
                    per_key[identity] += rounds
    except sqlite3.Error as error:
        raise NSSError(
            f"'{directory / 'key4.db'}' cannot be read ({error})",
            "run this as the owner of the database, or restore it from a backup",
        ) from error
    return Derivation(most, max(per_key.values(), default=0))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    # As a URI, so that nothing is made where nothing is.
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, timeout=_BUSY_SECONDS, uri=True)) as database:
        yield database


def _entries(database: sqlite3.Connection) -> Iterator[tuple[int | None, int]]:
    """The key that each entry belongs to (None: the password's check), and its rounds."""
    keys = set()
    for identity, *attributes in database.execute("SELECT * FROM nssPrivate"):
        keys.add(identity)
        for value in attributes:
            if isinstance(value, bytes) and (rounds := rounds_of(value)) is not None:
                yield identity, rounds
    for name, first, second in database.execute("SELECT id, item1, item2 FROM metaData"):
        if name == "password" and isinstance(second, bytes):
            yield None, rounds_of(second) or 0
        # NSS leaves the entries of keys that were deleted.
        elif (
            (match := _KEY_ENTRY.fullmatch(str(name)))
            and (identity := int(match[1], 16)) in keys
            and isinstance(first, bytes)
        ):
            yield identity, rounds_of(first) or 0


def rounds_of(value: bytes) -> int | None:
    """The rounds that an encrypted value or a signature asks for; None where it is neither."""
    outer = next(_items(value), None)
    if outer is None or outer[0] != _SEQUENCE or outer[2] != len(value):
        return None
    inner = list(_items(outer[1]))
    if len(inner) != 2 or inner[0][0] != _SEQUENCE:
        return None
    return _first_integer(inner[0][1], depth=4)


def _first_integer(content: bytes, depth: int) -> int | None:
    for tag, inside, _ in _items(content):
        if tag == _INTEGER:
            rounds = int.from_bytes(inside)
            return rounds if 0 < rounds <= _MOST_ROUNDS else None
        if tag == _SEQUENCE and depth and (found := _first_integer(inside, depth - 1)) is not None:
            return found
    return None


def _items(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """DER values one after the other: tag, content, and where it ends; what is cut off is not."""
    at = 0
    while at + 2 <= len(data):
        tag, length, start = data[at], data[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            length, start = int.from_bytes(data[start : start + count]), start + count
        at = start + length
        if at > len(data):
            return
        yield tag, data[start:at], at
