"""What the checkout cites is in the checkout: faults, tests, pages; and no path leads out of it.

Somebody who has nothing but the checkout, or what was unpacked from an sdist, can open whatever is
named in it.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from ..checkout import TOP, own_files

#: "fault 7", "faults 7, 8 and 12", "faults 1 to 5", "known fault 9", `test_fault_07_…`.
_FAULTS = re.compile(r"\bfaults?\s+(\d+(?:\s*(?:,|and|to|or)\s*(?:and\s+)?\d+)*)\b", re.IGNORECASE)
_TESTS_OF_FAULTS = re.compile(r"\btest_fault_(\d+)_")
_NUMBERS = re.compile(r"(\d+)(?:\s*to\s*(\d+))?")
#: A page's name, with or without its directory; not one that a program puts together.
_PAGE = re.compile(r"(?<![\w/.*{}$<>-])(?<!/ [\"'])([\w./-]*\w\.md)\b")
#: What leads out: a directory beside the checkout, and the machine that the project grew on.
_OUTWARD = re.compile(r"\.\./shared\b|\bSIGUL_STACK_SHARED\b|(?<![\w}\])/.-])/work/")
#: What names of pages look like.
_NO_PAGES = {"NNNN-title.md"}


def texts() -> Iterator[tuple[Path, str]]:
    """Every text of the checkout: where it is, and what it says. Recorded data is none."""
    for path in own_files():
        if path == Path(__file__) or path.suffix == ".json":
            continue
        try:
            yield path, path.read_text("utf-8")
        except UnicodeDecodeError:
            continue


def at(path: Path) -> str:
    return str(path.relative_to(TOP))


def rows() -> dict[int, list[str]]:
    """The rows of docs/known-faults.md: each fault's number and its cells."""
    found: dict[int, list[str]] = {}
    for line in (TOP / "docs" / "known-faults.md").read_text("utf-8").splitlines():
        if re.match(r"\| \d+ \|", line):
            number, *cells = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            assert int(number) not in found, f"fault {number} stands there twice"
            found[int(number)] = cells
    return found


def cited(text: str) -> set[int]:
    """The numbers of all faults that `text` cites."""
    # A citation may go on in the next line, behind that line's comment sign.
    plain = re.sub(r"\n\s*(?:#:? ?|// )?", " ", text)
    found = {int(number) for number in _TESTS_OF_FAULTS.findall(text)}
    for numbers in _FAULTS.findall(plain):
        for first, last in _NUMBERS.findall(numbers):
            found |= set(range(int(first), int(last or first) + 1))
    return found


def test_citations_of_faults_are_understood() -> None:
    assert cited("(fault 15). faults\n#: 1 to 3") == {1, 2, 3, 15}
    assert cited("Faults 7, 8 and 23 of it; known fault 9") == {7, 8, 9, 23}
    assert cited("def test_fault_05_x(): default 4; a fault; 3 faults") == {5}


def test_faults_are_numbered_and_whole() -> None:
    found = rows()
    assert list(found) == list(range(1, len(found) + 1))
    assert len(found) >= 23
    for number, cells in found.items():
        assert len(cells) == 4 and all(cells), f"fault {number}: symptom, cause, what holds, tests"


def test_every_fault_that_is_cited_is_known() -> None:
    known = rows().keys()
    by_file = {path: cited(text) for path, text in texts()}
    assert {number for numbers in by_file.values() for number in numbers} >= {1, 7, 17, 23}
    for path, numbers in by_file.items():
        assert numbers <= known, f"{at(path)} cites what docs/known-faults.md does not have"


@functools.cache
def functions(path: Path) -> set[str]:
    """The names of all functions and methods of a module."""
    tree = ast.parse(path.read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("number", rows())
def test_the_tests_of_a_fault_exist(number: int) -> None:
    named = re.findall(r"`([^`]+)`", rows()[number][-1])
    assert named, f"fault {number} has no test"
    for name in named:
        module, _, test = name.partition("::")
        assert module.startswith("tests/") and test.startswith("test_"), name
        there = functions(TOP / module)
        assert any(fnmatchcase(found, test) for found in there), f"{name}: there is none"


def test_each_attack_has_a_test() -> None:
    """Every row of docs/security.md that says what stops somebody names tests that there are."""
    found, of_attacks = 0, False
    for line in (TOP / "docs" / "security.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        of_attacks = len(cells) == 4 and (of_attacks or cells[2] == "test")
        if not of_attacks or cells[2] in ("test", "---"):
            continue
        found += 1
        named = re.findall(r"`(tests/[^`]+)`", cells[2])
        assert named, line
        for name in named:
            module, _, test = name.partition("::")
            there = functions(TOP / module)
            assert any(fnmatchcase(one, test or "test_*") for one in there), (
                f"{name}: there is none"
            )
    assert found > 40


def test_tests_that_bear_a_faults_number_are_in_its_row() -> None:
    named = {number: set(re.findall(r"`([^`]+)`", cells[-1])) for number, cells in rows().items()}
    for path in own_files():
        if path.match("tests/*/test_*.py"):
            for test in functions(path):
                if number := _TESTS_OF_FAULTS.match(test):
                    whole = f"{at(path)}::{test}"
                    patterns = named[int(number[1])]
                    assert any(fnmatchcase(whole, pattern) for pattern in patterns), whole


def test_every_page_that_is_cited_is_there() -> None:
    """Relative to the file that cites it, or to the top of the checkout."""
    found = 0
    for path, text in texts():
        for name in _PAGE.findall(text):
            if name in _NO_PAGES:
                continue
            found += 1
            places = [place.resolve() for place in (path.parent / name, TOP / name)]
            held = [place for place in places if place.is_file() and place.is_relative_to(TOP)]
            assert held, f"{at(path)}: the checkout has no {name}"
    assert found > 100


def test_nothing_leads_out_of_the_checkout() -> None:
    for path, text in texts():
        for number, line in enumerate(text.splitlines(), 1):
            assert not _OUTWARD.search(line), f"{at(path)}:{number}: {line.strip()}"
