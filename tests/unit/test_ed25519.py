"""Ed25519 signatures of RFC 8032, and the ends of what may be one."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sigul_stack.formats import ed25519, signed_note
from sigul_stack.formats.ed25519 import verify
from sigul_stack.secret import Secret

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493

#: Key, message, signature: RFC 8032, 7.1, tests 1, 2 and 3.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]  # fmt: skip


def theirs(key: bytes, message: bytes, signature: bytes) -> bool:
    """What `cryptography` says."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@pytest.mark.parametrize("vector", VECTORS)
def test_signatures_of_the_rfc(vector: tuple[str, str, str]) -> None:
    key, message, signature = map(bytes.fromhex, vector)
    assert verify(key, message, signature)
    assert not verify(key, message + b"x", signature)
    for bit in range(0, 512, 7):
        damaged = bytearray(signature)
        damaged[bit // 8] ^= 1 << bit % 8
        assert not verify(key, message, bytes(damaged))
    for bit in range(0, 256, 7):
        other = bytearray(key)
        other[bit // 8] ^= 1 << bit % 8
        assert not verify(bytes(other), message, signature)


def test_what_is_no_key_or_signature() -> None:
    key, message, signature = map(bytes.fromhex, VECTORS[1])
    for wrong in (b"", signature[:63], signature + b"\0", bytes(64), b"\xff" * 64):
        assert not verify(key, message, wrong)
    for wrong in (b"", key[:31], key + b"\0", b"\xff" * 32):
        assert not verify(wrong, message, signature)


def test_a_number_over_the_order_is_refused() -> None:
    """The same signature with S + L would verify, and would be another one."""
    key, message, signature = map(bytes.fromhex, VECTORS[1])
    number = int.from_bytes(signature[32:], "little") + L
    again = signature[:32] + number.to_bytes(32, "little")
    assert not verify(key, message, again) and not theirs(key, message, again)


#: Points of small order, and encodings that are not the one of their point: y of p and more, and
#: a sign where x is 0.
ODD_POINTS = [
    *(y.to_bytes(32, "little") for y in (0, 1, P - 1, P, P + 1, 2**255 - 1)),
    *((y | 1 << 255).to_bytes(32, "little") for y in (0, 1, P - 1, P, P + 1)),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
]


@pytest.mark.parametrize("key", ODD_POINTS, ids=bytes.hex)
def test_what_is_taken_of_odd_points_the_library_takes(key: bytes) -> None:
    for commitment in ODD_POINTS:
        for number in (0, 1, L - 1, L):
            signature = commitment + number.to_bytes(32, "little")
            for message in (b"", b"a", b"b"):
                if verify(key, message, signature):
                    assert theirs(key, message, signature)


def test_a_key_that_is_not_canonical_is_refused() -> None:
    for key in ((P + 1).to_bytes(32, "little"), (1 | 1 << 255).to_bytes(32, "little")):
        signature = (1).to_bytes(32, "little") + bytes(32)
        assert not verify(key, b"", signature)


def test_a_process_that_checks_many_has_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed_note, "_checks_many", False)
    key = signed_note.PrivateKey("a.example.org", signed_note.LOG_KEY, Secret(bytes(32)))
    signature = Ed25519PrivateKey.from_private_bytes(bytes(32)).sign(b"text")
    asked: list[bytes] = []
    monkeypatch.setattr(ed25519, "verify", lambda *given: asked.append(given[1]) or verify(*given))
    for message in (b"text", b"other"):
        assert key.public.verify(message, signature) is (message == b"text")
    assert asked == [b"text", b"other"]
    signed_note.load_library()
    for message in (b"text", b"other"):
        assert key.public.verify(message, signature) is (message == b"text")
    assert len(asked) == 2
