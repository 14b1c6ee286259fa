"""Copies of a signing log for a second party, and a reader beside the writer."""

from __future__ import annotations

import shutil
import stat
import threading
from pathlib import Path

import pytest

from sigul_stack.errors import SigulError
from sigul_stack.evidence import tile_copy
from sigul_stack.evidence.log_files import SigningLogError
from sigul_stack.evidence.log_reader import LogReader, verify_log
from sigul_stack.evidence.signing_log import SigningLog
from sigul_stack.evidence.tile_copy import copy_log
from sigul_stack.formats.merkle_tree import NotProven
from sigul_stack.formats.signed_note import LOG_KEY, PrivateKey
from tests.signing_logs import leaves, make_log, public_key


@pytest.fixture
def live(tmp_path: Path) -> Path:
    make_log(tmp_path / "log", 300)
    return tmp_path / "log"


@pytest.fixture
def copied(live: Path, tmp_path: Path) -> Path:
    copy_log(LogReader.open(live), tmp_path / "copy")
    return tmp_path / "copy"


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def grow(live: Path, size: int) -> LogReader:
    with SigningLog.open(live) as log:
        log.append(leaves(log.size, size))
    return LogReader.open(live)


def test_a_copy_is_a_plain_directory_of_tiles(live: Path, copied: Path) -> None:
    assert list(files(copied)) == [
        "checkpoint", "key.pub", "tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1",
        "tile/entries/000", "tile/entries/001.p/44",
    ]  # fmt: skip
    modes = {stat.S_IMODE(path.stat().st_mode) for path in copied.rglob("*") if path.is_file()}
    assert modes == {0o644}
    assert stat.S_IMODE(copied.stat().st_mode) == 0o700
    assert verify_log(LogReader.open(copied), public_key(live)).size == 300


def test_a_copy_grows_and_nothing_that_stays_is_changed(live: Path, copied: Path) -> None:
    before = files(copied)
    told: list[int] = []
    assert copy_log(grow(live, 600), copied, progress=told.append) == 300
    assert told == [512, 600]
    after = files(copied)
    stays = before.keys() & after.keys()
    assert {name for name in stays if after[name] != before[name]} == {"checkpoint"}
    # Partial tiles of what is full by now.
    assert before.keys() - after.keys() == {"tile/0/001.p/44", "tile/entries/001.p/44"}
    assert after.keys() - before.keys() == {
        "tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2", "tile/entries/001",
        "tile/entries/002.p/88",
    }  # fmt: skip
    assert copy_log(LogReader.open(live), copied) == 0
    assert files(copied) == after
    verify_log(LogReader.open(copied), public_key(live))


def test_partial_tiles_go_when_theirs_is_full(live: Path, copied: Path) -> None:
    copy_log(grow(live, 400), copied)
    assert {name for name in files(copied) if ".p/" in name} == {
        "tile/0/001.p/44", "tile/0/001.p/144", "tile/1/000.p/1",
        "tile/entries/001.p/44", "tile/entries/001.p/144",
    }  # fmt: skip
    copy_log(grow(live, 1000), copied)
    assert {name for name in files(copied) if ".p/" in name} == {
        "tile/0/003.p/232", "tile/1/000.p/1", "tile/1/000.p/3", "tile/entries/003.p/232",
    }  # fmt: skip
    verify_log(LogReader.open(copied), public_key(live))


def test_a_copy_of_a_copy_is_the_same(copied: Path, tmp_path: Path) -> None:
    copy_log(LogReader.open(copied), tmp_path / "third")
    assert files(tmp_path / "third") == files(copied)


def test_another_checkpoint_of_the_same_size_is_taken(live: Path, copied: Path) -> None:
    """One that witnesses have cosigned since."""
    key = PrivateKey.new("witness", LOG_KEY)
    reader = LogReader.open(live)
    text = reader.checkpoint.text.encode()
    note = reader.checkpoint.with_signature(key.public, key.sign(text))
    (live / "checkpoint").write_text(note.encode())
    assert copy_log(LogReader.open(live), copied) == 0
    assert (copied / "checkpoint").read_text() == note.encode()


def test_a_log_that_was_put_back_does_not_spoil_its_copy(
    live: Path, copied: Path, tmp_path: Path
) -> None:
    shutil.copytree(live, tmp_path / "yesterday")
    copy_log(grow(live, 600), copied)
    before = files(copied)
    with pytest.raises(NotProven, match=r"has 600 leaves, and .* has only 300: the log was put"):
        copy_log(LogReader.open(tmp_path / "yesterday"), copied)
    # And when it has grown again, it is another log under the same name.
    with SigningLog.open(tmp_path / "yesterday") as log:
        log.append(leaves(2000, 2500))
    with pytest.raises(NotProven, match="does not extend the copy") as caught:
        copy_log(LogReader.open(tmp_path / "yesterday"), copied)
    assert "keep both" in caught.value.cure
    assert files(copied) == before


