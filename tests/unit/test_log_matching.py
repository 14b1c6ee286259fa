"""What a leaf has to have of a file and its signature, and keys in files."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from sigul_stack.errors import SigulError
from sigul_stack.evidence.given_files import (
    make_witness_key,
    read_keys,
    read_proof,
    read_witness_key,
)
from sigul_stack.evidence.leaf import Content, Leaf, LeafKey, Result
from sigul_stack.evidence.matching import (
    check_holds,
    check_signed,
    digests_of,
    key_of,
    open_proof,
    sha256_of,
    where_in,
)
from sigul_stack.formats.merkle_tree import NotProven, hash_leaf
from sigul_stack.formats.signed_note import (
    LOG_KEY,
    WITNESS_KEY,
    Checkpoint,
    LogProof,
    PrivateKey,
    cosigned,
)

FILE, SIGNATURE, OUTPUT, HEADER, OTHER = (letter * 64 for letter in "abcde")
FINGERPRINT = "AB" * 20
LEAF = Leaf(
    op="sign-rpm",
    result=Result.OK,
    time="2026-11-30T17:22:15.123Z",
    key=LeafKey("k", "gnupg", FINGERPRINT),
    input=Content(FILE, 3),
    signed=HEADER,
    output=Content(OUTPUT, 4),
    signatures=(SIGNATURE,),
)


def test_where_a_digest_stands() -> None:
    found = [where_in(LEAF, digest) for digest in (FILE, SIGNATURE, OUTPUT, HEADER, OTHER)]
    assert found == ["input", "signature", "output", "signed", ""]


@pytest.mark.parametrize(
    ("file", "signature", "fingerprint"),
    [
        (FILE, OUTPUT, ""),
        (FILE, SIGNATURE, FINGERPRINT),
        (HEADER, OUTPUT, FINGERPRINT.lower()),
        (OUTPUT, None, FINGERPRINT),
    ],
)
def test_what_a_leaf_proves(file: str, signature: str | None, fingerprint: str) -> None:
    check_signed(LEAF, file, signature, fingerprint)
    unnamed = replace(LEAF, key=replace(LEAF.key, fingerprint=""))  # type: ignore[type-var]
    check_signed(unnamed, file, signature, "CD" * 20)


@pytest.mark.parametrize(
    ("leaf", "file", "signature", "fingerprint", "problem"),
    [
        (LEAF, OTHER, OUTPUT, "", "another file"),
        (LEAF, OUTPUT, OUTPUT, "", "another file"),
        (LEAF, FILE, OTHER, "", "another signature"),
        (LEAF, FILE, FILE, "", "another signature"),
        (LEAF, FILE, None, "", "another output"),
        (LEAF, SIGNATURE, None, "", "another output"),
        (LEAF, FILE, OUTPUT, "CD" * 20, "of the key"),
        (replace(LEAF, result=Result.FAILED), FILE, OUTPUT, "", "was not done"),
        (replace(LEAF, result=Result.REFUSED), FILE, OUTPUT, "", "was not done"),
        (replace(LEAF, input=None, signed=""), FILE, OUTPUT, "", "another file"),
    ],
)
def test_what_a_leaf_does_not_prove(
    leaf: Leaf, file: str, signature: str | None, fingerprint: str, problem: str
) -> None:
    with pytest.raises(NotProven, match=problem):
        check_signed(leaf, file, signature, fingerprint)


def test_the_strongest_of_several_digests_is_told() -> None:
    assert (
        check_holds(LEAF, {"one": HEADER, "two": SIGNATURE}, "f") == "two is the leaf's signature"
    )
    assert check_holds(LEAF, {"one": HEADER, "two": FILE}, "f") == "two is the leaf's input"
    with pytest.raises(NotProven, match="not about 'f'"):
        check_holds(LEAF, {"one": OTHER}, "f")


def test_files_that_are_no_rpms_have_one_digest(tmp_path: Path) -> None:
    magic = bytes.fromhex("edabeedb")
    for data in (b"", b"x", magic, magic + bytes(200)):
        path = tmp_path / "file"
        path.write_bytes(data)
        assert digests_of(path) == {"its SHA-256": hashlib.sha256(data).hexdigest()}
    for missing in (tmp_path, tmp_path / "none"):
        with pytest.raises(SigulError):
            sha256_of(missing)


@pytest.fixture
def keys() -> tuple[PrivateKey, PrivateKey]:
    return PrivateKey.new("server/signing-log/1", LOG_KEY), PrivateKey.new("witness", WITNESS_KEY)


def test_a_proof_names_its_witnesses(keys: tuple[PrivateKey, PrivateKey], tmp_path: Path) -> None:
    log, witness = keys
    entry = LEAF.encode()
    note = Checkpoint(log.name, 1, hash_leaf(entry)).signed(log)
    proof = LogProof(entry, 0, (), cosigned(note, witness, 1000))
    path = tmp_path / "proof"
    path.write_text(proof.encode())
    proven = open_proof(read_proof(path), log.public, [witness.public])
    assert (proven.leaf, proven.index, proven.cosigned) == (LEAF, 0, {"witness": 1000})
    with pytest.raises(NotProven, match="not cosigned"):
        open_proof(replace(proof, checkpoint=note), log.public, [witness.public])
    assert open_proof(replace(proof, checkpoint=note), log.public).cosigned == {}


def test_keys_in_files(keys: tuple[PrivateKey, PrivateKey], tmp_path: Path) -> None:
    log, witness = keys
    path = tmp_path / "keys"
    other = PrivateKey.new("other/signing-log/2", LOG_KEY)
    path.write_text(f"# of both servers\n\n{log.public.encode()}\n{other.public.encode()}\n")
    found = read_keys(path, LOG_KEY)
    assert key_of(found, other.name) == other.public
    with pytest.raises(NotProven, match="is of the log 'third'"):
        key_of(found, "third")
    for text in (witness.public.encode(), "", "# nothing\n", "x", "\ud800", "a" * 100_000):
        path.write_text(text, errors="surrogatepass")
        with pytest.raises(SigulError):
            read_keys(path, LOG_KEY)


def test_a_witnesss_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "witness"
    public = make_witness_key(path, "audit.example.org")
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_witness_key(path).public == public
    assert read_keys(tmp_path / "witness.pub", WITNESS_KEY) == (public,)
    before = path.read_bytes()
    with pytest.raises(SigulError, match="cannot be made"):
        make_witness_key(path, "audit.example.org")
    assert path.read_bytes() == before


def test_a_logs_key_is_no_witnesss(tmp_path: Path, keys: tuple[PrivateKey, PrivateKey]) -> None:
    path = tmp_path / "key"
    path.write_bytes(keys[0].encode().reveal())
    with pytest.raises(NotProven, match="not of a witness"):
        read_witness_key(path)
