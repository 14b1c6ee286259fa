"""Signed notes, checkpoints, cosignatures and proofs, against known answers and damage."""

from __future__ import annotations

import base64
import hashlib

import pytest

from sigul_stack.formats.merkle_tree import NotProven, hash_leaf, hash_node
from sigul_stack.formats.signed_note import (
    LOG_KEY,
    MAX_NOTE_BYTES,
    WITNESS_KEY,
    Checkpoint,
    LogProof,
    Note,
    PrivateKey,
    PublicKey,
    check_name,
    cosignature_time,
    cosigned,
    decode_hashes,
    encode_hashes,
    open_checkpoint,
)
from sigul_stack.secret import Secret

#: The key and note of golang.org/x/mod/sumdb/note, which c2sp.org/signed-note describes.
GO_PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXg"
    "KvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
NAME = "server.example.org/signing-log/01234567"


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return PrivateKey.new(NAME, LOG_KEY)


@pytest.fixture(scope="module")
def witness() -> PrivateKey:
    return PrivateKey.new("witness.example.org", WITNESS_KEY)


# -------------------------------------------------------------------------------------------- keys


def test_keys_and_notes_of_the_go_library() -> None:
    public, private = PublicKey.parse(GO_PUBLIC), PrivateKey.parse(Secret(GO_PRIVATE))
    assert (public.name, public.type, public.id.hex()) == ("PeterNeumann", 1, "c74f20a3")
    assert public.encode() == GO_PUBLIC
    assert private.public == public
    assert private.encode().reveal().decode() == GO_PRIVATE
    note = Note.parse(GO_NOTE)
    assert note.encode() == GO_NOTE
    signature = note.of(public)
    assert signature == private.sign(note.text.encode())
    assert public.verify(note.text.encode(), signature)
    assert not public.verify(note.text.encode() + b"\n", signature)
    assert not public.verify(note.text.encode(), signature[:-1])


def test_a_key_id_is_as_the_page_has_it(key: PrivateKey) -> None:
    data = NAME.encode() + b"\n" + b"\1" + key.public.key
    assert key.public.id == hashlib.sha256(data).digest()[:4]
    assert PublicKey.parse(key.public.encode() + "\n") == key.public
    assert PrivateKey.parse(key.encode()).public == key.public


def test_no_text_tells_a_private_key(key: PrivateKey) -> None:
    seed = key.secret.reveal()
    for text in (repr(key), str(key), repr(key.encode())):
        assert base64.b64encode(seed).decode() not in text
        assert repr(seed) not in text
    with pytest.raises(NotProven) as caught:
        PrivateKey.parse(Secret(key.encode().reveal()[:-4] + b"AAAA"))
    assert key.encode().reveal().decode()[-20:-4] not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "a+b", "a+c74f20a3", GO_PUBLIC[:-1], GO_PUBLIC + "A", GO_PUBLIC + "+", GO_PRIVATE,
        GO_PUBLIC.replace("c7", "C7"), GO_PUBLIC.replace("c7", "d7"), "Other" + GO_PUBLIC,
        GO_PUBLIC.replace("+AR", "+CR"), GO_PUBLIC.replace("Peter", "Peter "),
    ],
)  # fmt: skip
def test_what_is_no_public_key(text: str) -> None:
    with pytest.raises(NotProven):
        PublicKey.parse(text)


@pytest.mark.parametrize("text", ["", GO_PUBLIC, GO_PRIVATE[:-1], GO_PRIVATE.replace("c7", "d7")])
def test_what_is_no_private_key(text: str) -> None:
    with pytest.raises(NotProven):
        PrivateKey.parse(Secret(text))
    with pytest.raises(NotProven):
        PrivateKey.parse(Secret(b"\xff"))


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u2003b", "x" * 201, "\x7f"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(NotProven):
        check_name(name)


# ------------------------------------------------------------------------------------------- notes


@pytest.mark.parametrize(
    "data",
    [
        "", "\n", "\n\n", "text\n", "text\n\n", GO_NOTE[:-1], GO_NOTE + "\n", GO_NOTE + "more\n",
        GO_NOTE.replace("\u2014", "-"), GO_NOTE.replace("\u2014 ", "\u2014"),
        GO_NOTE.replace("JkuBS", "Jku\rBS"), GO_NOTE.replace("AM=", "AM"),
        GO_NOTE.replace("AM=", "AN="), "text\n\n\u2014 a AAAA\n", "text\n\n\u2014 a+b AAAAAAAA\n",
        "x" * MAX_NOTE_BYTES + GO_NOTE, GO_NOTE + GO_NOTE.rpartition("\n\n")[2] * 64,
    ],
)  # fmt: skip
def test_what_is_no_note(data: str) -> None:
    with pytest.raises(NotProven):
        Note.parse(data)


def test_two_signatures_of_one_key_are_none() -> None:
    note = Note.parse(GO_NOTE + GO_NOTE.rpartition("\n\n")[2])
    with pytest.raises(NotProven, match="signed the note twice"):
        note.of(PublicKey.parse(GO_PUBLIC))
    assert note.of(PrivateKey.new("other", LOG_KEY).public) is None


# ------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_of_the_page() -> None:
    """The first lines of c2sp.org/tlog-checkpoint's example."""
    root = "nND/nri/U0xuHUrYSy0HtMeal2vzD9V4k/BO79C+QeI="
    head = Checkpoint.of(Note(f"example.com/behind-the-sofa\n20852163\n{root}\n"))
    assert (head.origin, head.size) == ("example.com/behind-the-sofa", 20852163)
    assert base64.b64encode(head.root).decode() == root
    assert Checkpoint.of(Note(head.text() + "an extension\n")) == head


