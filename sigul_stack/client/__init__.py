"""The client of a Sigul site, as a Python API.

    from sigul_stack.client import Client
    from sigul_stack.config import load_client

    client = Client(load_client(Path("client.conf")).settings)
    reply = client.call("list-users", secrets={"password": Secret("…")})
"""

from __future__ import annotations

from .core import Client, ProgressFactory, Reply, no_progress

__all__ = ["Client", "ProgressFactory", "Reply", "no_progress"]
