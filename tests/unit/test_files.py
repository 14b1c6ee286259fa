"""sigul_stack.system.files: whole or not at all, on the disk, one at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sigul_stack.errors import KeystoreError
from sigul_stack.system.files import locked, opened, sync, try_lock, whole_file, write_whole


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What is synced, by the name that it has then."""
    found: list[Path] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        found.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


@pytest.mark.parametrize("replace", [True, False])
def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, synced: list[Path], replace: bool
) -> None:
    write_whole(tmp_path / "key", b"content", replace=replace)
    assert (tmp_path / "key").read_bytes() == b"content"
    assert [path.name.startswith(".key.") for path in synced] == [True, False]
    assert synced[1] == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_nothing_appears_where_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"old")
    with (
        pytest.raises(RuntimeError, match="in the middle"),
        whole_file(tmp_path / "key", replace=True) as file,
    ):
        file.write(b"new")
        raise RuntimeError("in the middle")
    assert (tmp_path / "key").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_there_is_replaced_only_on_demand(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "key", b"new", replace=False)
    assert (tmp_path / "key").read_bytes() == b"old"
    write_whole(tmp_path / "key", b"new", replace=True, mode=0o640)
    assert (tmp_path / "key").read_bytes() == b"new"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o640
    assert len(list(tmp_path.iterdir())) == 1


def test_drafts_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    dead, other = tmp_path / ".key.dead", tmp_path / ".keys.x"
    dead.touch()
    other.touch()
    with whole_file(tmp_path / "key", replace=True) as first:
        first.write(b"first")
        assert not dead.exists()
        write_whole(tmp_path / "key", b"second", replace=True)
        assert Path(first.name).exists()
    assert (tmp_path / "key").read_bytes() == b"first"
    assert other.exists()


HOLD = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(descriptor, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_lock_that_another_process_holds_is_waited_for_so_long(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    busy = KeystoreError("others are at it", "try again")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        begin = time.monotonic()
        with (
            pytest.raises(KeystoreError, match="others are at it; try again"),
            locked(tmp_path, 0.2, busy),
        ):
            pytest.fail("it is another's")
        assert time.monotonic() - begin >= 0.2
        holder.communicate()
    with locked(tmp_path, 5, busy), opened(tmp_path) as descriptor:
        assert not try_lock(descriptor)
    with opened(tmp_path) as descriptor:
        assert try_lock(descriptor)


def test_a_file_to_lock_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    busy = KeystoreError("others are at it")
    with pytest.raises(FileNotFoundError), locked(tmp_path / "lock", 1, busy):
        pytest.fail("there is none")
    with locked(tmp_path / "lock", 1, busy, make=True):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


def test_a_missing_file_cannot_be_synced(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "none")
