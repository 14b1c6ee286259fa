"""Copies of signing logs, hostile ones too, and logs that are restored from them, killed midway."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sigul_stack.errors import SigulError
from sigul_stack.evidence.leaf import LOG_RESTORED, LOG_START, Leaf
from sigul_stack.evidence.log_reader import LogReader, verify_log
from sigul_stack.evidence.log_stream import receive, send
from sigul_stack.evidence.restoring import complete
from sigul_stack.evidence.signing_log import SigningLog
from sigul_stack.evidence.tile_copy import copy_log
from sigul_stack.formats.merkle_tree import NotProven
from tests.signing_logs import make_log, public_key
from tests.site import PROGRAM_SECONDS, module

from .audit_support import SIZE, audit, error, grow, lines, made, work
from .test_failures_in_flight import private_mount

pytestmark = pytest.mark.once("our own log; test_aics_tlog reads it in Debian 13")

__all__ = ["made", "work"]


# ------------------------------------------------------------------------------------------- copies


def test_a_log_is_pushed_to_a_directory_and_that_is_noted(work: Path) -> None:
    [told] = lines(work, "push", "--log", "log", "copy")
    assert told.startswith(f"pushed {SIZE + 1} leaves of ")
    noted = json.loads((work / "log/pushed.json").read_text())
    assert (noted["size"], noted["to"]) == (SIZE + 1, "copy")
    assert abs(time.mktime(time.strptime(noted["time"], "%Y-%m-%dT%H:%M:%SZ")) - time.time()) < 1e5
    assert not (work / "copy/key").exists()
    grow(work / "log", 300)
    lines(work, "push", "--log", "log", "copy")
    assert lines(work, "verify", "--key", "log.pub", "--log", "copy")
    assert "one place" in error(work, "push", "--log", "log")
    assert "one place" in error(work, "push", "--log", "log", "--tar", "copy")


def stream(directory: Path, start: int = 0) -> bytes:
    """What `push --tar` gives."""
    return audit(directory, "push", "--log", "log", "--tar", "--from", str(start)).stdout


def test_a_stream_brings_a_copy_elsewhere_up_to_date(work: Path) -> None:
    assert lines(work, "receive", "--size", "copy") == ["0"]
    done = audit(work, "receive", "copy", stdin=stream(work))
    assert b"taken on trust" in done.stderr
    assert done.stdout.endswith(f": {SIZE + 1} leaves, {SIZE + 1} new\n".encode())
    assert json.loads((work / "log/pushed.json").read_text())["to"] == "a stream"
    for number, count in enumerate((0, 1, 160, 257)):
        grow(work / "log", count)
        [size] = lines(work, "receive", "--size", "copy")
        given = stream(work, int(size))
        # The bundle that grows, and those behind it.
        assert given.count(b"tile/entries/") == (1, 1, 1, 2)[number]
        assert receive(io.BytesIO(given), work / "copy").size == int(size) + count
    assert lines(work, "verify", "--key", "log.pub", "--log", "copy")
    # All of it once more is read past.
    audit(work, "receive", "copy", "--key", "log.pub", stdin=stream(work))
    assert "the copy has 99999 leaves" in error(
        work, "push", "--log", "log", "--tar", "--from", "99999"
    )


def state(directory: Path) -> dict[str, bytes | str]:
    """All that lies in a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else ""
        for path in directory.rglob("*")
    }


def members(data: bytes) -> list[tuple[str, bytes]]:
    """Names and contents of a stream."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(item.name, tar.extractfile(item).read()) for item in tar]  # type: ignore[union-attr]


def packed(rows: list[tuple[str, bytes]], change: Callable[[tarfile.TarInfo], None]) -> bytes:
    """A stream of such rows; `change` is for the last one's head."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in rows:
            item = tarfile.TarInfo(name)
            item.size = len(data)
            if name == rows[-1][0]:
                change(item)
            tar.addfile(item, io.BytesIO(data) if item.isreg() else None)
    return target.getvalue()


def plain(_item: tarfile.TarInfo) -> None:
    pass


def linked(kind: bytes, name: str) -> Callable[[tarfile.TarInfo], None]:
    def change(item: tarfile.TarInfo) -> None:
        item.type, item.linkname, item.size = kind, name, 0

    return change


