"""The signing log on disk: made, opened, appended to, locked, damaged, put back from yesterday."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sigul_stack.errors import SigulError
from sigul_stack.evidence import signing_log
from sigul_stack.evidence.leaf import LOG_START, Leaf, Result
from sigul_stack.evidence.log_files import SigningLogError, Tail
from sigul_stack.evidence.log_reader import LogReader, verify_log
from sigul_stack.evidence.signing_log import AppendStep, SigningLog, create
from sigul_stack.formats.merkle_tree import (
    NotProven,
    hash_leaf,
    verify_consistency,
)
from sigul_stack.formats.signed_note import Checkpoint, PrivateKey, open_checkpoint
from sigul_stack.secret import Secret
from tests.signing_logs import NAME, leaf, leaves, make_log, plain_root, public_key, write_large


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "log"


def verified(directory: Path) -> LogReader:
    """The log, all of which is proven."""
    reader = LogReader.open(directory)
    verify_log(reader, public_key(directory))
    assert plain_root(list(reader.entries(0, reader.size))) == reader.head.root
    return reader


# ------------------------------------------------------------------------------------------ create


def test_a_new_log_has_one_leaf_and_is_its_users_alone(directory: Path) -> None:
    create(directory, NAME)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes == {"key": 0o600, "key.pub": 0o644, "checkpoint": 0o644, "tail": 0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert list(directory.parent.iterdir()) == [directory]
    reader = verified(directory)
    first = Leaf.parse(reader.entry(0))
    assert (reader.size, first.op, first.previous) == (1, LOG_START, "")
    assert re.fullmatch(re.escape(NAME) + "/signing-log/[0-9a-f]{8}", reader.head.origin)


def test_a_new_log_names_the_one_before(directory: Path, tmp_path: Path) -> None:
    create(directory, NAME)
    before = LogReader.open(directory).checkpoint
    create(tmp_path / "next", NAME, previous=before)
    assert Leaf.parse(verified(tmp_path / "next").entry(0)).previous == before.encode()
    assert public_key(directory) != public_key(tmp_path / "next")


def test_an_empty_directory_becomes_a_log(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    create(directory, NAME)
    assert verified(directory).size == 1
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["log", "file", "link", "other"])
def test_a_log_is_never_made_where_something_is(directory: Path, kind: str) -> None:
    if kind == "log":
        create(directory, NAME)
    elif kind == "file":
        directory.write_text("mine")
    elif kind == "link":
        (directory.parent / "target").mkdir()
        directory.symlink_to("target")
    else:
        directory.mkdir()
        (directory / "key").write_text("mine")
    before = sorted(directory.parent.rglob("*"))
    with pytest.raises(SigningLogError, match=r"is there already|cannot be made"):
        create(directory, NAME)
    assert sorted(directory.parent.rglob("*")) == before


def test_a_log_cannot_be_made_where_there_is_no_directory(directory: Path) -> None:
    with pytest.raises(SigningLogError, match=r"cannot be made: No such file .*; see that"):
        create(directory / "deeper", NAME)


# ------------------------------------------------------------------------------------------ append


@pytest.mark.parametrize("size", [2, 255, 256, 257, 511, 512, 513, 800])
def test_what_is_appended_is_there(directory: Path, size: int) -> None:
    create(directory, NAME)
    with SigningLog.open(directory) as log:
        appended = log.append(leaves(1, size))
        assert [row.index for row in appended] == list(range(1, size))
        assert log.size == size
        assert open_checkpoint(log.checkpoint, log.public_key).size == size
    reader = verified(directory)
    assert [row.entry for row in appended] == list(reader.entries(1, size))
    assert [Leaf.parse(row.entry) for row in appended] == [row.leaf for row in appended]
    assert {row.leaf.time for row in appended} == {appended[0].leaf.time}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", appended[0].leaf.time)


def test_nothing_is_appended(directory: Path) -> None:
    make_log(directory, 5)
    with SigningLog.open(directory) as log:
        assert log.append([]) == []
        assert log.size == 5


def test_times_never_go_back(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(["2030", "2029", "2031", "2001", "2002"])
    monkeypatch.setattr(signing_log, "_now", lambda: f"{next(clock)}-01-01T00:00:00.000Z")
    create(directory, NAME)
    found = []
    for _ in range(2):
        with SigningLog.open(directory) as log:
            found += [log.append([leaf(1)])[0].leaf.time[:4] for _ in range(2)]
    assert found == ["2030", "2031", "2031", "2031"]


def test_times_do_not_go_back_where_the_tail_is_empty(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_log(directory, 256)
    with SigningLog.open(directory) as log:
        log._begin_bundle()
    monkeypatch.setattr(signing_log, "_now", lambda: "2001-01-01T00:00:00.000Z")
    with SigningLog.open(directory) as log:
        last = Leaf.parse(LogReader.open(directory).entry(255)).time
        assert log.append([leaf(1)])[0].leaf.time == last


def test_a_leaf_that_is_too_large_changes_nothing(directory: Path) -> None:
    make_log(directory, 5)
    with SigningLog.open(directory) as log:
        with pytest.raises(NotProven, match="over the limit"):
            log.append([leaf(1), Leaf("x", Result.FAILED, reason="x" * 70_000)])
        assert log.append([Leaf("x", Result.FAILED, reason="x" * 60_000)])[0].index == 5
    assert verified(directory).size == 6


def test_evidence_proves_leaf_and_growth(directory: Path) -> None:
    key = make_log(directory, 300)
    old = LogReader.open(directory)
    with SigningLog.open(directory) as log:
        log.append(leaves(300, 700))
        for index in (0, 255, 256, 511, 512, 699):
            found = log.evidence(index, 300)
            head = found.proof.verify(key)
            assert found.entry == LogReader.open(directory).entry(index)
            assert found.old_size == 300
            verify_consistency(300, old.head.root, head.size, head.root, found.consistency)
        for known in (0, 701, 2**40, -1):
            found = log.checkpoint_evidence(known)
            assert (found.old_size, found.consistency, found.entry) == (0, (), b"")
        found = log.checkpoint_evidence(300)
        verify_consistency(300, old.head.root, 700, head.root, found.consistency)
        assert log.checkpoint_evidence(700).old_size == 700
        for index in (-1, 700):
            with pytest.raises(NotProven, match="there is no leaf"):
                log.evidence(index)


def test_old_partial_tiles_go(directory: Path) -> None:
    make_log(directory, 1100)
    partial = directory / "tile" / "1" / "000.p"
    assert [path.name for path in partial.iterdir()] == ["4"]
    assert {path.name for path in (directory / "tile" / "0").iterdir()} == {
        "000", "001", "002", "003"
    }  # fmt: skip


def test_a_full_tile_takes_the_place_of_its_partial_ones(directory: Path) -> None:
    small = [Leaf("x", Result.OK)]
    entry = small[0].encode()
    write_large(directory, 255 * 256 - 1, lambda start, stop: [entry] * (stop - start))
    with SigningLog.open(directory) as log:
        log.append(small)
        log.append(small * 256)
        # The last bundle is still the tail, and the tile above it is not full yet.
        reader = LogReader.open(directory)
        assert (reader.size, reader.tree.edge) == (65536, 65536 - 256)
        verify_log(reader, log.public_key)
        reader.proof(7).verify(log.public_key)
        log.append(small * 2 * 256)
        assert log.size == 258 * 256
    names = {path.name for path in (directory / "tile" / "1").iterdir()}
    assert names == {"000", "001.p"}
    assert [path.name for path in (directory / "tile/2/000.p").iterdir()] == ["1"]
    verify_log(LogReader.open(directory), public_key(directory))
    with SigningLog.open(directory) as log:
        assert log.evidence(3, 70).proof.verify(log.public_key).size == log.size


# -------------------------------------------------------------------------------------- one process


def test_only_one_process_appends(directory: Path) -> None:
    make_log(directory, 3)
    with SigningLog.open(directory):
        with pytest.raises(SigningLogError, match="is in use by another process; only one"):
            SigningLog.open(directory)
        assert verified(directory).size == 3
    with SigningLog.open(directory) as log:
        log.append([leaf(1)])


def test_a_closed_log_is_closed(directory: Path) -> None:
    make_log(directory, 3)
    with SigningLog.open(directory) as log:
        pass
    log.close()
    with pytest.raises(SigningLogError, match="is closed"):
        log.append([leaf(1)])


def test_no_descriptor_is_left_open(directory: Path) -> None:
    make_log(directory, 3)
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    with SigningLog.open(directory) as log:
        log.append(leaves(1, 600))
    (directory / "tail").write_bytes(b"nothing")
    with pytest.raises(SigningLogError):
        SigningLog.open(directory)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_a_log_that_is_replaced_while_it_is_open_is_left_alone(
    directory: Path, tmp_path: Path
) -> None:
    make_log(directory, 3)
    shutil.copytree(directory, tmp_path / "yesterday")
    with SigningLog.open(directory) as log:
        log.append([leaf(1)])
        directory.rename(tmp_path / "moved")
        (tmp_path / "yesterday").rename(directory)
        with pytest.raises(SigningLogError, match="was replaced while it was open; restart"):
            log.append([leaf(1)])
    assert verified(directory).size == 3
    assert verified(tmp_path / "moved").size == 4


# ------------------------------------------------------------------------------------------ damage


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cut(path: Path, count: int) -> None:
    os.truncate(path, path.stat().st_size - count)


def other_checkpoint(directory: Path) -> None:
    key = PrivateKey.parse(Secret((directory / "key").read_bytes()))
    note = Checkpoint(key.name, 700, hash_leaf(b"")).signed(key)
    (directory / "checkpoint").write_text(note.encode())


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no key": (lambda d: (d / "key").unlink(), "has no key"),
    "key": (lambda d: (d / "key").write_text("PRIVATE+KEY+x"), "no private key"),
    "no checkpoint": (lambda d: (d / "checkpoint").unlink(), "checkpoint is missing"),
    "checkpoint's root": (other_checkpoint, "not those that its checkpoint is over"),
    "checkpoint's signature": (lambda d: damage(d / "checkpoint", -20), "damaged"),
    "no tail": (lambda d: (d / "tail").unlink(), "tail is missing"),
    "tail's head": (lambda d: damage(d / "tail", 0), "the tail of the signing log is damaged"),
    "tail's number": (lambda d: damage(d / "tail", 15), "leaves"),
    "an entry": (lambda d: damage(d / "tail", 2000), "leaves were lost"),
    "entries cut off": (lambda d: cut(d / "tail", 1), "there are 699 leaves, .* is of 700"),
    "no tile": (lambda d: (d / "tile/1/000.p/2").unlink(), "000.p/2 of .* is missing"),
    "a tile": (lambda d: damage(d / "tile/1/000.p/2", 40), "not those that its checkpoint"),
    "a tile cut off": (lambda d: cut(d / "tile/1/000.p/2", 32), "not have 2 hashes"),
    "a tile of no hashes": (lambda d: (d / "tile/1/000.p/2").write_bytes(b""), "not have 2 hashes"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_log_is_refused_with_cause_and_cure(directory: Path, name: str) -> None:
    make_log(directory, 700)
    change, message = DAMAGES[name]
    change(directory)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(SigningLogError, match=message) as caught:
        SigningLog.open(directory)
    assert caught.value.cure
    after = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert after == before


def test_a_log_put_back_from_yesterday_is_an_older_log(directory: Path, tmp_path: Path) -> None:
    # Alone it looks well; a witness sees that it is smaller.
    make_log(directory, 300)
    shutil.copytree(directory, tmp_path / "yesterday")
    with SigningLog.open(directory) as log:
        log.append(leaves(300, 600))
    with SigningLog.open(tmp_path / "yesterday") as log:
        assert log.size == 300
    # What is put back in part does not: the tail, the checkpoint.
    now = (directory / "checkpoint").read_bytes()
    shutil.copy(tmp_path / "yesterday/checkpoint", directory)
    with pytest.raises(SigningLogError, match="an older checkpoint was put back"):
        SigningLog.open(directory)
    (directory / "checkpoint").write_bytes(now)
    shutil.copy(tmp_path / "yesterday/tail", directory)
    with pytest.raises(SigningLogError, match="there are 300 leaves, and its checkpoint is of 600"):
        SigningLog.open(directory)


def test_what_lies_behind_the_checkpoint_is_taken_in(directory: Path) -> None:
    make_log(directory, 300)
    old = (directory / "checkpoint").read_bytes()
    with SigningLog.open(directory) as log:
        log.append(leaves(300, 310))
    (directory / "checkpoint").write_bytes(old)
    assert verified(directory).size == 300
    with (directory / "tail").open("ab") as file:
        file.write(b"half of an entry")
    with SigningLog.open(directory) as log:
        assert log.size == 310
        assert log.append([leaf(1)])[0].index == 310
    assert verified(directory).size == 311
    tail = Tail.read(directory)
    assert tail is not None
    assert tail.is_whole


@pytest.mark.parametrize("name", ["checkpoint", "tail", "key"])
def test_a_file_that_is_none_is_no_wait(directory: Path, name: str) -> None:
    make_log(directory, 3)
    (directory / name).unlink()
    os.mkfifo(directory / name)
    with pytest.raises(SigulError, match="no plain file"):
        SigningLog.open(directory)


# --------------------------------------------------------------------------------- failing writes


#: Leaves that are in the log after one fault or two at a step: those of the appends that have
#: failed are in it where they had been synced.
LEAVES_AFTER_FAULTS = {
    AppendStep.ENTRIES_HALF_WRITTEN: 12,
    AppendStep.ENTRIES_WRITTEN: 12,
    AppendStep.ENTRIES_SYNCED: 18,
    AppendStep.CHECKPOINT_DRAFTED: 15,
    AppendStep.CHECKPOINT_WRITTEN: 18,
    AppendStep.BUNDLE_WRITTEN: 12,
    AppendStep.TILE_WRITTEN: 12,
    AppendStep.UPPER_TILE_WRITTEN: 12,
    # These are not done again: the new bundle has begun.
    AppendStep.TAIL_BEGUN: 15,
    AppendStep.OLD_TILES_REMOVED: 15,
    AppendStep.INDEXED: 15,
}


class Fault:
    """Has a step fail as a disk does, as often as it is told."""

    def __init__(self, step: AppendStep, number: int) -> None:
        self.step, self.number, self.left = step, number, 0

    def __call__(self, step: AppendStep) -> None:
        if step == self.step and self.left:
            self.left -= 1
            raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("step", AppendStep)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failing_disk_loses_nothing(directory: Path, step: AppendStep, number: int) -> None:
    make_log(directory, 256)
    fault = Fault(step, number)
    acknowledged = []
    with SigningLog.open(directory, on_step=fault) as log:
        acknowledged += log.append(leaves(1, 257))
        assert log.size == 512
        fault.left = 2
        for _ in range(6):
            try:
                acknowledged += log.append(leaves(1, 4))
            except SigningLogError as error:
                assert error.symbol == errno.errorcode[number]
                assert "cannot be written" in error.problem
                assert error.cure.startswith("nothing is signed until it can: ")
                assert verified(directory).size == log.size
        assert log.size == 512 + LEAVES_AFTER_FAULTS[step]
    reader = verified(directory)
    assert [reader.entry(row.index) for row in acknowledged] == [row.entry for row in acknowledged]
    with SigningLog.open(directory) as log:
        assert log.size == reader.size


def test_what_a_failed_sync_has_left_is_written_anew(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_log(directory, 5)
    with SigningLog.open(directory) as log:
        before = (directory / "tail").stat().st_ino

        def fail(descriptor: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(SigningLogError, match="see to the disk"):
                log.append([leaf(1)])
        assert log.append([leaf(2)])[0].index == 5
        assert (directory / "tail").stat().st_ino != before
    assert Leaf.parse(verified(directory).entry(5)).file == "file-2.tar"
