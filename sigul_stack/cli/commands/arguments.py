"""Arguments and secrets that several commands have, and the types of arguments' values."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..shared_arguments import argument
from .command import SecretPrompt
from .planning import standard_output_or_path

if TYPE_CHECKING:
    import datetime


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


def matching(pattern: str, what: str) -> Callable[[str], str]:
    """A text that matches all of the regular expression `pattern`; `what` says what it is to be."""

    def matched(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return text

    return matched


def named_place(text: str) -> Path:
    """A file or directory that has to have a name: not `-`, which is standard output elsewhere."""
    if text == "-":
        raise argparse.ArgumentTypeError("it cannot be standard output (what has that name is ./-)")
    return Path(text)


USER: Final = argument("user", help="the user's name")
KEY: Final = argument("key", help="the key's name")
OUTPUT: Final = argument(
    "-o",
    "--output",
    metavar="FILE",
    type=standard_output_or_path,
    help="write to FILE (default, and with -: standard output)",
)
PASSWORD: Final = argument(
    "--password",
    action="store_true",
    help="authenticate with an administrator's password instead of the key's passphrase",
)
YES_NO: Final = ("yes", "no")

#: Limits of an access.
LIMITS: Final = (
    argument(
        "--only",
        metavar="OPERATION,...",
        type=matching("[a-z,-]+", "names of operations between commas"),
        help="the operations that the access is good for, as sign-rpm,sign-rpms ('all': every one)",
    ),
    argument(
        "--rpm-name",
        metavar="PATTERN",
        action="append",
        type=matching("[^,\\s]+", "a pattern of RPMs' names"),
        help="sign RPMs alone whose name matches this shell pattern; repeat for more patterns"
        " ('*': RPMs of every name)",
    ),
)


def limits(arguments: argparse.Namespace) -> dict[str, list[str] | None]:
    """The limits that `LIMITS` name, for the client's methods: an empty list ends one."""
    only, names = arguments.only, arguments.rpm_name
    return {
        "only": only and ([] if only == "all" else only.split(",")),
        "rpm_names": names and ([] if "*" in names else names),
    }


ADMIN_PASSWORD: Final = SecretPrompt("password", "Administrator's password")
PASSPHRASE: Final = SecretPrompt("passphrase", "Key passphrase", from_file=True)
#: With `PASSWORD`: either gives the right to what a key's users and administrators may do.
PASSPHRASE_OR_PASSWORD: Final = (
    SecretPrompt(
        "passphrase",
        "Key passphrase",
        from_file=True,
        when=lambda arguments: not arguments.password,
    ),
    SecretPrompt("password", "User password", when=lambda arguments: bool(arguments.password)),
)
