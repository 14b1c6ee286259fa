"""Outputs of the log's proofs: none where the server shows no log, and options that go together."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import pytest

from sigul_stack.cli.commands import log_proofs
from sigul_stack.errors import SigulError
from sigul_stack.formats.signed_note import LOG_KEY, Checkpoint, LogProof, PrivateKey


@pytest.fixture(scope="module")
def proof() -> LogProof:
    key = PrivateKey.new("server/signing-log/1", LOG_KEY)
    return LogProof(b"leaf", 0, (), Checkpoint(key.name, 1, bytes(32)).signed(key))


def test_one_proof(proof: LogProof) -> None:
    file = io.BytesIO()
    output = log_proofs.ProofOutput(file)
    for step in (output.check, output.write):
        with pytest.raises(SigulError, match="shows no signing log"):
            step()
    assert file.getvalue() == b""
    output.keep(proof)
    output.check()
    output.write()
    assert file.getvalue() == proof.encode().encode()


def test_a_proof_for_each_of_many(proof: LogProof, tmp_path: Path) -> None:
    place = tmp_path / "made" / "proofs"
    proofs = log_proofs.plan_many(argparse.Namespace(log_proofs=place))
    assert proofs is not None
    good, without, bad = (Path("out") / name for name in ("a.sig", "b.sig", "c.sig"))
    (place / "c.sig.tlog-proof").mkdir()
    proofs.write(good, proof)
    proofs.write(bad, proof)
    assert proofs.error_of(good) is None
    assert "shows no signing log" in str(proofs.error_of(without))
    assert "cannot be written" in str(proofs.error_of(bad))
    assert (place / "a.sig.tlog-proof").read_text() == proof.encode()
    assert log_proofs.plan_many(argparse.Namespace(log_proofs=None)) is None


@pytest.mark.parametrize(
    ("log", "key", "witnesses", "problem"),
    [
        (None, None, [], None),
        ("proof", "key", [], None),
        ("proof", "key", ["witness"], None),
        ("proof", None, [], "need each other"),
        (None, "key", [], "need each other"),
        (None, None, ["witness"], "needs --log"),
    ],
)
def test_options_of_verify(
    log: str | None, key: str | None, witnesses: list[str], problem: str | None
) -> None:
    arguments = argparse.Namespace(log=log, log_key=key, log_witness=witnesses)
    found = log_proofs.misuse(arguments)
    assert (found is None) == (problem is None)
    assert problem is None or problem in str(found)
