"""A signing log: whatever is changed is found, whatever is asked for is proven."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigul_stack.evidence.log_files import SigningLogError, Tail, encode_tail
from sigul_stack.evidence.log_reader import LogReader, verify_log
from sigul_stack.evidence.signing_log import SigningLog
from sigul_stack.evidence.tile_copy import copy_log
from sigul_stack.formats.merkle_tree import (
    NotProven,
    encode_bundle,
    hash_leaf,
    split_bundle,
    verify_consistency,
    verify_inclusion,
)
from tests.signing_logs import leaves, make_log, plain_root, public_key

SIZE = 1100
#: What proves nothing: the keys, and what searches are made with.
NOT_PROVEN = {"key", "key.pub", "index.sqlite3"}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A live log, and its copy."""
    top = tmp_path_factory.mktemp("logs")
    make_log(top / "live", SIZE)
    copy_log(LogReader.open(top / "live"), top / "copy")
    return {"live": top / "live", "copy": top / "copy"}


@pytest.fixture(scope="module")
def reader(logs: dict[str, Path]) -> LogReader:
    return LogReader.open(logs["live"])


@pytest.fixture(scope="module")
def roots(reader: LogReader) -> Callable[[int], bytes]:
    """The root of each size, by the definition."""
    entries = list(reader.entries(0, SIZE))
    known: dict[int, bytes] = {}
    return lambda size: known.setdefault(size, plain_root(entries[:size]))


def proving(directory: Path) -> list[Path]:
    """The files of a log that prove something."""
    return sorted(
        path for path in directory.rglob("*") if path.is_file() and path.name not in NOT_PROVEN
    )


