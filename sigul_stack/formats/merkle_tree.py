"""The Merkle tree of a transparency log: hashes, proofs and their verification, tiles' coordinates.

Source of the formats: RFC 6962, 2.1 (hashes), RFC 9162, 2.1.3 and 2.1.4 (proofs), and
c2sp.org/tlog-tiles (tiles):

    hash of a leaf   SHA-256(00 ‖ entry)          hash of a node   SHA-256(01 ‖ left ‖ right)
    node             level and index: covers the leaves [index << level, (index + 1) << level)
    tile             level L and number N: up to 256 hashes of nodes of level 8 L, from 256 N on
    tile's path      tile/L/N, or tile/L/N.p/W of one with W < 256 hashes;  entries: tile/entries/N
    N in a path      groups of three digits, all but the last with an x: 1234067 is x001/x234/067
    entry bundle     {u16 length, entry} of the leaves of a level 0 tile

A tree is never in memory: who makes a proof gives a function that reads a node's hash. Nothing here
is a secret, so nothing compares in constant time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from ..errors import SigulError

HASH_BYTES: Final = 32
#: Levels of nodes between a tile and those above it, and hashes of a full tile.
TILE_LEVELS: Final = 8
TILE_WIDTH: Final = 1 << TILE_LEVELS
#: Largest entry, in bytes: its length is a u16.
MAX_ENTRY_BYTES: Final = 0xFFFF
#: The root of a tree without leaves.
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
#: Most hashes of a proof: a tree has fewer than 2**63 leaves.
MAX_PROOF_HASHES: Final = 126

#: Reads the hash of the full node of a level and an index.
ReadNode = Callable[[int, int], bytes]

_PATH_NUMBER: Final = re.compile(r"(x[0-9]{3}/)*[0-9]{3}")


class NotProven(SigulError):
    """Evidence that does not prove what it should: a proof, a signature or a tile is wrong."""


def hash_leaf(entry: bytes) -> bytes:
    """The hash of a leaf with the content `entry`."""
    return hashlib.sha256(b"\0" + entry).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    """The hash of a node over two others."""
    return hashlib.sha256(b"\1" + left + right).digest()


def full_nodes(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The largest full nodes that together cover the leaves from `start` to `end`, left to right.

    `start` is one at which a subtree of the tree begins, as 0 is.
    """
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        yield level, start >> level
        start += 1 << level


def subtree_hash(start: int, end: int, node: ReadNode) -> bytes:
    """The hash over the leaves from `start` to `end`, as `full_nodes` takes them."""
    parts = [node(level, index) for level, index in full_nodes(start, end)]
    if not parts:
        return EMPTY_ROOT
    found = parts.pop()
    while parts:
        found = hash_node(parts.pop(), found)
    return found


