"""All commands, one group after the other."""

from __future__ import annotations

from collections.abc import Iterator

from .command import Command


def commands() -> Iterator[Command]:
    """All commands, in the order in which `--help-commands` lists them.

    A group is imported when it is its turn: whoever looks for a command pays for no later one.
    """
    from . import users

    yield from users.COMMANDS
    from . import keys

    yield from keys.COMMANDS
    from . import access

    yield from access.COMMANDS
    from . import signing

    yield from signing.COMMANDS
    from . import bindings

    yield from bindings.COMMANDS
    from . import rpms

    yield from rpms.COMMANDS


def command_named(name: str) -> Command | None:
    """The command `name`, or None."""
    return next((command for command in commands() if command.name == name), None)
