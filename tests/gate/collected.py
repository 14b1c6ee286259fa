"""The list of all tests, `tests/collected.txt`, and why it ever got shorter.

    python -m tests.gate.collected            write the list
    python -m tests.gate.collected --check    compare it with the tests that there are; where they
                                              differ, exit status 1 and lines that say what to do

A test that goes, or loses cases, is explained in `tests/removed.txt`, a line `PATTERN: REASON` for
each: the pattern is matched with the test's name as in the list, `*` stands for anything. Which
tests have ever been listed is told by git.
"""

from __future__ import annotations

import argparse
import difflib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from .results import COLLECTED, LANES, listed

REMOVED: Final = Path("tests/removed.txt")
#: Seconds for pytest to collect the tests, on a busy machine.
COLLECT_SECONDS: Final = 300


def collect() -> str:
    """List the tests that there are; raises SystemExit with pytest's words if it cannot."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "list")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "--collect-only", "-qq"),
                *("-p", "tests.gate.lanes", f"--list-to={file}", "tests"),
            ],
            capture_output=True, text=True, timeout=COLLECT_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"pytest cannot collect the tests:\n{done.stdout[-4000:]}{done.stderr}")
        return file.read_text("utf-8")


def shorter(now: str, then: str, removed: str) -> list[str]:
    """Name the tests that are gone, or have fewer cases, without a reason.

    `then` has lines that were once in the list, `removed` is the text of `tests/removed.txt`.
    """
    patterns = [line.partition(": ")[0] for line in _lines(removed)]
    counts = {lane: listed(lane, now) for lane in LANES}
    found = set()
    for line in _lines(then):
        name, _lanes, count = line.rsplit(" ", 2)
        there = max(in_lane.get(name, 0) for in_lane in counts.values())
        if there < int(count) and not any(fnmatchcase(name, pattern) for pattern in patterns):
            found.add(f"{name} had {count} cases and has {there}")
    return sorted(found)


def unexplained(removed: str) -> list[str]:
    """Lines of `tests/removed.txt` that give no reason."""
    return [line for line in _lines(removed) if not line.partition(": ")[2].strip()]


def _lines(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if line.strip() and not line.startswith("#"))


def once_listed() -> str:
    """All lines that were ever taken out of the list; none where git knows nothing of it."""
    done = subprocess.run(
        ["git", "log", "--patch", "--unified=0", "--format=", "--", str(COLLECTED)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    return "\n".join(line[1:] for line in lines if line.startswith("-") and line[1:2] != "-")


def check() -> list[str]:
    """Say what is wrong with the list."""
    now, held = collect(), COLLECTED.read_text("utf-8")
    removed = REMOVED.read_text("utf-8")
    wrong = [
        line
        for line in difflib.unified_diff(held.splitlines(), now.splitlines(), n=0, lineterm="")
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    if wrong:
        wrong.append(f"{COLLECTED} is not the list of the tests that there are: make collected")
    wrong += (f"{line}: say why in {REMOVED}" for line in shorter(now, once_listed(), removed))
    wrong += (f"{REMOVED} gives no reason: {line}" for line in unexplained(removed))
    return wrong


def main() -> int:
    """Write or check the list; the exit status."""
    parser = argparse.ArgumentParser(description="the list of all tests")
    parser.add_argument("--check", action="store_true", help="compare it, and change nothing")
    if not parser.parse_args().check:
        COLLECTED.write_text(collect(), encoding="utf-8")
        return 0
    wrong = check()
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
