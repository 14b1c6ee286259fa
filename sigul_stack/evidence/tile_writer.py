"""Write the files of a bundle that is full, and of the tiles above it.

Each file is written whole and synced before the next, and no file is changed: a tile that grows
gets another name. So whatever ends this halfway, it is done again, with the same result.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Sequence
from pathlib import Path

from ..formats.merkle_tree import TILE_WIDTH, bundle_path, encode_bundle, fold, tile_path
from ..system.files import write_whole
from .log_files import PUBLIC, Tree, make_directories


class AppendStep(enum.Enum):
    """The steps of an append, each named for what has just been done."""

    ENTRIES_HALF_WRITTEN = enum.auto()
    ENTRIES_WRITTEN = enum.auto()
    ENTRIES_SYNCED = enum.auto()
    CHECKPOINT_DRAFTED = enum.auto()
    CHECKPOINT_WRITTEN = enum.auto()
    BUNDLE_WRITTEN = enum.auto()
    TILE_WRITTEN = enum.auto()
    UPPER_TILE_WRITTEN = enum.auto()
    TAIL_BEGUN = enum.auto()
    OLD_TILES_REMOVED = enum.auto()
    INDEXED = enum.auto()


def write_full_bundle(
    tree: Tree, number: int, entries: Sequence[bytes], on_step: Callable[[AppendStep], None]
) -> list[Path]:
    """Write bundle `number`, whose hashes are the tail of `tree`; the tiles from level 1 on."""

    def put(name: str, content: bytes) -> Path:
        path = tree.directory / name
        make_directories(path.parent)
        write_whole(path, content, replace=True, mode=PUBLIC)
        return path

    put(bundle_path(number), encode_bundle(entries))
    on_step(AppendStep.BUNDLE_WRITTEN)
    put(tile_path(0, number), b"".join(tree.tail))
    on_step(AppendStep.TILE_WRITTEN)
    found, index, level, written = fold(tree.tail), number, 1, []
    while True:
        tile, width = divmod(index, TILE_WIDTH)
        hashes = [*(tree.tile(level, tile) if width else ()), found]
        written.append(put(tile_path(level, tile, len(hashes)), b"".join(hashes)))
        on_step(AppendStep.UPPER_TILE_WRITTEN)
        if len(hashes) < TILE_WIDTH:
            return written
        found, index, level = fold(hashes), tile, level + 1


def remove_narrower(path: Path) -> None:
    """Remove the partial tiles that `path` has taken the place of; what stays does no harm."""
    partial = path.parent if path.parent.suffix == ".p" else path.with_name(f"{path.name}.p")
    with contextlib.suppress(OSError):
        for narrower in partial.iterdir():
            if narrower != path:
                narrower.unlink()
        if partial != path.parent:
            partial.rmdir()
