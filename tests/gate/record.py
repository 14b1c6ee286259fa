"""A pytest plugin that notes how each test ended.

    pytest -p tests.gate.record --record=FILE

Lines of JSON are appended to FILE as things happen, so that a run that is cut off has told how far
it got. `results` reads them.

    {"run": ["-n", "2"], "began": 1794000000.0}    a run begins: its arguments, seconds since 1970
    {"long": "tests/…::test_one", "proves": ["…"]}  what a long test proves something about
    {"test": "tests/…::test_one", "outcome": "passed", "seconds": 0.12}
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from .results import FAILED, PASSED


class Recorder:
    """Appends what happens to a file. Lives in the process that was started, not in xdist's."""

    def __init__(self, path: Path, arguments: Iterable[str]) -> None:
        self._path = path
        self._phases: dict[str, list[pytest.TestReport]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self.note(run=list(arguments), began=round(time.time(), 1))

    def note(self, **what: object) -> None:
        """Append one line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note what long tests prove something about. They run in one process."""
        for item in session.items:
            if mark := item.get_closest_marker("long"):
                self.note(long=item.nodeid, proves=list(mark.args))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test once its last phase has ended, or a process with it has died."""
        phases = self._phases.setdefault(report.nodeid, [])
        phases.append(report)
        if report.when in ("setup", "call"):
            return
        del self._phases[report.nodeid]
        failed = any(phase.outcome != PASSED and not _expected(phase) for phase in phases)
        self.note(
            test=report.nodeid,
            outcome=FAILED if failed else PASSED,
            seconds=round(sum(phase.duration for phase in phases), 2),
        )


def _expected(phase: pytest.TestReport) -> bool:
    return hasattr(phase, "wasxfail") and phase.outcome == "skipped"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --record."""
    parser.addoption("--record", type=Path, metavar="FILE", help="append what runs to FILE")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to note, in the process that was started."""
    path = config.getoption("record")
    if path is not None and not hasattr(config, "workerinput"):
        recorder = Recorder(path, config.invocation_params.args)
        config.pluginmanager.register(recorder, "recorder")
