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
