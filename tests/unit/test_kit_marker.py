"""Tests that need a container engine say so, and are left out where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]
#: Of the kit, what runs anywhere: Ansible on this machine, and a `docker` of the test's own.
WITHOUT_ENGINE = {"test_accounts.py", "test_roles.py"}

#: Prints what is collected: file, name, whether it is marked, whether a fixture needs the engine.
COLLECT = """
import json, sys
import pytest

class Collected:
    def pytest_collection_finish(self, session):
        self.rows = [
            (item.path.name, item.name, item.get_closest_marker("kit") is not None,
             "engine" in item.fixturenames)
            for item in session.items
        ]

collected = Collected()
status = pytest.main(["--collect-only", "-qq", "tests/kit"], [collected])
print("\\n" + json.dumps(collected.rows))
sys.exit(status)
"""


def test_what_needs_an_engine_is_marked() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COLLECT], cwd=TOP, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    assert {file for file, *_ in rows} > WITHOUT_ENGINE
    for file, name, marked, engine in rows:
        assert marked is (file not in WITHOUT_ENGINE), f"{file}::{name}: mark its module `kit`"
        assert marked or not engine, f"{file}::{name} uses the engine"
