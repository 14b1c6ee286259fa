"""The tiles of a log, computed from its entries: for who has these alone, or believes these alone.

It holds the right edge of the tree, one tile a level, and gives each tile and bundle to a function
that writes it, the narrower ones of the right edge at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..formats.merkle_tree import (
    TILE_LEVELS,
    TILE_WIDTH,
    Frontier,
    ReadNode,
    bundle_path,
    encode_bundle,
    fold,
    full_nodes,
    hash_leaf,
    tile_path,
)


class TileBuilder:
    """Computes tiles. `size` is the number of leaves that there are."""

    def __init__(
        self, write: Callable[[str, bytes], None], size: int = 0, node: ReadNode | None = None
    ) -> None:
        """`write` gets paths below the log's directory, and contents.

        A log of `size` leaves is there already, whose hashes `node` gives.
        """
        self.size = size
        self._write = write
        #: The hashes of each level's last tile, which is not full.
        self._open: list[list[bytes]] = []
        nodes: list[bytes] = []
        if node is not None:
            nodes = [node(*place) for place in full_nodes(0, size)]
            count = size
            while count:
                level, first = len(self._open) * TILE_LEVELS, count - count % TILE_WIDTH
                self._open.append([node(level, index) for index in range(first, count)])
                count //= TILE_WIDTH
        self._edge = Frontier(size, nodes)

    def add(self, bundle: Sequence[bytes]) -> None:
        """Add a bundle, whose first entries are those of the last one where that was not full."""
        number, known = divmod(self.size, TILE_WIDTH)
        self._write(bundle_path(number, len(bundle)), encode_bundle(bundle))
        for entry in bundle[known:]:
            found = hash_leaf(entry)
            self._edge.append(found)
            self._append(0, self.size, found)
            self.size += 1

    def _append(self, level: int, index: int, found: bytes) -> None:
        if level == len(self._open):
            self._open.append([])
        hashes = self._open[level]
        hashes.append(found)
        if len(hashes) == TILE_WIDTH:
            number = index // TILE_WIDTH
            self._write(tile_path(level, number), b"".join(hashes))
            self._append(level + 1, number, fold(hashes))
            hashes.clear()

    def root(self) -> bytes:
        """The hash over all leaves."""
        return self._edge.root()

    def finish(self) -> None:
        """Write the tiles that are not full."""
        count = self.size
        for level, hashes in enumerate(self._open):
            if hashes:
                path = tile_path(level, count // TILE_WIDTH, len(hashes))
                self._write(path, b"".join(hashes))
            count //= TILE_WIDTH
