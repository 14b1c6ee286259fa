"""Decide whether this checkout may land: `python3 -m tests.gate`, in a fresh clone of it.

Lint, those tests that run in Debian 13, too, and all of this machine and of the kit. What can be
done side by side is. Of each step it says how long it took; the end names what
failed, what did not run, and which tests passed only at their second try.

Exit status: 0 if everything that is listed ran and passed, 1 if not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .long_runs import last_results, long_problems
from .results import COLLECTED, LONG, RESULTS, Record, listed, problems_of

#: Seconds for everything. CI ends a run after 5,400 without a word; this ends before, with one.
ALL_SECONDS: Final = 5250
#: How many failed tests are run once more; with more, something is wrong for sure.
MOST_FLAKES: Final = 3
LOGS: Final = Path(".cache/gate")
#: How many lines of a failed step's output are said again at the end, where nobody overlooks them.
LAST_LINES: Final = 20


@dataclass(frozen=True)
class Step:
    """A command, and the seconds that it may take."""

    command: Sequence[str]
    seconds: float
    #: Whether nothing that comes after it can be done where it fails.
    vital: bool = True

    @property
    def name(self) -> str:
        """The command line, as a person would type it."""
        return " ".join(self.command)


#: What runs the tests of each lane.
TESTS: Final = {
    "here": Step(("make", "test", "ARGS=--lane here"), 3000, vital=False),
    "kit": Step(("make", "test", "ARGS=--lane kit"), 3000, vital=False),
    "debian13": Step(("make", "test-debian13"), 1800, vital=False),
}
#: Each row's steps one after the other, the rows side by side. The first row is one process at a
#: time, which often waits for registries, disks and the engine; the second one has the tests that
#: run in several. The virtual environment is there long before they need it: Debian 13 takes more.
ROWS: Final = (
    (
        Step(("make", "venv"), 1500),
        Step(("make", "lint"), 900, vital=False),
        Step(("make", "images"), 1500),
        TESTS["kit"],
    ),
    (
        Step(("scripts/test-debian13", "--prepare"), 1800, vital=False),
        TESTS["debian13"],
        TESTS["here"],
    ),
)
#: Run a lane's failed tests once more.
AGAIN: Final = {
    "here": "scripts/test",
    "kit": "scripts/test",
    "debian13": "scripts/test-debian13",
}


class Gate:
    """One run: how long its steps took, and which of them failed."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._output = threading.Lock()
        self.failed: list[str] = []
        #: The last lines of each step that has failed, whether or not it then succeeded.
        self.last_lines: dict[str, list[str]] = {}
        self.times: list[tuple[str, float]] = []

    def run(self, step: Step, log: Path | None = None) -> bool:
        """Run a step to its end; whether it succeeded.

        Its output is printed at once, or from `log` when it has ended.
        """
        began = time.monotonic()
        if log is None:
            self._say(f"\n=== {step.name}")
        status = self._run(step, log)
        took = time.monotonic() - began
        self.times.append((step.name, took))
        with self._output:
            if log is not None:
                print(f"\n=== {step.name}", flush=True)
                sys.stdout.buffer.write(log.read_bytes())
            how = "" if status == 0 else f", FAILED (exit status {status})"
            print(f"=== {step.name}: {took:.0f} s{how}", flush=True)
        if status:
            self.failed.append(step.name)
            if log is not None:
                text = log.read_text(encoding="utf-8", errors="replace")
                self.last_lines[step.name] = text.splitlines()[-LAST_LINES:]
        return status == 0

    def _run(self, step: Step, log: Path | None) -> int | str:
        left = ALL_SECONDS - self.seconds
        output = None if log is None else log.open("wb")
        # A session of its own, so that all of it can be ended.
        process = subprocess.Popen(
            step.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(max(1.0, min(step.seconds, left)))
        except subprocess.TimeoutExpired:
            return f"none: it was ended after {min(step.seconds, left):.0f} s"
        finally:
            _end(process)
            if output is not None:
                output.close()

    def side_by_side(self, rows: Sequence[Sequence[Step]]) -> None:
        """Run rows of steps at the same time; a row ends with its first vital one that fails twice.

        Such a step reaches registries, and what they did not answer once they may the next time.
        """

        def run(number: int, row: Sequence[Step]) -> None:
            for count, step in enumerate(row):
                log = LOGS / f"{number}-{count}.log"
                if self.run(step, log) or not step.vital:
                    continue
                self.failed.remove(step.name)
                if not self.run(step, log.with_suffix(".again.log")):
                    return

        threads = [threading.Thread(target=run, args=args) for args in enumerate(rows)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @property
    def flaky(self) -> list[str]:
        """The steps that failed, and succeeded when they were run once more."""
        return [name for name in self.last_lines if name not in self.failed]

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def _say(self, text: str) -> None:
        with self._output:
            print(text, flush=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started, politely for 30 s."""
    for number, seconds in ((signal.SIGTERM, 30.0), (signal.SIGKILL, 30.0)):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue


def records() -> dict[str, Record]:
    """Read what the runs have noted, by lane."""
    return {lane: Record.read(RESULTS / f"{lane}.jsonl") for lane in AGAIN}


def try_again(gate: Gate) -> None:
    """Run the tests that failed once more, where they are few."""
    for lane, step in TESTS.items():
        failed = records()[lane].failed
        # Where the step failed because of these tests alone, how they end now is what counts.
        if (
            step.name in gate.failed
            and 0 < len(failed) <= MOST_FLAKES
            and gate.run(Step((AGAIN[lane], "--lane", lane, "--again"), 900))
        ):
            gate.failed.remove(step.name)


def main() -> int:
    """Run everything; the exit status."""
    gate = Gate()
    for directory in (RESULTS, LOGS):
        directory.mkdir(parents=True, exist_ok=True)
        for file in directory.iterdir():
            file.unlink()
    gate.side_by_side(ROWS)
    try_again(gate)
    found, tests = records(), COLLECTED.read_text("utf-8")
    problems = [
        *(f"{name} failed" for name in gate.failed),
        *problems_of(found, tests, MOST_FLAKES),
        *long_problems(listed(LONG, tests), last_results()),
    ]
    print("\n=== how long it took")
    for name, seconds in [*gate.times, ("all of it", gate.seconds)]:
        print(f"{seconds:6.0f} s  {name}")
    for lane, record in found.items():
        print(f"=== {lane}: {len(record.outcomes)} ran, {len(record.failed)} failed")
        for test in sorted(record.flaky):
            print(f"FLAKE in {lane}: {test} failed, then passed")
    for name, lines in gate.last_lines.items():
        again = ", which then succeeded" if name in gate.flaky else ""
        print(f"=== the last lines of {name}{again}:", *lines, sep="\n    ")
    for problem in problems:
        print(f"FAILED: {problem}")
    ran = sum(len(record.outcomes) for record in found.values())
    bad = sum(len(record.failed) for record in found.values())
    # The plain line that counts are read from. What is no test's fault is a failure all the same.
    print(f"{ran - bad} passed, {bad or len(problems)} failed", flush=True)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
