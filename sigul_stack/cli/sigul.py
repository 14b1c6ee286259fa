"""`sigul`, the client: options before the command, then one command.

Exit codes: 0 on success; 1 with one line `Error: TEXT` on standard error, 75 or 79 in its place
(`outcome`); 2 where the command line does not fit.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..logevents import tell
from .commands.command import Command
from .commands.planning import Arguments
from .commands.registry import command_named, commands
from .hardening import harden_process
from .log_events import ProgramLog
from .logs import set_up_client
from .outcome import print_lines, report, run_program
from .secret_input import SecretReader
from .shared_arguments import VERSION, argument, config_file, program_parser, verbose
from .standard_streams import occupy_standard_descriptors

log = logging.getLogger(__name__)

#: The configuration file that is read, if it is there, where `-c` names no other.
DEFAULT_CONFIG = "~/.sigul/client.conf"
#: The longest that a request may be tried again, in seconds: a week.
MAX_RETRY_SECONDS = 7 * 24 * 3600


def _parser() -> argparse.ArgumentParser:
    return program_parser(
        "sigul",
        "A client of a Sigul signing server.",
        argument(
            "--batch",
            action="store_true",
            help="ask nothing: read each secret from standard input, ended by a NUL byte",
        ),
        config_file(f"configuration file (default: {DEFAULT_CONFIG})"),
        argument(
            "-u",
            "--user-name",
            metavar="USER",
            help="your name on the server, if not the configured",
        ),
        argument(
            "-f",
            "--passphrase-file",
            metavar="FILE",
            type=Path,
            help="file with a bound passphrase, instead of asking for the key's passphrase",
        ),
        argument(
            "--retry",
            metavar="SECONDS",
            type=_seconds,
            help="try a request that nobody has acted on again for so long, 0 for not at all"
            " (default: retry-seconds in client.conf, else 0)",
        ),
        verbose(),
        argument(
            "--log-format",
            choices=("text", "json"),
            default="text",
            help="form of the log's lines on standard error; errors stay as they are",
        ),
        argument("--help-commands", action=_HelpCommands, nargs=0, help="list the commands"),
        VERSION,
        argument(
            "--internal-protocol-version", dest="version_word", type=int, help=argparse.SUPPRESS
        ),
        # One argument, for of two the first would swallow a `--` between them, which is the
        # command's.
        argument(
            "command",
            metavar="COMMAND",
            nargs=argparse.PARSER,
            help="what to do, and the command's own arguments",
        ),
        epilog="`sigul --help-commands` lists the commands, `sigul COMMAND --help` tells about"
        " one.",
    )


def _seconds(text: str) -> float:
    """A time for trying again, in seconds."""
    value = float(text)
    if not 0 <= value <= MAX_RETRY_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {MAX_RETRY_SECONDS}")
    return value


class _HelpCommands(argparse.Action):
    """`--help-commands`: list all commands and end."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        width = max(len(command.name) for command in commands())
        lines = [f"{command.name:{width}}  {command.help}" for command in commands()]
        parser.exit(report(lambda: print_lines(lines)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run `sigul` with `argv` (default: the process's arguments); the exit code."""
    harden_process()
    occupy_standard_descriptors()
    parser = _parser()
    options = parser.parse_args(argv)
    words = options.command
    if words[0] == "--" and len(words) > 1:  # Python 3.13 has left it out
        words = words[1:]
    name = words[0]
    command = command_named(name)
    if command is None:
        parser.error(_unknown(name))
    from .commands.parsing import parse

    if options.user_name == "":
        parser.error("-u/--user-name is empty: name a user, or leave it out")
    arguments = parse(command, words[1:])
    set_up_client(options.verbose, sys.stderr, json=options.log_format == "json")
    return report(lambda: _run(command, arguments, options))


def _unknown(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, [command.name for command in commands()], 1)
    cure = f"did you mean {close[0]}?" if close else "--help-commands lists the commands"
    return f"unknown command {name!r}; {cure}"


def _run(command: Command, arguments: Arguments, options: Arguments) -> None:
    from ..config import load_client
    from ..config.client import own_file
    from .commands.execution import CommandContext, execute

    loaded = load_client(options.config_file or own_file(), user_name=options.user_name)
    for warning in loaded.warnings:
        tell(log, ProgramLog.CLIENT_CONFIGURATION_WARNING, why=str(warning))
    execute(
        command,
        arguments,
        CommandContext(
            loaded.settings,
            SecretReader(batch=options.batch),
            options.passphrase_file,
            options.version_word,
            options.retry,
        ),
    )


def program() -> NoReturn:
    """The installed program: `main`, without what a process that is about to end need not do.

    Collecting cycles while modules load, and taking the interpreter down object by object, would
    take a tenth of a small request's time.
    """
    gc.disable()
    os._exit(run_program(main))


if __name__ == "__main__":
    program()
