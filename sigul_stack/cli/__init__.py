"""The programs' entry points: the only place where everything is wired together."""

from __future__ import annotations
