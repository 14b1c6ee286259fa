"""What holds for every test: bounded in time, never skipped, the same in every run on CI.

Tests of the kit need a container engine, and some tests need root. Where there is no engine, or the
user is another, they are left out, and the last lines of the output count them; for root on CI,
they fail instead.

The time limits are in pyproject.toml ([tool.pytest.ini_options]). Fixtures of a site live beside
the tests that use them, not here.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.database import DirectoryBasedExampleDatabase

from sigul_stack import logevents
from sigul_stack.logcontext import work_for

pytest_plugins = ["tests.purity", "tests.ready_keys"]

# Tests write some hundred NSS databases, and whoever opens one derives a key for each of its
# secrets: with one round, not 10,000. Their passwords protect nothing.
os.environ["NSS_MAX_MP_PBE_ITERATION_COUNT"] = "1"

# A line of the log with a wrong field is an error here; elsewhere it is told nonetheless.
logevents.strict = True

# All that hypothesis keeps; it would make a directory of its own in the checkout.
set_hypothesis_home_dir(Path(__file__).parent.parent / ".cache" / "hypothesis")
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


# --- Tests that need what is not here ----------------------------------------------------------

_ENGINE = Path(__file__).parent.parent / "scripts" / "engine"
_NO_ENGINE = 3
#: Lines that say what was left out, and why.
_LEFT_OUT = pytest.StashKey[list[str]]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that need root or a newer Debian, and the kit's where there is no engine.

    Whether there can be an engine says scripts/engine.
    """
    if config.option.collectonly:
        return
    if os.geteuid():
        _leave_out(config, items, "root", "Only root can do what they need: sudo make test.")
    if sys.version_info < (3, 12):
        _leave_out(config, items, "debian13", "They run in Debian 13: make test-debian13.")
    if any(item.get_closest_marker("kit") for item in items):
        done = subprocess.run([_ENGINE], capture_output=True, text=True, check=False)
        if done.returncode == _NO_ENGINE and not (os.environ.get("CI") and os.geteuid() == 0):
            _leave_out(config, items, "kit", done.stderr.strip())


def _leave_out(config: pytest.Config, items: list[pytest.Item], marker: str, why: str) -> None:
    out = [item for item in items if item.get_closest_marker(marker)]
    if not out:
        return
    items[:] = [item for item in items if item not in set(out)]
    config.hook.pytest_deselected(items=out)
    line = f"LEFT OUT: {len(out)} tests that are marked `{marker}`. {why}"
    config.stash.setdefault(_LEFT_OUT, []).append(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Have a process of xdist tell the one that was started what it left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash.get(_LEFT_OUT, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a process of xdist left out: all of them the same."""
    node.config.stash[_LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", [])


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Say what is left out, before the first test."""
    return config.stash.get(_LEFT_OUT, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say how honest requests fared under attack, and what was left out, after the last test."""
    for line in latencies(terminalreporter):
        terminalreporter.write_line(f"LATENCY {line}")
    for line in config.stash.get(_LEFT_OUT, []):
        terminalreporter.write_line(line, red=True, bold=True)


def latencies(terminalreporter: pytest.TerminalReporter) -> list[str]:
    """What tests have told of latency (tests/hostile/work.py): a line for each attack."""
    return [
        str(text)
        for report in terminalreporter.getreports("passed")
        for name, text in report.user_properties
        if name == "latency"
    ]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """What a test sets up of logging, and what its lines were about, goes with it."""
    root, own = logging.getLogger(), logging.getLogger("sigul_stack")
    handlers, level, own_level = root.handlers[:], root.level, own.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    own.setLevel(own_level)
    logging.captureWarnings(False)
    work_for(None)
