"""`sigul-stack backup`: a server's whole state in one file, checked, and back."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO

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

_STREAM = "-"


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
    )
    _add_action(
        *(actions, "verify", _verify, "check a backup whole, as restore would"),
        "the backup, or - for standard input",
    )
    _add_action(
        *(actions, "list", _list, "tell what a backup says that it holds"),
        "the backup, or - for standard input",
        argument("--json", action="store_true", help="print the manifest"),
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
def _opened(path: Path) -> Iterator[BinaryIO]:
    if str(path) == _STREAM:
        yield sys.stdin.buffer
        return
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise BackupError(f"'{path}' cannot be read ({error.strerror})", "name a backup") from error


def _create(options: argparse.Namespace) -> None:
    from ..backup import BackupOptions, create_backup

    loaded = load_configuration(options.config_file)
    to_stream = str(options.file) == _STREAM
    if to_stream and sys.stdout.isatty():
        raise BackupError(
            "a backup is not for a terminal", "name a file, or direct it to a program"
        )
    settings = loaded.settings
    included = BackupOptions(
        recipient=options.recipient_file,
        configuration=loaded.files.paths if options.with_configuration else (),
        nss=settings.nss.path if options.with_nss else None,
    )
    become_the_server(settings)
    manifest, path = create_backup(
        settings,
        None if to_stream else options.file,
        included,
        now=datetime.now(UTC),
        made_by=__version__,
    )
    _say(manifest.summary())
    if path is not None:
        say(str(path))


def _restore(options: argparse.Namespace) -> None:
    from ..backup import RestoreOptions, restore_backup

    settings = load_configuration(options.config_file).settings
    with _opened(options.file) as stream:
        become_the_server(settings)
        manifest, aside = restore_backup(
            settings,
            stream,
            RestoreOptions(replace=options.replace, others=options.others),
            now=datetime.now(UTC),
        )
    _say(f"restored: {manifest.summary()}")
    for path in aside:
        _say(f"what was there before: {path}")


def _verify(options: argparse.Namespace) -> None:
    from ..backup import verify_backup

    with _opened(options.file) as stream:
        manifest = verify_backup(stream)
    _say(f"whole: {manifest.summary()}")


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
