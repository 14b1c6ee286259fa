"""The last result of each test that takes minutes, and whether it still says something.

Such a test names the files and directories that it proves something about:

    @pytest.mark.long("sigul_stack/pki", "sigul_stack/cli/pki.py")

`make test-long` runs these tests and writes `tests/long-results.json`: of each test function how it
ended, the commit, the date, how many cases and minutes, and a hash of all that it proves something
about, the test's own file included. While these files stay as they are the result holds, and the
gate takes it for a run (`long_problems`).

    python3 -m tests.gate.long_runs     write what `.cache/results/long.jsonl` has into that file
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from .results import COLLECTED, FAILED, LONG, PASSED, RESULTS, Record, function_of, listed

LAST_RESULTS: Final = Path("tests/long-results.json")


def long_problems(expected: Mapping[str, int], last: Mapping[str, Any]) -> list[str]:
    """Tell which long tests have to run again before this checkout may land, and why.

    `expected` has the number of cases of each long test, `last` is what `last_results` reads.
    """
    reasons = {name: _reason(count, last.get(name)) for name, count in expected.items()}
    reasons |= dict.fromkeys(last.keys() - expected.keys(), "is no long test any more")
    return [
        f'{name} {reason}: make test-long ARGS="{name}"'
        for name, reason in sorted(reasons.items())
        if reason
    ]


def _reason(count: int, last: Mapping[str, Any] | None) -> str:
    if last is None:
        return f"has no result in {LAST_RESULTS}"
    if last["outcome"] != PASSED:
        return f"failed at {last['commit']}"
    if last["cases"] != count:
        return f"has {count} cases, and {last['cases']} ran"
    if last["hash"] != hash_of(last["proves"]):
        return f"proves something about files that have changed since {last['commit']}"
    return ""


def last_results() -> dict[str, Any]:
    """Read the results of the last runs, by test function."""
    return json.loads(LAST_RESULTS.read_text("utf-8")) if LAST_RESULTS.exists() else {}


def hash_of(paths: Iterable[str]) -> str:
    """A hash of the names and contents of all files at or below some paths that git knows."""
    files = _git("ls-files", "-z", "--", *sorted(paths)).split("\0")
    total = hashlib.sha256()
    for file in sorted(filter(None, files)):
        if Path(file).is_file():
            content = hashlib.sha256(Path(file).read_bytes()).hexdigest()
            total.update(f"{file} {content}\n".encode())
    return total.hexdigest()[:16]


def write(record: Record) -> None:
    """Put the results of a run into the file, those of other tests stay."""
    last = last_results()
    expected = listed(LONG, COLLECTED.read_text("utf-8"))
    commit = _git("rev-parse", "--short=10", "HEAD").strip()
    changed = " and changes" if _git("status", "--porcelain", "--untracked-files=no") else ""
    cases: dict[str, list[str]] = {}
    for test in record.outcomes:
        cases.setdefault(function_of(test), []).append(test)
    for name, tests in cases.items():
        proves = sorted({*record.proves.get(tests[0], ()), name.partition("::")[0]})
        last[name] = {
            "outcome": FAILED if record.failed.intersection(tests) else PASSED,
            "cases": len(tests),
            "minutes": round(sum(record.seconds[test] for test in tests) / 60, 1),
            "commit": commit + changed,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "proves": proves,
            "hash": hash_of(proves),
        }
    kept = {name: last[name] for name in sorted(last) if name in expected}
    LAST_RESULTS.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], capture_output=True, check=True, text=True, timeout=60
    ).stdout


if __name__ == "__main__":
    write(Record.read(RESULTS / f"{LONG}.jsonl"))
