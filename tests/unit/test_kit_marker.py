"""Tests that need a container engine say so, and are left out where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]
#: Of the kit, the modules and tests that run anywhere: Ansible on this machine, and a `docker` of
#: the test's own.
WITHOUT_ENGINE = {
    "test_accounts.py",
    "test_alert_rules.py",
    "test_backup_role.py",
    "test_client_bundles.py",
    "test_component_files.py",
    "test_checkouts.py::test_inventory_and_scripts_have_the_same_names",
    "test_cut_off.py::test_a_lost_connection_ends_a_run",
    "test_cut_off.py::test_a_rollover_that_was_cut_off_after_its_last_step_is_not_followed_by_another",
    "test_cut_off.py::test_a_rollover_that_was_cut_off_before_its_last_step_goes_on",
    "test_cut_off.py::test_databases_are_tuned_and_get_keys_of_another_type",
    "test_playbooks.py",
    "test_roles.py",
    "test_root_in_roles.py",
    "test_site_scripts.py",
    "test_vault.py",
}

#: Prints what is collected: file, name, whether it is marked, whether a fixture needs the engine.
COLLECT = """
import json, sys
import pytest

class Collected:
    def pytest_collection_finish(self, session):
        self.rows = [
            (item.path.name, item.originalname, item.get_closest_marker("kit") is not None,
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
    places = {(file, f"{file}::{name}"): (marked, engine) for file, name, marked, engine in rows}
    assert {place for both in places for place in both} >= WITHOUT_ENGINE
    for place, (marked, engine) in places.items():
        anywhere = not WITHOUT_ENGINE.isdisjoint(place)
        assert marked is not anywhere, f"{place[1]}: mark what needs an engine `kit`, nothing else"
        assert not (anywhere and engine), f"{place[1]} uses the engine"
