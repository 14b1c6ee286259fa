"""`sigul_server_create_db`: makes the server's database, empty."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import NoReturn

from .hardening import harden_process
from .outcome import run_program
from .server_tools import become_the_server, load_configuration, run_tool, tool_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Make the database that the server's configuration names; returns the exit code."""
    harden_process()
    parser = tool_parser(
        "sigul_server_create_db",
        "Makes the database that the server's configuration names. One that is there is kept, and"
        " is an error. Next: sigul_server_add_admin.",
    )
    return run_tool(_run, parser.parse_args(argv))


def _run(options: Namespace) -> None:
    from ..database import create
    from ..server.services import database_url

    settings = load_configuration(options.config_file).settings
    become_the_server(settings)
    create(database_url(settings))


def program() -> NoReturn:
    """The installed program: `main`, whatever its standard streams are."""
    sys.exit(run_program(main))


if __name__ == "__main__":
    program()
