"""`sigul-stack`: what this package has beyond the classic Sigul programs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from ..errors import SigulError
from . import (
    audit,
    backup,
    bundle,
    check_config,
    database,
    demo,
    diagnose,
    doctor,
    health,
    metrics,
    pki,
    requests,
    signjob,
    status,
    trace,
    witness,
)
from .hardening import harden_process
from .logs import set_up_client
from .outcome import run_program, say
from .shared_arguments import VERSION, program_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the subcommands; returns its exit code."""
    harden_process()
    parser = program_parser(
        "sigul-stack",
        "Sets up and looks after a Sigul site: certificates, database, backups, and a site to try.",
        VERSION,
        epilog="The classic programs stand beside this one: sigul (the client), sigul_bridge,"
        " sigul_server, sigul_server_create_db, sigul_server_add_admin, sigul_setup_client;"
        " each has --help.",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (
        pki,
        database,
        backup,
        audit,
        bundle,
        check_config,
        health,
        doctor,
        diagnose,
        metrics,
        requests,
        status,
        trace,
        signjob,
        witness,
        demo,
    ):
        module.add_parser(subparsers)
    options = parser.parse_args(argv)
    set_up_client(0, sys.stderr)
    run: Callable[[argparse.Namespace], int] = options.func
    try:
        return run(options)
    except SigulError as error:
        say(f"Error: {error}", error=True)
        return 1
    except KeyboardInterrupt:
        say("Interrupted", error=True)
        return 130


def program() -> NoReturn:
    """The installed program: `main`, whatever its standard streams are."""
    sys.exit(run_program(main))


if __name__ == "__main__":
    program()
