"""`sigul-stack bundle`: a client's certificate and configuration in one encrypted file, and out."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError
from .outcome import say_text
from .secret_input import SecretReader
from .server_tools import run_tool
from .shared_arguments import Argument, Subparsers, add_command, argument, verbose

#: Most bytes of a file that is read here: more than any bundle may have.
_MAX_FILE: Final = (16 << 20) + 1
#: The files of an NSS database that a bundle is made of; the last may be missing.
_DATABASE: Final = ("cert9.db", "key4.db", "pkcs11.txt")
_PASSPHRASE: Final = "Passphrase of the bundle"  # noqa: S105 - a prompt

_BATCH: Final[Argument] = argument(
    "--batch",
    action="store_true",
    help="ask nothing: read the passphrase from standard input, ended by a NUL byte",
)


def add_parser(subparsers: Subparsers) -> None:
    """Add the `bundle` command."""
    actions = subparsers.add_parser(
        "bundle",
        help="write and open the encrypted files that CI jobs carry for a client",
        description="A client's NSS database and configuration in one file, encrypted with a"
        " passphrase, as GitHub actions that sign with Sigul take it. Of the passphrase the first"
        " line counts.",
    ).add_subparsers(title="actions", metavar="ACTION", required=True)
    add_command(
        *(actions, "write", partial(run_tool, _write)),
        argument(
            "--nss-dir",
            metavar="DIRECTORY",
            type=Path,
            required=True,
            help="the directory of the client's NSS database",
        ),
        argument(
            "--config",
            metavar="FILE",
            type=Path,
            help="a client.conf to put in, with nss-password in it",
        ),
        argument("file", metavar="FILE", type=Path, help="the bundle"),
        *(_BATCH, verbose()),
        help="make a bundle",
        description="Makes a bundle. A file of its name is replaced.",
    )
    add_command(
        *(actions, "open", partial(run_tool, _open)),
        argument("file", metavar="FILE", type=Path, help="the bundle"),
        argument(
            "directory",
            metavar="DIRECTORY",
            type=Path,
            help="where to: a directory that is not there yet, or is empty",
        ),
        *(_BATCH, verbose()),
        help="open a bundle",
        description="Puts what is in a bundle into a directory, and prints where the NSS database"
        " and the configuration are.",
    )


def _write(options: argparse.Namespace) -> None:
    from .. import bundle
    from ..config.identity import rights_of_owner
    from ..system.files import write_whole

    members = {}
    for name in _DATABASE:
        path = options.nss_dir / name
        if name != "pkcs11.txt" or path.exists():
            members[f".sigul/{name}"] = _content(path, "name the directory with cert9.db")
    if options.config is not None:
        text = _content(options.config, "name the client's configuration")
        bundle.check_configuration(text, f"'{options.config}'")
        members[".sigul/client.conf"] = text
    passphrase = SecretReader(batch=options.batch).read_new(_PASSPHRASE)
    packed = bundle.pack(members, passphrase)
    try:
        with rights_of_owner(options.file.absolute().parent):
            write_whole(options.file, packed, replace=True)
    except OSError as error:
        raise ConfigurationError(
            f"'{options.file}' cannot be written: {error.strerror}", "name another file"
        ) from error


def _open(options: argparse.Namespace) -> None:
    from .. import bundle
    from ..config.identity import rights_of_owner

    text = _content(options.file, "name a bundle")
    passphrase = SecretReader(batch=options.batch).read(_PASSPHRASE)
    found = bundle.unpack(text, passphrase)
    directory = options.directory.absolute()
    with rights_of_owner(directory.parent):
        found.write_to(directory)
    configuration = directory / ".sigul/client.conf" if found.configuration is not None else ""
    say_text(f"nss-dir: {directory / found.nss_directory}\nconfig: {configuration}")


def _content(path: Path, cure: str) -> bytes:
    from ..config.reading import read_small

    try:
        return read_small(path, _MAX_FILE)
    except OSError as error:
        raise ConfigurationError(f"'{path}' cannot be read: {error.strerror}", cure) from error
