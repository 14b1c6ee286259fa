"""`sigul-stack backup`: a server's whole state in one file, checked, and back."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from .. import __version__
from ..errors import BackupError
from .outcome import say, say_text
from .server_tools import become_the_server, load_configuration, run_tool
from .shared_arguments import (
    SERVER_FILE,
    Argument,
    Subparsers,
    add_command,
    argument,
    config_file,
    verbose,
)

if TYPE_CHECKING:
    from io import BufferedReader

    from ..backup import BackupVerifier
    from ..config.fields import Loaded
    from ..config.server import ServerSettings

_STREAM = "-"
#: What a backup begins with that is not encrypted.
_BEGINNING: Final = b"manifest.json\0"

_VERIFY_KEY = argument(
    "--verify-key",
    metavar="KEY",
    type=Path,
    help="the file with the public keys of the server that must have signed it",
)
_SKIP_STRANGERS = argument(
    "--skip-strangers",
    action="store_true",
    help="leave files that no version of sigul-stack puts into a backup, instead of refusing it",
)


def add_parser(subparsers: Subparsers) -> None:
    """Add the `backup` command."""
    actions = subparsers.add_parser(
        "backup",
        help="back a signing server up, check and restore backups",
        description="Saves a signing server's database and keys in one tar file, checks such files,"
        " and restores them. Run it as the server's user; as root it goes on as `unix-user`.",
    ).add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_action(
        *(actions, "create", _create, "make a backup; the server may run meanwhile"),
        "a new file, a directory for one named after the time, or - for standard output",
        config_file(SERVER_FILE),
        argument(
            "--recipient-file",
            metavar="KEY",
            type=Path,
            help="encrypt to the OpenPGP public key in this file",
        ),
        argument(
            "--unencrypted",
            action="store_true",
            help="without --recipient-file: let secrets of configuration and NSS database go in as"
            " they are",
        ),
        argument(
            "--with-configuration", action="store_true", help="include the server's configuration"
        ),
        argument(
            "--with-nss",
            action="store_true",
            help="include the server's NSS database, and the file `nss-password` beside it",
        ),
    )
    _add_action(
        *(actions, "restore", _restore, "restore a backup; the server must be stopped"),
        "the backup, or - for standard input",
        config_file(SERVER_FILE),
        argument("--replace", action="store_true", help="move aside what is there already"),
        argument(
            "--others",
            metavar="DIR",
            type=Path,
            help="put configuration and NSS database of the backup into this new directory",
        ),
        _VERIFY_KEY,
        argument(
            "--unsigned",
            action="store_true",
            help="instead of --verify-key: restore it whoever made it",
        ),
        _SKIP_STRANGERS,
    )
    _add_action(
        *(actions, "verify", _verify, "check a backup whole, as restore would"),
        "the backup, or - for standard input; an encrypted one by its signature, in FILE.sig",
        _VERIFY_KEY,
        _SKIP_STRANGERS,
    )
    _add_action(
        *(actions, "list", _list, "tell what a backup says that it holds"),
        "the backup, or - for standard input",
        argument("--json", action="store_true", help="print the manifest"),
    )
    _add_action(
        *(actions, "make-key", _make_key, "make the key that signs a server's backups"),
        "the new file of the private key; the public key will be in FILE.pub",
    )


def _add_action(
    actions: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], None],
    text: str,
    file: str,
    *arguments: Argument,
) -> None:
    add_command(
        *(actions, name, partial(run_tool, run)),
        argument("file", metavar="FILE", type=Path, help=file),
        verbose(),
        *arguments,
        help=text,
        description=text.capitalize() + ".",
    )


def _say(text: str) -> None:
    # Standard output may be the backup.
    say_text(text, error=True)


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    try:
        if str(path) == _STREAM:
            yield cast("BufferedReader", sys.stdin.buffer)
            return
        with path.open("rb") as stream:
            if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
                raise BackupError(f"'{path}' is a device", "name a backup")
            yield stream
    except OSError as error:
        name = "standard input" if str(path) == _STREAM else f"'{path}'"
        raise BackupError(f"{name} cannot be read ({error.strerror})", "name a backup") from error


def _create(options: argparse.Namespace) -> None:
    from ..backup import BackupOptions, BackupSigner, create_backup

    loaded = load_configuration(options.config_file)
    to_stream = str(options.file) == _STREAM
    if to_stream and sys.stdout.isatty():
        raise BackupError(
            "a backup is not for a terminal", "name a file, or direct it to a program"
        )
    settings = loaded.settings
    become_the_server(settings)
    if options.recipient_file is None and not options.unencrypted:
        _refuse_plain_secrets(loaded, options)
    included = BackupOptions(
        recipient=options.recipient_file,
        configuration=loaded.files.paths if options.with_configuration else (),
        nss=settings.nss.path if options.with_nss else None,
        signer=None
        if settings.backup_signing_key is None
        else BackupSigner(settings.backup_signing_key),
    )
    made = create_backup(
        settings,
        None if to_stream else options.file,
        included,
        now=datetime.now(UTC),
        made_by=__version__,
    )
    _say(made.manifest.summary())
    if options.recipient_file is None and not options.unencrypted:
        _say(
            "warning: it is not encrypted: keys, password hashes and the signing log's key are as"
            " on the server's disk; give --recipient-file, or --unencrypted"
        )
    if included.signer is None:
        _say("warning: it is not signed: set [server] backup-signing-key")
    if made.left_out:
        _say_left_out(made.left_out, "are in no backup")
    if made.path is not None:
        say(str(made.path))


def _refuse_plain_secrets(loaded: Loaded[ServerSettings], options: argparse.Namespace) -> None:
    """Raise `BackupError` where secrets would go into a backup that everybody can read."""
    from ..config.secrecy import inline_secrets

    secrets = [entry.place for entry in inline_secrets(loaded.files)]
    secrets = secrets if options.with_configuration else []
    password = loaded.settings.nss.path / "nss-password"
    if options.with_nss and password.exists():
        secrets.append(str(password))
    if secrets:
        raise BackupError(
            f"secrets would go into the backup as they are: {', '.join(secrets)}",
            "encrypt it with --recipient-file KEY, or give --unencrypted",
        )


def _say_left_out(files: Sequence[Path | str], why: str) -> None:
    from ..backup.members import listed

    _say(f"left out, for such files {why}: {listed(files)}")


def _verifier(options: argparse.Namespace) -> BackupVerifier | None:
    from ..backup import BackupVerifier

    return None if options.verify_key is None else BackupVerifier(options.verify_key)


def _restore(options: argparse.Namespace) -> None:
    from ..backup import RestoreOptions, restore_backup
    from ..backup.members import not_restored

    if (options.verify_key is None) != options.unsigned:
        raise BackupError(
            "whoever wrote a backup has the server that it is restored to",
            "give --verify-key KEY, or --unsigned if you are sure who made it; not both",
        )
    settings = load_configuration(options.config_file).settings
    verifier = _verifier(options)
    with _opened(options.file) as stream:
        become_the_server(settings)
        restored = restore_backup(
            settings,
            stream,
            RestoreOptions(
                verifier,
                replace=options.replace,
                others=options.others,
                skip_strangers=options.skip_strangers,
            ),
            now=datetime.now(UTC),
        )
    manifest = restored.manifest
    _say(f"restored: {manifest.summary()}")
    if verifier is not None:
        _say(f"signed by the key {verifier.verify_manifest(manifest)}")
    if names := not_restored(manifest):
        _say_left_out(names, "are not restored")
    for path in restored.aside:
        _say(f"what was there before: {path}")
    if (log := manifest.signing_log) is not None and not restored.keeps_log:
        _say(
            f"the signing log has the {log.size} leaves that it had then. Where more was signed"
            " since, bridge and clients complain of it: before the server starts, bring the rest"
            " back with `sigul-stack audit complete --from COPY`, or without a copy begin a new"
            " origin with `sigul-stack audit new-origin`"
        )
    elif log is not None:
        _say(f"the signing log that is there has all {log.size} leaves of the backup's: it stays")


def _verify(options: argparse.Namespace) -> None:
    from ..backup import verify_backup
    from ..backup.members import not_restored
    from ..backup.signatures import SIGNATURE_ENDING

    verifier = _verifier(options)
    with _opened(options.file) as stream:
        is_open = stream.peek(len(_BEGINNING)).startswith(_BEGINNING)
        beside = options.file.with_name(options.file.name + SIGNATURE_ENDING)
        if verifier is not None and str(options.file) != _STREAM and not is_open:
            name, about = verifier.verify_file(stream, beside)
            _say(
                f"signed by the key {name}, made {about.created} for the bridge {about.site}: the"
                " file is as it was made; what is in it was not looked at, for it is encrypted"
            )
            return
        if verifier is not None and str(options.file) != _STREAM and beside.exists():
            verifier.verify_file(stream, beside)
            stream.seek(0)
        manifest = verify_backup(stream, verifier, skip_strangers=options.skip_strangers)
    _say(f"whole: {manifest.summary()}")
    if verifier is not None:
        _say(f"signed by the key {verifier.verify_manifest(manifest)}")
    else:
        _say("who made it was not checked: give --verify-key KEY")
    if names := not_restored(manifest):
        _say_left_out(names, "are not restored")


def _make_key(options: argparse.Namespace) -> None:
    from ..backup.signatures import PUBLIC_ENDING, make_key

    name = make_key(options.file)
    _say(f"made the key {name}; who restores needs {options.file}{PUBLIC_ENDING}")


def _list(options: argparse.Namespace) -> None:
    from ..backup import read_manifest

    with _opened(options.file) as stream:
        manifest = read_manifest(stream)
    if options.json:
        say_text(manifest.as_json())
        return
    say_text(manifest.summary())
    for key in manifest.keys:
        say(f"  key {key.name} ({key.keytype}, {key.fingerprint})")
