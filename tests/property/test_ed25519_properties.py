"""Whatever key, message and signature: the check here says what `cryptography` says."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.formats.ed25519 import verify

SEEDS = st.binary(min_size=32, max_size=32)


def theirs(key: bytes, message: bytes, signature: bytes) -> bool:
    """What `cryptography` says."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@given(SEEDS, st.binary(max_size=200), st.integers(0, 1023), st.sampled_from("ksmn"))
def test_it_agrees_with_the_library(seed: bytes, message: bytes, at: int, where: str) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    parts = {
        "k": bytearray(private.public_key().public_bytes_raw()),
        "s": bytearray(private.sign(message)),
        "m": bytearray(message),
    }
    damaged = parts.get(where)
    if damaged:
        damaged[at // 8 % len(damaged)] ^= 1 << at % 8
    key, signature, text = bytes(parts["k"]), bytes(parts["s"]), bytes(parts["m"])
    assert theirs(key, text, signature) is verify(key, text, signature) is not bool(damaged)


@given(SEEDS, st.binary(min_size=64, max_size=64), st.binary(max_size=50))
def test_what_is_taken_of_anything_the_library_takes(
    key: bytes, signature: bytes, message: bytes
) -> None:
    # Such as zeros alone: a point of small order, under which much is signed.
    if verify(key, message, signature):
        assert theirs(key, message, signature)
