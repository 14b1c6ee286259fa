"""The progress bar: for a person who waits, and for nobody else."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

WORK = """
import sys, time
from sigul_stack.cli import progress
progress.PATIENCE = float(sys.argv[1])
for what, total in (("Sending", 50), ("Empty", 0)):
    with progress.progress(what, total) as advance:
        for _ in range(total):
            time.sleep(0.01)
            advance(1)
try:
    with progress.progress("Receiving", 9) as advance:
        raise KeyError
except KeyError:
    print("tqdm" in sys.modules)
"""


def shown_on_terminal(patience: float, columns: int) -> str:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(patience)], stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += os.read(master, 4096)
        except OSError:  # its last user has gone
            break
    os.close(master)
    assert process.wait(timeout=60) == 0
    return shown.decode()


@pytest.mark.parametrize("columns", [0, 40, 132])
def test_a_bar_for_work_that_takes_long(columns: int) -> None:
    shown = shown_on_terminal(0, columns)
    *bars, gone, rest = shown.rstrip("\r\n").split("\r")
    assert any("/50.0 [" in bar for bar in bars)
    assert all(not bar or bar.startswith("Sending: ") for bar in bars)
    assert max(map(len, bars)) <= (columns or 80)
    assert gone.strip() == ""
    assert rest == "True"


def test_no_bar_and_no_tqdm_for_work_that_does_not() -> None:
    assert shown_on_terminal(3600, 80) == "False\r\n"


def test_no_bar_where_nobody_looks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORK, "0"], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("False\n", "")
