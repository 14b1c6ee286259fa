"""Reading a backup into directories, and checking that a server could work with what came out.

Invariant: nothing is written outside the given directories, nor over anything that is there; no
file is written that is not on the list (`members`), and no program is started that reads settings
from what came out; and what `unpack` and `check` took without an error is complete.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from ..database import (
    Database,
    Key,
    SchemaState,
    User,
    check_objects,
    schema_state,
    sqlite_url,
)
from ..errors import BackupError, DatabaseError, SigulError
from ..keystore.gnupg.at_rest import GnuPGHomeAtRest
from ..keystore.gnupg.directory import (
    AGENT_CONFIGURATION,
    AGENT_CONFIGURATION_NAME,
    forget_short_path,
)
from ..keystore.pem import PemStore
from ..keystore.store import KeyStore, StoreMismatch
from ..system.files import write_whole
from . import archive, members
from .log_members import LogTaker
from .manifest import DATABASE, LOG_PART, PARTS, KeyRecord, Manifest, damaged
from .signatures import BackupVerifier

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READABLE = (SchemaState.CURRENT, SchemaState.LEGACY)


def verify_backup(
    stream: BinaryIO, verifier: BackupVerifier | None = None, *, skip_strangers: bool = False
) -> Manifest:
    """Check a backup whole: files, database, signing log, and that each key's secret part is there.

    With `verifier`, its signature first. `skip_strangers` is as in `unpack`. Takes place for a
    copy of it in the system's directory for temporary files, for the process's user alone. Raises
    `BackupError`.
    """
    with tempfile.TemporaryDirectory(prefix="sigul-backup-") as name:
        layout = {part: Path(name, part) for part in PARTS}
        manifest = archive.read_manifest(stream)
        if verifier is not None:
            verifier.verify_manifest(manifest)
        unpack(stream, manifest, layout, skip_strangers=skip_strangers)
        check(manifest, layout)
        return manifest


def unpack(
    stream: BinaryIO,
    manifest: Manifest,
    layout: Mapping[str, Path],
    *,
    skip_strangers: bool = False,
) -> None:
    """Write the files of a backup into new directories, one a part; all are for their owner alone.

    A part without a directory in `layout` is read and left, but that a signing log is proven, and
    so are settings of GnuPG: the home gets our own. What is on no list is an error, or with
    `skip_strangers` left as well. Raises `BackupError`.
    """
    if not skip_strangers:
        members.refuse_strangers(manifest)
    try:
        log = LogTaker(manifest, layout.get(LOG_PART))
        for part, directory in layout.items():
            if part != LOG_PART:
                directory.mkdir(mode=0o700)
            _check_space(manifest, part, directory)
        for member, pieces in archive.read_files(stream, manifest):
            if member.part == LOG_PART:
                log.take(member, pieces)
                continue
            if member.part not in layout or not members.is_taken(member.path):
                for _ in pieces:
                    pass
                continue
            inside = Path(members.restored_name(member.path))
            for directory in reversed(inside.parents[:-1]):
                (layout[member.part] / directory).mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(layout[member.part] / inside, _NEW_FILE, 0o600)
            with os.fdopen(descriptor, "wb") as output:
                output.writelines(pieces)
                output.flush()
                os.fchmod(output.fileno(), member.mode | 0o600)
                os.fsync(output.fileno())
        log.end()
        if "gnupg" in layout:
            write_whole(
                layout["gnupg"] / AGENT_CONFIGURATION_NAME,
                AGENT_CONFIGURATION.encode(),
                replace=False,
            )
    except OSError as error:
        raise BackupError(
            f"the backup cannot be unpacked ({error})",
            "see that there is space, and that this user may write there",
        ) from error


def _check_space(manifest: Manifest, part: str, directory: Path) -> None:
    needed = sum(member.size for member in manifest.members if member.part == part)
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise BackupError(
            f"there are {free} bytes free at '{directory.parent}', and the backup's {part} has"
            f" {needed}",
            "make room, or name another directory with TMPDIR",
        )


def check(manifest: Manifest, layout: Mapping[str, Path]) -> None:
    """Check that the unpacked database and key stores make a server. Raises `BackupError`."""
    database = layout["database"] / Path(DATABASE).name
    url = sqlite_url(database)
    if database.exists():
        _check_objects(database)
    state = schema_state(url)
    if state not in _READABLE or state.value != manifest.schema:
        raise damaged(f"its database is not what the manifest says, but: {state.value}")
    users, accesses, keys = read_database(url)
    if (len(users), accesses, key_records(keys)) != (
        manifest.users,
        manifest.accesses,
        manifest.keys,
    ):
        raise damaged("its database has other users or keys than the manifest says")
    if not any(user.admin for user in users):
        raise BackupError(
            "there is no administrator in the backup's database, so nobody could use what is"
            " restored",
            "see that the server's configuration names the right database",
        )
    with at_rest(layout["gnupg"], layout["keys"]) as store:
        try:
            missing = missing_keys(store, keys)
            if not missing:
                for key in keys:
                    store.require_whole(key)
        except SigulError as error:
            raise damaged(f"a key in it cannot be used: {error}") from error
    if missing:
        named = ", ".join(f"{found.name} ({found.fingerprint})" for found in missing)
        raise BackupError(
            f"the secret part of these keys is not in the backup: {named}",
            "it is not in the key store either, unless the configuration names the wrong one:"
            " restore it from an older backup, or delete-key",
        )


def read_database(url: str) -> tuple[list[User], int, list[Key]]:
    """The users, the number of their accesses, and the keys in a server's database."""
    with closing(Database(url)) as database, database.read() as reader:
        users = reader.users()
        return users, sum(reader.count_accesses(user.name) for user in users), reader.keys()


def key_records(keys: Sequence[Key]) -> tuple[KeyRecord, ...]:
    """Keys of a database, as a manifest has them."""
    return tuple(KeyRecord(key.name, str(key.keytype), key.fingerprint) for key in keys)


def missing_keys(store: KeyStore, keys: Sequence[Key]) -> list[StoreMismatch]:
    """A finding for each key of the database whose secret part is not in `store`."""
    return [found for found in store.check_consistency(keys) if found.name is not None]


def _check_objects(database: Path) -> None:
    try:
        check_objects(database)
    except DatabaseError as error:
        raise damaged(f"its database is not what a server makes: {error.problem}") from error


@contextmanager
def at_rest(gnupg: Path, keys: Path) -> Iterator[KeyStore]:
    """The key stores in these directories, to be looked at without an agent."""
    try:
        yield KeyStore(GnuPGHomeAtRest(gnupg), PemStore(keys))
    finally:
        forget_short_path(gnupg)
