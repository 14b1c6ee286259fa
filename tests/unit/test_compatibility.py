"""docs/compatibility.md names tests that there are, and README.md claims no more than it does."""

from __future__ import annotations

import functools
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

from ..checkout import TOP, own_files
from .test_citations import functions
from .test_docs import cells, lines

PAGE, README = TOP / "docs" / "compatibility.md", TOP / "README.md"
HEAD = ["what", "versions", "with our", "how", "tests"]
#: What README.md has of the page, and where.
README_HEAD, README_SECTION = ["what", "versions", "how"], "Tried with"
#: The page's chapter that README.md has all of.
SIGUL = "Sigul, and who speaks as it does"
#: A version of Sigul: no address, no version of something else.
_VERSION = re.compile(r"(?<![\d.])[01]\.\d+(?![\d.])")
#: What a module has that plays scripted peers.
_PLAYS = re.compile(r"\bPeerFactory\b|\bscripted import\b")


class Row(NamedTuple):
    """A row of the page."""

    what: str
    versions: str
    ours: str
    how: str
    tests: tuple[str, ...]
    chapter: str


@functools.cache
def rows() -> tuple[Row, ...]:
    """The rows of the page's tables of what was tried."""
    found = []
    for line in lines(PAGE):
        row = cells(line.text)
        if len(row) == len(HEAD) and row != HEAD:
            what, versions, ours, how, tests = row
            named = tuple(re.findall(r"`([^`]+)`", tests))
            found.append(Row(what, versions, ours, how, named, line.chapter))
    return tuple(found)


def kinds() -> list[str]:
    """The ways in which something may have been tried, as the page explains them."""
    table = [cells(line.text) for line in lines(PAGE) if not line.section]
    return [row[0] for row in table if len(row) == 2 and row != ["how", "means"]]


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.what}-{row.versions}-{row.how}")
def test_each_test_of_a_row_exists(row: Row) -> None:
    assert row.how in kinds()
    assert all(row[:4])
    assert row.tests
    for name in row.tests:
        module, separator, test = name.partition("::")
        assert Path(module).match("tests/*/test_*.py"), name
        found = [one for one in functions(TOP / module) if one.startswith("test_")]
        assert any(fnmatchcase(one, test if separator else "test_*") for one in found), name


def test_no_row_is_there_twice() -> None:
    heads = [row[:4] for row in rows()]
    assert len(heads) == len(set(heads)) > 20


def test_each_file_that_plays_peers_is_named() -> None:
    named = {name.partition("::")[0] for row in rows() for name in row.tests}
    playing = {
        str(path.relative_to(TOP))
        for path in own_files()
        if path.match("tests/*/test_*.py") and _PLAYS.search(path.read_text("utf-8"))
    } - {str(Path(__file__).relative_to(TOP))}
    assert len(playing) > 5
    assert playing <= named


def test_what_is_said_of_debian_13_is_tried_there() -> None:
    """By the list of tests and their lanes; a file that it does not have yet is not judged."""
    lanes: dict[str, list[tuple[str, str]]] = {}
    for line in (TOP / "tests" / "collected.txt").read_text("utf-8").splitlines():
        name, where, _count = line.split()
        module, _, test = name.partition("::")
        lanes.setdefault(module, []).append((test, where))
    judged = 0
    for row in rows():
        if "(Debian 13)" not in row.versions:
            continue
        for name in row.tests:
            module, _, pattern = name.partition("::")
            run = [w for test, w in lanes.get(module, []) if fnmatchcase(test, pattern or "*")]
            if run:
                judged += 1
                assert any("debian13" in one for one in run), f"{name} does not run there"
    assert judged >= 8


def summary() -> list[str]:
    """The rows of README.md's table: each peer of one version, and how it was tried."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows():
        if row.chapter == SIGUL:
            ways = found.setdefault((row.what, row.versions), [])
            ways += [row.how] * (row.how not in ways)
    return [
        f"| {what} | {versions} | {', '.join(ways)} |" for (what, versions), ways in found.items()
    ]


def test_readme_claims_what_the_page_does() -> None:
    table = [
        line.text
        for line in lines(README)
        if line.chapter == README_SECTION
        and len(cells(line.text)) == len(README_HEAD)
        and cells(line.text) != README_HEAD
    ]
    assert table == summary(), "README.md should have:\n" + "\n".join(summary())
    # Of no version is anything said outside of the table.
    rest = [line.text for line in lines(README) if line.chapter != README_SECTION]
    assert [text for text in rest if _VERSION.search(text)] == []
    assert "(docs/compatibility.md)" in "".join(rest)
