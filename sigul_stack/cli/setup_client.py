"""`sigul_setup_client`: makes a user's NSS database and puts certificates into it.

What it needs and is not given as an option, it asks for. The database then holds the user's
certificate with its private key, and the CA's certificate, nothing else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..config.values import absolute
from ..errors import ConfigurationError
from .commands.planning import open_input
from .hardening import harden_process
from .outcome import run_program, say, say_text
from .secret_input import NSS_PASSWORD, SecretReader
from .server_tools import run_tool
from .shared_arguments import VERSION, argument, program_parser, verbose

if TYPE_CHECKING:
    from ..pki import Bundle, NSSDatabase

#: Where `sigul` looks for its NSS database and its configuration.
DEFAULT_DIRECTORY = "~/.sigul"
DEFAULT_NICKNAME = "sigul-client-cert"

_MAX_FILE = 1 << 20


def main(argv: Sequence[str] | None = None) -> int:
    """Set up a client's NSS database; returns the exit code."""
    harden_process()
    parser = program_parser(
        "sigul_setup_client",
        "Makes the NSS database of a Sigul client and puts the user's certificate with its private"
        " key, and the CA's certificate, into it. Asks for what is not given.",
        argument(
            "--nss-dir",
            metavar="DIRECTORY",
            default=DEFAULT_DIRECTORY,
            help=f"the database's directory (default: {DEFAULT_DIRECTORY})",
        ),
        argument(
            "--certificate",
            metavar="FILE",
            type=Path,
            help="your certificate: a PKCS#12 file with its key, or a PEM file",
        ),
        argument(
            "--key", metavar="FILE", type=Path, help="its private key in PEM, if in another file"
        ),
        argument(
            "--ca",
            metavar="FILE",
            type=Path,
            nargs="+",
            help="the CA's certificate in PEM (needed unless it is in the PKCS#12 file)",
        ),
        argument(
            "--nickname",
            default=DEFAULT_NICKNAME,
            help="client-cert-nickname of client.conf (default: %(default)s)",
        ),
        argument("--replace", action="store_true", help="replace the certificate of that nickname"),
        argument(
            "--batch",
            action="store_true",
            help="ask nothing: read each password from standard input, ended by a NUL byte",
        ),
        verbose("tell more"),
        VERSION,
        epilog="Passwords, in the order in which they are asked for: of the file with the"
        " certificate or key, if it has one; of the NSS database.",
    )
    return run_tool(_run, parser.parse_args(argv))


def _run(options: argparse.Namespace) -> None:
    from .. import pki

    reader = SecretReader(batch=options.batch)
    directory = Path(absolute(options.nss_dir.removeprefix("sql:")))
    certificate = options.certificate or _ask_path(
        options, "--certificate", "Your certificate with its key (PKCS#12 or PEM file)"
    )
    bundle = _read_bundle(options, certificate, reader)
    authorities = options.ca
    if authorities is None and not bundle.chain:
        authorities = [_ask_path(options, "--ca", "The CA's certificate (PEM file)")]
    given = tuple(item for path in authorities or () for item in pki.read_certificates(path))
    database = _database(directory, reader)
    with database.filling() as store:
        outdated = pki.put_bundle(store, bundle, given, options.nickname, replace=options.replace)
        warnings = pki.accept_leaf(store, options.nickname, pki.Role.CLIENT)
    database.delete_keys(outdated)
    for check in warnings:
        say(f"Warning: {check}", error=True)
    _tell(database, options.nickname, directory)


def _ask_path(options: argparse.Namespace, option: str, what: str) -> Path:
    if not options.batch:
        try:
            answer = input(f"{what}: ").strip()
        except (EOFError, OSError):
            answer = ""
        if answer:
            return Path(answer).expanduser()
    raise ConfigurationError(f"{what}: nothing was given", f"name it with {option} FILE")


def _read_bundle(options: argparse.Namespace, certificate: Path, reader: SecretReader) -> Bundle:
    """The certificate with its key, from whichever kind of file it is."""
    from .. import pki

    content = _content(certificate)
    if b"-----BEGIN" not in content:
        if options.key is not None:
            raise ConfigurationError(
                f"'{certificate}' is no PEM file, so --key does not go with it", "leave --key out"
            )
        return pki.read_pkcs12(certificate, reader.read(f"Password of '{certificate}'"))
    key = options.key
    if key is None:
        key = certificate
        if b"PRIVATE KEY-----" not in content:
            key = _ask_path(options, "--key", "Its private key (PEM file)")
    encrypted = b"ENCRYPTED" in _content(key)
    password = reader.read(f"Password of '{key}'") if encrypted else None
    return pki.read_pem(certificate, key, password)


def _content(path: Path) -> bytes:
    with open_input(path) as file:
        return file.read(_MAX_FILE)


def _database(directory: Path, reader: SecretReader) -> NSSDatabase:
    """The database in `directory`, with its password: a new one where there is no database yet."""
    from ..pki import DatabaseKind, NSSDatabase

    database = NSSDatabase(directory)
    if database.recognise() is DatabaseKind.MISSING:
        database.password = reader.read_new(f"New {NSS_PASSWORD}")
        return database
    database.require()
    database.password = reader.read(NSS_PASSWORD)
    database.check_password()
    return database


def _tell(database: NSSDatabase, nickname: str, directory: Path) -> None:
    found = database.find(nickname)
    say(
        f"{directory}: '{nickname}' is the certificate of {found.common_name}, valid until"
        f" {found.not_after:%Y-%m-%d}."
    )
    configuration = Path(absolute(DEFAULT_DIRECTORY)) / "client.conf"
    if not configuration.exists():
        say_text(
            f"Next, write {configuration}:\n\n"
            "[client]\nbridge-hostname: BRIDGE\nserver-hostname: SERVER\n"
            f"user-name: {found.common_name}"
            + (f"\nclient-cert-nickname: {nickname}" if nickname != DEFAULT_NICKNAME else "")
            + (f"\n\n[nss]\nnss-dir: {directory}" if directory != configuration.parent else "")
        )


def program() -> NoReturn:
    """The installed program: `main`, whatever its standard streams are."""
    sys.exit(run_program(main))


if __name__ == "__main__":
    program()
