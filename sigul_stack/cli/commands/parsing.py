"""A command's own command line: one row of the table as an argument parser."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .model import Arguments, Command, always


def parser_of(command: Command) -> argparse.ArgumentParser:
    """The parser of `command`."""
    parser = argparse.ArgumentParser(
        prog=f"sigul {command.name}",
        description=f"{command.help}.",
        epilog=_about_secrets(command),
    )
    for operand in command.operands:
        nargs = "+" if operand.many else "?" if operand.optional else None
        parser.add_argument(operand.name, metavar=operand.metavar, help=operand.help, nargs=nargs)
    for option in command.options:
        parser.add_argument(*option.spellings, **option.how)
    return parser


def _about_secrets(command: Command) -> str | None:
    if not command.secrets:
        return None
    order = ", ".join(
        ask.prompt if ask.when is always else f"[{ask.prompt}]" for ask in command.secrets
    )
    return (
        f"Asks for, in this order ([...]: only with some options): {order}. With `sigul --batch`"
        " each is read from standard input, ended by a NUL byte."
    )


def parse(command: Command, words: Sequence[str]) -> Arguments:
    """The arguments of `command`; options and operands may be mixed.

    Ends the process with exit code 2 and a usage message where `words` do not fit.
    """
    parser = parser_of(command)
    arguments = parser.parse_intermixed_args(words)
    reason = command.misuse(arguments) if command.misuse else None
    if reason is not None:
        parser.error(reason)
    return arguments