def test_a_checkpoint_is_its_logs(key: PrivateKey) -> None:
    head = Checkpoint(NAME, 7, hash_leaf(b"x"))
    note = Note.parse(head.signed(key).encode())
    assert open_checkpoint(note, key.public) == head
    other = PrivateKey.new(NAME, LOG_KEY)
    for wrong, public in (
        (note, other.public),
        (note, PrivateKey.new("other", LOG_KEY).public),
        (note, PublicKey(NAME, WITNESS_KEY, key.public.key)),
        (Note(note.text.replace("7", "8"), note.signatures), key.public),
        (Note(note.text + "more\n", note.signatures), key.public),
        (Note(note.text), key.public),
        (head.signed(other), key.public),
    ):
        with pytest.raises(NotProven):
            open_checkpoint(wrong, public)


@pytest.mark.parametrize(
    "text",
    [
        "a\n", "a\n1\n", "a\n1\nAAAA\n", "a b\n1\n{}\n", "\n1\n{}\n", "a\n01\n{}\n", "a\n-1\n{}\n",
        "a\n+1\n{}\n", "a\n1 \n{}\n", "a\n\u0661\n{}\n", "a\n9223372036854775808\n{}\n", "a\n1\n{}",
    ],
)  # fmt: skip
def test_what_is_no_checkpoint(text: str) -> None:
    with pytest.raises(NotProven):
        Checkpoint.of(Note(text.format(base64.b64encode(bytes(32)).decode())))


def test_a_cosignature_is_over_time_and_text(key: PrivateKey, witness: PrivateKey) -> None:
    note = Checkpoint(NAME, 7, bytes(32)).signed(key)
    both = cosigned(note, witness, 1_796_000_000)
    content = both.of(witness.public)
    assert content is not None
    assert content[:8] == (1_796_000_000).to_bytes(8, "big")
    message = f"cosignature/v1\ntime 1796000000\n{note.text}".encode()
    assert witness.public.verify(message, content[8:])
    assert cosignature_time(Note.parse(both.encode()), witness.public) == 1_796_000_000
    assert open_checkpoint(both, key.public).size == 7
    # A later one takes its place.
    later = cosigned(both, witness, 1_796_000_001)
    assert len(later.signatures) == 2
    assert cosignature_time(later, witness.public) == 1_796_000_001
    moved = note.with_signature(witness.public, bytes(8) + content[8:])
    for wrong in (note, moved, note.with_signature(witness.public, content[:-1])):
        with pytest.raises(NotProven):
            cosignature_time(wrong, witness.public)
    with pytest.raises(NotProven):
        cosignature_time(both, key.public)


# ------------------------------------------------------------------------------------------ proofs


@pytest.fixture(scope="module")
def proof(key: PrivateKey) -> LogProof:
    """That the second of two leaves is in their log."""
    first, second = hash_leaf(b"first"), hash_leaf(b"second")
    note = Checkpoint(NAME, 2, hash_node(first, second)).signed(key)
    return LogProof(b"second", 1, (first,), note)


def test_a_proof_is_as_the_page_has_it(proof: LogProof, key: PrivateKey) -> None:
    text = proof.encode()
    assert text == (
        "c2sp.org/tlog-proof@v1\n"
        f"extra {base64.b64encode(b'second').decode()}\n"
        "index 1\n"
        f"{base64.b64encode(hash_leaf(b'first')).decode()}\n"
        "\n" + proof.checkpoint.encode()
    )
    assert LogProof.parse(text) == proof
    assert proof.verify(key.public).size == 2


def test_a_proof_of_something_else_is_none(proof: LogProof, key: PrivateKey) -> None:
    note = proof.checkpoint
    for wrong in (
        LogProof(b"third", 1, proof.hashes, note),
        LogProof(b"second", 0, proof.hashes, note),
        LogProof(b"second", 1, (), note),
        LogProof(b"second", 1, (*proof.hashes, bytes(32)), note),
        LogProof(b"second", 1, proof.hashes, Note(note.text.replace("2", "3"), note.signatures)),
    ):
        with pytest.raises(NotProven):
            wrong.verify(key.public)
    with pytest.raises(NotProven):
        proof.verify(PrivateKey.new(NAME, LOG_KEY).public)


def test_what_is_no_proof(proof: LogProof) -> None:
    text = proof.encode()
    for wrong in (
        "", "\n\n", text[1:], text.replace("@v1", "@v2"), text.replace("extra ", ""),
        text.replace("index 1", "index 01"), text.replace("index 1", "index -1"),
        text.replace("index 1\n", ""), text.replace("index 1\n", "index 1\nAAAA\n"),
        text.replace("extra c2", "extra c3="), text[: text.index("\n\n") + 2],
        text + "x" * 200_000,
        text.replace("index 1\n", "index 1\n" + "\n".join(encode_hashes([bytes(32)] * 127)) + "\n"),
    ):  # fmt: skip
        with pytest.raises(NotProven):
            LogProof.parse(wrong)


def test_hashes_as_lines() -> None:
    assert decode_hashes(encode_hashes([bytes(32)] * 126)) == (bytes(32),) * 126
    for wrong in (["AAAA"], ["?"], encode_hashes([bytes(32)] * 127), encode_hashes([bytes(33)])):
        with pytest.raises(NotProven):
            decode_hashes(wrong)
