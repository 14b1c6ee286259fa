"""Making a backup while the server runs.

Invariant: keys are neither made nor deleted while the stores are read, so that stores and database
agree; and a backup gets its name only after it was read back and checked like any other.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from ..config.server import ServerSettings
from ..database import Database, SchemaState, save, schema_state, sqlite_url
from ..errors import BackupError
from ..evidence.log_files import CHECKPOINT
from ..keystore.gnupg import GnuPG
from ..keystore.gnupg.directory import AGENT_CONFIGURATION, AGENT_CONFIGURATION_NAME
from ..keystore.storage import locked_keys
from ..server.keychanges import no_key_change
from ..server.services import database_url, make_keystore
from ..server.spool import scratch_file
from ..system.files import whole_file, write_whole
from . import archive
from .archive import MemberSource
from .log_members import LogSources, log_sources
from .manifest import DATABASE, Manifest
from .members import NSS_FILES, is_taken
from .signatures import SIGNATURE_ENDING, BackupSigner
from .unpack import key_records, read_database, verify_backup

#: Files of a GnuPG home that belong to a running program, or to none any more: nobody misses them.
_PASSING: Final = (
    "S.",
    ".#",
    ".new-",
    "sigul-stack-change.",
    ".sigul-stack-change.",
    "random_seed",
    "reader_",
)
_PASSING_ENDS: Final = (".lock", "~", ".tmp")
#: Longest wait for another change of the stores, in seconds.
_LOCK_SECONDS: Final = 60.0
#: Time for gpg to encrypt, in seconds, and bytes that it does in each second at the least.
_ENCRYPTION_SECONDS: Final = 60.0
_ENCRYPTION_RATE: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """The choice of what goes into a backup beside the state, and for whom it is encrypted.

    `recipient` is a file with one OpenPGP public key; `configuration` are the server's files, and
    `nss` the directory of its NSS database. `signer` is the server's key.
    """

    recipient: Path | None = None
    configuration: tuple[Path, ...] = ()
    nss: Path | None = None
    signer: BackupSigner | None = None


@dataclass(frozen=True, slots=True)
class MadeBackup:
    """A backup: what is in it, its path (None: written out), and the files that were left out."""

    manifest: Manifest
    path: Path | None
    left_out: tuple[Path, ...]


def create_backup(
    settings: ServerSettings,
    target: Path | None,
    options: BackupOptions,
    *,
    now: datetime,
    made_by: str,
) -> MadeBackup:
    """Back a server up to the new file `target`, or to standard output (None).

    A directory as `target` gets a file named after the time; beside a file comes its signature,
    where there is a key. Raises `BackupError` and other `SigulError`; then there is no such file.
    """
    left_out: list[Path] = []
    path = _path(target, options, now)
    try:
        with (
            scratch_file(settings.spool_directory) as stream,
            scratch_file(settings.spool_directory) as encrypted,
        ):
            _write_state(settings, stream, options, now, made_by, left_out)
            stream.seek(0)
            manifest = verify_backup(stream)
            stream.seek(0)
            result = stream
            if options.recipient is not None:
                _encrypt(stream, encrypted, options.recipient)
                encrypted.seek(0)
                result = encrypted
            if options.signer is None or path is None:
                _hand_over(result, path)
            else:
                signature = options.signer.sign_file(result, manifest)
                result.seek(0)
                # First: who sees the backup finds its signature.
                beside = path.with_name(path.name + SIGNATURE_ENDING)
                write_whole(beside, signature, replace=False)
                try:
                    _hand_over(result, path)
                except BaseException:
                    beside.unlink(missing_ok=True)
                    raise
    except OSError as error:
        raise BackupError(
            f"the backup cannot be made ({error})",
            "see that there is space, and that this user may read the server's state and write"
            " there",
        ) from error
    return MadeBackup(manifest, path, tuple(left_out))


def _path(target: Path | None, options: BackupOptions, now: datetime) -> Path | None:
    if target is None:
        return None
    if target.is_dir():
        ending = ".tar.gpg" if options.recipient else ".tar"
        target = target / f"sigul-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}{ending}"
    for path in (target, target.with_name(target.name + SIGNATURE_ENDING)):
        if os.path.lexists(path):
            raise BackupError(f"'{path}' exists already", "name a new file")
    return target


def _write_state(
    settings: ServerSettings,
    stream: BinaryIO,
    options: BackupOptions,
    now: datetime,
    made_by: str,
    left_out: list[Path],
) -> None:
    url = database_url(settings)
    if (state := schema_state(url)) is SchemaState.LEGACY_NO_KEYTYPE:
        raise BackupError(
            f"the database is {state.value}", "run `sigul-stack database migrate` first"
        )
    # Most of it now, for nobody changes keys while the rest is read.
    log = _log(settings)
    with (
        closing(Database(url)) as database,
        tempfile.TemporaryDirectory(prefix="sigul-backup-") as directory,
        ExitStack() as at_rest,
    ):
        at_rest.enter_context(_at_rest(settings, database))
        copy = Path(directory, "db")
        save(url, copy)
        users, accesses, keys = read_database(sqlite_url(copy))
        kept = [archive.describe(copy, DATABASE, 0o600), *_sources(settings, options, left_out)]
        # After the database: what is in that was decided before, and is in the log.
        log = _log(settings, log)
        manifest = Manifest(
            created=now.astimezone(UTC),
            made_by=made_by,
            schema=schema_state(sqlite_url(copy)).value,
            users=len(users),
            accesses=accesses,
            keys=key_records(keys),
            members=tuple(source.member for source in (*kept, *(log.sources if log else ()))),
            site=settings.bridge_hostname.encode("ascii", "backslashreplace").decode()[:255],
            signing_log=None if log is None else log.record,
        )
        if options.signer is not None:
            manifest = options.signer.sign_manifest(manifest)

        def sources() -> Iterator[MemberSource]:
            yield from kept
            # A log only grows, whoever changes keys.
            at_rest.close()
            yield from log.sources if log else ()

        archive.write(stream, manifest, sources())


def _log(settings: ServerSettings, before: LogSources | None = None) -> LogSources | None:
    """The server's signing log; None where there is none yet."""
    if not (settings.signing_log_directory / CHECKPOINT).exists():
        return None
    return log_sources(settings.signing_log_directory, before)


