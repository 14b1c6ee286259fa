"""Settings of the three programs: typed, frozen, every mistake in a file named with its cure.

`load_client`, `load_bridge` and `load_server` read a program's files and give `Loaded` settings
together with warnings about what the files hold beyond that. Options are declared as fields of
the settings classes (`client`, `bridge`, `server`, `shared`); `options` is how. `unknown` says
where a misplaced option belongs. Nothing here touches NSS, a database or the network, and nothing
looks for directories until `Loaded.check_paths()`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bridge import BridgeSettings, load_bridge
    from .client import ClientSettings, load_client
    from .options import Loaded
    from .server import ServerSettings, load_server
    from .shared import BindingSettings, BridgeKojiSettings, KojiSettings, NSSSettings

_HOME = {
    "BindingSettings": ".shared",
    "BridgeKojiSettings": ".shared",
    "BridgeSettings": ".bridge",
    "ClientSettings": ".client",
    "KojiSettings": ".shared",
    "Loaded": ".options",
    "NSSSettings": ".shared",
    "ServerSettings": ".server",
    "load_bridge": ".bridge",
    "load_client": ".client",
    "load_server": ".server",
}

__all__ = [
    "BindingSettings",
    "BridgeKojiSettings",
    "BridgeSettings",
    "ClientSettings",
    "KojiSettings",
    "Loaded",
    "NSSSettings",
    "ServerSettings",
    "load_bridge",
    "load_client",
    "load_server",
]


def __getattr__(name: str) -> object:
    """Import a program's settings when they are asked for: a client needs no one else's."""
    if name in _HOME:
        return getattr(import_module(_HOME[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
