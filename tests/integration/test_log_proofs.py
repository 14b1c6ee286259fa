"""Proofs of the server's signing log: written beside signatures, and checked with them.

A real site; its log is read while it runs, as an auditor's copy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sigul_stack.evidence.leaf import Leaf
from sigul_stack.evidence.log_reader import LogReader
from sigul_stack.formats.signed_note import LogProof
from tests.signing_logs import public_key
from tests.site import Site, module

from .audit_support import changed_proofs
from .commands_support import done, error_line, failure
from .rpm_support import build
from .signing_support import site_with_keys
from .test_sign_job import do, job_of


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site with the gnupg key `k`, and its log's public key in `log.pub`."""
    with site_with_keys(template, tmp_path_factory.mktemp("proofs"), k="gnupg") as site:
        site.path("log.pub").write_text(public_key(site.path("server/signing-log")).encode())
        yield site


@pytest.fixture
def signed(running: Site, tmp_path: Path) -> Path:
    """A directory with `file`, `file.sig` and `file.sig.tlog-proof`."""
    (tmp_path / "file").write_text(f"content of {tmp_path}")
    done(
        running, "sign-data", "-o", str(tmp_path / "file.sig"),
        "--log-proof", str(tmp_path / "file.sig.tlog-proof"), "k", str(tmp_path / "file"),
        secrets=["k-pw"],
    )  # fmt: skip
    return tmp_path


def verify_words(site: Site, directory: Path, proof: str = "file.sig.tlog-proof") -> list[str]:
    return [
        "verify", "--log", str(directory / proof), "--log-key", str(site.path("log.pub")),
        "k", str(directory / "file"), str(directory / "file.sig"),
    ]  # fmt: skip


def check(site: Site, proof: Path, *files: Path, code: int = 0) -> str:
    """What `check-proof` prints, or the line that it fails with."""
    words = [word for file in files for word in ("--of", str(file))]
    key = str(site.path("log.pub"))
    result = site.run(
        *module("stack"), "audit", "check-proof", str(proof), "--key", key, *words, code=code
    )
    return result.stdout.decode() if code == 0 else error_line(result)


def test_a_signature_is_verified_with_its_proof(running: Site, signed: Path) -> None:
    told = done(running, *verify_words(running, signed), secrets=["k-pw"]).decode().splitlines()
    assert told[0].startswith("Good signature by key 'k'")
    assert told[1].startswith(f"In the log {public_key(running.path('server/signing-log')).name}: ")
    leaf = Leaf.parse(LogProof.parse((signed / "file.sig.tlog-proof").read_text()).entry)
    assert (leaf.op, leaf.user, leaf.file) == ("sign-data", "admin", "file")
    check(running, signed / "file.sig.tlog-proof", signed / "file", signed / "file.sig")


def test_a_proof_of_something_else_is_refused(running: Site, signed: Path) -> None:
    other = signed / "other"
    other.mkdir()
    (other / "file").write_bytes((signed / "file").read_bytes())
    done(
        # Armoured: RSA's signatures of one second are the same bytes.
        running, "sign-data", "--armor", "-o", str(other / "file.sig"),
        "--log-proof", str(other / "proof"), "k", str(other / "file"),
        secrets=["k-pw"],
    )  # fmt: skip
    # A good signature of the same file by the same key, and the proof of another one.
    words = verify_words(running, signed, "other/proof")
    assert "another signature" in failure(running, *words, secrets=["k-pw"])
    (signed / "file.sig").write_bytes((other / "file.sig").read_bytes())
    assert "another signature" in failure(running, *verify_words(running, signed), secrets=["k-pw"])


def test_a_changed_proof_is_refused(running: Site, signed: Path) -> None:
    """Before any request: who would ask for a passphrase to say that?"""
    reader = LogReader.open(running.path("server/signing-log"))
    proof = signed / "file.sig.tlog-proof"
    for what, text in changed_proofs(LogProof.parse(proof.read_text()), reader.entry(0)).items():
        proof.write_text(text)
        assert failure(running, *verify_words(running, signed)), what


