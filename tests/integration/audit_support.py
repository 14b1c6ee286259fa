"""What the tests of `sigul-stack audit` share: a log with its files, and actions run as programs."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from sigul_stack.evidence.leaf import Content, Leaf
from sigul_stack.evidence.signing_log import SigningLog
from tests.signing_logs import leaf, leaves, make_log
from tests.site import PROGRAM_SECONDS, fork, module

#: Leaves of the log that most tests read: two bundles and a part of a third.
SIZE = 600


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a log of `SIZE` leaves, its public key, and two files that leaf 77 is of."""
    directory = tmp_path_factory.mktemp("audit")
    key = make_log(directory / "log", SIZE)
    (directory / "log.pub").write_text(f"{key.encode()}\n")
    with SigningLog.open(directory / "log") as log:
        log.append([of_files(b"the file", b"the signature")])
    (directory / "file").write_bytes(b"the file")
    (directory / "signature").write_bytes(b"the signature")
    return directory


def of_files(data: bytes, signature: bytes) -> Leaf:
    """The leaf of a detached signature of `data`."""
    return replace(
        leaf(0), input=content(data), output=content(signature), file="evil\n\x1b[2Jname"
    )


def content(data: bytes) -> Content:
    return Content(hashlib.sha256(data).hexdigest(), len(data))


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Path:
    """A copy of `made` for a test that changes it."""
    return Path(shutil.copytree(made, tmp_path / "work"))


def audit(
    directory: Path, *words: str | Path, code: int = 0, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run an action in `directory`, which has to end with `code`."""
    pipe = subprocess.PIPE
    command = [*module("stack"), "audit", *map(str, words)]
    with fork(command, cwd=directory, stdin=pipe, stdout=pipe, stderr=pipe) as program:
        told = program.communicate(stdin, PROGRAM_SECONDS)
    done = subprocess.CompletedProcess(command, program.returncode, *told)
    assert done.returncode == code, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done


def lines(directory: Path, *words: str | Path) -> list[str]:
    """What an action prints that ends well and says nothing else."""
    done = audit(directory, *words)
    assert done.stderr == b""
    return done.stdout.decode().splitlines()


def error(directory: Path, *words: str | Path, stdin: bytes = b"") -> str:
    """The one line that an action says which fails."""
    done = audit(directory, *words, code=1, stdin=stdin)
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


def grow(directory: Path, count: int) -> None:
    """Append leaves to a log."""
    with SigningLog.open(directory) as log:
        log.append(leaves(log.size, log.size + count))
