"""Another implementation of the C2SP formats, PyPI's aics-tlog, and ours take each other's logs."""

from __future__ import annotations

import base64
from pathlib import Path
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sigul_stack.evidence.log_reader import LogReader, verify_log
from sigul_stack.evidence.signing_log import SigningLog
from sigul_stack.evidence.tile_copy import copy_log
from sigul_stack.formats.merkle_tree import (
    NotProven,
    hash_leaf,
    verify_consistency,
    verify_inclusion,
)
from sigul_stack.formats.signed_note import (
    LOG_KEY,
    WITNESS_KEY,
    Checkpoint,
    Note,
    PrivateKey,
    PublicKey,
    cosignature_time,
    cosigned,
    open_checkpoint,
)
from sigul_stack.secret import Secret
from tests.signing_logs import leaf, leaves, make_log

pytestmark = pytest.mark.debian13("aics-tlog needs Python 3.12")

SIZES = (1, 2, 255, 256, 257, 700)
ORIGIN = "log.example.org/other"
WITNESS = "witness.example.org"
WHEN = 1_796_000_000


@pytest.fixture
def aics() -> ModuleType:
    import aics_tlog  # where there is none, this module is collected all the same

    return aics_tlog


def pair(name: str, kind: int) -> tuple[PrivateKey, Ed25519PrivateKey]:
    """A key of ours, and the same as theirs."""
    key = PrivateKey.new(name, kind)
    return key, Ed25519PrivateKey.from_private_bytes(key.secret.reveal())


