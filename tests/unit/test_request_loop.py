"""The loop of requests that the Molecule scenarios run beside what they do: when it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import TOP

LOOP = TOP / "molecule/resources/request_loop.py"


@pytest.mark.system
@pytest.mark.parametrize(
    ("then", "ends"),
    [
        ("touch stop", "it is told to"),
        ("echo new >password", "the site is made anew"),
        ("rm password", "the site is removed"),
    ],
)
def test_it_ends_when(tmp_path: Path, then: str, ends: str) -> None:
    docker = tmp_path / "bin/docker"
    docker.parent.mkdir()
    docker.write_text(f"#!/bin/sh\ncat >>said\n{then}\necho admin\n")
    docker.chmod(0o755)
    (tmp_path / "password").write_text("first")
    done = subprocess.run(
        [sys.executable, LOOP, "container", "password", "stop"],
        env={"PATH": f"{docker.parent}:{os.environ['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert json.loads(done.stdout) == {"requests": 1, "failures": []}, ends
    assert (tmp_path / "said").read_bytes() == b"first\0"
