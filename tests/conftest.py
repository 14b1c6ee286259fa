"""What holds for every test: bounded in time, never skipped, the same in every run on CI.

Tests of the kit need a container engine. Where none can be had they are left out, which the first
and the last lines of the output say; for root on CI, they fail instead.

The time limits are in pyproject.toml ([tool.pytest.ini_options]). Fixtures of a site live beside
the tests that use them, not here.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

pytest_plugins = ["tests.purity", "tests.ready_keys"]

_EXAMPLES = DirectoryBasedExampleDatabase(Path(__file__).parent.parent / ".cache" / "hypothesis")

# No deadline per example: the machine may be busy, and pytest-timeout bounds the test as a whole.
settings.register_profile("local", deadline=None, database=_EXAMPLES, print_blob=True)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# A shell has what it starts in the background ignore SIGINT, and programs inherit that from us.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


# --- Tests that need a container engine --------------------------------------------------------

_ENGINE = Path(__file__).parent.parent / "scripts" / "engine"
_NO_ENGINE = 3
_LEFT_OUT = pytest.StashKey[str]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the kit's tests out where scripts/engine says that there can be no engine.

    Another user than root may have an engine, and still can make no machines.
    """
    kit = [item for item in items if item.get_closest_marker("kit")]
    if not kit or config.option.collectonly:
        return
    done = subprocess.run([_ENGINE], capture_output=True, text=True, check=False)
    left_out, why = kit, done.stderr.strip()
    if done.returncode != _NO_ENGINE or (os.environ.get("CI") and os.geteuid() == 0):
        machines = [item for item in kit if item.get_closest_marker("machines")]
        left_out, why = machines if os.geteuid() else [], "Only root can make machines."
    if left_out:
        items[:] = [item for item in items if item not in set(left_out)]
        config.hook.pytest_deselected(items=left_out)
        config.stash[_LEFT_OUT] = f"LEFT OUT: {len(left_out)} tests of the kit. {why}"


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """What is left out, before the first test."""
    return [config.stash[_LEFT_OUT]] if _LEFT_OUT in config.stash else []


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """What was left out, after the last test."""
    if _LEFT_OUT in config.stash:
        terminalreporter.write_line(config.stash[_LEFT_OUT], red=True, bold=True)
