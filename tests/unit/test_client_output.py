"""Output files: whole or not at all, with the right permissions; streams as streams; a file's
new form in the file's own place.
"""

from __future__ import annotations

import errno
import os
import pty
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.client.output_file import (
    SPOOL_IN_MEMORY,
    OutputError,
    open_output,
    open_successor,
    overwrites,
    write_new_file,
)

DATA = bytes(range(256)) * 9


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    old = os.umask(0o027)
    yield
    os.umask(old)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class Failure(Exception):
    pass


def write(path: Path, data: bytes = DATA, *, binary: bool = True, fail: bool = False) -> None:
    with open_output(path, binary=binary) as file:
        file.write(data[:5])
        file.write(data[5:])
        if fail:
            raise Failure


def test_a_new_file_has_the_umasks_permissions_and_appears_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "out"
    with open_output(file, binary=True) as output:
        output.write(DATA)
        output.flush()
        assert not file.exists()
        assert list(tmp_path.iterdir()) == []
    assert file.read_bytes() == DATA
    assert mode(file) == 0o640
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("permissions", [0o600, 0o755, 0o444])
def test_an_existing_file_keeps_its_permissions(tmp_path: Path, permissions: int) -> None:
    file = tmp_path / "out"
    file.write_bytes(b"old")
    file.chmod(permissions)
    write(file)
    assert file.read_bytes() == DATA
    assert mode(file) == permissions


def test_an_existing_file_keeps_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_bytes(b"old")
    if os.geteuid() == 0:
        os.chown(file, 12, 34)
    before = file.stat()
    write(file)
    assert (file.stat().st_uid, file.stat().st_gid) == (before.st_uid, before.st_gid)


