"""Merkle trees and tiles, against trees that are computed by hand and the words of the pages."""

from __future__ import annotations

import hashlib

import pytest

from sigul_stack.formats.merkle_tree import (
    EMPTY_ROOT,
    MAX_ENTRY_BYTES,
    Frontier,
    NotProven,
    bundle_path,
    consistency_proof,
    encode_bundle,
    fold,
    full_nodes,
    hash_leaf,
    hash_node,
    inclusion_proof,
    number_in,
    split_bundle,
    split_hashes,
    subtree_hash,
    tile_of,
    tile_path,
    verify_consistency,
    verify_inclusion,
)

#: The eight leaves that implementations of RFC 6962 are tested with, and the roots of their trees.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def node(level: int, index: int) -> bytes:
    return fold([hash_leaf(entry) for entry in LEAVES[index << level : (index + 1) << level]])


def test_roots_are_those_that_all_have() -> None:
    frontier = Frontier()
    assert frontier.root() == EMPTY_ROOT == sha256()
    for size, root in enumerate(ROOTS, 1):
        frontier.append(hash_leaf(LEAVES[size - 1]))
        assert frontier.root().hex() == subtree_hash(0, size, node).hex() == root


def test_a_tree_of_three_is_as_it_is_written() -> None:
    a, b, c = (sha256(b"\0", entry) for entry in LEAVES[:3])
    root = sha256(b"\1", sha256(b"\1", a, b), c)
    assert subtree_hash(0, 3, node) == root
    assert inclusion_proof(0, 3, node) == [b, c]
    assert inclusion_proof(1, 3, node) == [a, c]
    assert inclusion_proof(2, 3, node) == [sha256(b"\1", a, b)]
    assert consistency_proof(1, 3, node) == [b, c]
    assert consistency_proof(2, 3, node) == [c]
    assert consistency_proof(0, 3, node) == consistency_proof(3, 3, node) == []


def test_the_tree_of_seven_of_the_rfc() -> None:
    """RFC 6962, 2.1.3: its names of hashes and its proofs."""
    a, b, c, d, e, f, j = (hash_leaf(entry) for entry in LEAVES[:7])
    g, h, i = hash_node(a, b), hash_node(c, d), hash_node(e, f)
    k, m = hash_node(g, h), hash_node(i, j)
    assert subtree_hash(0, 7, node) == hash_node(k, m)
    assert inclusion_proof(0, 7, node) == [b, h, m]
    assert inclusion_proof(3, 7, node) == [c, g, m]
    assert inclusion_proof(4, 7, node) == [f, j, k]
    assert inclusion_proof(6, 7, node) == [i, k]
    assert consistency_proof(3, 7, node) == [c, d, g, m]
    assert consistency_proof(4, 7, node) == [m]
    assert consistency_proof(6, 7, node) == [i, j, k]


def test_proofs_of_each_size_hold_and_others_do_not() -> None:
    roots = [EMPTY_ROOT, *map(bytes.fromhex, ROOTS)]
    for size in range(1, 9):
        for index in range(size):
            leaf, proof = hash_leaf(LEAVES[index]), inclusion_proof(index, size, node)
            verify_inclusion(leaf, index, size, proof, roots[size])
            for wrong in (
                (leaf, index, size, [*proof, leaf], roots[size]),
                (leaf, index, size, proof, roots[size - 1]),
                (hash_leaf(b"other"), index, size, proof, roots[size]),
                (leaf, size, size, proof, roots[size]),
                (leaf, -1, size, proof, roots[size]),
                *((leaf, index, size, proof[:-1], roots[size]) for _ in proof[:1]),
            ):
                with pytest.raises(NotProven):
                    verify_inclusion(*wrong)
        for old in range(size + 1):
            proof = consistency_proof(old, size, node)
            verify_consistency(old, roots[old], size, roots[size], proof)
            for false in (
                (old, bytes(32), size, roots[size], proof),
                (old, roots[old], size, bytes(32), proof) if old else None,
                (old, roots[old], size, roots[size], [*proof, bytes(32)]),
                (old, roots[old], size, roots[size], proof[:-1]) if proof else None,
                (size + 1, roots[old], size, roots[size], proof),
            ):
                if false is not None:
                    with pytest.raises(NotProven):
                        verify_consistency(*false)


