"""All commands, one group after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Final

from .command import Command, CommandGroup

#: The modules of the groups, in the order in which `--help-commands` lists them, each with the
#: names of its commands: who looks for one command loads its module alone. Those for RPMs take
#: longer to import than all others together.
GROUPS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "users": (
            "list-users",
            "new-user",
            "delete-user",
            "user-info",
            "modify-user",
            "key-user-info",
            "modify-key-user",
        ),
        "keys": (
            "list-keys",
            "new-key",
            "import-key",
            "delete-key",
            "modify-key",
        ),
        "access": (
            "list-key-users",
            "grant-key-access",
            "revoke-key-access",
            "get-public-key",
            "change-key-expiration",
            "list-certificates",
            "delete-certificate",
            "change-passphrase",
        ),
        "signing": (
            "sign-text",
            "sign-data",
            "verify",
            "decrypt",
            "sign-git-tag",
            "sign-container",
            "sign-ostree",
        ),
        "certificates": (
            "sign-certificate",
            "sign-pe",
        ),
        "bindings": (
            "list-binding-methods",
            "list-server-binding-methods",
        ),
        "rpms": (
            "sign-rpm",
            "sign-rpms",
        ),
    }
)


def commands() -> Iterator[Command]:
    """All commands, in the order in which `--help-commands` lists them."""
    for group in GROUPS:
        yield from _group(group)


def command_named(name: str) -> Command | None:
    """The command `name`, or None."""
    for group, names in GROUPS.items():
        if name in names:
            return next(command for command in _group(group) if command.name == name)
    # One that is new, and not in the table yet; else what was typed is none.
    return next((command for command in commands() if command.name == name), None)


def _group(name: str) -> CommandGroup:
    group: CommandGroup = import_module(f".{name}", __package__).COMMANDS
    return group