@contextmanager
def _at_rest(settings: ServerSettings, database: Database) -> Iterator[None]:
    """Keep everybody from making, deleting or changing a key in the block."""
    for directory in (settings.gnupg_home, settings.keys_storage):
        if not directory.is_dir():
            raise BackupError(
                f"there is no directory '{directory}', where keys should be",
                "correct gnupg-home and keys-storage in the server's configuration, or make it",
            )
    with ExitStack() as cleanup:
        cleanup.enter_context(no_key_change(settings.gnupg_home, make_keystore(settings), database))
        # Changing a key's expiry, or adding a certificate, takes the store's own lock alone.
        cleanup.enter_context(locked_keys(settings.gnupg_home, _LOCK_SECONDS))
        if not settings.keys_storage.samefile(settings.gnupg_home):
            cleanup.enter_context(locked_keys(settings.keys_storage, _LOCK_SECONDS))
        yield


def _sources(
    settings: ServerSettings, options: BackupOptions, left_out: list[Path]
) -> Iterator[MemberSource]:
    for part, directory in (("gnupg", settings.gnupg_home), ("keys", settings.keys_storage)):
        yield from _directory(directory, part, left_out)
    for number, file in enumerate(options.configuration):
        yield archive.describe(file.resolve(), f"configuration/{number}-{file.name}")
    if options.nss is not None:
        there = [file for name in NSS_FILES if (file := options.nss / name).exists()]
        if not there:
            raise BackupError(f"there is no NSS database in '{options.nss}'", "correct nss-dir")
        for file in there:
            yield archive.describe(file, f"nss/{file.name}")


def _directory(directory: Path, path: str, left_out: list[Path]) -> Iterator[MemberSource]:
    """The files in a directory, and in those below it, in the order of their names.

    Those that are in no backup are added to `left_out`, unless nobody misses them.
    """
    for entry in sorted(directory.iterdir()):
        if entry.name.startswith(_PASSING) or entry.name.endswith(_PASSING_ENDS):
            continue
        if path == "keys" and entry.name.startswith("."):
            continue  # an unfinished file, as system.files.write_whole names them
        inside = f"{path}/{entry.name}"
        kind = entry.lstat().st_mode
        if stat.S_ISDIR(kind):
            yield from _directory(entry, inside, left_out)
        elif not is_taken(inside):
            if not stat.S_ISSOCK(kind) and not _is_our_own(entry):
                left_out.append(entry)
        elif stat.S_ISLNK(kind):
            raise BackupError(
                f"'{entry}' is a symbolic link, so what it stands for would not be backed up",
                "put the file itself there",
            )
        else:
            yield archive.describe(entry, inside)


def _is_our_own(entry: Path) -> bool:
    """Whether a file is the one that each restored home gets."""
    return (
        entry.name == AGENT_CONFIGURATION_NAME
        and entry.is_file()
        and entry.read_bytes() == AGENT_CONFIGURATION.encode()
    )


def _hand_over(stream: BinaryIO, path: Path | None) -> None:
    """Put the backup in its place, or write it to standard output."""
    if path is None:
        try:
            with open(1, "wb", closefd=False) as output:
                shutil.copyfileobj(stream, output)
        except OSError as error:
            raise BackupError(
                f"standard output did not take all of the backup: {error.strerror}",
                "what came of it is of no use: make room there, and try again",
            ) from error
        return
    try:
        with whole_file(path, replace=False) as output:
            shutil.copyfileobj(stream, output)
    except FileExistsError:
        raise BackupError(f"'{path}' has come to exist meanwhile", "name a new file") from None


def _encrypt(stream: BinaryIO, output: BinaryIO, recipient: Path) -> None:
    """Encrypt to the public key in the file `recipient`, with a GnuPG home for that alone."""
    size = os.fstat(stream.fileno()).st_size
    with tempfile.TemporaryDirectory(prefix="sigul-backup-") as home:
        outcome = GnuPG(Path(home), time_limit=_ENCRYPTION_SECONDS + size / _ENCRYPTION_RATE).run(
            ["--recipient-file", str(recipient.absolute()), "--encrypt"],
            stdin=stream.fileno(),
            stdout=output.fileno(),
            agent=False,
            files=[recipient.absolute()],
        )
    if outcome.returncode or not os.fstat(output.fileno()).st_size:
        raise outcome.failure(
            f"encrypting to the key in '{recipient}'",
            "name a file with one OpenPGP public key that can encrypt and has not expired",
        )
