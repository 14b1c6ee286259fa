"""What a row of the table of commands is made of. Data only; no parser, no client."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datetime

    from ...config.client import ClientSettings

Arguments = argparse.Namespace


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Operand:
    """A word of the command line without a dash: with `many` one or more, `optional` one or none.

    `reads` says that it names the payload's file.
    """

    name: str
    help: str
    reads: bool = False
    many: bool = False
    optional: bool = False

    @property
    def metavar(self) -> str:
        """The name as usage messages have it."""
        return self.name.upper().replace("_", "-")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Option:
    """An option: its spellings, and what `argparse` is to make of it."""

    spellings: tuple[str, ...]
    how: dict[str, Any]


def option(*spellings: str, help: str, **how: Any) -> Option:
    """An option, in the words of `argparse.ArgumentParser.add_argument`."""
    return Option(spellings, {"help": help, **how})


def always(_arguments: Arguments) -> bool:
    """The condition that always holds."""
    return True


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Ask:
    """A secret that a command asks for, where `when` holds.

    `name` is what the command calls it. A `new` one is asked for twice. One that a passphrase
    file may stand for (`from_file`) is not asked for where `-f` names such a file, and none where
    the argument `file_argument` does.
    """

    name: str
    prompt: str
    new: bool = False
    from_file: bool = False
    file_argument: str = ""
    when: Callable[[Arguments], bool] = always


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Command:
    """One command. `run` is `MODULE:FUNCTION` of this package, called with an `Invocation`.

    `output` tells, for a command whose reply goes to `-o FILE` or standard output, whether it is
    binary; None where there is none for these arguments. `prepare` is a function, named like
    `run`, that gets the arguments before secrets are asked for; what it returns is the
    invocation's `prepared`. `misuse` gives the reason why arguments do not fit together, if they
    do not. `check`, named like `run`, is called with the arguments before anything is opened or
    asked for, and raises `SigulError`. A command that is `local` connects to nothing.
    """

    name: str
    help: str
    run: str
    operands: tuple[Operand, ...] = ()
    options: tuple[Option, ...] = ()
    secrets: tuple[Ask, ...] = ()
    output: Callable[[Arguments], bool | None] | None = None
    #: Whether the output is a new form of the payload's file, which it replaces without `-o FILE`,
    #: or where that names the same file. Of all other commands no output may be an input.
    replaces: bool = False
    misuse: Callable[[Arguments], str | None] | None = None
    #: The same, for what the configuration decides.
    configured_misuse: Callable[[Arguments, ClientSettings], str | None] | None = None
    check: str | None = None
    local: bool = False
    prepare: str | None = None
    #: Whether the operand that is read names what the command has to see to itself: many files, or
    #: something that is not here. Then it is given no payload.
    unread: Callable[[Arguments], bool] | None = None


def date(text: str) -> datetime.date:
    """A date written as `yyyy-mm-dd`."""
    import datetime  # takes longer than all of this module, and few commands have a date

    try:
        found = datetime.date.fromisoformat(text)
    except ValueError:
        found = None
    # Newer Pythons take more than the one form that the protocol has.
    if found is None or found.isoformat() != text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date of the form YYYY-MM-DD")
    return found


def subkey_number(text: str) -> int:
    """The number of a subkey, from 1."""
    if not text.isascii() or not text.isdecimal() or len(text) > 3 or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a subkey (1, 2, …)")
    return int(text)


def years(text: str) -> str:
    """A number of years, from 1, written as `10y`."""
    number = text[:-1]
    if not text.endswith("y") or not number.isascii() or not number.isdecimal() or not int(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of years such as 10y")
    return text


def certificate_name(text: str) -> str:
    """The name of a certificate: ASCII letters."""
    if not text.isascii() or not text.isalpha():
        raise argparse.ArgumentTypeError(f"{text!r} is not a certificate's name: ASCII letters")
    return text
