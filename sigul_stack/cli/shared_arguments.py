"""Command lines as data: arguments, and what makes parsers of them for all programs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

from .. import __version__
from ..records import dataclass

#: A subparsers action is generic in the type checker's eyes alone.
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

#: Help of `-c` where it names a server's file.
SERVER_FILE: Final = "the server's configuration file, read after /etc/sigul/server.conf"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Argument:
    """A word or an option of a command line: what `argparse` is to make of which names."""

    names: tuple[str, ...]
    settings: dict[str, Any]


def argument(*names: str, help: str, **settings: Any) -> Argument:
    """An argument, in the words of `argparse.ArgumentParser.add_argument`."""
    return Argument(names, {"help": help, **settings})


def config_file(help: str, **settings: Any) -> Argument:
    """`-c FILE`; `settings` are more of `argparse`'s, such as `action`."""
    return argument("-c", "--config-file", metavar="FILE", type=Path, help=help, **settings)


def verbose(
    help: str = "tell more (twice: all, but only behind an error; thrice: all at once)",
) -> Argument:
    """`-v`, which counts."""
    return argument("-v", "--verbose", action="count", default=0, help=help)


VERSION: Final = argument(
    "--version",
    action="version",
    version=f"%(prog)s {__version__}",
    help="show program's version number and exit",
)


class Help(argparse.HelpFormatter):
    """Help as wide as the terminal.

    A parser makes one of these for each argument that is added to it. For the width, argparse's own
    loads `shutil`, which loads the libraries of three compressions.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    """The terminal's width in characters, as `shutil.get_terminal_size` finds it."""
    try:
        columns = int(os.environ.get("COLUMNS", "0"))
    except ValueError:
        columns = 0
    if columns <= 0:
        try:
            columns = os.get_terminal_size(sys.__stdout__.fileno()).columns  # type: ignore[union-attr]
        except (AttributeError, ValueError, OSError):
            columns = 0
    return columns or 80


def program_parser(
    program: str, description: str, *arguments: Argument, epilog: str | None = None
) -> argparse.ArgumentParser:
    """The parser of a whole program."""
    parser = argparse.ArgumentParser(
        prog=program, description=description, epilog=epilog, formatter_class=Help
    )
    add_arguments(parser, *arguments)
    return parser


def add_arguments(parser: argparse.ArgumentParser, *arguments: Argument) -> None:
    """Add `arguments` to `parser`, in this order."""
    for item in arguments:
        parser.add_argument(*item.names, **item.settings)


def add_command(
    subparsers: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    *arguments: Argument,
    **settings: Any,
) -> None:
    """Add the command `name`; `settings` are those of `add_parser`.

    Its `func` is `run`, where None stands for exit code 0.
    """
    parser = subparsers.add_parser(name, **settings)
    add_arguments(parser, *arguments)
    parser.set_defaults(func=lambda options: run(options) or 0)
