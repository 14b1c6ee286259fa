"""The guard of tests that are Python alone: what it fails, and what it lets pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent.parent
TESTS = """
import contextlib, os, subprocess, sys
import pytest
from nss import nss

@pytest.fixture
def started(): subprocess.run(["true"])

def test_starts(): subprocess.run(["true"])
def test_catches():
    with contextlib.suppress(BaseException):
        subprocess.run(["true"])
def test_shell(): os.system("true")
def test_spawns(): os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
def test_fixture(started): pass
@pytest.mark.system
def test_may(started): subprocess.run(["true"])
def test_python(): subprocess.run([sys.executable, "-c", ""], check=True)
def test_imports(): assert nss
def test_opens(): nss.nss_init_nodb()
"""


@pytest.mark.system
def test_what_touches_the_system_fails_unless_it_says_so(tmp_path: Path) -> None:
    directory = tmp_path / "tests" / "unit"
    directory.mkdir(parents=True)
    (directory / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = system\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.purity", "-rA", "--import-mode=importlib"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(TOP)}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    found = re.findall(r"^(PASSED|FAILED|ERROR) \S+::test_(\w+)", done.stdout, re.M)
    ends = {name: end for end, name in found}
    assert ends == {
        "starts": "FAILED", "catches": "FAILED", "shell": "FAILED", "spawns": "FAILED",
        "fixture": "ERROR", "may": "PASSED", "python": "PASSED", "imports": "PASSED",
        "opens": "FAILED",
    }, done.stdout  # fmt: skip
