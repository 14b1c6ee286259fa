"""Programs that write too much elsewhere are ended."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sigul_stack.errors import SigulError
from sigul_stack.system.programs import run

MIB = 1024**2
#: Limit of a program that never ends by itself, in seconds.
SECONDS = 60.0


def test_who_watches_a_program_may_end_it(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def watch() -> None:
        if os.fstat(file.fileno()).st_size > MIB:
            raise SigulError("too much")

    with out.open("wb") as file, pytest.raises(SigulError, match="too much"):
        run(["cat", "/dev/zero"], package="coreutils", time_limit=SECONDS, stdout=file.fileno(),
            watch=watch)  # fmt: skip
    size = out.stat().st_size
    time.sleep(0.1)
    assert out.stat().st_size == size > MIB


def test_who_watches_sees_the_end(tmp_path: Path) -> None:
    sizes: list[int] = []
    with (tmp_path / "out").open("wb") as file:
        output = file.fileno()
        run(["head", "-c", "10", "/dev/zero"], package="coreutils", time_limit=SECONDS,
            stdout=output, watch=lambda: sizes.append(os.fstat(output).st_size))  # fmt: skip
    assert sizes[-1] == 10


def test_a_file_that_grows_over_its_limit_ends_its_program(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        done = run(["sh", "-c", "sleep 1; exec head -c 100000000 /dev/zero"], package="coreutils",
                   time_limit=SECONDS, stdout=file.fileno(), max_file_size=MIB)  # fmt: skip
    assert done.returncode != 0
    assert (tmp_path / "out").stat().st_size == MIB
