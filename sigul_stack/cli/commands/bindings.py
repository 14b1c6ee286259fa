"""Commands about binding methods."""

from __future__ import annotations

from ...config.client import ClientSettings
from ...keystore.bindings import enabled_methods
from .execution import Invocation
from .printing import print_lines


def list_binding_methods(settings: ClientSettings) -> None:
    """`sigul list-binding-methods`: the client's own, in configured order."""
    print_lines(enabled_methods(settings.binding.enabled))


def list_server_binding_methods(call: Invocation) -> None:
    """`sigul list-server-binding-methods`."""
    print_lines(call.client.list_server_binding_methods(call.secrets["password"]))
