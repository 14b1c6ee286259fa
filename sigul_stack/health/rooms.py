"""Whether there is room on a file system, and whether it can be written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ..checks import Check, State, failed, warning
from .steps import CheckContext, Layer

#: Free bytes of a file system with less than which changes soon fail, or do.
_LITTLE_ROOM: Final = 64 << 20
_NO_ROOM: Final = 1 << 20
#: The same for files that can be made.
_FEW_FILES: Final = 100
#: Of a file system's size, what is free: with less than this part and so many bytes it is a matter
#: of time. A tenth of a large one is plenty.
_WARN_RATIO, _WARN_BYTES = 0.10, 10 << 30
_FAIL_RATIO, _FAIL_BYTES = 0.03, 1 << 30
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


def disk_check(context: CheckContext[Any], volumes: Mapping[str, list[Path]]) -> Check:
    """Check how much of the file systems is free that `volumes` lie on, each by its name.

    Of a volume of several directories the fullest counts; one that is missing is where it would be
    made.
    """
    state, told, values = State.OK, [], {}
    for volume, paths in volumes.items():
        ratio, free = min(map(_free, paths))
        context.measure("sigul_disk_free_ratio", ratio, component=context.component, volume=volume)
        values[f"{volume}_free_ratio"] = round(ratio, 4)
        told.append(f"{volume.replace('_', ' ')} {ratio:.0%}")
        if ratio < _FAIL_RATIO and free < _FAIL_BYTES:
            state = State.FAILED
        elif ratio < _WARN_RATIO and free < _WARN_BYTES:
            state = max(state, State.WARNING)
    cure = "" if state is State.OK else _FREE
    return Check(Layer.DISK, state, f"free: {', '.join(told)}", cure, values)


def _free(path: Path) -> tuple[float, int]:
    """The free part, 0 to 1, and bytes of the file system where `path` is, or would be made."""
    while not path.exists() and path != path.parent:
        path = path.parent
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize
    # Without what is root's alone, as df has it; some have no size, and are never full.
    size = (found.f_blocks - found.f_bfree + found.f_bavail) * found.f_frsize
    return (free / size if size else 1.0), free
