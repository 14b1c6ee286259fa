"""How many processes a server has by the machine that it is on."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from sigul_stack.config import load_server
from sigul_stack.server.capacity import Capacity
from sigul_stack.system.processors import usable_processors


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2, 3})


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, 4),
        ({"cpu.max": "max 100000\n"}, 4),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "900000 100000\n"}, 4),
        ({"cpu.max": "of another kernel\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_processors_of_a_share(tmp_path: Path, files: dict[str, str], count: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_processors(tmp_path) == count


def test_processors_here() -> None:
    assert 1 <= usable_processors() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("processors", "capacity"),
    [(1, (4, 16, 8)), (2, (4, 16, 8)), (4, (8, 32, 16)), (64, (16, 64, 16))],
)
def test_auto(tmp_path: Path, processors: int, capacity: tuple[int, int, int]) -> None:
    file = tmp_path / "server.conf"
    file.write_text(
        "[server]\nbridge-hostname: bridge\nworkers: auto\n[nss]\nnss-password: secret\n"
    )
    file.chmod(0o600)
    settings = load_server(file).settings
    assert dataclasses.astuple(Capacity.of(settings, processors)) == capacity
    given = dataclasses.replace(settings, workers=1, max_requests=5, signing_threads=7)
    assert dataclasses.astuple(Capacity.of(given, processors)) == (1, 5, 7)
