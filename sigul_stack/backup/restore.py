"""Putting a backup in place.

Invariant: everything is unpacked beside its place and checked before anything moves; and while
files move, there is no database at its place. So whatever ends a restore, a server finds either
all of it or, saying so, no database; and what was there before is whole in its place, or aside.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from ..config.server import ServerSettings
from ..database import SchemaState, load, schema_state
from ..errors import BackupError
from ..server.services import database_url
from ..system.files import sync
from . import archive
from .log_members import extends
from .manifest import DATABASE, LOG_PART, OTHER_PARTS, Manifest
from .signatures import BackupVerifier
from .unpack import at_rest, check, missing_keys, read_database, unpack


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """The choice of what is restored, and how.

    `verifier`: who must have signed the backup; None for anybody. `replace`: move away what is
    there. `others`: a new directory for configuration and NSS. `skip_strangers`: leave files that
    are in no backup.
    """

    verifier: BackupVerifier | None
    replace: bool = False
    others: Path | None = None
    skip_strangers: bool = False


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore: the backup's manifest, and where what was there before is now.

    `keeps_log` tells that the server's signing log has all leaves of the backup's, and stayed.
    """

    manifest: Manifest
    aside: tuple[Path, ...]
    keeps_log: bool


def restore_backup(
    settings: ServerSettings, stream: BinaryIO, options: RestoreOptions, *, now: datetime
) -> Restored:
    """Restore the backup in `stream` to where `settings` have database, key stores and log.

    The server must not run. Raises `BackupError` and other `SigulError`.
    """
    url = database_url(settings)
    in_file = settings.database_url is None
    finals = {"gnupg": settings.gnupg_home, "keys": settings.keys_storage}
    if in_file:
        finals["database"] = settings.database_path
    if options.others is not None and os.path.lexists(options.others):
        raise BackupError(f"'{options.others}' exists already", "name a new directory")
    _check_free(list(finals.values()), options.replace)
    if not in_file and not _is_empty_database(url):
        raise BackupError(
            "the PostgreSQL database is not empty, and is not replaced by this program",
            "move it away with its own tools, and make an empty one",
        )
    manifest = archive.read_manifest(stream)
    if options.verifier is not None:
        options.verifier.verify_manifest(manifest)
    token = secrets.token_hex(4)
    finals.setdefault("database", settings.gnupg_home.with_name("database"))
    if manifest.signing_log is not None:
        finals[LOG_PART] = settings.signing_log_directory
    layout = {part: path.with_name(f".{path.name}.{token}") for part, path in finals.items()}
    with ExitStack() as cleanup:
        if options.others is not None:
            others = options.others.with_name(f".{options.others.name}.{token}")
            cleanup.callback(shutil.rmtree, others, ignore_errors=True)
            others.mkdir(mode=0o700)
            layout |= {part: others / part for part in OTHER_PARTS}
        for directory in layout.values():
            cleanup.callback(shutil.rmtree, directory, ignore_errors=True)
        unpack(stream, manifest, layout, skip_strangers=options.skip_strangers)
        check(manifest, layout)
        database = layout["database"] / Path(DATABASE).name
        staged = {finals[part]: layout[part] for part in ("gnupg", "keys")}
        keeps_log = False
        if manifest.signing_log is not None:
            # What was signed since was signed: a log is never put back where it need not be.
            keeps_log = extends(settings.signing_log_directory, layout[LOG_PART])
            if not keeps_log:
                _check_free([settings.signing_log_directory], options.replace)
                staged[settings.signing_log_directory] = layout[LOG_PART]
        if in_file:
            # The last, for a server without a database does not start.
            staged[settings.database_path] = database
        aside = _exchange(staged, now)
        if not in_file:
            load(database, url)
        if options.others is not None:
            others.rename(options.others)
    _check_in_place(settings, manifest)
    return Restored(manifest, tuple(aside), keeps_log)


def _check_free(finals: list[Path], replace: bool) -> None:
    for path in finals:
        if not path.parent.is_dir():
            raise BackupError(
                f"there is no directory '{path.parent}' to restore '{path.name}' to",
                "make it, for the server's user",
            )
        if not replace and not _is_free(path):
            raise BackupError(
                f"'{path}' is there already", "stop the server and give --replace to move it aside"
            )


def _is_free(path: Path) -> bool:
    if path.is_dir() and not path.is_symlink():
        return not any(path.iterdir())
    return not os.path.lexists(path)


def _is_empty_database(url: str) -> bool:
    if schema_state(url) is SchemaState.EMPTY:
        return True
    users, _accesses, keys = read_database(url)
    return not users and not keys


def _exchange(staged: dict[Path, Path], now: datetime) -> list[Path]:
    """Move what is there aside, the database first, and what was unpacked in place, it last.

    `staged` says for each place where its new content was unpacked.
    """
    aside = []
    ending = f".before-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    try:
        for place in reversed(staged):
            for path in (place, *_journals(place)):
                if not _is_free(path):
                    old = path.with_name(path.name + ending)
                    if os.path.lexists(old):
                        raise BackupError(f"'{old}' exists already", "try again in a second")
                    path.rename(old)
                    aside.append(old)
        for place, unpacked in staged.items():
            unpacked.rename(place)
            sync(place.parent)
    except OSError as error:
        said = ", ".join(map(str, aside))
        raise BackupError(
            f"the backup could not be put in place ({error}); see who may write there"
            + (f". What was there before is in: {said}" if aside else "")
        ) from error
    return aside


def _journals(path: Path) -> list[Path]:
    """Files that SQLite keeps beside a database: with another one they would destroy it."""
    return [path.with_name(path.name + end) for end in ("-journal", "-wal", "-shm")]


def _check_in_place(settings: ServerSettings, manifest: Manifest) -> None:
    """Check once more, and in place, what a starting server would. Raises `BackupError`."""
    with at_rest(settings.gnupg_home, settings.keys_storage) as store:
        _users, _accesses, keys = read_database(database_url(settings))
        missing = missing_keys(store, keys)
    if missing or len(keys) != len(manifest.keys):
        raise BackupError(
            "what was restored is not complete: " + "; ".join(found.text for found in missing),
            "restore again, and see who else writes there",
        )
