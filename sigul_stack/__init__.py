"""sigul-stack: bridge, signing server and client of the Sigul protocol, and what deploys them."""

from __future__ import annotations

__version__ = "1.0.0.dev0"
