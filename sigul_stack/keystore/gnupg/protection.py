"""The work that opening a secret key of a GnuPG home takes, and making it little.

gpg-agent derives a key from the passphrase each time that it uses a secret key, and has chosen so
much work for that, as it made the key, that it takes a tenth of a second. That slows who guesses
down; a random passphrase of a server's own is not guessed at any speed, so that it needs none. Keys
that are made here have the least that GnuPG takes (`directory.SCRATCH_AGENT_CONFIGURATION`); of
1.2's, and of those that were imported by it, the file says how much (GnuPG, agent/keyformat.txt).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ...errors import KeystoreError
from ...password_strength import why_weak
from ...secret import Secret
from ...system.files import sync, write_whole
from .locks import locked_home
from .output import ListedKey
from .program import GnuPG
from .scratch import scratch_home, secret_file

#: What the agent hashes for a key that is named as slow, in bytes and more: 2 ms.
SLOW_BYTES: Final = 1 << 20
#: How many bytes of SHA-1 an agent hashes in a second, on a machine of today.
BYTES_PER_SECOND: Final = 500 << 20

#: The string-to-key in a file: hash, salt and how many bytes, in a canonical S-expression and in
#: one that is written out, where the salt has any of four forms (libgcrypt's manual, "Data types
#: for S-expressions").
_CANONICAL: Final = re.compile(rb"\(\(4:sha18:.{8}\d+:(\d+)\)", re.DOTALL)
_SALT: Final = rb"""(?:#[^#]*#|\|[^|]*\||"(?:\\.|[^"\\])*"|[^\s()#|"]+)"""
_WRITTEN_OUT: Final = re.compile(rb"\(\(sha1\s*" + _SALT + rb'\s*"?(\d+)"?\s*\)', re.DOTALL)


def hashed_bytes(content: bytes) -> int:
    """The number of bytes that the agent hashes to open the key in a file; 0 where none is said."""
    found = _CANONICAL.search(content) or _WRITTEN_OUT.search(content.replace(b"\n ", b""))
    return int(found[1]) if found else 0


def opening_seconds(home: GnuPG, keys: Iterable[ListedKey]) -> dict[str, float]:
    """The seconds, about, that opening the slowest part of each slow key takes, by fingerprint."""
    found = {}
    for key in keys:
        most = max((hashed_bytes(path.read_bytes()) for path in _files(home, key)), default=0)
        if most >= SLOW_BYTES:
            found[key.fingerprint] = most / BYTES_PER_SECOND
    return found


def hasten(home: GnuPG, key: ListedKey, passphrase: Secret) -> bool:
    """Have a key's slow parts written anew, with the same passphrase; whether there were any.

    That is done aside, and the new file takes the old one's place in one step: a kill leaves the
    one or the other. Raises `KeystoreError`, for a passphrase that may be guessed, too.
    """
    if not any(hashed_bytes(path.read_bytes()) >= SLOW_BYTES for path in _files(home, key)):
        return False
    if (reason := why_weak(passphrase)) is not None:
        raise KeystoreError(
            f"the passphrase of the key itself {reason}, so that it stays slow to open",
            "make a new key, whose passphrase the server makes at random",
        )
    with scratch_home(home) as scratch:
        directory = secret_file(scratch, "").parent
        directory.mkdir(mode=0o700, exist_ok=True)
        with locked_home(home.path, home.time_limit):
            for path in _files(home, key):
                content = path.read_bytes()
                if hashed_bytes(content) < SLOW_BYTES:
                    continue
                new = directory / path.name
                write_whole(new, content, replace=False)
                with scratch.agent() as agent:
                    agent.change_passphrase(path.stem, passphrase, passphrase)
                # Of a key that the agent has written badly no passphrase would ever open anything.
                with scratch.agent() as agent:
                    agent.verify(path.stem, passphrase)
                if not 0 < hashed_bytes(new.read_bytes()) < SLOW_BYTES:
                    raise KeystoreError(
                        f"gpg-agent left key {key.fingerprint} as slow to open as it was",
                        "see that gpg-agent knows the option s2k-count",
                    )
                sync(new)
                new.replace(path)
                sync(path.parent)
    return True


def _files(home: GnuPG, key: ListedKey) -> list[Path]:
    """The files of a key's secret parts."""
    return [secret_file(home, part.keygrip) for part in key.parts if part.secret]