def access_list(*entries: tuple[int, int, int]) -> bytes:
    """An access control list as Linux has it: tag, permissions and ID of each entry (acl(5))."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY_ID = 0xFFFFFFFF
#: User 1234 may write, the owning group may nothing; mode bits: 0660, the list's limit.
LIST = access_list(
    (1, 6, NOBODY_ID), (2, 6, 1234), (4, 0, NOBODY_ID), (0x10, 6, NOBODY_ID), (0x20, 0, NOBODY_ID)
)


def test_an_existing_file_keeps_its_access_list_and_attributes(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_bytes(b"old")
    os.setxattr(file, "system.posix_acl_access", LIST)
    os.setxattr(file, "user.origin", b"a builder")
    assert mode(file) == 0o660
    write(file)
    assert file.read_bytes() == DATA
    assert os.getxattr(file, "system.posix_acl_access") == LIST
    assert os.getxattr(file, "user.origin") == b"a builder"
    assert mode(file) == 0o660


def test_an_existing_file_gets_no_access_list_of_its_directory(tmp_path: Path) -> None:
    file, new = tmp_path / "out", tmp_path / "new"
    file.write_bytes(b"old")
    file.chmod(0o640)
    os.setxattr(tmp_path, "system.posix_acl_default", LIST)
    write(file)
    assert "system.posix_acl_access" not in os.listxattr(file)
    assert mode(file) == 0o640
    write(new)  # that is for new files
    assert "system.posix_acl_access" in os.listxattr(new)


def test_where_no_list_can_be_kept_the_group_gets_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out"
    file.write_bytes(b"old")
    os.setxattr(file, "system.posix_acl_access", LIST)

    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "setxattr", refuse)
    write(file)
    assert file.read_bytes() == DATA
    assert mode(file) == 0o600


def test_after_an_exception_nothing_has_changed(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_bytes(b"old")
    inode = old.stat().st_ino
    for file in (old, tmp_path / "new"):
        with pytest.raises(Failure):
            write(file, fail=True)
    assert old.read_bytes() == b"old"
    assert old.stat().st_ino == inode
    assert list(tmp_path.iterdir()) == [old]


def test_a_kill_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from sigul_stack.client.output_file import open_output\n"
        "with open_output(Path(sys.argv[1]), binary=True) as file:\n"
        "    file.write(b'x' * 100000); file.flush(); os.kill(os.getpid(), 9)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], timeout=60, check=False
    )
    assert result.returncode == -9
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "file"
    link = tmp_path / "link"
    link.symlink_to("second")
    (tmp_path / "second").symlink_to("there/file")
    for content in (b"first", b"again"):
        write(link, content)
        assert link.is_symlink()
        assert target.read_bytes() == content
        assert not target.is_symlink()


def test_a_symbolic_link_below_dev_is_followed_as_well() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        target, link = Path(directory, "file"), Path(directory, "link")
        link.symlink_to("file")
        for content in (b"first", b"again"):
            write(link, content)
            assert link.is_symlink()
            assert target.read_bytes() == content


def test_a_link_to_itself(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("link")
    with pytest.raises(OutputError, match="leads nowhere"):
        write(link)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "out", tmp_path / "file" / "out"):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(OutputError, match=f"'{path}' cannot be written: "):
            write(path)


def test_no_room_is_an_error_that_says_so() -> None:
    with pytest.raises(OutputError, match="'/dev/full' did not take all of the output: No space"):
        write(Path("/dev/full"))


def test_a_device_and_a_fifo_are_written_to(tmp_path: Path) -> None:
    write(Path("/dev/null"))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    received = []
    thread = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
    thread.start()
    write(fifo)
    thread.join(30)
    assert received == [DATA]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def run_with_output(code: str, **streams: int) -> None:
    preamble = (
        "import os, sys; from pathlib import Path\n"
        "from sigul_stack.client.output_file import OutputError, open_output\n"
        "data = bytes(range(256)) * 9\n"
    )
    subprocess.run([sys.executable, "-c", preamble + code], timeout=60, check=True, **streams)  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["None", "Path('/dev/stdout')", "Path('/proc/self/fd/1')"])
def test_standard_output_byte_for_byte(tmp_path: Path, name: str) -> None:
    file = tmp_path / "redirected"
    file.write_bytes(b"before,")
    inode = file.stat().st_ino
    with file.open("ab") as stream:
        run_with_output(
            f"with open_output({name}, binary=True) as file: file.write(data)\n"
            "os.write(1, b',after')",
            stdout=stream.fileno(),
        )
    assert file.stat().st_ino == inode
    assert file.read_bytes() == b"before," + DATA + b",after"


def test_a_link_to_standard_output(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/stdout")
    file = tmp_path / "redirected"
    with file.open("wb") as stream:
        run_with_output(
            f"with open_output(Path('{link}'), binary=True) as file: file.write(data)",
            stdout=stream.fileno(),
        )
    assert file.read_bytes() == DATA


def test_standard_output_gets_nothing_before_the_end(tmp_path: Path) -> None:
    size = 3 * SPOOL_IN_MEMORY
    file = tmp_path / "redirected"
    with file.open("wb") as stream:
        run_with_output(
            "try:\n"
            "    with open_output(None, binary=True) as file:\n"
            f"        file.write(bytes({size})); raise KeyError\n"
            "except KeyError: pass\n",
            stdout=stream.fileno(),
        )
        assert file.read_bytes() == b""
        run_with_output(
            f"with open_output(None, binary=True) as file: file.write(bytes({size}))",
            stdout=stream.fileno(),
        )
    assert file.read_bytes() == bytes(size)


def test_a_reader_who_went_away() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        run_with_output(
            "try:\n"
            "    with open_output(None, binary=True) as file: file.write(data)\n"
            "except OutputError as error: assert 'Broken pipe' in str(error)\n"
            "else: sys.exit(1)\n",
            stdout=writer,
        )
    finally:
        os.close(writer)


def test_a_terminal_takes_text_but_nothing_binary() -> None:
    master, slave = pty.openpty()
    try:
        name = Path(os.ttyname(slave))
        with pytest.raises(OutputError, match="refusing to write binary data to a terminal"):
            write(name)
        write(name, b"a text", binary=False)
        assert os.read(master, 100) == b"a text"
        run_with_output(
            "try:\n"
            "    with open_output(None, binary=True) as file: sys.exit(1)\n"
            "except OutputError: pass\n",
            stdout=slave,
        )
    finally:
        os.close(master)
        os.close(slave)


def test_a_file_in_a_directory_that_is_not_ours(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_bytes(b"a longer text from before" + DATA)
    code = (
        "import os, tempfile; from pathlib import Path\n"
        "from sigul_stack.client.output_file import open_output\n"
        "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\n"
        "with open_output(Path('out'), binary=True) as file: file.write(b'new')\n"
    )
    inode = file.stat().st_ino
    tmp_path.chmod(0o555)
    file.chmod(0o666)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60, check=True)
    assert file.read_bytes() == b"new"
    assert file.stat().st_ino == inode


def test_a_file_system_without_unnamed_files_and_without_proc(tmp_path: Path) -> None:
    # What such a file system answers is what a wrong flag does: O_TMPFILE without its directory
    # part is refused by open(2) with EINVAL.
    code = (
        "import os, sys; from pathlib import Path\n"
        "os.O_TMPFILE &= ~os.O_DIRECTORY\n"
        "from sigul_stack.client.output_file import open_output, write_new_file\n"
        "file = Path(sys.argv[1])\n"
        "with open_output(file, binary=True) as output:\n"
        "    output.write(b'new')\n"
        "    assert [p.suffix for p in file.parent.iterdir()] == ['.tmp']\n"
        "assert file.read_bytes() == b'new'\n"
        "try:\n"
        "    with open_output(file, binary=True) as output: raise KeyError\n"
        "except KeyError: pass\n"
        "write_new_file(file.with_name('secret'), b'x')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], timeout=60, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "secret"]


def test_a_new_file_for_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    write_new_file(file, b"bound")
    assert file.read_bytes() == b"bound"
    assert mode(file) == 0o600
    with pytest.raises(OutputError, match="exists already"):
        write_new_file(file, b"other")
    assert file.read_bytes() == b"bound"
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(OutputError, match="exists already"):
        write_new_file(tmp_path / "link", b"other")
    with pytest.raises(OutputError, match="cannot be written"):
        write_new_file(tmp_path / "none" / "x", b"other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "passphrase"]


# ------------------------------------------------------------- a new form of a file that is read


def succeed(source: Path, path: Path | None, *, fail: bool = False) -> None:
    with open_successor(source, path, read=source.stat()) as file:
        file.write(source.read_bytes() + b", signed")
        if fail:
            raise Failure


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file with permissions and, where we may, an owner of its own, alone in a directory."""
    (tmp_path / "here").mkdir()
    file = tmp_path / "here" / "file"
    file.write_bytes(b"content")
    file.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(file, 12, 34)
    return file


