"""Searches of a signing log: by index and without, and whatever becomes of the index."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sigul_stack.evidence import index as index_module
from sigul_stack.evidence import signing_log
from sigul_stack.evidence.index import Index, Query, find
from sigul_stack.evidence.leaf import Leaf, LeafKey, Result
from sigul_stack.evidence.log_reader import LogReader
from sigul_stack.evidence.signing_log import SigningLog, create
from sigul_stack.evidence.tile_copy import copy_log
from sigul_stack.formats.merkle_tree import NotProven
from tests.signing_logs import NAME, digest, leaf, leaves, make_log

SIZE = 1300


def varied(number: int) -> Leaf:
    """One in a hundred is of another user and key, one in a thousand was refused."""
    found = leaf(number)
    if number % 100 == 7:
        found = replace(found, user="bob", key=LeafKey("debug", "RSA", "CD" * 20, "EF" * 20))
    if number % 1000 == 500:
        found = replace(found, result=Result.REFUSED, op="decrypt", input=None, signed=digest(7))
    return replace(found, signatures=(digest(10**6 + number),))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 1300 leaves in 13 minutes, whose first five bundles are indexed."""
    directory = tmp_path_factory.mktemp("index") / "log"
    clock = iter(range(13))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing_log, "_now", lambda: f"2026-11-30T17:{next(clock):02}:00.000Z")
        create(directory, NAME)
        with SigningLog.open(directory) as log:
            for start in range(0, SIZE - 100, 100):
                log.append([varied(number) for number in range(max(1, start), start + 100)])
    with SigningLog.open(directory) as log:
        log.append([varied(number) for number in range(SIZE - 100, SIZE)])
    return directory


@pytest.fixture
def directory(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "log")
    return tmp_path / "log"


def hits(directory: Path, query: Query) -> list[int]:
    return [number for number, _ in find(LogReader.open(directory), query)]


BOBS = list(range(7, SIZE, 100))
QUERIES: list[tuple[Query, list[int]]] = [
    (Query(user="bob"), BOBS),
    (Query(user="bob", limit=2), BOBS[:2]),
    (Query(user="bob", newest_first=True), BOBS[::-1]),
    (Query(user="bob", newest_first=True, limit=3), BOBS[:-4:-1]),
    (Query(user="carol"), []),
    (Query(key="debug"), BOBS),
    (Query(key="CD" * 20), BOBS),
    (Query(key="EF" * 20), BOBS),
    (Query(key="debug", user="ann"), []),
    (Query(key="debug", user="bob", file="file-207.tar"), [207]),
    (Query(client="ann", file="file-3.tar"), [3]),
    (Query(client=digest(-1), file="file-1299.tar"), [1299]),
    (Query(op="log-start"), [0]),
    (Query(op="decrypt"), [500]),
    (Query(result="refused"), [500]),
    (Query(digest=digest(400)), [400]),
    (Query(digest=digest(400).upper()), [400]),
    (Query(digest=digest(-2 - 400)), [400]),
    (Query(digest=digest(7)), [7, 500]),
    (Query(digest=digest(10**6 + 1298)), [1298]),
    (Query(request="request-300"), [300]),
    (Query(until="2026-11-30T17:01:00.000Z"), list(range(100))),
    (Query(until="2026-11-30T17:01"), list(range(100))),
    (Query(since="2026-11-30T17:11", until="2026-11-30T17:11", user="bob"), [1007]),
    (Query(since="2026-11-30T17:11", until="2026-11-30T17:12", user="bob"), [1007, 1107]),
    (Query(since="9999"), []),
    (Query(until="1999"), []),
    (Query(limit=3), [0, 1, 2]),
    (Query(newest_first=True, limit=2), [1299, 1298]),
]


@pytest.mark.parametrize("number", range(len(QUERIES)))
def test_what_is_searched_is_found(made: Path, number: int) -> None:
    query, expected = QUERIES[number]
    found = list(find(LogReader.open(made), query))
    assert [index for index, _ in found] == expected
    for index, row in found:
        assert Leaf.parse(LogReader.open(made).entry(index)) == row


def test_it_is_the_same_without_an_index(directory: Path) -> None:
    (directory / "index.sqlite3").unlink()
    for query, expected in QUERIES:
        assert hits(directory, query) == expected
    assert not (directory / "index.sqlite3").exists()


