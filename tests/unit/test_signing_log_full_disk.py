"""A signing log on a file system that is really full."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import TOP
from tests.copies import without
from tests.unit import full_disk_probe


@pytest.mark.system
def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    # Mounts that others do not see, and that end with the process.
    script = 'mount -t tmpfs -o size=4m,mode=700 none "$1"; exec "$2" -m "$3" "$1"'
    done = subprocess.run(
        [*without("--mount"), "sh", "-ec", script, "sh",
         str(tmp_path), sys.executable, full_disk_probe.__name__],
        cwd=TOP, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["lost"] == []
    assert len(found["errors"]) == full_disk_probe.MOST_PAGES
    for error in found["errors"]:
        assert error["problem"] == (
            f"the signing log '{tmp_path}/log' cannot be written: No space left on device"
        )
        assert error["cure"] == ("nothing is signed until it can: make room on its file system")
        assert error["symbol"] == "ENOSPC"
    assert found["size"] > 600
    assert list(tmp_path.iterdir()) == []
