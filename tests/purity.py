"""Which tests are pure Python, and a guard that holds it.

Tests in tests/unit, tests/property and tests/vectors need nothing of the distribution but Python,
so one distribution is enough for them. All others have the marker `system`: they touch GnuPG, rpm,
NSS or another program of the distribution, and run in each. A test of the three directories that
does so, too, says `@pytest.mark.system`.

A test that does not say so fails where it starts a program other than this Python or git, or opens
NSS. (Many modules import nss, which by itself touches nothing.) What is done in another Python that
it starts is not seen.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator

import pytest

from tests.gate.lanes import PURE

#: Programs that a pure test may start: this Python, and git, which tells the checkout's files.
_ALLOWED = frozenset({sys.executable, "git"})
#: The audit events of a program's start. Each has the program first, and its arguments next.
_STARTS = frozenset({"subprocess.Popen", "os.exec", "os.posix_spawn"})


class Impure(Exception):
    """A test that is taken for pure touches the system."""


class _Watch:
    """What a test that is taken for pure does against that; None while no such test runs."""

    seen: list[str] | None = None
    nss_was_open = False

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.seen is None:
            return
        if event in _STARTS and _program(arguments) not in _ALLOWED:
            self._refuse(f"it starts {_program(arguments)}")
        elif event == "os.system":
            self._refuse("it starts a shell")

    def _refuse(self, what: str) -> None:
        assert self.seen is not None
        self.seen.append(what)
        raise Impure(f"{what}: mark the test @pytest.mark.system (tests/purity.py)")


def _nss_is_open() -> bool:
    module = sys.modules.get("nss.nss")
    return module is not None and module.nss_is_initialized()


def _program(arguments: tuple[object, ...]) -> str:
    program = arguments[0] or arguments[1][0]  # type: ignore[index]
    return os.fsdecode(program)  # type: ignore[arg-type]


_watch = _Watch()


def pytest_configure() -> None:
    """Look from now on; an audit hook stays as long as the process."""
    sys.addaudithook(_watch)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `system` what is in no directory of pure tests."""
    for item in items:
        if not item.nodeid.startswith(PURE):
            item.add_marker("system")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Watch a pure test, and the fixtures that it sets up."""
    if not item.get_closest_marker("system"):
        _watch.seen, _watch.nss_was_open = [], _nss_is_open()
    try:
        return (yield)
    finally:
        _watch.seen = None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """Look away: the last test of a module ends fixtures of others, too."""
    _watch.seen = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that touches the system, even where something has caught the error."""
    report = yield
    if _watch.seen == [] and _nss_is_open() and not _watch.nss_was_open:
        _watch.seen.append("it opens NSS")
    if _watch.seen and not report.failed:
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: {_watch.seen[0]}, and is not marked `system`"
    return report