def hostile_streams(data: bytes, other: bytes) -> dict[str, bytes]:
    """Streams that no server makes, from a good one and from one of another log."""
    rows = members(data)
    key, note, *bundles = rows
    name, last = bundles[-1]
    longer = note[1].replace(f"\n{SIZE + 1}\n".encode(), b"\n999999999999\n")
    big = tarfile.TarInfo(name)
    big.size = 1 << 40
    return {
        "nothing": b"",
        "noise": os.urandom(4096),
        "cut": data[: len(data) // 2],
        "no bundle": packed([key, note], plain),
        "another log": other,
        "another log's key": packed([members(other)[0], note, *bundles], plain),
        "another log's bundle": packed([key, note, *members(other)[2:]], plain),
        "changed leaf": data.replace(b'"user":"ann"', b'"user":"bob"', 1),
        "changed size": packed([key, (note[0], longer), *bundles], plain),
        "bundles swapped": packed([key, note, bundles[1], bundles[0], *bundles[2:]], plain),
        "a bundle twice": packed([key, note, bundles[0], *bundles], plain),
        "a name above": packed([key, note, *bundles[:-1], ("../evil", last)], plain),
        "an absolute name": packed([key, note, *bundles[:-1], ("/tmp/evil", last)], plain),
        "a link": packed([key, note, *bundles], linked(tarfile.SYMTYPE, "/etc/passwd")),
        "a hard link": packed([key, note, *bundles], linked(tarfile.LNKTYPE, "../log/key")),
        "a device": packed([key, note, *bundles], linked(tarfile.CHRTYPE, "")),
        "a link as directory": packed([("tile", b""), key], linked(tarfile.SYMTYPE, "..")),
        "a long name": packed([key, note, *bundles[:-1], ("x" * 90, last)], plain),
        "a huge member": packed(rows[:-1], plain).rstrip(b"\0")
        + big.tobuf(tarfile.GNU_FORMAT)
        + bytes(1024),
        "a huge head": _huge_head(),
    }


def _huge_head() -> bytes:
    head = tarfile.TarInfo("x")
    head.type, head.size = tarfile.XHDTYPE, 1 << 33
    return head.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def test_hostile_streams_change_nothing(work: Path) -> None:
    make_log(work / "other", SIZE)
    data = stream(work)
    target = io.BytesIO()
    reader = LogReader.open(work / "other")
    send(reader, public_key(work / "other"), target)
    audit(work, "receive", "copy", "--key", "log.pub", stdin=stream(work, 0))
    (work / "first").mkdir()
    before, outside = state(work / "copy"), {path.name for path in work.iterdir()}
    for what, given in hostile_streams(data, target.getvalue()).items():
        for copy in ("copy", "first"):
            # What a copy has already is not read again.
            if copy == "copy" and what in ("no bundle", "changed leaf", "bundles swapped"):
                continue
            with pytest.raises(SigulError) as raised:
                receive(io.BytesIO(given), work / copy, public_key(work / "log"))
            assert str(raised.value), what
            assert state(work / "first") == {}, what
            assert state(work / "copy") == before, what
            assert {path.name for path in work.iterdir()} == outside, what


def test_a_stream_costs_no_more_memory_than_a_bundle(work: Path) -> None:
    """A member of 1 TiB, by its head, is refused before it is read."""
    head = tarfile.TarInfo("key.pub")
    head.size = 1 << 40
    endless = _Endless(head.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(NotProven):
        receive(endless, work / "copy")  # type: ignore[arg-type]
    assert endless.given <= 512


class _Endless:
    """A stream that never ends, and what of it was read."""

    def __init__(self, beginning: bytes) -> None:
        self._beginning = io.BytesIO(beginning)
        self.given = 0

    def read(self, count: int) -> bytes:
        self.given += count
        return self._beginning.read(count) or bytes(count)


def test_a_copy_of_links_reaches_nothing_else(work: Path) -> None:
    """A copy from others may have links, pipes and huge files where tiles should be."""
    lines(work, "push", "--log", "log", "copy")
    place = work / "copy/tile/entries/001"
    data = place.read_bytes()
    secret = work / "secret"
    secret.write_text("a secret of somebody else's")

    def link_to(path: Path) -> Callable[[], None]:
        return lambda: place.symlink_to(path)

    def huge() -> None:
        with place.open("wb") as file:
            file.truncate(1 << 40)

    for make in (link_to(secret), link_to(Path("/dev/zero")), lambda: os.mkfifo(place), huge):
        place.unlink()
        make()
        for words in (
            ("verify", "--key", "log.pub", "--log", "copy"),
            ("complete", "--log", "log", "--from", "copy"),
        ):
            done = audit(work, *words, code=1)
            assert b"somebody" not in done.stdout + done.stderr
    place.unlink()
    place.write_bytes(data)
    assert lines(work, "verify", "--key", "log.pub", "--log", "log")


# ---------------------------------------------------------------------------------------- restoring


@pytest.fixture
def restored(work: Path) -> Path:
    """`work`, where `log` was put back to a state of 600 leaves fewer than `copy` has."""
    shutil.copytree(work / "log", work / "backup")
    grow(work / "log", SIZE)
    lines(work, "push", "--log", "log", "copy")
    shutil.move(work / "log", work / "lost")
    shutil.move(work / "backup", work / "log")
    return work


def check_complete(work: Path) -> None:
    """The log has all that the copy has, and one leaf more that says so."""
    copy, log = LogReader.open(work / "copy"), LogReader.open(work / "log")
    verify_log(log, public_key(work / "copy"))
    assert log.size == copy.size + 1
    assert log.root(copy.size) == copy.head.root
    last = Leaf.parse(log.entry(copy.size))
    assert (last.op, last.previous) == (LOG_RESTORED, copy.checkpoint.encode())
    grow(work / "log", 1)


def test_a_log_that_was_put_back_is_completed(restored: Path) -> None:
    told = lines(restored, "complete", "--log", "log", "--from", "copy")
    assert told[0].startswith(f"completed: the log had {SIZE + 1} leaves, and has {2 * SIZE + 2}")
    check_complete(restored)
    assert "nothing is missing" in error(restored, "complete", "--log", "log", "--from", "copy")


def break_tail(log: Path) -> None:
    (log / "tail").write_bytes(b"")


def lose_checkpoint(log: Path) -> None:
    (log / "checkpoint").unlink()


def lose_tiles(log: Path) -> None:
    shutil.rmtree(log / "tile")


def keep_newer_checkpoint(log: Path) -> None:
    shutil.copy(log.parent / "lost/checkpoint", log / "checkpoint")


@pytest.mark.parametrize("damage", [break_tail, lose_checkpoint, lose_tiles, keep_newer_checkpoint])
def test_a_damaged_log_is_completed(restored: Path, damage: Callable[[Path], None]) -> None:
    damage(restored / "log")
    with pytest.raises(SigulError):
        SigningLog.open(restored / "log")
    complete(restored / "log", restored / "copy")
    check_complete(restored)


def fork_it(work: Path) -> str:
    grow(work / "log", 3)
    return "does not extend this log's checkpoint"


def forge_copy(work: Path) -> str:
    path = work / "copy/tile/entries/003"
    path.write_bytes(path.read_bytes().replace(b'"user":"ann"', b'"user":"bob"', 1))
    return "do not give the root"


def cut_copy(work: Path) -> str:
    shutil.rmtree(work / "copy/tile/entries/004.p")
    return "is missing"


def copy_of_another(work: Path) -> str:
    make_log(work / "other", SIZE * 2)
    shutil.rmtree(work / "copy")
    copy_log(LogReader.open(work / "other"), work / "copy")
    return "not of"


def older_copy(work: Path) -> str:
    shutil.rmtree(work / "log")
    shutil.copytree(work / "lost", work / "log")
    grow(work / "log", 5)
    return "nothing is missing"


def copy_of_a_fork(work: Path) -> str:
    grow(work / "lost", 5)
    shutil.rmtree(work / "copy")
    copy_log(LogReader.open(work / "lost"), work / "copy")
    grow(work / "log", SIZE + 100)
    return "forked"


def lose_key(work: Path) -> str:
    (work / "log/key").unlink()
    return "it has no key"


@pytest.mark.parametrize(
    "spoil",
    [fork_it, forge_copy, cut_copy, copy_of_another, older_copy, copy_of_a_fork, lose_key],
)
def test_what_does_not_complete_the_log_changes_nothing(
    restored: Path, spoil: Callable[[Path], str]
) -> None:
    problem = spoil(restored)
    before = state(restored / "log")
    assert problem in error(restored, "complete", "--log", "log", "--from", "copy")
    assert state(restored / "log") == before


def test_a_running_server_keeps_its_log(restored: Path) -> None:
    with SigningLog.open(restored / "log"):
        for words in (
            ("complete", "--log", "log", "--from", "copy"),
            ("new-origin", "--log", "log"),
        ):
            assert "stop the server" in error(restored, *words)


#: Kills itself at the Nth file that it has written.
KILLED = """
import os, signal, sys
from pathlib import Path
from sigul_stack.evidence import restoring
left, write = int(sys.argv[1]), restoring.write_whole
def counted(*words, **named):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    write(*words, **named)
restoring.write_whole = counted
restoring.complete(Path("log"), Path("copy"))
"""


def test_a_restore_that_is_killed_anywhere_is_run_again(restored: Path, tmp_path: Path) -> None:
    """Killed before each file that it writes: the log opens as it was, or not, and is completed."""
    kills = 0
    while True:
        again = Path(shutil.copytree(restored, tmp_path / f"again-{kills}"))
        done = subprocess.run(
            [*module("stack")[:1], "-c", KILLED, str(kills)],
            cwd=again, timeout=PROGRAM_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        with contextlib.suppress(SigulError), SigningLog.open(again / "log") as log:
            assert log.size in (SIZE + 1, 2 * SIZE + 1)
        complete(again / "log", again / "copy")
        check_complete(again)
        shutil.rmtree(again)
        kills += 1
    # Two bundles with their tiles, the tile above, the tail, key.pub and the checkpoint.
    assert kills >= 7


def test_a_new_origin_names_the_last_checkpoint(work: Path) -> None:
    last = LogReader.open(work / "log").checkpoint
    told = lines(work, "new-origin", "--log", "log", "--name", "server2.example.org")
    aside = work / told[0].removeprefix("the old log: ")
    assert LogReader.open(aside).checkpoint == last
    reader = LogReader.open(work / "log")
    first = Leaf.parse(reader.entry(0))
    assert (reader.size, first.op, first.previous) == (1, LOG_START, last.encode())
    assert reader.head.origin.startswith("server2.example.org/signing-log/")
    assert told[1] == f"the new log: {reader.head.origin}"
    grow(work / "log", 1)
    assert {path.name for path in work.iterdir()} >= {"log", aside.name}


def test_a_new_origin_where_the_log_is_lost(restored: Path) -> None:
    shutil.rmtree(restored / "log")
    assert "--previous" in error(restored, "new-origin", "--log", "log")
    lines(restored, "new-origin", "--log", "log", "--previous", "copy/checkpoint")
    reader = LogReader.open(restored / "log")
    known = LogReader.open(restored / "copy").checkpoint.encode()
    assert Leaf.parse(reader.entry(0)).previous == known
    # One that is damaged is moved aside all the same.
    (restored / "log/key").unlink()
    (restored / "log/checkpoint").write_bytes(b"")
    assert "signed note" in error(restored, "new-origin", "--log", "log")
    lines(restored, "new-origin", "--log", "log", "--previous", "copy/checkpoint")
    assert len(list(restored.glob("log.before-*"))) == 1


def test_a_new_origin_on_a_file_system_of_its_own(work: Path) -> None:
    """Which cannot be moved aside: what is in it can."""
    begin = shlex.join([*module("stack"), "audit", "new-origin", "--log", "mount"])
    script = f"""
        mkdir mount aside
        mount -t tmpfs -o mode=700 none mount
        cp -a log/. mount
        ! {begin} || exit 9
        mv mount/* aside
        ! {begin} || exit 9
        {begin} --previous aside/checkpoint"""
    done = subprocess.run(
        [*private_mount(script), "cp", "-a", "mount", "made"],
        cwd=work, capture_output=True, text=True, timeout=PROGRAM_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "'mount' is a file system of its own" in done.stderr
    assert "no log in 'mount' whose last checkpoint a new one could name" in done.stderr
    assert done.stdout.startswith("the new log: ")
    last = LogReader.open(work / "log").checkpoint.encode()
    assert Leaf.parse(LogReader.open(work / "made").entry(0)).previous == last