def counted(monkeypatch: pytest.MonkeyPatch, query: Query, directory: Path) -> int:
    """How many bundles a search reads."""
    read: list[int] = []
    bundle = LogReader.bundle

    def count(self: LogReader, number: int) -> list[bytes]:
        read.append(number)
        return bundle(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(LogReader, "bundle", count)
        hits(directory, query)
    return len(read)


def test_no_more_is_read_than_the_index_names(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One bundle has it, and the last is not full yet.
    assert counted(monkeypatch, Query(digest=digest(400)), directory) == 2
    assert counted(monkeypatch, Query(user="carol"), directory) == 1
    # By time: as often as 1300 is halved, and the bundle itself.
    assert counted(monkeypatch, Query(since="2026-11-30T17:05", limit=1), directory) <= 12


def test_named_bundles_are_asked_for_piece_by_piece(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "_NAMED_AT_ONCE", 2)
    assert hits(directory, Query(user="bob")) == BOBS
    assert hits(directory, Query(user="bob", newest_first=True)) == BOBS[::-1]


def test_the_server_indexes_each_bundle_when_it_is_full(directory: Path) -> None:
    connection = sqlite3.connect(directory / "index.sqlite3")
    assert connection.execute("SELECT bundles FROM state").fetchall() == [(5,)]
    assert connection.execute("SELECT max(bundle) FROM postings").fetchall() == [(4,)]
    connection.close()
    assert stat.S_IMODE((directory / "index.sqlite3").stat().st_mode) == 0o600


def test_a_missing_index_is_made_again_little_by_little(directory: Path) -> None:
    (directory / "index.sqlite3").unlink()
    with SigningLog.open(directory) as log:
        log.append(leaves(SIZE, 1600))
        assert Index(directory).update(LogReader.open(directory), most=0) == 2
        log.append(leaves(1600, 1900))
    assert Index(directory).update(LogReader.open(directory)) == 0
    assert hits(directory, Query(user="bob")) == BOBS


def test_a_copy_gets_an_index_where_it_is_wanted(directory: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    copy_log(LogReader.open(directory), copied)
    assert not (copied / "index.sqlite3").exists()
    assert hits(copied, Query(user="bob")) == BOBS
    assert Index(copied).update(LogReader.open(copied)) == 0
    assert hits(copied, Query(user="bob")) == BOBS


def test_a_reader_that_is_older_than_the_index(directory: Path) -> None:
    reader = LogReader.open(directory)
    with SigningLog.open(directory) as log:
        log.append([varied(number) for number in range(SIZE, 1900)])
    assert [number for number, _ in find(reader, Query(user="bob"))] == BOBS
    assert hits(directory, Query(user="bob")) == list(range(7, 1900, 100))


def rolled_back(directory: Path) -> None:
    """An index of leaves that the log, which was put back, has no more."""
    kept = directory.with_name("kept")
    shutil.copytree(directory, kept)
    with SigningLog.open(directory) as log:
        log.append(leaves(SIZE, 1900))
    shutil.copy(directory / "index.sqlite3", kept)
    shutil.rmtree(directory)
    kept.rename(directory)


def of_another_log(directory: Path) -> None:
    shutil.copy(directory / "index.sqlite3", directory.parent)
    shutil.rmtree(directory)
    make_log(directory, 1500)
    shutil.copy(directory.parent / "index.sqlite3", directory)


def of_other_tables(directory: Path) -> None:
    path = directory / "index.sqlite3"
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE other(name)")
    connection.close()


def a_directory(directory: Path) -> None:
    (directory / "index.sqlite3").unlink()
    (directory / "index.sqlite3").mkdir()


CHANGES: dict[str, Callable[[Path], object]] = {
    "of another log": of_another_log,
    "of what is gone": rolled_back,
    "of other tables": of_other_tables,
    "a directory": a_directory,
    "empty": lambda d: (d / "index.sqlite3").write_bytes(b""),
    "none": lambda d: (d / "index.sqlite3").write_bytes(b"no database at all" * 100),
    "cut off": lambda d: os.truncate(d / "index.sqlite3", 5000),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_index_that_is_wrong_misleads_nobody(directory: Path, name: str) -> None:
    CHANGES[name](directory)
    expected = [] if name == "of another log" else list(BOBS)
    assert hits(directory, Query(user="bob")) == expected
    # Nor does the log mind, and the server makes it right.
    with SigningLog.open(directory) as log:
        for _ in range(4):
            start = log.size
            log.append([varied(number) for number in range(start, start + 300)])
            expected += [number for number in range(start, start + 300) if number % 100 == 7]
    assert hits(directory, Query(user="bob")) == expected
    if name != "a directory":
        assert Index(directory).update(LogReader.open(directory), most=0) == 0


def test_a_hit_that_is_not_in_the_log_is_none(directory: Path) -> None:
    path = directory / "tile/entries/001"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"file-400.tar", b"file-499.tar"))
    with pytest.raises(NotProven, match="leaf 400 is not in the log"):
        hits(directory, Query(file="file-499.tar"))


def test_a_search_does_not_hold_up_an_append(directory: Path) -> None:
    connection = sqlite3.connect(directory / "index.sqlite3", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    with SigningLog.open(directory) as log:
        log.append([varied(number) for number in range(SIZE, 1600)])
        assert log.size == 1600
    connection.execute("ROLLBACK")
    connection.close()
    assert Index(directory).update(LogReader.open(directory)) == 0
    assert hits(directory, Query(user="bob")) == list(range(7, 1600, 100))
