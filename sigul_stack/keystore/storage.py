"""Directories of keys: the operating system's errors in our words, and one change at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import KeystoreError
from ..system.files import locked


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate the operating system's errors about a key store in `path`."""
    try:
        yield
    except OSError as error:
        raise KeystoreError(
            f"the key store in {path} failed: {error}", "check the disk, and who may write there"
        ) from error


@contextmanager
def locked_keys(directory: Path, time_limit: float) -> Iterator[None]:
    """Hold the lock that every change to the keys in `directory` takes.

    Raises `KeystoreError` if others hold it for `time_limit` seconds.
    """
    error = KeystoreError(
        f"another request has been changing keys in {directory} for {time_limit:g} s",
        "try again later",
    )
    with locked(directory, time_limit, error):
        yield
