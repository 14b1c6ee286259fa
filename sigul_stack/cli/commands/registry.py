"""All commands, one group after the other."""

from __future__ import annotations

from collections.abc import Iterator

from . import access, bindings, certificates, keys, signing, users
from .command import Command


def commands() -> Iterator[Command]:
    """All commands, in the order in which `--help-commands` lists them.

    Those for RPMs come last: their module takes longer to import than all others together, and who
    looks for another command does not pay for it.
    """
    for group in (users, keys, access, signing, certificates, bindings):
        yield from group.COMMANDS
    from . import rpms

    yield from rpms.COMMANDS


def command_named(name: str) -> Command | None:
    """The command `name`, or None."""
    return next((command for command in commands() if command.name == name), None)
