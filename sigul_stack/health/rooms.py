"""Whether there is room on a file system, and whether it can be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..checks import Check, failed, warning
from .steps import Layer

#: Free bytes of a file system with less than which changes soon fail, or do.
_LITTLE_ROOM: Final = 64 << 20
_NO_ROOM: Final = 1 << 20
#: The same for files that can be made.
_FEW_FILES: Final = 100
_FREE: Final = "free space there, or move it to a larger one"


def room(name: str, path: Path, layer: Layer) -> Iterator[Check]:
    """Return what is wrong with the file system of `path`, the option `name`."""
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize
    where = f"the file system of {name} '{path}'"
    if found.f_flag & os.ST_RDONLY:
        yield failed(
            layer,
            f"{where} is mounted read-only",
            "mount it writable; where nobody meant it, the kernel's log says why it is not",
        )
    elif free < _NO_ROOM or (found.f_files and not found.f_favail):
        yield failed(layer, f"{where} is full: {free} bytes, {found.f_favail} files free", _FREE)
    elif free < _LITTLE_ROOM or (found.f_files and found.f_favail < _FEW_FILES):
        yield warning(
            layer, f"{where} is nearly full: {free >> 20} MiB, {found.f_favail} files free", _FREE
        )
