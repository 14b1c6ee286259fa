"""Commands about binding methods."""

from __future__ import annotations

from ..outcome import print_lines
from .arguments import ADMIN_PASSWORD
from .command import CommandGroup
from .planning import Call, Planning

COMMANDS = CommandGroup()


@COMMANDS.planned("list-binding-methods", "List the binding methods of this client")
def list_binding_methods(planning: Planning) -> None:
    """Print the client's own methods in configured order; no server is asked."""
    from ...keystore.bindings import enabled_methods

    print_lines(enabled_methods(planning.settings.binding.enabled))


@COMMANDS.request(
    "list-server-binding-methods",
    "List the binding methods of the server",
    secrets=[ADMIN_PASSWORD],
)
def list_server_binding_methods(call: Call) -> None:
    """Print the server's methods."""
    print_lines(call.client.list_server_binding_methods(call.secrets["password"]))