def test_another_log_is_not_copied_over_it(copied: Path, tmp_path: Path) -> None:
    before = files(copied)
    make_log(tmp_path / "other", 700)
    with pytest.raises(NotProven, match="is of another log"):
        copy_log(LogReader.open(tmp_path / "other"), copied)
    with pytest.raises(NotProven, match="is of another log"):
        copy_log(LogReader.open(tmp_path / "other"), copied, key=public_key(tmp_path / "other"))
    (copied / "key.pub").unlink()
    with pytest.raises(NotProven, match="the checkpoint is of the log"):
        copy_log(LogReader.open(tmp_path / "other"), copied)
    del before["key.pub"]
    assert files(copied) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tile/0/001.p/44", "is damaged: its tiles are not those|does not extend"),
        ("tile/1/000.p/1", "is damaged: its tiles are not those"),
        ("checkpoint", "checkpoint|note"),
    ],
)
def test_a_damaged_copy_is_told_and_left(live: Path, copied: Path, name: str, message: str) -> None:
    data = bytearray((copied / name).read_bytes())
    data[-10] ^= 1
    (copied / name).write_bytes(data)
    before = files(copied)
    with pytest.raises(NotProven, match=message):
        copy_log(grow(live, 600), copied)
    assert files(copied) == before


@pytest.mark.parametrize("name", ["tile/entries/000", "tile/entries/001.p/44", "tile/0/000"])
def test_a_damaged_log_is_not_copied(live: Path, tmp_path: Path, name: str) -> None:
    grow(live, 600)
    path = live / name
    if not path.exists():
        path = live / "tile/entries/001"
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    if name.startswith("tile/entries"):
        with pytest.raises(NotProven, match="does not extend"):
            copy_log(LogReader.open(live), tmp_path / "copy")
        assert not (tmp_path / "copy").exists()
    else:
        # A tile of level 0 is made from the entries: the copy is better than the log.
        copy_log(LogReader.open(live), tmp_path / "copy")
        verify_log(LogReader.open(tmp_path / "copy"), public_key(live))


def test_what_a_copy_that_broke_off_has_left_is_taken(
    live: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = grow(live, 1000)
    written: list[Path] = []
    write_whole = tile_copy.write_whole

    def fail_late(path: Path, content: bytes, *, replace: bool, mode: int) -> None:
        written.append(path)
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        write_whole(path, content, replace=replace, mode=mode)

    with monkeypatch.context() as patch:
        patch.setattr(tile_copy, "write_whole", fail_late)
        with pytest.raises(
            SigningLogError,
            match=r"No space left .*; try again, it goes on",
        ):
            copy_log(reader, copied)
    assert verify_log(LogReader.open(copied), public_key(live)).size == 300
    assert copy_log(reader, copied) == 700
    verify_log(LogReader.open(copied), public_key(live))


def test_what_it_has_left_is_not_believed(live: Path, copied: Path) -> None:
    (copied / "tile/0/001").write_bytes(bytes(8192))
    with pytest.raises(NotProven, match="has another content than the signing log"):
        copy_log(grow(live, 600), copied)
    assert LogReader.open(copied).size == 300


def test_a_log_without_a_key_beside_it(live: Path, tmp_path: Path) -> None:
    key = public_key(live)
    (live / "key.pub").unlink()
    with pytest.raises(SigningLogError, match="name the log's public key"):
        copy_log(LogReader.open(live), tmp_path / "copy")
    copy_log(LogReader.open(live), tmp_path / "copy", key=key)
    assert public_key(tmp_path / "copy") == key


def test_a_place_that_cannot_be_written(live: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SigningLogError, match="cannot be written"):
        copy_log(LogReader.open(live), tmp_path / "file" / "copy")


# -------------------------------------------------------------------------------------- reading


def test_readers_beside_a_writer_see_a_whole_log(live: Path, tmp_path: Path) -> None:
    key = public_key(live)
    stop = threading.Event()
    failures: list[SigulError] = []

    def write() -> None:
        with SigningLog.open(live) as log:
            try:
                while not stop.is_set():
                    log.append(leaves(1, 60))
            except SigulError as error:
                failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        sizes = []
        for _ in range(40):
            reader = LogReader.open(live)
            sizes.append(verify_log(reader, key).size)
            reader.proof(reader.size - 1).verify(key)
            copy_log(reader, tmp_path / "copy")
    finally:
        stop.set()
        writer.join(60)
    assert failures == []
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]
    verify_log(LogReader.open(tmp_path / "copy"), key)


def test_a_reader_stays_where_it_was_opened(live: Path) -> None:
    key = public_key(live)
    reader = LogReader.open(live)
    entry = reader.entry(299)
    grow(live, 2000)
    assert (reader.size, reader.entry(299)) == (300, entry)
    assert verify_log(reader, key).size == 300
    assert reader.proof(5).verify(key).size == 300


def test_what_is_not_there_is_not_read(live: Path) -> None:
    reader = LogReader.open(live)
    for index in (-1, 300):
        for ask in (reader.entry, reader.inclusion, reader.proof, reader.consistency):
            if (ask, index) != (reader.consistency, 300):
                with pytest.raises(NotProven):
                    ask(index)
    with pytest.raises(NotProven, match="not 301"):
        reader.inclusion(3, 301)
    assert list(reader.entries(298, 400)) == list(reader.entries(298, 300))
    assert list(reader.entries(400, 300)) == []


def test_a_directory_that_is_no_log(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "none"):
        with pytest.raises(SigningLogError, match="is no signing log: it has no checkpoint; name"):
            LogReader.open(directory)
