"""`sigul-stack check-config`: whether a program would start with a configuration file.

For whoever writes such a file, a person or Ansible, before it takes another one's place. Only the
file that is named is read, not the one in /etc/sigul beside it. Stricter than the programs: what
they warn about (an unknown option is one in the wrong section, more often than not) is an error.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from ..config import PROGRAMS, load
from .outcome import say
from .shared_arguments import Subparsers, add_command, argument

#: Where no program's configuration is, so that the named file alone counts.
_NOWHERE: Final = Path("/dev/null")


def add_parser(subparsers: Subparsers) -> None:
    """Add the `check-config` command."""
    add_command(
        subparsers,
        "check-config",
        run,
        argument("program", choices=sorted(PROGRAMS), help="whose configuration it is"),
        argument("file", type=Path, metavar="FILE", help=""),
        help="check a configuration file before it is put in place",
        description="Reads one configuration file, and the secrets in the files that it names, as"
        " the program would. Exit status 1 for what the program would warn about, too, unless it"
        " may well be what was meant. Needs no network and opens no database.",
    )


def run(options: argparse.Namespace) -> int:
    """`check-config`; returns the exit code. Raises `ConfigurationError`."""
    loaded = load(PROGRAMS[options.program](), options.file, system_directory=_NOWHERE)
    for warning in loaded.warnings:
        say(f"{'Warning' if warning.possible else 'Error'}: {warning}", error=True)
    if options.program != "client":
        loaded.check_paths()
    if not all(warning.possible for warning in loaded.warnings):
        return 1
    say(f"{options.file}: good")
    return 0