#: Names of the file `here/file`, as seen from the directory with `here`, and what makes them.
NAMES = {
    "none": (None, ""),
    "absolute": ("{}/here/file", ""),
    "relative": ("here/file", ""),
    "roundabout": ("./here/../here/./file", ""),
    "symbolic link": ("link", "ln -s here/file link"),
    "link to a link": ("first", "ln -s here/second first; ln -s file here/second"),
    "linked directory": ("there/file", "ln -s here there"),
}


@pytest.mark.system
@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_replaced_by_its_new_form_whatever_it_is_called(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path, made_by = NAMES[name]
    monkeypatch.chdir(tmp_path)
    subprocess.run(["/bin/sh", "-c", made_by], check=True)
    links = {link for link in tmp_path.rglob("*") if link.is_symlink()}
    before = source.stat()
    succeed(source, None if path is None else Path(path.format(tmp_path)))
    after = source.stat()
    assert source.read_bytes() == b"content, signed"
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode, before.st_uid, before.st_gid
    )  # fmt: skip
    # Replaced, not written to, so that whoever reads the former one has it whole.
    assert after.st_ino != before.st_ino
    assert {link for link in tmp_path.rglob("*") if link.is_symlink()} == links
    assert {file for file in source.parent.iterdir() if file not in links} == {source}


