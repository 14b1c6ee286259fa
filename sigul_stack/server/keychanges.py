"""Keep key store and database in step while keys are made and removed, whatever fails.

Invariant: a change of the key store happens under one lock, with a note of what the store held
before. Whoever ends the change, or finds the note of one that was cut off, removes what has come
into the store since without a row in the database, and what the note says is to go and has none
any more. A key that was in the store without a row before, as old sites have them, is left alone.
What a change that was cut off left half made in the store goes, too. What cannot be deleted stays
in the note, until it can be. (docs/storage.md, "Store and
database in step", shows the note.)
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..database import Database, Key
from ..errors import KeystoreError, SigulError, quoted
from ..keystore.store import KeyStore
from ..logevents import tell
from ..system.files import locked, sync, write_whole
from .log_events import ServerLog

log = logging.getLogger(__name__)

_NOTE: Final = "sigul-stack-change.json"
_LOCK: Final = "sigul-stack-change.lock"
#: Longest wait for another change to end, in seconds; making a large RSA key takes a while.
LOCK_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class _Note:
    """The keys that were there before a change, and those that are to go: names by fingerprint."""

    before: frozenset[str]
    removing: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> _Note | None:
        """The note at `path`; None where there is none. Raises `KeystoreError`."""
        try:
            found = json.loads(path.read_text("utf-8"))
            names = dict(found.get("names", {}))
            removing = {
                fingerprint: names.get(fingerprint, "") for fingerprint in found["removing"]
            }
            return cls(frozenset(found["before"]), removing)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise KeystoreError(
                f"the note of an unfinished key change, {quoted(str(path))}, is damaged: compare"
                " the key store with the database by hand, then remove it"
            ) from None

    def write(self, path: Path) -> None:
        """Write it to `path`, whole."""
        note: dict[str, object] = {
            "before": sorted(self.before),
            "removing": sorted(self.removing),
        }
        if self.removing:
            note["names"] = dict(self.removing)
        write_whole(path, json.dumps(note).encode(), replace=True)


@contextlib.contextmanager
def key_change(
    directory: Path, keystore: KeyStore, database: Database, *, removing: Key | None = None
) -> Iterator[None]:
    """Change keys in the block, store and database alike; `removing` is what shall be gone.

    `directory` is where note and lock lie. Raises `KeystoreError` where another change does not
    end in time, `HalfDeleted` where what shall be gone is not.
    """
    with _locked(directory):
        left = _recover(directory, keystore, database, cut_off=True)
        going = {removing.fingerprint: removing.name} if removing else {}
        _Note(keystore.fingerprints(), {**left, **going}).write(directory / _NOTE)
        try:
            yield
        finally:
            left = _recover(directory, keystore, database, cut_off=False)
        if removing is not None and removing.fingerprint in left:
            raise HalfDeleted(removing.name)


class HalfDeleted(KeystoreError):
    """A key has gone from the database, and not all of it from the store."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"key {quoted(name, 60)} can no longer be used, but the server could not delete all of"
            " its files",
            "mend what its log names, then run delete-key again",
        )


def finish_deleting(directory: Path, keystore: KeyStore, database: Database, name: str) -> bool:
    """Delete what a deletion of the key `name` that failed has left; False where none has.

    Raises `HalfDeleted` where it fails again.
    """
    note = _Note.read(directory / _NOTE)
    if note is None or name not in note.removing.values():
        return False
    with _locked(directory):
        left = _recover(directory, keystore, database, cut_off=True)
    if name in left.values():
        raise HalfDeleted(name)
    return True


def _locked(directory: Path) -> contextlib.AbstractContextManager[None]:
    busy = KeystoreError(
        f"another change of keys has not ended within {LOCK_SECONDS:g} s", "try again"
    )
    return locked(directory / _LOCK, LOCK_SECONDS, busy, make=True)


@contextlib.contextmanager
def no_key_change(directory: Path, keystore: KeyStore, database: Database) -> Iterator[None]:
    """Have nobody make or delete keys in the block: store and database agree, and stay so.

    What a change that was cut off left is finished, or taken back, first. Raises `KeystoreError`
    where a change does not end in time.
    """
    with _locked(directory):
        _recover(directory, keystore, database, cut_off=True)
        yield


def recover(directory: Path, keystore: KeyStore, database: Database) -> None:
    """Finish, or take back, a change that was cut off; nothing where none was."""
    if (directory / _NOTE).exists():
        with no_key_change(directory, keystore, database):
            pass


def _recover(
    directory: Path, keystore: KeyStore, database: Database, *, cut_off: bool
) -> Mapping[str, str]:
    """Finish, or take back, what a note tells of.

    Returns the keys that could not be deleted, which a note then still tells of: no other change,
    and no start, fails for them.
    """
    path = directory / _NOTE
    note = _Note.read(path)
    if note is None:
        return {}
    if cut_off:
        tell(log, ServerLog.KEY_CHANGE_REPAIRED)
        # Removes what is unfinished. Nobody else is at it: all changes are made under this lock.
        keystore.prepare()
    with database.read() as reader:
        keys = reader.keys()
    rows = {key.fingerprint for key in keys}
    left = {}
    for fingerprint in (keystore.fingerprints() - note.before) | note.removing.keys():
        if fingerprint in rows:
            continue
        tell(log, ServerLog.KEY_REMOVED_FROM_STORE, fingerprint=fingerprint)
        try:
            keystore.delete(fingerprint)
        except (SigulError, OSError) as error:
            tell(log, ServerLog.KEY_NOT_REMOVED, fingerprint=fingerprint, why=str(error))
            left[fingerprint] = note.removing.get(fingerprint, "")
    if left:
        _Note(keystore.fingerprints(), left).write(path)
    else:
        path.unlink()
        sync(directory)
    return left
