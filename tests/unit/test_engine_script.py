"""scripts/engine where there is no engine to be had."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

ENGINE = Path(__file__).parent.parent.parent / "scripts/engine"


def test_a_docker_host_that_does_not_answer_is_nobodys_to_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [ENGINE],
        capture_output=True,
        text=True,
        env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none.sock"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "DOCKER_HOST" in done.stderr and "make demo" in done.stderr


def test_wrong_usage_is_told() -> None:
    done = subprocess.run([ENGINE, "begin"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "scripts/engine stop" in done.stderr
