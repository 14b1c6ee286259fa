"""A command's own command line: one row as an argument parser."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from ..shared_arguments import Help
from .command import Command, always
from .planning import Arguments

#: Stands before an operand that may begin with a dash; no argument of a process holds a NUL byte.
_PROTECTION = "\0"


class _Parser(argparse.ArgumentParser):
    """A parser whose messages do not show how operands are protected."""

    def error(self, message: str) -> NoReturn:
        super().error(message.replace(_PROTECTION, ""))


def _protected(words: Sequence[str]) -> list[str]:
    """`words` without the first `--`, and what is behind it such that no option is seen in it.

    `parse_intermixed_args` parses in two steps, of which the first takes the `--` away.
    """
    if "--" not in words:
        return list(words)
    at = words.index("--")
    return [*words[:at], *(_PROTECTION + word for word in words[at + 1 :])]


def _unprotected(word: str) -> str:
    return word.removeprefix(_PROTECTION)


def parser_of(command: Command) -> argparse.ArgumentParser:
    """The parser of `command`."""
    parser = _Parser(
        prog=f"sigul {command.name}",
        description=f"{command.help}.",
        epilog=_about_secrets(command),
        formatter_class=Help,
    )
    for argument in command.arguments:
        name = argument.names[0]
        if name.startswith("-"):
            parser.add_argument(*argument.names, **argument.settings)
        else:
            metavar = name.upper().replace("_", "-")
            parser.add_argument(name, metavar=metavar, type=_unprotected, **argument.settings)
    return parser


def _about_secrets(command: Command) -> str | None:
    if not command.secrets:
        return None
    order = ", ".join(
        secret.prompt if secret.when is always else f"[{secret.prompt}]"
        for secret in command.secrets
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
    arguments = parser.parse_intermixed_args(_protected(words))
    if command.misuse and (reason := command.misuse(arguments)) is not None:
        parser.error(reason)
    return arguments
