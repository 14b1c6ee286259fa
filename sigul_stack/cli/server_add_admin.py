"""`sigul_server_add_admin`: adds an administrator to the server's database.

The first one has to come from somewhere else than another administrator. Opens the server's NSS
database as well, as its predecessor does: a wrong password is noticed here, before the server runs.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NoReturn

from ..errors import ConfigurationError, RequestRefused, Status
from .hardening import harden_process
from .outcome import run_program
from .secret_input import NSS_PASSWORD, SecretReader, read_word
from .server_tools import (
    become_the_server,
    become_the_server_for_nss,
    checked_name,
    load_configuration,
    run_tool,
    tool_parser,
)
from .shared_arguments import argument


def main(argv: Sequence[str] | None = None) -> int:
    """Add an administrator; returns the exit code."""
    harden_process()
    parser = tool_parser(
        "sigul_server_add_admin",
        "Adds an administrator to the server's database, asking for name and password.",
        argument(
            "--batch",
            action="store_true",
            help="ask nothing: read the name (without -n) and the password from standard input,"
            " each ended by a NUL byte",
        ),
        argument("-n", "--name", metavar="NAME", help="the administrator's user name"),
    )
    return run_tool(_run, parser.parse_args(argv))


def _run(options: Namespace) -> None:
    from ..database import Database, ensure_usable
    from ..keystore.passwords import hash_password, require_length
    from ..server.services import database_url
    from ..transport import nss

    settings = load_configuration(options.config_file).settings
    url = database_url(settings)
    reader = SecretReader(batch=options.batch)
    become_the_server_for_nss(settings)
    nss.open_database(settings.nss, ask=lambda: reader.read(NSS_PASSWORD))
    become_the_server(settings)
    ensure_usable(url, clock=lambda: datetime.now(UTC))
    given = _ask_name(options.batch) if options.name is None else options.name
    name = checked_name(given, f"Administrator's user name: {given!r} is no user name")
    password = reader.read_new("Administrator's password")
    require_length(password, settings.min_secret_length)
    hashed = hash_password(password)
    try:
        with Database(url).write() as writer:
            writer.add_user(name, hashed, admin=True)
    except RequestRefused as error:
        if error.status != Status.ALREADY_EXISTS:
            raise
        raise RequestRefused(
            error.status,
            f"there is a user '{name}' already; choose another name, or let an administrator use"
            " `sigul modify-user`",
        ) from None


def _ask_name(batch: bool) -> str:
    what = "Administrator's user name"
    if batch:
        return read_word(0, what)
    try:
        return input(f"{what}: ")
    except (EOFError, OSError):
        raise ConfigurationError(f"{what}: nothing was given", "type it, or give -n NAME") from None


def program() -> NoReturn:
    """The installed program: `main`, whatever its standard streams are."""
    sys.exit(run_program(main))


if __name__ == "__main__":
    program()
