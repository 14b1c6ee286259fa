"""What lets a change land (tests/gate): all listed tests ran and passed, and flakes are told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.gate import collected, lanes, long_runs, results
from tests.gate.__main__ import LOGS, Gate, Step
from tests.gate.results import Record

TOP = Path(__file__).parents[2]
LIST = """\
tests/a.py::test_many here 3
tests/a.py::test_one here+debian13 1
tests/kit/b.py::test_site kit 1
tests/c.py::test_soak long 2
"""
ALL = ["tests/a.py::test_many[1]", "tests/a.py::test_many[2]", "tests/a.py::test_many[x y]"]
ONE = "tests/a.py::test_one"


def record(passed: list[str], failed: list[str] = [], flaky: list[str] = []) -> Record:  # noqa: B006
    """A record of a lane in which tests ended so; the flaky ones ran twice."""
    return Record(
        outcomes={test: ["passed"] for test in passed}
        | {test: ["failed", "failed"] for test in failed}
        | {test: ["failed", "passed"] for test in flaky}
    )


def problems(**lanes: Record) -> list[str]:
    return results.problems_of(lanes, LIST, most_flakes=3)


# --- The verdict ---------------------------------------------------------------------------------


def test_all_listed_tests_that_passed_are_no_problem() -> None:
    assert problems(here=record([*ALL, ONE]), debian13=record([ONE])) == []


def test_a_test_that_did_not_run_is_a_failure() -> None:
    assert problems(here=record([*ALL[:2], ONE])) == [
        "here: tests/a.py::test_many: 2 of 3 listed cases ran"
    ]
    assert problems(kit=record([])) == ["kit: tests/kit/b.py::test_site: 0 of 1 listed cases ran"]


def test_a_test_that_is_not_listed_is_a_failure() -> None:
    assert problems(debian13=record([ONE, "tests/a.py::test_new"])) == [
        "debian13: tests/a.py::test_new: 1 of 0 listed cases ran"
    ]


def test_a_test_that_failed_is_a_failure() -> None:
    assert problems(here=record(ALL, failed=[ONE])) == [f"here: {ONE}"]


def test_three_flakes_are_taken_and_four_are_not() -> None:
    three = record([ONE], flaky=ALL)
    assert problems(here=three) == []
    assert problems(here=three, kit=record([], flaky=["tests/kit/b.py::test_site"])) == [
        "4 flakes, and 3 are the most that is taken"
    ]


def test_a_test_that_is_flaky_twice_is_a_failure() -> None:
    assert problems(here=record(ALL, flaky=[ONE]), debian13=record([], flaky=[ONE])) == [
        f"{ONE} is flaky in 2 lanes"
    ]


# --- Steps -------------------------------------------------------------------------------------


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    monkeypatch.chdir(tmp_path)
    LOGS.mkdir(parents=True)
    return Gate()


def step(command: str, *, vital: bool = True) -> Step:
    return Step(("sh", "-c", command), 10, vital=vital)


@pytest.mark.system
def test_a_vital_step_that_fails_is_run_once_more(gate: Gate) -> None:
    first = step("echo no registry answers; test -e once || { touch once; exit 1; }")
    gate.side_by_side([[first, step("touch next")]])
    assert Path("next").exists()
    assert (gate.failed, gate.flaky) == ([], [first.name])
    assert gate.last_lines == {first.name: ["no registry answers"]}


@pytest.mark.system
def test_a_row_ends_with_a_vital_step_that_fails_twice(gate: Gate) -> None:
    other, first = step("exit 1", vital=False), step("echo x >>tries; exit 1")
    gate.side_by_side([[other, first, step("touch next")], [step("touch beside")]])
    assert not Path("next").exists()
    assert Path("beside").exists()
    assert gate.failed == [other.name, first.name]
    assert Path("tries").read_text() == "x\n" * 2


# --- Notes of real runs --------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> object:
    """Runs pytest on a file of its own, with notes; returns what they tell."""
    notes = tmp_path / "notes.jsonl"
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    long: minutes\n")

    def once(text: str, *options: str) -> Record:
        (tmp_path / "test_it.py").write_text(text)
        subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "tests.gate.record", f"--record={notes}",
             "-c", str(tmp_path / "pytest.ini"), "-p", "no:cacheprovider", *options, str(tmp_path)],
            cwd=TOP, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        return Record.read(notes)

    return once


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_each_outcome_is_noted_run_after_run(run, options) -> None:  # type: ignore[no-untyped-def]
    text = (
        "import pytest\n"
        "@pytest.fixture\n"
        "def broken(): assert False\n"
        "@pytest.fixture\n"
        "def leaves(): yield; assert False\n"
        "@pytest.mark.parametrize('text', ['a b', 'c'])\n"
        "def test_good(text): pass\n"
        "def test_bad(): assert GOOD\n"
        "def test_set_up(broken): pass\n"
        "def test_torn_down(leaves): pass\n"
        "@pytest.mark.xfail(strict=True)\n"
        "def test_expected(): assert False\n"
    )
    run("GOOD = False\n" + text, *options)
    found = run("GOOD = True\n" + text, *options)
    assert {test.partition("::")[2]: outcomes for test, outcomes in found.outcomes.items()} == {
        "test_good[a b]": ["passed"] * 2,
        "test_good[c]": ["passed"] * 2,
        "test_bad": ["failed", "passed"],
        "test_set_up": ["failed"] * 2,
        "test_torn_down": ["failed"] * 2,
        "test_expected": ["passed"] * 2,
    }
    assert [test.partition("::")[2] for test in found.flaky] == ["test_bad"]


def test_a_run_that_is_cut_off_tells_what_it_got_to(run) -> None:  # type: ignore[no-untyped-def]
    found = run("import os\ndef test_a(): pass\ndef test_b(): os._exit(0)\ndef test_c(): pass\n")
    assert [test.partition("::")[2] for test in found.outcomes] == ["test_a"]


def test_a_process_that_dies_is_a_failed_test(run) -> None:  # type: ignore[no-untyped-def]
    found = run("import os\ndef test_a(): os._exit(1)\n", "-n", "1", "--max-worker-restart=0")
    assert list(found.outcomes.values()) == [["failed"]]


# --- The list ------------------------------------------------------------------------------------


def test_a_shorter_list_needs_a_reason() -> None:
    then = LIST + "tests/a.py::test_gone here 1\ntests/a.py::test_many here 5\n"
    assert collected.shorter(LIST, then, "") == [
        "tests/a.py::test_gone had 1 cases and has 0",
        "tests/a.py::test_many had 5 cases and has 3",
    ]
    reasons = (
        "# why\ntests/a.py::test_gone: proved nothing\ntests/a.py::test_m*: two were the same\n"
    )
    assert collected.shorter(LIST, then, reasons) == []


def test_a_test_that_runs_elsewhere_is_still_there() -> None:
    assert collected.shorter(LIST, "tests/c.py::test_soak here+debian13 2\n", "") == []


def test_a_reason_is_given() -> None:
    assert collected.unexplained("a::b: why not\na::c\na::d: \n") == ["a::c", "a::d: "]


def test_what_was_once_listed_is_known_from_git() -> None:
    if (TOP / ".git").exists():
        assert all(line.count(" ") == 2 for line in collected.once_listed().splitlines())


# --- Long tests ----------------------------------------------------------------------------------


@pytest.fixture
def last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The last result of a long test, in a checkout of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "proven").mkdir()
    (tmp_path / "proven" / "a.py").write_text("a")
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], check=True, timeout=60)
    return {
        "outcome": "passed",
        "cases": 2,
        "commit": "c0ffee",
        "proves": ["proven"],
        "hash": long_runs.hash_of(["proven"]),
    }


NAME = "tests/c.py::test_soak"


def test_a_long_test_that_holds_is_not_run_again(last: dict[str, object]) -> None:
    assert long_runs.long_problems({NAME: 2}, {NAME: last}) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"outcome": "failed"}, "failed at c0ffee"),
        ({"cases": 1}, "has 2 cases, and 1 ran"),
        ({"hash": "other"}, "proves something about files that have changed since c0ffee"),
    ],
)
def test_a_result_that_does_not_hold(
    last: dict[str, object], change: dict[str, object], reason: str
) -> None:
    assert long_runs.long_problems({NAME: 2}, {NAME: last | change}) == [
        f'{NAME} {reason}: make test-long ARGS="{NAME}"'
    ]


def test_a_long_test_without_a_result() -> None:
    (problem,) = long_runs.long_problems({NAME: 2}, {})
    assert "has no result" in problem


def test_the_hash_is_of_names_and_contents(last: dict[str, object], tmp_path: Path) -> None:
    before = last["hash"]
    (tmp_path / "proven" / "a.py").write_text("b")
    changed = long_runs.hash_of(["proven"])
    (tmp_path / "proven" / "a.py").write_text("a")
    assert (changed == before, long_runs.hash_of(["proven"]) == before) == (False, True)
    (tmp_path / "proven" / "b.py").write_text("")
    subprocess.run(["git", "add", "."], check=True, timeout=60)
    assert long_runs.hash_of(["proven"]) != before


# --- Debian 13 -----------------------------------------------------------------------------------


def ignored(file: str, lane: str) -> bool | None:
    config = SimpleNamespace(rootpath=TOP, getoption={"lane": lane}.get)
    return lanes.pytest_ignore_collect(TOP / file, config)  # type: ignore[arg-type]


def test_no_file_with_a_test_for_debian_13_is_left_out_there() -> None:
    listed = results.listed(results.DEBIAN13, (TOP / results.COLLECTED).read_text("utf-8"))
    files = {test.partition("::")[0] for test in listed}
    assert len(files) > 50
    assert [file for file in files if ignored(file, results.DEBIAN13)] == []
    for file in ("tests/unit/test_codec.py", "tests/kit/test_roles.py"):
        assert ignored(file, results.DEBIAN13)
        assert not ignored(file, results.HERE)