def inclusion_proof(index: int, size: int, node: ReadNode) -> list[bytes]:
    """The hashes that prove leaf `index` to be in the tree of `size` leaves, from its sibling up.

    Raises ValueError where there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    start, end, others = 0, size, []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            others.append((middle, end))
            end = middle
        else:
            others.append((start, middle))
            start = middle
    return [subtree_hash(*part, node) for part in reversed(others)]


def consistency_proof(old_size: int, size: int, node: ReadNode) -> list[bytes]:
    """The hashes that prove that the tree of `size` leaves begins with that of `old_size`.

    None are needed where either is empty or both are equal. Raises ValueError for a smaller tree.
    """
    if not 0 <= old_size <= size:
        raise ValueError(f"a tree of {size} leaves does not extend one of {old_size}")
    if old_size in (0, size):
        return []
    start, end, others, whole = 0, size, [], True
    while old_size != end:
        middle = start + _split(end - start)
        if old_size <= middle:
            others.append((middle, end))
            end = middle
        else:
            others.append((start, middle))
            start, whole = middle, False
    if not whole:
        others.append((start, end))
    return [subtree_hash(*part, node) for part in reversed(others)]


def _split(size: int) -> int:
    """The largest power of two below `size`, which is 2 at least."""
    return 1 << ((size - 1).bit_length() - 1)


def verify_inclusion(
    leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Raise `NotProven` unless `proof` shows the leaf in the tree (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        raise NotProven(f"there is no leaf {index} in a log of {size} leaves")
    number, last, found = index, size - 1, leaf_hash
    for part in proof:
        if last == 0:
            raise NotProven("the proof of inclusion has more hashes than it should")
        if number & 1 or number == last:
            found = hash_node(part, found)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            found = hash_node(found, part)
        number, last = number >> 1, last >> 1
    if last or found != root:
        raise NotProven(f"leaf {index} is not in the log of {size} leaves with this root")


def verify_consistency(
    old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]
) -> None:
    """Raise `NotProven` unless `proof` shows that the later tree extends the older one.

    As RFC 9162, 2.1.4.2, has it; to the empty tree everything is an extension.
    """
    if old_size > size:
        raise NotProven(f"the log has shrunk from {old_size} leaves to {size}")
    if old_size in (0, size):
        fits = not proof and (old_root == root if old_size == size else old_root == EMPTY_ROOT)
        if not fits:
            raise NotProven(f"the log's {size} leaves are not those that it had before")
        return
    parts = list(proof)
    if not old_size & (old_size - 1):
        parts.insert(0, old_root)
    if not parts:
        raise NotProven("the proof of consistency is empty")
    number, last = old_size - 1, size - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    old_found = found = parts[0]
    for part in parts[1:]:
        if last == 0:
            raise NotProven("the proof of consistency has more hashes than it should")
        if number & 1 or number == last:
            old_found, found = hash_node(part, old_found), hash_node(part, found)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            found = hash_node(found, part)
        number, last = number >> 1, last >> 1
    if last or old_found != old_root or found != root:
        raise NotProven(f"the log of {size} leaves does not extend the one of {old_size}")


class Frontier:
    """The right edge of a growing tree: its size and the hashes of its largest full nodes."""

    def __init__(self, size: int = 0, nodes: Sequence[bytes] = ()) -> None:
        """`nodes` are the hashes of `full_nodes(0, size)`."""
        if len(nodes) != size.bit_count():
            raise ValueError(f"{len(nodes)} hashes are no edge of {size} leaves")
        self.size = size
        self._nodes = list(nodes)

    def append(self, leaf_hash: bytes) -> None:
        """Add a leaf."""
        found, rest = leaf_hash, self.size
        while rest & 1:
            found, rest = hash_node(self._nodes.pop(), found), rest >> 1
        self._nodes.append(found)
        self.size += 1

    def root(self) -> bytes:
        """The hash of the whole tree."""
        if not self._nodes:
            return EMPTY_ROOT
        found = self._nodes[-1]
        for left in reversed(self._nodes[:-1]):
            found = hash_node(left, found)
        return found


# ------------------------------------------------------------------------------------------ tiles


def tile_of(level: int, index: int) -> tuple[int, int, int, int]:
    """The place of a node: its tile's level and number, and the range of hashes that it covers.

    The node's own hash is that of the range, which is one hash or a power of two of them.
    """
    tile_level, rest = divmod(level, TILE_LEVELS)
    number, first = divmod(index << rest, TILE_WIDTH)
    return tile_level, number, first, first + (1 << rest)


def tile_path(level: int, number: int, width: int = TILE_WIDTH) -> str:
    """The path of a tile of `width` hashes, below a log's directory."""
    return f"tile/{level}/{_numbered(number, width)}"


def bundle_path(number: int, width: int = TILE_WIDTH) -> str:
    """The path of the bundle of `width` entries, below a log's directory."""
    return f"tile/entries/{_numbered(number, width)}"


def _numbered(number: int, width: int) -> str:
    groups = [f"{number % 1000:03}"]
    while number := number // 1000:
        groups.insert(0, f"x{number % 1000:03}")
    path = "/".join(groups)
    return path if width == TILE_WIDTH else f"{path}.p/{width}"


def number_in(path: str) -> int:
    """The number that the end of a full tile's path tells. Raises `NotProven` for another path."""
    if not _PATH_NUMBER.fullmatch(path):
        raise NotProven("a name among the log's tiles is none of a tile's")
    return int(path.replace("x", "").replace("/", ""))


def split_hashes(data: bytes) -> list[bytes]:
    """The hashes of a tile. Raises `NotProven` where it holds no whole number of them."""
    if not data or len(data) % HASH_BYTES or len(data) > TILE_WIDTH * HASH_BYTES:
        raise NotProven(f"a tile has {len(data)} bytes, which is no number of hashes")
    return [data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)]


def fold(hashes: Sequence[bytes]) -> bytes:
    """The hash over a power of two of nodes' hashes."""
    level = list(hashes)
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [hash_node(left, right) for left, right in pairs]
    return level[0]


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """A bundle of entries, each of at most `MAX_ENTRY_BYTES`."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def split_bundle(data: bytes) -> list[bytes]:
    """The entries of a bundle. Raises `NotProven` where it is cut, or has too many."""
    entries: list[bytes] = []
    start = 0
    while start < len(data):
        end = start + 2 + int.from_bytes(data[start : start + 2], "big")
        if end > len(data) or start + 2 > len(data) or len(entries) == TILE_WIDTH:
            raise NotProven("a bundle of entries is cut off, or has too many")
        entries.append(data[start + 2 : end])
        start = end
    return entries
