"""`sigul-stack`: what this package has beyond the classic Sigul programs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Final, NoReturn

from ..errors import SigulError
from .hardening import harden_process
from .logs import set_up_client
from .outcome import run_program, say
from .shared_arguments import VERSION, program_parser

#: The commands and their modules, in the order in which `--help` lists them.
MODULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "pki": "pki",
        "database": "database",
        "backup": "backup",
        "audit": "audit",
        "bundle": "bundle",
        "check-config": "check_config",
        "health": "health",
        "canary": "canary",
        "doctor": "doctor",
        "diagnose": "diagnose",
        "metrics": "metrics",
        "requests": "requests",
        "status": "status",
        "trace": "trace",
        "sign-job": "signjob",
        "witness": "witness",
        "demo": "demo",
    }
)


def _modules_for(words: Sequence[str]) -> Iterable[str]:
    """The module of the command that comes first in `words`; all where that is none, or help."""
    if words and words[0] in MODULES:
        return (MODULES[words[0]],)
    return dict.fromkeys(MODULES.values())


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
    for module in _modules_for(sys.argv[1:] if argv is None else argv):
        import_module(f".{module}", __package__).add_parser(subparsers)
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
