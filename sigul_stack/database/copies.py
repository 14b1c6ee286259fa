"""Work on the file of an SQLite database beside it, so that it appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sigul_stack.errors import DatabaseError
from sigul_stack.system.files import opened, sync

_NAME = "%Y%m%dT%H%M%SZ"


@contextmanager
def workshop(path: Path) -> Iterator[Path]:
    """A directory beside `path`, for files that will be moved to `path` or beside it.

    Nobody else can look into it; it is gone at the end with all that was left in it.
    """
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as directory:
        yield Path(directory)


def empty_file(path: Path) -> Path:
    """Make the file `path`, which must not exist, for its owner alone. Raises `OSError`."""
    path.touch(0o600, exist_ok=False)
    return path


def publish_new(draft: Path, path: Path) -> None:
    """Make the finished file `draft` appear as `path`. Raises `FileExistsError` if that exists."""
    os.link(draft, path)
    sync(path.parent)


def back_up(database: Path, now: datetime) -> Path:
    """Copy the database to `FILE.backup-YYYYmmddTHHMMSSZ` beside it, and return that path.

    The copy is one state of the database, whoever works on it meanwhile; it is checked before it
    gets its name, and has the mode and the owner of the original. The caller holds the write
    lock, so that nobody makes the same backup at the same time.

    Raises `OSError` and `sqlite3.Error`, and `DatabaseError` where the copy is not sound or a
    backup of this second exists.
    """
    real = database.resolve()
    backup = real.with_name(f"{real.name}.backup-{now.astimezone(UTC).strftime(_NAME)}")
    if os.path.lexists(backup):
        raise DatabaseError(f"{database}: {backup} exists already", "try again in a second")
    with workshop(real) as directory:
        draft = empty_file(directory / real.name)
        copy_file(real, draft)
        original = real.stat()
        # Where the owner cannot be given, the copy stays with whoever made it, for nobody else.
        with contextlib.suppress(PermissionError), opened(draft) as descriptor:
            os.fchown(descriptor, original.st_uid, original.st_gid)
            os.fchmod(descriptor, original.st_mode & 0o777)
        sync(draft)
        draft.rename(backup)
    sync(backup.parent)
    return backup


def copy_file(source: Path, draft: Path) -> None:
    """Copy one state of an SQLite database into the empty file `draft`, and check the copy.

    Raises `OSError`, `sqlite3.Error`, and `DatabaseError` where the copy is not sound.
    """
    with (
        closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as original,
        closing(sqlite3.connect(draft)) as copy,
    ):
        original.backup(copy)
        # A server writes types that the CHECK of an old migration does not know (`oddities`).
        copy.execute("PRAGMA ignore_check_constraints = ON")
        found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise DatabaseError(
            f"{source}: it is damaged ({found}), so it was not changed", "restore it from a backup"
        )
