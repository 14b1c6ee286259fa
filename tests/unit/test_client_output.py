"""Output files: whole or not at all, with the right permissions; streams as streams."""

from __future__ import annotations

import os
import pty
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.client.output import SPOOL_IN_MEMORY, OutputError, open_output, write_new_file

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
        "from sigul_stack.client.output import open_output\n"
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
        "from sigul_stack.client.output import OutputError, open_output\n"
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
        "from sigul_stack.client.output import open_output\n"
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
        "from sigul_stack.client.output import open_output, write_new_file\n"
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