@contextmanager
def changed(path: Path, content: bytes) -> Iterator[None]:
    """Have another content in a file for a while."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def is_found(directory: Path) -> None:
    """A change in a log is found by whoever verifies it with the key that he has had before."""
    with pytest.raises((NotProven, SigningLogError)):
        verify_log(LogReader.open(directory), public_key(directory))


KINDS = st.sampled_from(["live", "copy"])


@given(kind=KINDS, data=st.data())
def test_every_flipped_bit_is_found(logs: dict[str, Path], kind: str, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(proving(logs[kind])))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with changed(path, bytes(content)):
        is_found(logs[kind])


@given(kind=KINDS, data=st.data())
def test_every_cut_is_found(logs: dict[str, Path], kind: str, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(proving(logs[kind])))
    content = path.read_bytes()
    with changed(path, content[: data.draw(st.integers(0, len(content) - 1))]):
        is_found(logs[kind])


@given(kind=KINDS, data=st.data())
def test_every_missing_file_is_found(logs: dict[str, Path], kind: str, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(proving(logs[kind])))
    aside = logs[kind].parent / "aside"
    # Without its tail, a live log is a copy that lacks the last bundle.
    path.rename(aside)
    try:
        is_found(logs[kind])
    finally:
        aside.rename(path)


@given(kind=KINDS, data=st.data(), more=st.binary(min_size=1, max_size=70))
def test_what_is_put_behind_is_found_or_is_behind_the_checkpoint(
    logs: dict[str, Path], kind: str, data: st.DataObject, more: bytes
) -> None:
    path = data.draw(st.sampled_from(proving(logs[kind])))
    with changed(path, path.read_bytes() + more):
        if path.name == "tail":
            verify_log(LogReader.open(logs[kind]), public_key(logs[kind]))
        else:
            is_found(logs[kind])


@given(kind=KINDS, data=st.data())
def test_swapped_files_are_found(logs: dict[str, Path], kind: str, data: st.DataObject) -> None:
    one, other = data.draw(
        st.lists(st.sampled_from(proving(logs[kind])), min_size=2, max_size=2, unique=True)
    )
    contents = one.read_bytes(), other.read_bytes()
    with changed(one, contents[1]), changed(other, contents[0]):
        is_found(logs[kind])


@given(kind=KINDS, data=st.data())
def test_reordered_entries_are_found(logs: dict[str, Path], kind: str, data: st.DataObject) -> None:
    bundles = [
        path for path in proving(logs[kind]) if "entries" in path.parts or path.name == "tail"
    ]
    path = data.draw(st.sampled_from(bundles))
    tail = Tail(path.read_bytes()) if path.name == "tail" else None
    entries = tail.entries if tail else split_bundle(path.read_bytes())
    one, other = data.draw(
        st.lists(st.integers(0, len(entries) - 1), min_size=2, max_size=2, unique=True)
    )
    entries[one], entries[other] = entries[other], entries[one]
    # The tail's checksums are made anew: they are against accidents, and not against people.
    with changed(path, encode_tail(tail.number, entries) if tail else encode_bundle(entries)):
        is_found(logs[kind])


@given(kind=KINDS, index=st.integers(0, SIZE - 1), data=st.data())
def test_every_leaf_is_proven_in_every_size(
    logs: dict[str, Path],
    roots: Callable[[int], bytes],
    kind: str,
    index: int,
    data: st.DataObject,
) -> None:
    reader = LogReader.open(logs[kind])
    size = data.draw(st.integers(index + 1, SIZE))
    proof = reader.inclusion(index, size)
    verify_inclusion(hash_leaf(reader.entry(index)), index, size, proof, roots(size))
    wrong = data.draw(st.integers(0, SIZE - 1).filter(lambda other: other != index))
    with pytest.raises(NotProven):
        verify_inclusion(hash_leaf(reader.entry(wrong)), index, size, proof, roots(size))
    assert reader.proof(index).verify(public_key(logs[kind])).size == SIZE


@given(kind=KINDS, sizes=st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)))
def test_every_size_extends_every_smaller_one(
    logs: dict[str, Path],
    roots: Callable[[int], bytes],
    kind: str,
    sizes: tuple[int, int],
) -> None:
    reader = LogReader.open(logs[kind])
    old, size = sorted(sizes)
    proof = reader.consistency(old, size)
    verify_consistency(old, roots(old), size, roots(size), proof)
    if 0 < old < size:
        with pytest.raises(NotProven):
            verify_consistency(old, roots(old - 1), size, roots(size), proof)


CHUNKS = st.lists(st.integers(0, 300), max_size=8)


@settings(max_examples=10)
@given(chunks=CHUNKS, pushes=st.sets(st.integers(0, 8)))
def test_the_tree_is_the_same_in_whatever_pieces_it_grows(
    chunks: list[int], pushes: set[int]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        live, copied = Path(name) / "live", Path(name) / "copy"
        key = make_log(live, 1)
        at = 1
        log = SigningLog.open(live)
        for number, chunk in enumerate(chunks):
            log.append(leaves(at, at + chunk))
            at += chunk
            if number in pushes:
                # Opened anew, and copied so far.
                log.close()
                log = SigningLog.open(live)
                copy_log(LogReader.open(live), copied)
                verify_log(LogReader.open(copied), key)
        log.close()
        copy_log(LogReader.open(live), copied)
        for directory in (live, copied):
            reader = LogReader.open(directory)
            entries = list(reader.entries(0, at))
            assert reader.size == at == len(entries)
            assert verify_log(reader, key).root == plain_root(entries)


@settings(max_examples=10)
@given(old=st.integers(1, 600), more=st.integers(0, 300))
def test_an_older_checkpoint_is_refused_or_healed(old: int, more: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        live = Path(name) / "live"
        key = make_log(live, old)
        before = (live / "checkpoint").read_bytes()
        with SigningLog.open(live) as log:
            log.append(leaves(old, old + more))
        now = LogReader.open(live)
        edge = now.tree.edge
        (live / "checkpoint").write_bytes(before)
        if old < edge:
            with pytest.raises(SigningLogError, match="an older checkpoint was put back"):
                SigningLog.open(live)
            return
        with SigningLog.open(live) as log:
            assert log.size == old + more
        verify_log(LogReader.open(live), key)
        assert LogReader.open(live).head == now.head


@settings(max_examples=10)
@given(small=st.integers(1, 600), more=st.integers(1, 300), fork=st.booleans())
def test_a_copy_takes_only_what_extends_it(small: int, more: int, fork: bool) -> None:
    large = small + more
    with tempfile.TemporaryDirectory() as name:
        live, other, copied = (Path(name) / part for part in ("live", "other", "copy"))
        key = make_log(live, small)
        shutil.copytree(live, other)
        with SigningLog.open(live) as log:
            log.append(leaves(small, large))
        copy_log(LogReader.open(live), copied)
        before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
        if fork:
            with SigningLog.open(other) as log:
                log.append(leaves(1000, 1000 + more))
        message = "does not extend the copy" if fork else "put back to an older state"
        with pytest.raises(NotProven, match=message):
            copy_log(LogReader.open(other), copied)
        assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before
        verify_log(LogReader.open(copied), key)