def test_a_proof_of_another_log_is_refused(running: Site, signed: Path) -> None:
    key = public_key(running.path("server/signing-log"))
    forged = signed / "log.pub"
    forged.write_text(replace(key, name="another/signing-log/00000000").encode())
    words = [
        str(forged) if word == str(running.path("log.pub")) else word
        for word in verify_words(running, signed)
    ]
    assert "is of the log" in failure(running, *words)
    for missing in (words[1:3], words[3:5]):
        rest = [word for word in words if word not in missing]
        assert b"need each other" in running.sigul(*rest, code=2).stderr


def test_a_proof_takes_no_other_files_place(running: Site, signed: Path) -> None:
    file = signed / "file"
    before = file.read_bytes()
    for words in (
        ["-o", str(signed / "new"), "--log-proof", str(file)],
        ["-o", str(signed / "new"), "--log-proof", str(signed / "new")],
        ["-o", str(signed / "new"), "--log-proof", str(signed / "none" / "proof")],
    ):
        assert failure(running, "sign-data", *words, "k", str(file))
        assert file.read_bytes() == before
        assert not (signed / "new").exists()
    usage = running.sigul("sign-data", "--log-proofs", "x", "k", str(file), code=2)
    assert b"--log-proofs needs --output-dir" in usage.stderr


def test_a_clear_signed_text_is_verified_with_its_proof(running: Site, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("A text.\n")
    proof, output = tmp_path / "proof", tmp_path / "text.asc"
    done(
        running, "sign-text", "-o", str(output), "--log-proof", str(proof), "k",
        str(tmp_path / "text"), secrets=["k-pw"],
    )  # fmt: skip
    words = ["verify", "--log", str(proof), "--log-key", str(running.path("log.pub")), "k"]
    told = done(running, *words, str(output), secrets=["k-pw"])
    assert b"In the log" in told
    assert "is the leaf's output" in check(running, proof, output)


def test_many_files_get_a_proof_each(running: Site, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file in files:
        file.write_text(file.name)
    out = tmp_path / "out"
    done(
        running, "sign-data", "--output-dir", str(out), "--log-proofs", str(out), "k",
        *map(str, files), secrets=["k-pw"],
    )  # fmt: skip
    for file in files:
        signature = out / f"{file.name}.sig"
        check(running, out / f"{file.name}.sig.tlog-proof", file, signature)
    assert "is not about" in check(running, out / "a.sig.tlog-proof", files[1], code=1)


def test_rpms_get_a_proof_each(running: Site, tmp_path: Path) -> None:
    rpms = [build(tmp_path, name=name) for name in ("one", "two")]
    out = tmp_path / "out"
    done(
        running, "sign-rpms", "-o", str(out), "--log-proofs", str(tmp_path / "proofs"), "k",
        *map(str, rpms), secrets=["k-pw"],
    )  # fmt: skip
    for rpm in rpms:
        proof = tmp_path / "proofs" / f"{rpm.name}.tlog-proof"
        assert "is the leaf's output" in check(running, proof, out / rpm.name)
        assert "is the leaf's input" in check(running, proof, rpm)


def test_a_headers_proof_is_of_the_whole_rpm(running: Site, tmp_path: Path) -> None:
    """With --head-signing the output is no whole RPM: header and signature are in the leaf."""
    rpm = build(tmp_path)
    output, proof = tmp_path / "signed.rpm", tmp_path / "proof"
    done(
        running, "sign-rpm", "--head-signing", "-o", str(output), "--log-proof", str(proof), "k",
        str(rpm), secrets=["k-pw"],
    )  # fmt: skip
    assert "its signature with tag 268 is the leaf's signature" in check(running, proof, output)
    # Not signed, it is the RPM that the leaf is of all the same.
    assert "is the leaf's" in check(running, proof, rpm)


def test_a_job_gives_the_proof_with_each_signature(running: Site, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    [_accepted, event] = do(running, job_of(running, file))
    assert event["event"] == "signed"
    (tmp_path / "file.asc").write_text(event["signature"])
    (tmp_path / "proof").write_text(event["proof"])
    check(running, tmp_path / "proof", file, tmp_path / "file.asc")


def test_the_log_of_a_running_server_is_read(running: Site, signed: Path) -> None:
    listed = running.run(
        *module("stack"), "audit", "list", "-c", str(running.path("server.conf")),
        "--of", str(signed / "file"), "--json",
    )  # fmt: skip
    [row] = map(json.loads, listed.stdout.splitlines())
    assert row["leaf"]["client"]["name"] == "admin"
    assert row["leaf"]["key"]["name"] == "k"
