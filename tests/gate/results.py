"""What runs of the tests have noted (`record`), compared with the list of all tests."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PASSED, FAILED = "passed", "failed"
#: The lanes: where a test runs (`lanes`).
HERE, DEBIAN13, KIT, LONG = "here", "debian13", "kit", "long"
LANES: Final = (HERE, DEBIAN13, KIT, LONG)
#: Where scripts/test has a lane's runs noted, in LANE.jsonl.
RESULTS: Final = Path(".cache/results")
#: The list of all tests (`lanes`).
COLLECTED: Final = Path("tests/collected.txt")


@dataclass
class Record:
    """What one file of notes tells: all the runs in it, in order."""

    #: The outcomes of each test, one a run.
    outcomes: dict[str, list[str]] = field(default_factory=dict)
    #: Seconds of each test when it ran last.
    seconds: dict[str, float] = field(default_factory=dict)
    #: What long tests prove something about (`long_runs`).
    proves: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a file. Where there is none, nothing ran."""
        record = cls()
        for line in _lines(path):
            if "proves" in line:
                record.proves[line["long"]] = line["proves"]
            elif "test" in line:
                record.outcomes.setdefault(line["test"], []).append(line["outcome"])
                record.seconds[line["test"]] = line["seconds"]
        return record

    @property
    def failed(self) -> set[str]:
        """Tests that failed when they ran last."""
        return {test for test, outcomes in self.outcomes.items() if outcomes[-1] == FAILED}

    @property
    def flaky(self) -> set[str]:
        """Tests that failed, and passed when they ran last."""
        return {
            test
            for test, outcomes in self.outcomes.items()
            if outcomes[-1] == PASSED and FAILED in outcomes
        }


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(text)
        except ValueError:  # the last line of a run that was killed
            continue


def listed(lane: str, text: str) -> dict[str, int]:
    """How many cases each test function has in a lane, by the text of the list."""
    counts: dict[str, int] = {}
    for line in text.splitlines():
        name, lanes, count = line.rsplit(" ", 2)
        if lane in lanes.split("+"):
            counts[name] = counts.get(name, 0) + int(count)
    return counts


def problems_of(records: Mapping[str, Record], text: str, most_flakes: int) -> list[str]:
    """What stands against a change: tests that failed or did not run, and too many flakes.

    `records` has a record for each lane that was run; `text` is that of the list of tests. A flake
    is a test that failed and then passed: `most_flakes` are taken, and none twice in one run.
    """
    problems: list[str] = []
    flaky: Counter[str] = Counter()
    for lane, record in records.items():
        flaky.update(record.flaky)
        problems += (f"{lane}: {test}" for test in sorted(record.failed))
        problems += (f"{lane}: {line}" for line in differences(listed(lane, text), record))
    if flaky.total() > most_flakes:
        problems.append(f"{flaky.total()} flakes, and {most_flakes} are the most that is taken")
    problems += (f"{test} is flaky in {count} lanes" for test, count in flaky.items() if count > 1)
    return problems


def differences(expected: Mapping[str, int], record: Record) -> list[str]:
    """Test functions of which another number of cases ran than is listed, with both numbers."""
    ran = Counter(function_of(test) for test in record.outcomes)
    return [
        f"{name}: {ran[name]} of {expected.get(name, 0)} listed cases ran"
        for name in sorted({*expected, *ran})
        if ran[name] != expected.get(name, 0)
    ]


def function_of(test: str) -> str:
    """The name of a test without its parameters: they hold addresses, keys and other texts."""
    return test.partition("[")[0]
