"""What tests of `sigul-stack audit` share: a log with its files, and actions run as programs."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from sigul_stack.evidence.leaf import Content, Leaf
from sigul_stack.evidence.signing_log import SigningLog
from sigul_stack.formats.signed_note import Checkpoint, LogProof, Note
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


def changed_proofs(proof: LogProof, other: bytes) -> dict[str, str]:
    """What somebody might make of a proof; `other` is another leaf of its log."""
    data = json.loads(proof.entry)
    data["user"] = "bob"
    entry = json.dumps(data, separators=(",", ":"), sort_keys=True).encode()
    head = Checkpoint.of(proof.checkpoint)
    note = replace(proof.checkpoint, text=replace(head, size=head.size + 1).text())
    hashes = (proof.hashes[0][:-1] + b"!", *proof.hashes[1:])
    return {
        "leaf": replace(proof, entry=entry).encode(),
        "another leaf": replace(proof, entry=other).encode(),
        "index": replace(proof, index=proof.index - 1).encode(),
        "hash": replace(proof, hashes=hashes).encode(),
        "a hash more": replace(proof, hashes=(*proof.hashes, proof.hashes[0])).encode(),
        "a hash less": replace(proof, hashes=proof.hashes[1:]).encode(),
        "checkpoint": replace(proof, checkpoint=note).encode(),
        "signature": replace(
            proof, checkpoint=Note(proof.checkpoint.text, other_signature(proof))
        ).encode(),
        "cut": proof.encode()[:-20],
        "nothing": "",
        "long": proof.encode() + "x" * 200_000,
    }


def other_signature(proof: LogProof) -> tuple[tuple[str, bytes, bytes], ...]:
    [(name, identity, signed)] = proof.checkpoint.signatures
    return ((name, identity, signed[:-1] + bytes([signed[-1] ^ 1])),)
