"""What holds for every test: bounded in time, never skipped, the same in every run on CI.

The time limits are in pyproject.toml ([tool.pytest.ini_options]). Fixtures of a site live beside
the tests that use them, not here.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

_EXAMPLES = DirectoryBasedExampleDatabase(Path(__file__).parent.parent / ".cache" / "hypothesis")

# No deadline per example: the machine may be busy, and pytest-timeout bounds the test as a whole.
settings.register_profile("local", deadline=None, database=_EXAMPLES, print_blob=True)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)


def _fail_if_skipped(report: _Report) -> _Report:
    """A test that lacks something fails: a skipped one would pass for a tested one."""
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = (
            f"{report.nodeid} was skipped ({report.longrepr}). Tests here are not skipped: have "
            "scripts/bootstrap install what is missing, or delete the test."
        )
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Holds for tests and fixtures that call `pytest.skip`, and for skip marks."""
    return _fail_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Holds for modules that skip themselves, `pytest.importorskip` among them."""
    return _fail_if_skipped((yield))
