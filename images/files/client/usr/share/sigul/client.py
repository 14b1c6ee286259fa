"""The module `client` of Sigul, as far as GitHub's action sigul-sign-action asks it."""

from __future__ import annotations

from sigul_stack.cli.client_modules import ClientConfiguration

__all__ = ["ClientConfiguration"]
