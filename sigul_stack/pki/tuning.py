"""Rewriting a database in place with as few rounds of key derivation as a random password needs.

It is certutil's change of the password to the same one, a single transaction of SQLite: killed at
any moment, the database is all old or all new, once its journal was read (`sqlite_journal`), which
our programs see to; certutil itself calls it damaged (SEC_ERROR_BAD_DATABASE) until then.
Programs that have the database open go on, and profit at the next use of a key: NSS keeps the salt
of the password's key, so what they derived from it holds.

Invariant: `key4.db` is never copied as a file, renamed or removed, for without its journal it is
damaged, and whoever has it open would keep the old one. The backup is made through SQLite before.
A password that may be guessed is refused (`password_strength`).
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import NSSError
from ..password_strength import LEAST_CHARACTERS, why_weak
from ..secret import Secret
from ..system.files import sync
from .derivation import Derivation, read_derivation
from .nss_directory import NSSDatabase
from .nss_store import ITERATIONS_FOR_RANDOM_PASSWORD
from .password_files import Permissions, write_file

#: The database as it was before, beside it: its private keys, under the same password.
BACKUP_NAME: Final = "key4.db.before-tune"

_BUSY_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Tuned:
    """The derivation of a database before and after; the same where nothing was to be done."""

    before: Derivation
    after: Derivation
    #: Where the old keys are now; None where nothing was changed.
    backup: Path | None


def tune(database: NSSDatabase) -> Tuned:
    """Have `database`, whose password is known, derive keys with one round.

    Raises `NSSError` where its password is weak, `WrongNSSPassword`, `ToolMissing`.
    """
    database.require()
    directory = database.directory
    require_random(database.password, directory)
    with database.in_place() as store:
        # Before anything is written: with a wrong password certutil would change nothing, too.
        keys = store.key_ids()
        before = read_derivation(directory)
        if before.most_rounds <= ITERATIONS_FOR_RANDOM_PASSWORD:
            return Tuned(before, before, None)
        backup = _back_up(directory)
        store.rewrite()
        after = read_derivation(directory)
        if after.most_rounds > ITERATIONS_FOR_RANDOM_PASSWORD or store.key_ids() != keys:
            raise NSSError(
                f"certutil has not rewritten all of the NSS database in '{directory}': it has"
                f" {after.most_rounds} rounds of key derivation",
                f"stop the programs that use it, and put '{backup}' in the place of key4.db, with"
                " no key4.db-journal beside it",
            )
    return Tuned(before, after, backup)


def require_random(password: Secret | None, directory: Path) -> None:
    """Raise `NSSError` where `password` may be guessed."""
    reason = "is empty" if not password else why_weak(password)
    if reason is None:
        return
    raise NSSError(
        f"the NSS database in '{directory}' is not tuned: its password {reason}, so that the rounds"
        " of key derivation protect its private keys from whoever gets its files",
        f"give it a random one first, of {LEAST_CHARACTERS} characters or more: openssl rand -hex"
        f" 32 | tr -d '\\n' > NEW; certutil -W -d sql:{directory} -f OLD -@ NEW; then put NEW in"
        " the place of the file that nss-password-file names, at a time when no program starts",
    )


def _back_up(directory: Path) -> Path:
    """Write what `key4.db` holds now beside it, whole or not at all, with its owner and mode."""
    source, target = directory / "key4.db", directory / BACKUP_NAME
    try:
        with (
            contextlib.closing(sqlite3.connect(source, timeout=_BUSY_SECONDS)) as original,
            contextlib.closing(sqlite3.connect(":memory:")) as copy,
        ):
            original.backup(copy)
            content = copy.serialize()
        write_file(target, content, Permissions().over(source))
        sync(directory)
    except (OSError, sqlite3.Error) as error:
        raise NSSError(
            f"the private keys in '{directory}' cannot be backed up ({error}); nothing was changed",
            "make room, run this as the owner of that directory, and try again",
        ) from error
    return target