def test_it_accepts_our_copy(aics: ModuleType, tmp_path: Path) -> None:
    """At each of these sizes, in one copy that grows."""
    key = make_log(tmp_path / "log", SIZES[0])
    their_key = aics.parse_vkey(key.encode())
    assert aics.format_vkey(their_key) == key.encode()
    for size in SIZES:
        with SigningLog.open(tmp_path / "log") as log:
            log.append(leaves(log.size, size))
        copy_log(LogReader.open(tmp_path / "log"), tmp_path / "copy")
        note = aics.parse_note((tmp_path / "copy/checkpoint").read_bytes())
        result = aics.verify_checkpoint(note, their_key, expected_origin=key.name)
        assert result.ok, result.error
        head = aics.parse_checkpoint(note.text)
        assert head.size == size
        tiles = aics.FileSystemTileReader(tmp_path / "copy")
        report = aics.audit_tiles(tiles, size, head.root)
        assert (report.size, report.bundles) == (size, -(-size // 256))
        entry = aics.VerifiedTileReader(tiles, size, head.root).entry(size - 1)
        assert entry == LogReader.open(tmp_path / "log").entry(size - 1)
    with (tmp_path / "copy/tile/0/001").open("r+b") as file:
        file.write(b"x")
    with pytest.raises(aics.TileVerificationError):
        aics.audit_tiles(tiles, size, head.root)


def test_it_accepts_our_proofs(aics: ModuleType, tmp_path: Path) -> None:
    make_log(tmp_path / "log", SIZES[-1])
    reader = LogReader.open(tmp_path / "log")
    root = reader.head.root
    for index in (0, 254, 255, 256, 511, 512, 699):
        proof = reader.inclusion(index)
        assert aics.verify_leaf_inclusion(reader.entry(index), index, reader.size, proof, root)
        assert not aics.verify_leaf_inclusion(b"other", index, reader.size, proof, root)
    for old in SIZES:
        proof = reader.consistency(old)
        assert aics.verify_consistency(old, reader.size, reader.root(old), root, proof)
        assert not aics.verify_consistency(old, reader.size, bytes(32), root, proof)
    with SigningLog.open(tmp_path / "log") as log:
        evidence = log.evidence(300, 257)
    assert aics.verify_leaf_inclusion(evidence.entry, 300, 700, list(evidence.inclusion), root)
    assert aics.verify_consistency(257, 700, reader.root(257), root, list(evidence.consistency))


def test_it_accepts_our_cosignatures(aics: ModuleType, tmp_path: Path) -> None:
    key = make_log(tmp_path / "log", 5)
    witness = PrivateKey.new(WITNESS, WITNESS_KEY)
    note = cosigned(LogReader.open(tmp_path / "log").checkpoint, witness, WHEN)
    keys = [aics.parse_vkey(witness.public.encode())]
    result = aics.verify_checkpoint(
        aics.parse_note(note.encode()), aics.parse_vkey(key.encode()), keys, quorum=1
    )
    assert result.ok, result.error
    # What the copy's checkpoint may be replaced by.
    (tmp_path / "log/checkpoint").write_text(note.encode())
    assert verify_log(LogReader.open(tmp_path / "log"), key).size == 5
    changed = aics.parse_note(cosigned(note, witness, WHEN + 1).encode())
    assert aics.verify_checkpoint(changed, aics.parse_vkey(key.encode()), keys, quorum=1).ok


def their_log(aics: ModuleType, directory: Path, key: Ed25519PrivateKey, size: int) -> list[bytes]:
    """A log that it has written, in two appends, and its entries."""
    entries = [leaf(number).encode() for number in range(size)]
    writer = aics.IncrementalTileWriter(aics.DirectoryTileStore(directory, fsync=False))
    for part in (entries[: size // 2], entries[size // 2 :]):
        writer.append(part)
    note = aics.sign_checkpoint(aics.Checkpoint(ORIGIN, size, writer.root()), key, ORIGIN)
    aics.DirectoryTileStore(directory).write_checkpoint(note.to_bytes())
    return entries


@pytest.mark.parametrize("size", SIZES)
def test_we_accept_its_log(aics: ModuleType, tmp_path: Path, size: int) -> None:
    key, their_key = pair(ORIGIN, LOG_KEY)
    entries = their_log(aics, tmp_path, their_key, size)
    line = aics.format_vkey(aics.vkey_from_ed25519(ORIGIN, their_key.public_key()))
    assert PublicKey.parse(line) == key.public
    reader = LogReader.open(tmp_path)
    head = verify_log(reader, key.public)
    assert (head.origin, head.size) == (ORIGIN, size)
    assert list(reader.entries(0, size)) == entries
    reader.proof(size - 1).verify(key.public)
    # A copy of it is taken further.
    copy_log(reader, tmp_path / "copy", key=key.public)
    verify_log(LogReader.open(tmp_path / "copy"), key.public)
    with pytest.raises(NotProven, match=r"not signed by|not of"):
        verify_log(reader, PrivateKey.new(ORIGIN, LOG_KEY).public)


def test_we_accept_its_proofs(aics: ModuleType) -> None:
    entries = [leaf(number).encode() for number in range(70)]
    tree = aics.MerkleTree(entries)
    for size in range(1, 71):
        for index in (0, size // 2, size - 1):
            verify_inclusion(
                hash_leaf(entries[index]), index, size,
                tree.inclusion_proof(index, size), tree.root(size),
            )  # fmt: skip
        for old in (0, 1, size // 2, size):
            proof = tree.consistency_proof(old, size)
            verify_consistency(old, tree.root(old), size, tree.root(size), proof)
            if 0 < old < size:
                with pytest.raises(NotProven):
                    verify_consistency(old, tree.root(old), size, bytes(32), proof)


def test_we_accept_its_cosignatures(aics: ModuleType) -> None:
    log, their_log_key = pair(ORIGIN, LOG_KEY)
    witness, their_key = pair(WITNESS, WITNESS_KEY)
    root = hash_leaf(b"root")
    note = aics.sign_checkpoint(aics.Checkpoint(ORIGIN, 7, root), their_log_key, ORIGIN)
    _, line = aics.sign_cosignature(their_key, WITNESS, WHEN, ORIGIN, 7, root)
    both = aics.Note(text=note.text, signatures=(*note.signatures, line))
    ours = Note.parse(both.serialise())
    assert open_checkpoint(ours, log.public) == Checkpoint(ORIGIN, 7, root)
    assert cosignature_time(ours, witness.public) == WHEN
    # Ed25519 leaves no choice: we write the very same.
    assert cosigned(Checkpoint(ORIGIN, 7, root).signed(log), witness, WHEN).encode() == (
        both.serialise()
    )
    with pytest.raises(NotProven, match="not cosigned by"):
        cosignature_time(ours, PrivateKey.new(WITNESS, WITNESS_KEY).public)


def test_it_reads_our_private_keys(aics: ModuleType) -> None:
    """As golang.org/x/mod writes them: the last part is the type and the seed."""
    key = PrivateKey.new(ORIGIN, LOG_KEY)
    # The four parts before it hold no "+"; its Base64 may.
    seed = base64.b64decode(key.encode().reveal().decode().split("+", 4)[4])[1:]
    theirs = Ed25519PrivateKey.from_private_bytes(seed)
    line = aics.format_vkey(aics.vkey_from_ed25519(ORIGIN, theirs.public_key()))
    assert line == key.public.encode()
    assert PrivateKey.parse(Secret(key.encode().reveal())).public == key.public
