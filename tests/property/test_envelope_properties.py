"""Whatever bytes an envelope has: a secret or a `KeystoreError`, and nothing else."""

from __future__ import annotations

import hashlib
import zlib

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sigul_stack.errors import KeystoreError
from sigul_stack.keystore import envelope
from sigul_stack.keystore.envelope import open_envelope, seal
from sigul_stack.secret import Secret
from tests.unit.test_envelope import LITERAL, PASSPHRASE, compressed, message, new, old, parts

SEALED = seal(Secret("a secret"), PASSPHRASE)
#: Envelopes that cost little to open, in several forms, for many to be tried.
CHEAP = [
    message(new(11, LITERAL)),
    message(old(11, LITERAL, 1)),
    message(parts(11, LITERAL, 2)),
    message(compressed(2, zlib.compress(new(11, LITERAL)))),
]


def opens_or_says(blob: bytes, passphrase: Secret = PASSPHRASE) -> Secret | None:
    try:
        return open_envelope(blob, passphrase)
    except KeystoreError:
        return None


@given(st.binary(max_size=300))
def test_arbitrary_bytes(blob: bytes) -> None:
    assert opens_or_says(blob) is None


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_arbitrary_bodies(skesk: bytes, data: bytes) -> None:
    assert opens_or_says(new(3, skesk) + new(18, b"\x01" + data)) is None


@given(st.binary(max_size=200))
def test_arbitrary_content_with_good_integrity(packets: bytes) -> None:
    found = opens_or_says(message(packets))
    assert found is None or isinstance(found, Secret)


@given(st.binary(max_size=200))
def test_arbitrary_content_inside_compression(packets: bytes) -> None:
    found = opens_or_says(message(compressed(2, zlib.compress(packets))))
    assert found is None or isinstance(found, Secret)


@given(st.data())
def test_mutations(data: st.DataObject) -> None:
    blob = bytearray(data.draw(st.sampled_from(CHEAP)))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(blob) - 1))
        replacement = data.draw(st.binary(max_size=4))
        blob[position : position + data.draw(st.integers(0, 4))] = replacement
        if not blob:
            break
    found = opens_or_says(bytes(blob))
    assert found is None or found == Secret("secret")


@given(st.integers(0, len(SEALED) - 1))
def test_every_cut_of_a_real_envelope(length: int) -> None:
    assert opens_or_says(SEALED[:length]) is None


@settings(max_examples=20)  # with the real, slow S2K
@given(secret=st.binary(max_size=300), passphrase=st.binary(min_size=1, max_size=300))
@example(secret=b"", passphrase=b"\0")
def test_what_is_sealed_opens(secret: bytes, passphrase: bytes) -> None:
    assert open_envelope(seal(Secret(secret), Secret(passphrase)), Secret(passphrase)) == Secret(
        secret
    )


@given(
    salt=st.binary(min_size=8, max_size=8),
    passphrase=st.binary(max_size=3000),
    count=st.integers(0, 300_000),
)
@example(salt=bytes(8), passphrase=b"p", count=65_536)
@example(salt=bytes(8), passphrase=b"p" * 65_528, count=65_536)
def test_the_key_is_the_hash_of_the_repeated_passphrase(
    salt: bytes, passphrase: bytes, count: int
) -> None:
    once = salt + passphrase
    text = (once * (count // len(once) + 1))[: max(count, len(once))]
    expected = b"".join(
        hashlib.sha1(start + text, usedforsecurity=False).digest() for start in (b"", b"\0")
    )
    derived = envelope._StringToKey("sha1", salt, count).derive(Secret(passphrase), 32)
    assert derived == expected[:32]
