"""Signing, one module a kind of signature. Each is given a key that is unlocked already."""

from __future__ import annotations
