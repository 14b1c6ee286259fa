"""The client of a Sigul site, as a Python API.

    from pathlib import Path
    from sigul_stack.client import Client
    from sigul_stack.config import load_client
    from sigul_stack.secret import Secret

    client = Client(load_client(Path("client.conf")).settings)
    print(client.list_users(Secret("…")))

`Client` has a method for each operation; `Client.call` sends any request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .api import Client, KeyInfo, KeyUserInfo, UserInfo
    from .core import ProgressFactory, Reply, no_progress

__all__ = [
    "Client",
    "KeyInfo",
    "KeyUserInfo",
    "ProgressFactory",
    "Reply",
    "UserInfo",
    "no_progress",
]

#: Of these names those of `core`; the others are of `api`.
_OF_CORE: Final = ("ProgressFactory", "Reply", "no_progress")


def __getattr__(name: str) -> object:
    """A name of the API, whose modules are loaded when it is asked for.

    `sigul` opens its files with modules of this package before it needs them.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import api, core

    return getattr(core if name in _OF_CORE else api, name)
