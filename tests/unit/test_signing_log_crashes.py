"""A signing log whose process is killed at each step of an append, and in a power cut."""

from __future__ import annotations

import os
import signal
import struct
from pathlib import Path

import pytest

from sigul_stack.evidence.log_reader import LogReader, verify_log
from sigul_stack.evidence.signing_log import AppendStep, SigningLog
from sigul_stack.formats.merkle_tree import hash_leaf
from tests.signing_logs import leaves, make_log, public_key

#: What a child says of each leaf that it was told is in the log.
ACKNOWLEDGED = struct.Struct("!Q32s")


class Kill:
    """Ends this process, as kill -9 does, at a step that comes for the so-manieth time."""

    def __init__(self, step: AppendStep, times: int) -> None:
        self.step, self.left = step, times

    def __call__(self, step: AppendStep) -> None:
        self.left -= step == self.step
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def append_until_killed(directory: Path, kill: Kill, acknowledged: int) -> None:
    with SigningLog.open(directory, on_step=kill) as log:
        for number in range(1, 300):
            for row in log.append(leaves(1, 2 + number % 90)):
                os.write(acknowledged, ACKNOWLEDGED.pack(row.index, hash_leaf(row.entry)))


def killed(directory: Path, step: AppendStep, times: int) -> dict[int, bytes]:
    """Have a child append until it is killed; the hashes of what it was told is in the log."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reading)
            append_until_killed(directory, Kill(step, times), writing)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    return dict(ACKNOWLEDGED.iter_unpack(data))


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("step", AppendStep)
def test_a_process_that_is_killed_loses_nothing(
    tmp_path: Path, step: AppendStep, times: int
) -> None:
    directory = tmp_path / "log"
    make_log(directory, 200)
    found = {}
    # What a first crash has left is taken over by a second process, which is killed as well.
    for _ in range(2):
        found |= killed(directory, step, times)
        before = LogReader.open(directory)
        verify_log(before, public_key(directory))
        assert before.size > max(found, default=0)
    with SigningLog.open(directory) as log:
        assert log.size >= before.size
        log.append(leaves(1, 400))
    reader = LogReader.open(directory)
    verify_log(reader, public_key(directory))
    assert {index: hash_leaf(reader.entry(index)) for index in found} == found
    assert [path for path in directory.rglob(".*") if path.name != ".tail"] == []


@pytest.mark.parametrize("junk", [b"", bytes(300), b"\xff" * 300])
def test_a_power_cut_leaves_any_part_of_what_was_not_synced(tmp_path: Path, junk: bytes) -> None:
    directory = tmp_path / "log"
    make_log(directory, 200)
    synced = (directory / "tail").stat().st_size
    checkpoint = (directory / "checkpoint").read_bytes()
    with SigningLog.open(directory) as log:
        log.append(leaves(200, 203))
    tail = (directory / "tail").read_bytes()
    one = (len(tail) - synced) // 3
    for length in (synced, synced + 1, synced + 9, synced + one + 5, len(tail) - 1, len(tail)):
        (directory / "checkpoint").write_bytes(checkpoint)
        (directory / "tail").write_bytes(tail[:length] + junk)
        with SigningLog.open(directory) as log:
            assert log.size == 200 + 3 * (length - synced) // (len(tail) - synced)
        verify_log(LogReader.open(directory), public_key(directory))
