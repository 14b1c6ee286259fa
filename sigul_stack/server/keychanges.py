"""Keep key store and database in step while keys are made and removed, whatever fails.

Invariant: a change of the key store happens under one lock, with a note of what the store held
before. Whoever ends the change, or finds the note of one that was cut off, removes what has come
into the store since without a row in the database, and what the note says is to go and has none
any more. A key that was in the store without a row before, as old sites have them, is left alone.
What a change that was cut off left half made in the store goes, too. (docs/storage.md, "Store and
database in step", shows the note.)
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..database import Database, Key
from ..errors import KeystoreError, quoted
from ..keystore.store import KeyStore
from ..system.files import locked, sync, write_whole

log = logging.getLogger(__name__)

_NOTE: Final = "sigul-stack-change.json"
_LOCK: Final = "sigul-stack-change.lock"
#: Longest wait for another change to end, in seconds; making a large RSA key takes a while.
LOCK_SECONDS: Final = 300.0


@contextlib.contextmanager
def key_change(
    directory: Path, keystore: KeyStore, database: Database, *, removing: Key | None = None
) -> Iterator[None]:
    """Change keys in the block, store and database alike; `removing` is what shall be gone.

    `directory` is where note and lock lie. Raises `KeystoreError` where another change does not
    end in time.
    """
    with no_key_change(directory, keystore, database):
        note = {
            "before": sorted(keystore.fingerprints()),
            "removing": [removing.fingerprint] if removing else [],
        }
        write_whole(directory / _NOTE, json.dumps(note).encode(), replace=True)
        try:
            yield
        finally:
            _recover(directory, keystore, database, cut_off=False)


@contextlib.contextmanager
def no_key_change(directory: Path, keystore: KeyStore, database: Database) -> Iterator[None]:
    """Have nobody make or delete keys in the block: store and database agree, and stay so.

    What a change that was cut off left is finished, or taken back, first. Raises `KeystoreError`
    where a change does not end in time.
    """
    busy = KeystoreError(
        f"another change of keys has not ended within {LOCK_SECONDS:g} s", "try again"
    )
    with locked(directory / _LOCK, LOCK_SECONDS, busy, make=True):
        _recover(directory, keystore, database, cut_off=True)
        yield


def recover(directory: Path, keystore: KeyStore, database: Database) -> None:
    """Finish, or take back, a change that was cut off; nothing where none was."""
    if (directory / _NOTE).exists():
        with no_key_change(directory, keystore, database):
            pass


def _recover(directory: Path, keystore: KeyStore, database: Database, *, cut_off: bool) -> None:
    path = directory / _NOTE
    try:
        note = json.loads(path.read_text("utf-8"))
        before, removing = frozenset(note["before"]), frozenset(note["removing"])
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        raise KeystoreError(
            f"the note of an unfinished key change, {quoted(str(path))}, is damaged: compare the"
            " key store with the database by hand, then remove it"
        ) from None
    if cut_off:
        log.warning("A change of keys was cut off; store and database are brought in step")
        # Removes what is unfinished. Nobody else is at it: all changes are made under this lock.
        keystore.prepare()
    with database.read() as reader:
        keys = reader.keys()
    rows = {key.fingerprint for key in keys}
    for fingerprint in keystore.fingerprints() - rows:
        if fingerprint in removing or fingerprint not in before:
            log.info("Removing key %s from the store: the database does not have it", fingerprint)
            keystore.delete(fingerprint)
    path.unlink()
    sync(directory)
