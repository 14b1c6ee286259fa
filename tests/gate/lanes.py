"""A pytest plugin that knows where each test runs: in which lanes.

    pytest -p tests.gate.lanes --lane=debian13      run the tests of one lane
    pytest … --lane=debian13 --again                of these, those that failed when they ran last
    pytest --collect-only -q -p tests.gate.lanes --list-to=FILE     write the list of all tests

| lane | tests | started by |
|---|---|---|
| `here` | all but the kit's and the long ones, on this machine | `make test` |
| `debian13` | of these, those about GnuPG, rpm, NSS or other programs | `make test-debian13` |
| `kit` | those that need a container engine: images, whole sites | `make test` |
| `long` | those that take minutes | `make test-long` |

A test that is marked `debian13` needs what Debian 12 is too old for, and is in that lane alone.

`tests/collected.txt` is the list: a line for each test function, its lanes, and how many cases it
has there.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from .results import DEBIAN13, HERE, KIT, LANES, LONG, RESULTS, Record, function_of

#: Directories of tests that are Python and nothing else, unless they are marked `system`.
PURE: Final = ("tests/unit/", "tests/property/", "tests/vectors/")


def lanes_of(item: pytest.Item) -> tuple[str, ...]:
    """Tell the lanes of a test from its markers and its directory."""
    if item.get_closest_marker("long"):
        return (LONG,)
    if item.get_closest_marker("kit"):
        return (KIT,)
    if newer := item.get_closest_marker("debian13"):
        (_why,) = newer.args
        return (DEBIAN13,)
    # Roles and scripts are Ansible and shell, and see no difference.
    if item.nodeid.startswith("tests/kit/"):
        return (HERE,)
    if item.nodeid.startswith(PURE) and not item.get_closest_marker("system"):
        return (HERE,)
    if once := item.get_closest_marker("once"):
        (_why,) = once.args
        return (HERE,)
    return (HERE, DEBIAN13)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the module's docstring."""
    group = parser.getgroup("lanes")
    group.addoption("--lane", choices=LANES, help="run only the tests of this lane")
    group.addoption("--again", action="store_true", help="of these, what failed the last time")
    group.addoption("--list-to", type=Path, metavar="FILE", help="write the list of tests to FILE")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select the tests of the lane; write the list."""
    if config.getoption("list_to"):
        config.getoption("list_to").write_text(listing(items), encoding="utf-8")
    lane = config.getoption("lane")
    wanted = [item for item in items if lane is None or lane in lanes_of(item)]
    if config.getoption("again"):
        failed = Record.read(RESULTS / f"{lane}.jsonl").failed
        wanted = [item for item in wanted if item.nodeid in failed]
    left = set(wanted)
    config.hook.pytest_deselected(items=[item for item in items if item not in left])
    items[:] = wanted


def listing(items: list[pytest.Item]) -> str:
    """The list of tests, as `tests/collected.txt` has it."""
    counts = Counter((function_of(item.nodeid), "+".join(lanes_of(item))) for item in items)
    return "".join(f"{name} {lanes} {count}\n" for (name, lanes), count in sorted(counts.items()))