def test_there_are_no_proofs_of_what_is_not_there() -> None:
    for index, size in ((0, 0), (3, 3), (-1, 3)):
        with pytest.raises(ValueError, match="has no leaf"):
            inclusion_proof(index, size, node)
    for old, size in ((4, 3), (-1, 3)):
        with pytest.raises(ValueError, match="does not extend"):
            consistency_proof(old, size, node)


def test_an_edge_has_a_hash_for_each_full_node() -> None:
    assert list(full_nodes(0, 7)) == [(2, 0), (1, 2), (0, 6)]
    assert list(full_nodes(4, 7)) == [(1, 2), (0, 6)]
    assert list(full_nodes(0, 0)) == []
    edge = [node(*place) for place in full_nodes(0, 7)]
    grown = Frontier(7, edge)
    grown.append(hash_leaf(LEAVES[7]))
    assert grown.root().hex() == ROOTS[7]
    with pytest.raises(ValueError, match="no edge"):
        Frontier(7, edge[1:])


# ------------------------------------------------------------------------------------------- tiles


@pytest.mark.parametrize(
    ("path", "number"),
    [("000", 0), ("999", 999), ("x001/000", 1000), ("x001/x234/067", 1234067)],
)
def test_paths_are_those_of_the_page(path: str, number: int) -> None:
    """c2sp.org/tlog-tiles: its example is 1234067."""
    assert tile_path(0, number) == f"tile/0/{path}"
    assert tile_path(63, number, 7) == f"tile/63/{path}.p/7"
    assert bundle_path(number) == f"tile/entries/{path}"
    assert bundle_path(number, 255) == f"tile/entries/{path}.p/255"
    assert number_in(path) == number


@pytest.mark.parametrize(
    "path", ["", "1", "x001", "001/000", "x001/x234", "0000", "x1/000", "../000"]
)
def test_other_paths_are_none(path: str) -> None:
    with pytest.raises(NotProven):
        number_in(path)


def test_partial_tiles_of_a_log_of_70000() -> None:
    """The page's example: tile/0/273.p/112, tile/1/001.p/17, tile/2/000.p/1."""
    size = 70_000
    widths = [(size >> 8 * level) % 256 for level in range(3)]
    numbers = [size >> 8 * (level + 1) for level in range(3)]
    paths = [tile_path(*row) for row in zip(range(3), numbers, widths, strict=True)]
    assert paths == ["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"]


def test_nodes_are_in_tiles() -> None:
    assert tile_of(0, 257) == (0, 1, 1, 2)
    assert tile_of(3, 33) == (0, 1, 8, 16)
    assert tile_of(8, 256) == (1, 1, 0, 1)
    assert tile_of(9, 1) == (1, 0, 2, 4)


def test_bundles() -> None:
    entries = [b"", b"a", b"x" * MAX_ENTRY_BYTES]
    data = encode_bundle(entries)
    assert data[:5] == b"\0\0\0\1a"
    assert split_bundle(data) == entries
    assert split_bundle(b"") == []
    assert len(split_bundle(encode_bundle([b"a"] * 256))) == 256
    for wrong in (data[:-1], data + b"\0", encode_bundle([b"a"] * 257)):
        with pytest.raises(NotProven):
            split_bundle(wrong)


def test_tiles_have_whole_hashes() -> None:
    assert split_hashes(bytes(64)) == [bytes(32)] * 2
    for wrong in (b"", bytes(31), bytes(33), bytes(257 * 32)):
        with pytest.raises(NotProven):
            split_hashes(wrong)
