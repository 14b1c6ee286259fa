"""Signing logs for tests: leaves, logs of any size, and what a plain tree of their entries has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from sigul_stack.evidence.leaf import Content, Leaf, LeafClient, LeafKey, Result
from sigul_stack.evidence.log_files import Tree, encode_tail
from sigul_stack.evidence.log_reader import LogReader
from sigul_stack.evidence.signing_log import SigningLog, create
from sigul_stack.formats.merkle_tree import (
    TILE_WIDTH,
    Frontier,
    bundle_path,
    encode_bundle,
    fold,
    full_nodes,
    tile_path,
)
from sigul_stack.formats.signed_note import Checkpoint, PrivateKey, PublicKey
from sigul_stack.secret import Secret

NAME = "server.example.org"


def digest(number: int) -> str:
    """A digest that only leaf `number` has."""
    return hashlib.sha256(b"content %d" % number).hexdigest()


def leaf(number: int) -> Leaf:
    """A leaf as a server writes it."""
    return Leaf(
        op="sign-data",
        result=Result.OK,
        request=f"request-{number}",
        client=LeafClient("ann", digest(-1)),
        user="ann",
        objects={"key": "release"},
        key=LeafKey("release", "gnupg", "AB" * 20),
        input=Content(digest(number), number),
        file=f"file-{number}.tar",
        output=Content(digest(-2 - number), 310),
    )


def leaves(start: int, stop: int) -> list[Leaf]:
    """Those from `start` to `stop`."""
    return [leaf(number) for number in range(start, stop)]


def make_log(directory: Path, size: int) -> PublicKey:
    """A log of `size` leaves; the first is the log's own."""
    create(directory, NAME)
    with SigningLog.open(directory) as log:
        log.append(leaves(1, size))
        return log.public_key


def write_large(
    directory: Path, size: int, entries: Callable[[int, int], list[bytes]]
) -> PublicKey:
    """A log of `size` leaves, written as fast as its files can be: no sync, and no step of a log's.

    `entries` gives those from one index to another, which are within a bundle; the log's own first
    leaf is not among them.
    """
    create(directory, NAME)
    key = PrivateKey.parse(Secret((directory / "key").read_bytes()))
    own = LogReader.open(directory).entry(0)
    levels: list[list[bytes]] = []

    def put(name: str, content: bytes) -> None:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_bytes(content)

    for number in range(-(-size // TILE_WIDTH) or 1):
        start, stop = number * TILE_WIDTH, min((number + 1) * TILE_WIDTH, size)
        bundle = [own, *entries(1, stop)] if number == 0 else entries(start, stop)
        hashes = [hashlib.sha256(b"\0" + entry).digest() for entry in bundle]
        if len(bundle) < TILE_WIDTH:
            break
        put(bundle_path(number), encode_bundle(bundle))
        found, index, level = b"".join(hashes), number, 0
        put(tile_path(0, number), found)
        carried = fold(hashes)
        while True:
            level += 1
            while len(levels) < level:
                levels.append([])
            levels[level - 1].append(carried)
            if len(levels[level - 1]) < TILE_WIDTH:
                break
            index //= TILE_WIDTH
            put(tile_path(level, index), b"".join(levels[level - 1]))
            carried = fold(levels[level - 1])
            levels[level - 1].clear()
    else:
        bundle, hashes = [], []
    for level, row in enumerate(levels, 1):
        if row:
            number = size >> (level + 1) * 8
            put(tile_path(level, number, len(row)), b"".join(row))
    put("tail", encode_tail(size // TILE_WIDTH, bundle))
    edge = size - len(bundle)
    tree = Tree(directory, edge, hashes)
    frontier = Frontier(size, [tree.node(*place) for place in full_nodes(0, size)])
    put("checkpoint", Checkpoint(key.name, size, frontier.root()).signed(key).encode().encode())
    return key.public


def public_key(directory: Path) -> PublicKey:
    """The key of a log."""
    key = LogReader.open(directory).public_key
    assert key is not None
    return key


def plain_root(entries: Sequence[bytes]) -> bytes:
    """The root by the definition of RFC 6962, 2.1, and nothing else."""
    if len(entries) < 2:
        return hashlib.sha256(b"\0" + entries[0] if entries else b"").digest()
    split = 1
    while split * 2 < len(entries):
        split *= 2
    return hashlib.sha256(
        b"\1" + plain_root(entries[:split]) + plain_root(entries[split:])
    ).digest()
