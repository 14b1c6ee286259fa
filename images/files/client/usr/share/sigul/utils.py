"""The module `utils` of Sigul, as far as GitHub's action sigul-sign-action asks it."""

from __future__ import annotations

from sigul_stack.cli.client_modules import ConfigurationError, NSSInitError, nss_init

__all__ = ["ConfigurationError", "NSSInitError", "nss_init"]