def test_the_source_itself_may_be_a_symbolic_link(tmp_path: Path, source: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("here/file")
    for path in (None, link, source):
        source.write_bytes(b"content")
        succeed(link, path)
        assert link.is_symlink()
        assert source.read_bytes() == b"content, signed"
    assert list(source.parent.iterdir()) == [source]


def test_of_a_hard_link_both_names_are_replaced(tmp_path: Path, source: Path) -> None:
    other, third = tmp_path / "other", tmp_path / "third"
    for link in (other, third):
        link.hardlink_to(source)
    succeed(source, other)
    assert source.read_bytes() == other.read_bytes() == b"content, signed"
    assert source.samefile(other)
    # One that the command line does not name is a file of its own from now on.
    assert third.read_bytes() == b"content"
    assert sorted(tmp_path.iterdir()) == [source.parent, other, third]
    assert list(source.parent.iterdir()) == [source]


def test_another_file_than_the_source_leaves_the_source_alone(tmp_path: Path, source: Path) -> None:
    for _ in range(2):  # new, and there already
        succeed(source, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == b"content, signed"
        assert source.read_bytes() == b"content"


@pytest.mark.parametrize("links", [False, True])
def test_after_an_exception_the_source_is_as_it_was(
    tmp_path: Path, source: Path, links: bool
) -> None:
    path = tmp_path / "other"
    if links:
        path.hardlink_to(source)
    before = source.stat()
    with pytest.raises(Failure):
        succeed(source, path if links else None, fail=True)
    after = source.stat()
    # But for the time of the last reading.
    assert (after.st_ino, after.st_mode, after.st_uid, after.st_gid, after.st_ctime_ns) == (
        before.st_ino, before.st_mode, before.st_uid, before.st_gid, before.st_ctime_ns
    )  # fmt: skip
    assert source.read_bytes() == b"content"
    assert list(source.parent.iterdir()) == [source]


SUCCEED = """
import os, sys
from pathlib import Path
from sigul_stack.client.output_file import OutputError, open_successor
source = Path(sys.argv[1])
def succeed(path=None, source=source):
    with open_successor(source, path, read=source.stat()) as file:
        file.write(b"new")
def refused(path=None, source=source):
    try:
        succeed(path, source)
    except OutputError as error:
        print(error)
    else:
        print("not refused")
"""


def in_a_process(code: str, source: Path, **further: object) -> list[str]:
    """The lines that `code` prints, with `SUCCEED` before it."""
    done = subprocess.run(  # type: ignore[call-overload]
        [sys.executable, "-c", SUCCEED + code, str(source)], timeout=60, check=True,
        stdout=subprocess.PIPE, **further,
    )  # fmt: skip
    return list(done.stdout.decode().splitlines())


def test_a_kill_leaves_the_source_whole(source: Path) -> None:
    code = """
with open_successor(source, None, read=source.stat()) as file:
    file.write(b"half"); file.flush(); os.kill(os.getpid(), 9)
"""
    with pytest.raises(subprocess.CalledProcessError, match="SIGKILL"):
        in_a_process(code, source)
    assert source.read_bytes() == b"content"
    assert list(source.parent.iterdir()) == [source]


def test_a_kill_at_every_point_leaves_the_old_file_or_the_new_one(source: Path) -> None:
    """A process for each call and return of the interpreter's own functions, killed there.

    What may be left is one file, whole, by the name that docs/operations.md tells.
    """
    code = """
import re
old, new = b"content", b"signed" * 100_000
for point in range(10_000):
    source.write_bytes(old)
    child = os.fork()
    if child == 0:
        left = point
        def count(frame, event, argument):
            global left
            if event in ("c_call", "c_return"):
                if left == 0:
                    os.kill(os.getpid(), 9)
                left -= 1
        sys.setprofile(count)
        with open_successor(source, None, read=source.stat()) as file:
            file.write(new[:70_000])
            file.write(new[70_000:])
        sys.setprofile(None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found = source.read_bytes()
    assert found in (old, new), (point, len(found))
    assert found == new or status, point
    others = [path for path in source.parent.iterdir() if path != source]
    assert len(others) < 2, others
    for path in others:
        assert re.fullmatch(r"\\.sigul-[0-9a-f]{16}\\.tmp", path.name), path
        assert path.read_bytes() == new, point
        path.unlink()
    print("new" if found == new else "left" if others else "old")
    if status == 0:
        break
"""
    ends = in_a_process(code, source)
    assert set(ends) == {"old", "left", "new"}
    assert len(ends) > 50


def test_a_source_that_changes_meanwhile_is_left_as_it_is_then(source: Path) -> None:
    def replace() -> None:
        (source.parent / "rebuilt").write_bytes(b"rebuilt")
        (source.parent / "rebuilt").rename(source)

    for change in (replace, lambda: source.write_bytes(b"rebuilt")):
        source.write_bytes(b"content")
        with (
            pytest.raises(OutputError, match=f"'{source}' has changed meanwhile.*; try again"),
            open_successor(source, None, read=source.stat()) as file,
        ):
            file.write(b"signed")
            change()
        assert source.read_bytes() == b"rebuilt"
        assert list(source.parent.iterdir()) == [source]


def test_a_source_is_not_written_to_in_place(source: Path) -> None:
    source.chmod(0o666)
    source.parent.chmod(0o555)
    code = "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\nrefused()"
    (line,) = in_a_process(code, Path("file"), cwd=source.parent)
    assert line.startswith("'file' cannot be replaced: Permission denied: no file can be made")
    assert "give -o FILE" in line
    assert source.read_bytes() == b"content"


def test_another_name_that_cannot_be_replaced_is_told(tmp_path: Path, source: Path) -> None:
    other = tmp_path / "other"
    other.hardlink_to(source)
    tmp_path.chmod(0o777)
    source.parent.chmod(0o555)
    code = "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\nrefused(Path('other'))"
    (line,) = in_a_process(code, Path("here/file"), cwd=tmp_path)
    assert line == (
        "'other' is replaced, but its other name 'here/file' cannot be: Permission denied; copy it"
        " there"
    )
    assert (other.read_bytes(), source.read_bytes()) == (b"new", b"content")
    assert sorted(tmp_path.iterdir()) == [source.parent, other]
    assert list(source.parent.iterdir()) == [source]


def test_streams_and_devices_are_not_replaced(tmp_path: Path, source: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in (tmp_path / "fifo", Path("/dev/null")):
        kind = name.stat().st_mode
        with pytest.raises(OutputError, match="is a stream or device, which nothing can"):
            succeed(name, None)
        assert name.stat().st_mode == kind
    code = """
refused(source=Path("/dev/stdin"))
refused(Path("/proc/self/fd/0"))
succeed(source.with_name("out"), Path("/dev/stdin"))
succeed(source, Path("/dev/stdin"))
"""
    with source.open("r+b") as stream:
        lines = in_a_process(code, source, stdin=stream)
    assert [line.partition(" is a stream")[0] for line in lines] == [
        "'/dev/stdin'", "'/proc/self/fd/0'"
    ]  # fmt: skip
    assert source.with_name("out").read_bytes() == b"new"
    # The file that is behind the stream has a name, and that one was given.
    assert source.read_bytes() == b"new"


def test_which_outputs_overwrite_a_file(tmp_path: Path, source: Path) -> None:
    (tmp_path / "symbolic").symlink_to("here/file")
    (tmp_path / "hard").hardlink_to(source)
    (tmp_path / "copy").write_bytes(source.read_bytes())
    (tmp_path / "broken").symlink_to("none")
    (tmp_path / "loop").symlink_to("loop")
    for name, expected in {
        "here/../here/file": True, "symbolic": True, "hard": True,
        "copy": False, "new": False, "broken": False, "loop": False, "here": False,
    }.items():  # fmt: skip
        assert overwrites(tmp_path / name, source) is expected, name
    with source.open("rb") as file:
        assert overwrites(Path(f"/dev/fd/{file.fileno()}"), source)
    # A terminal, a pipe and /dev/null may be both input and output.
    assert not overwrites(Path("/dev/null"), Path("/dev/null"))
    code = "from sigul_stack.client.output_file import overwrites; print(overwrites(None, source))"
    assert in_a_process(code, source) == ["False"]
    with source.open("ab") as stream:
        subprocess.run(
            [sys.executable, "-c", SUCCEED + code, str(source)], timeout=60, check=True,
            stdout=stream,
        )  # fmt: skip
    assert source.read_bytes() == b"contentTrue\n"
