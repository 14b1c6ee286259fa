"""Fixtures of more than one module here."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """What a test sets up of logging goes with it."""
    root, own = logging.getLogger(), logging.getLogger("sigul_stack")
    handlers, level, own_level = root.handlers[:], root.level, own.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    own.setLevel(own_level)
    logging.captureWarnings(False)
