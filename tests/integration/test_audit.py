"""`sigul-stack audit`, run as programs, on real logs: read, verified, proven and cosigned."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sigul_stack.evidence.given_files import make_witness_key
from sigul_stack.evidence.leaf import Result
from sigul_stack.evidence.log_reader import LogReader
from sigul_stack.evidence.signing_log import SigningLog
from sigul_stack.evidence.tile_copy import copy_log
from tests.signing_logs import leaf, make_log, public_key

from .audit_support import (
    SIZE,
    audit,
    changed_proofs,
    content,
    error,
    grow,
    lines,
    made,
    of_files,
    work,
)

pytestmark = pytest.mark.once("our own log; test_aics_tlog reads it in Debian 13")

__all__ = ["made", "work"]


# ------------------------------------------------------------------------------------------ looking


def test_leaves_are_listed_by_what_they_have(made: Path) -> None:
    assert len(lines(made, "list", "--log", "log")) == SIZE + 1
    [row] = lines(made, "list", "--log", "log", "--file", "file-77.tar")
    assert re.fullmatch(r"77 \S{23}Z ok sign-data ann key release 'file-77\.tar'", row)
    [row] = lines(made, "list", "--log", "log", "--of", "signature")
    # A name of a client's is text, whatever is in it.
    assert row.endswith(r"'evil\n\x1b[2Jname'")
    by_digest = ("--digest", content(b"the file").sha256.upper())
    assert lines(made, "list", "--log", "log", *by_digest) == [row]


@pytest.mark.parametrize(
    ("words", "others"),
    [
        (("--key", "release"), ("--key", "other")),
        (("--user", "ann", "--client", "ann"), ("--user", "ann", "--client", "bob")),
        (("--op", "sign-data", "--result", "ok"), ("--op", "sign-data", "--result", "refused")),
        (("--since", "2020-01-01"), ("--since", "2999-01-01T00:00Z")),
        (("--until", "2999-12-31T23:59"), ("--until", "2020-01-01T00:00:00.1Z")),
    ],
)
def test_a_search_finds_what_has_all_and_nothing_else(
    made: Path, words: tuple[str, ...], others: tuple[str, ...]
) -> None:
    [row] = lines(made, "list", "--log", "log", *words, "--limit", "1")
    assert row.startswith(f"{SIZE} ")
    assert lines(made, "list", "--log", "log", *others) == []


def test_rows_of_several_logs_are_in_the_order_of_time(work: Path) -> None:
    make_log(work / "other", 3)
    grow(work / "log", 1)
    rows = lines(work, "list", "--log", "log", "--log", "other", "--limit", "4", "--json")
    found = [json.loads(row) for row in rows]
    assert [(item["log"].rpartition("/")[0], item["index"]) for item in found] == [
        ("server.example.org/signing-log", index) for index in (0, 1, 2, SIZE + 1)
    ]
    times = [item["leaf"]["time"] for item in found]
    assert times == sorted(times)
    assert len({item["log"] for item in found}) == 2
    assert found[1]["leaf"]["input"]["sha256"] == leaf(1).input.sha256  # type: ignore[union-attr]
    [first, *_] = lines(work, "list", "--log", "log", "--log", "other", "--limit", "1")
    assert first.startswith(public_key(work / "log").name)


def test_a_leaf_is_shown_whole(made: Path) -> None:
    shown = lines(made, "show", "77", "--log", "log")
    assert "index: 77" in shown
    assert "key fingerprint: " + "AB" * 20 in shown
    assert f"input sha256: {leaf(77).input.sha256}" in shown  # type: ignore[union-attr]
    [row] = lines(made, "show", "--of", "file", "--log", "log", "--json")
    assert json.loads(row)["index"] == SIZE
    assert lines(made, "show", content(b"the file").sha256, "--log", "log", "--json") == [row]
    assert "no leaf 9999" in error(made, "show", "9999", "--log", "log")
    assert "one leaf is needed" in error(made, "show", "--log", "log")
    assert "no leaf of the log has" in error(made, "show", "--of", "log.pub", "--log", "log")


def test_of_several_leaves_with_a_digest_one_is_named_by_its_index(work: Path) -> None:
    with SigningLog.open(work / "log") as log:
        refusal = replace(of_files(b"the file", b""), result=Result.REFUSED, output=None)
        log.append([refusal])
    # What was not done is no other candidate.
    [row] = lines(work, "show", "--of", "file", "--log", "log", "--json")
    assert json.loads(row)["index"] == SIZE
    with SigningLog.open(work / "log") as log:
        log.append([of_files(b"the file", b"another signature")])
    text = error(work, "show", "--of", "file", "--log", "log")
    assert f"the last ones: {SIZE + 2} of " in text
    assert "by its index" in text


def test_an_export_goes_on_where_it_was(work: Path) -> None:
    everything = [json.loads(row) for row in lines(work, "export", "--log", "log")]
    assert [row["index"] for row in everything] == list(range(SIZE + 1))
    assert lines(work, "export", "--log", "log", "--follow-from", str(SIZE + 1)) == []
    grow(work / "log", 2)
    rows = lines(work, "export", "--log", "log", "--follow-from", str(SIZE + 1))
    assert [json.loads(row)["index"] for row in rows] == [SIZE + 1, SIZE + 2]
    assert json.loads(rows[0])["leaf"]["v"] == 1
    assert "shrunk" in error(work, "export", "--log", "log", "--follow-from", "5000")
    assert "one log" in error(work, "export", "--log", "log", "--log", "log", "--follow-from", "0")


@pytest.mark.parametrize(
    "words",
    [
        ("list", "--since", "yesterday"),
        ("list", "--since", "2026-13-01"),
        ("list", "--until", "2026-01-01T25:00"),
        ("list", "--digest", "abc"),
        ("list", "--limit", "-1"),
        ("show", "abc"),
        ("export", "--follow-from", "1e3"),
        ("verify",),
        ("check-proof", "proof"),
    ],
)
def test_usage_errors(made: Path, words: tuple[str, ...]) -> None:
    done = audit(made, *words, code=2)
    assert b"usage: " in done.stderr


def test_what_is_no_log_is_said(made: Path) -> None:
    assert "is no signing log" in error(made, "list", "--log", ".")


# ------------------------------------------------------------------------------------------ proving


def test_a_log_and_a_copy_verify_with_nothing_but_the_key(work: Path) -> None:
    shutil.copy(work / "log/checkpoint", work / "older")
    grow(work / "log", 300)
    copy_log(LogReader.open(work / "log"), work / "copy")
    (work / "copy/key.pub").unlink()
    name = public_key(work / "log").name
    told = lines(work, "verify", "--key", "log.pub", "--log", "copy", "--checkpoint", "older")
    assert told == [f"verified: {name}, {SIZE + 301} leaves", f"extends: older, {SIZE + 1} leaves"]


def test_another_key_is_not_the_logs(work: Path) -> None:
    key = make_log(work / "other", 2)
    (work / "other.pub").write_text(key.encode())
    assert "the key that was given is of" in error(
        work, "verify", "--key", "other.pub", "--log", "log"
    )
    # Of the same name, and another key.
    forged = replace(public_key(work / "log"), key=key.key)
    (work / "forged.pub").write_text(forged.encode())
    assert "is not signed by" in error(work, "verify", "--key", "forged.pub", "--log", "log")


def test_a_log_that_has_shrunk_or_was_forked_is_found_by_an_older_checkpoint(work: Path) -> None:
    shutil.copytree(work / "log", work / "yesterday")
    grow(work / "log", 2)
    shutil.copy(work / "log/checkpoint", work / "kept")
    words = ("verify", "--key", "log.pub", "--log", "yesterday", "--checkpoint", "kept")
    assert "has shrunk" in error_behind(work, *words)
    with SigningLog.open(work / "yesterday") as log:
        log.append([leaf(number) for number in (7, 8, 9)])
    assert "was forked" in error_behind(work, *words)


def error_behind(directory: Path, *words: str | Path) -> str:
    """The line that an action says which fails after it has told something."""
    [line] = audit(directory, *words, code=1).stderr.decode().splitlines()
    return line


def test_a_changed_leaf_or_tile_is_found(work: Path) -> None:
    for name in ("tile/entries/001", "tile/0/000"):
        path = work / "log" / name
        data = bytearray(path.read_bytes())
        data[1000] ^= 1
        path.write_bytes(data)
        assert "was changed" in error(work, "verify", "--key", "log.pub", "--log", "log")
        data[1000] ^= 1
        path.write_bytes(data)
    assert lines(work, "verify", "--key", "log.pub", "--log", "log")


def test_a_proof_stands_alone(made: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    assert lines(made, "prove", "--log", "log", "--of", "signature", "-o", proof) == []
    name = public_key(made / "log").name
    told = lines(
        made, "check-proof", proof, "--key", "log.pub", "--of", "file", "--of", "signature"
    )
    assert told[0] == f"in the log: leaf {SIZE} of {name}, proven at {SIZE + 1} leaves"
    assert told[2:] == [
        "file: its SHA-256 is the leaf's input",
        "signature: its SHA-256 is the leaf's output",
    ]
    assert "is not about 'log.pub'" in error(
        made, "check-proof", proof, "--key", "log.pub", "--of", "log.pub"
    )
    printed = audit(made, "prove", "--log", "log", str(SIZE)).stdout
    assert printed == proof.read_bytes()


def test_a_changed_proof_is_refused(made: Path, tmp_path: Path) -> None:
    proof, reader = tmp_path / "proof", LogReader.open(made / "log")
    for what, text in changed_proofs(reader.proof(SIZE), reader.entry(5)).items():
        proof.write_text(text)
        assert error(made, "check-proof", proof, "--key", "log.pub"), what


def test_a_refusals_leaf_proves_no_signature(work: Path) -> None:
    with SigningLog.open(work / "log") as log:
        log.append([replace(of_files(b"x", b"y"), result=Result.REFUSED)])
    (work / "x").write_bytes(b"x")
    lines(work, "prove", "--log", "log", str(SIZE + 1), "-o", "proof")
    assert lines(work, "check-proof", "proof", "--key", "log.pub")
    assert "was not done" in error(work, "check-proof", "proof", "--key", "log.pub", "--of", "x")


# ---------------------------------------------------------------------------------------- witnesses


def test_a_witness_cosigns_what_extends_what_it_has_seen(work: Path) -> None:
    copy_log(LogReader.open(work / "log"), work / "copy")
    make_witness_key(work / "witness", "audit.example.org")
    cosign = ("cosign", "--witness-key", "witness", "copy")
    assert "--key" in error(work, *cosign)
    first = lines(work, *cosign, "--key", "log.pub")
    assert first[0].endswith("(for the first time)")
    yesterday = Path(shutil.copytree(work / "log", work / "yesterday"))
    grow(work / "log", 10)
    copy_log(LogReader.open(work / "log"), work / "copy")
    assert lines(work, *cosign)[0].endswith(f"({SIZE + 1} before)")
    verified = lines(
        work, "verify", "--key", "log.pub", "--log", "copy", "--witness", "witness.pub"
    )
    assert re.fullmatch(rf"cosigned: audit\.example\.org at \S+Z, {SIZE + 11} leaves", verified[-1])
    lines(
        work, "prove", "--log", "copy", "--checkpoint", "copy/checkpoint.cosigned", "5",
        "-o", "proof",
    )  # fmt: skip
    words = ("check-proof", "proof", "--key", "log.pub", "--witness", "witness.pub")
    assert any(line.startswith("cosigned: audit.example.org at") for line in lines(work, *words))
    # A fork of the same size, and one that has shrunk.
    for count, problem in ((10, "are not those that it had before"), (0, "has shrunk")):
        shutil.rmtree(work / "copy")
        other = Path(shutil.copytree(yesterday, work / f"other-{count}"))
        with SigningLog.open(other) as log:
            log.append([leaf(3)] * count)
        copy_log(LogReader.open(other), work / "copy")
        assert problem in error(work, *cosign)
        assert not (work / "copy/checkpoint.cosigned").exists()
    # Another key under the name that it knows.
    forged = replace(public_key(yesterday), key=bytes(32))
    (work / "forged.pub").write_text(forged.encode())
    assert "with another key" in error(work, *cosign, "--key", "forged.pub")
