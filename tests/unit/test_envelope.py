"""The envelope against gpg, in both directions, and against an existing site's database.

Its form is in docs/storage.md, "Keys' passphrases".
"""

from __future__ import annotations

import bz2
import hashlib
import itertools
import os
import sqlite3
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.errors import KeystoreError, WrongPassphrase
from sigul_stack.keystore import envelope
from sigul_stack.keystore.bindings import CannotUnbind, enabled_methods, parse_layer
from sigul_stack.keystore.envelope import (
    MAX_ENVELOPE,
    MAX_SECRET,
    UNOPENABLE,
    is_outdated,
    open_envelope,
    seal,
)
from sigul_stack.keystore.store import new_access, open_access
from sigul_stack.secret import Secret
from tests.held_data import held

SECRET = Secret("nKRGmQ9C_Vds-apcVaS6ioMsNNha-OypuKkhvZHOzt4Ek0qF0K6MAakUCcxjoaKc")
PASSPHRASE = Secret("release pässphrase")

#: The key accesses of the existing site: user, key, that user's passphrase.
ACCESSES = [
    ("root", "release", "release-pw"),
    ("root", "ima", "ima-pw"),
    ("alice", "codesign", "codesign-pw"),
    ("alice", "release", "alice-release-pw"),
    ("bob", "release", "bob-release-pw"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A GnuPG home for gpg to be run in by hand."""
    directory = tmp_path_factory.mktemp("gnupg")
    yield directory
    subprocess.run(["gpgconf", "--homedir", directory, "--kill", "gpg-agent"], timeout=30)


def gpg(home: Path, *arguments: str, data: bytes, passphrase: Secret = PASSPHRASE) -> bytes:
    read, write = os.pipe()
    os.write(write, passphrase.reveal())
    os.close(write)
    try:
        return subprocess.run(
            ["gpg", "--homedir", home, "--batch", "--pinentry-mode", "loopback", "--quiet",
             "--passphrase-fd", str(read), *arguments],
            input=data, pass_fds=[read], stdout=subprocess.PIPE, timeout=60, check=True,
        ).stdout  # fmt: skip
    finally:
        os.close(read)


# --- With an existing site, and with gpg -------------------------------------------------------


def encrypted_passphrase(user: str, key: str) -> bytes:
    with sqlite3.connect(f"file:{held('legacy-site', 'server.sqlite')}?mode=ro", uri=True) as db:
        rows = db.execute(
            "SELECT encrypted_passphrase FROM key_accesses a JOIN users u ON u.id = a.user_id"
            " JOIN keys k ON k.id = a.key_id WHERE u.name = ? AND k.name = ?",
            (user, key),
        ).fetchall()
    db.close()
    return bytes(rows[0][0])


@pytest.mark.parametrize(("user", "key", "passphrase"), ACCESSES)
def test_envelopes_of_an_existing_site_open(user: str, key: str, passphrase: str) -> None:
    blob = encrypted_passphrase(user, key)
    opened = open_envelope(blob, Secret(passphrase))
    if user == "bob":
        inner = open_envelope(encrypted_passphrase("root", key), Secret("release-pw"))
        assert opened.reveal() == (
            b'[{"may_unbind": "1", "value": "%s", "method": "test"}]' % inner.reveal()
        )
    else:
        assert len(opened.reveal()) == 64
    with pytest.raises(WrongPassphrase):
        open_envelope(blob, Secret(passphrase + "x"))


@pytest.mark.system
@pytest.mark.parametrize("size", [0, 1, 64, 183, 184, 185, 8375, 8376, 8377, 100_000])
def test_gpg_opens_what_is_sealed(home: Path, size: int) -> None:
    secret = os.urandom(size)
    sealed = seal(Secret(secret), PASSPHRASE)
    assert gpg(home, "--decrypt", data=sealed) == secret
    assert open_envelope(sealed, PASSPHRASE) == Secret(secret)


def test_what_is_sealed_has_the_form_of_existing_sites_but_for_the_hash() -> None:
    sealed, theirs = seal(SECRET, PASSPHRASE), encrypted_passphrase("root", "release")
    assert sealed[:5] == theirs[:5]
    assert (sealed[5], theirs[5]) == (8, 2)
    assert sealed[14:16] == theirs[14:16]  # the count, the tag of the encrypted data


def test_no_two_envelopes_are_alike() -> None:
    first, second = seal(SECRET, PASSPHRASE), seal(SECRET, PASSPHRASE)
    assert first[6:14] != second[6:14]
    assert first[18:] != second[18:]


@pytest.mark.system
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-z", "0"],
        ["--compress-algo", "zlib"],
        ["--compress-algo", "bzip2"],
        ["--cipher-algo", "AES128", "--s2k-digest-algo", "SHA256"],
        ["--cipher-algo", "AES192", "--s2k-digest-algo", "SHA512"],
        ["--s2k-digest-algo", "SHA384"],
        ["--s2k-digest-algo", "SHA224", "--s2k-count", "1024"],
        ["--s2k-mode", "0"],
        ["--s2k-mode", "1"],
        ["--set-filename", "a name"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("size", [1, 64, 20_000])
def test_what_gpg_writes_opens(home: Path, options: list[str], size: int) -> None:
    # Text, so that no mode has anything to change in it.
    secret = (b"0123456789abcde" * size)[:size]
    sealed = gpg(home, *options, "--symmetric", data=secret)
    assert open_envelope(sealed, PASSPHRASE) == Secret(secret)
    with pytest.raises(WrongPassphrase):
        open_envelope(sealed, Secret("another"))


# --- Forms made by hand ------------------------------------------------------------------------


def new(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4, "big") + body


def old(tag: int, body: bytes, length_type: int = 2) -> bytes:
    size = b"" if length_type == 3 else len(body).to_bytes(1 << length_type, "big")
    return bytes([0x80 | tag << 2 | length_type]) + size + body


def parts(tag: int, body: bytes, exponent: int) -> bytes:
    size, pieces = 1 << exponent, b""
    while len(body) > size:
        pieces += bytes([0xE0 | exponent]) + body[:size]
        body = body[size:]
    return bytes([0xC0 | tag]) + pieces + new(0, body)[1:]


def cfb(key: bytes, data: bytes) -> bytes:
    encryptor = envelope.aes_cfb(key).encryptor()
    return encryptor.update(data) + encryptor.finalize()


#: SKESK with a simple S2K of SHA-256, AES-256: cheap to make and to open.
SIMPLE = bytes([4, 9, 0, 8])
SIMPLE_KEY = hashlib.sha256(PASSPHRASE.reveal()).digest()
LITERAL = b"b\0" + bytes(4) + b"secret"


def encrypted(packets: bytes, key: bytes = SIMPLE_KEY) -> bytes:
    clear = bytes(16) + b"\0\0" + packets + b"\xd3\x14"
    return b"\x01" + cfb(key, clear + hashlib.sha1(clear, usedforsecurity=False).digest())


def message(packets: bytes, skesk: bytes = SIMPLE) -> bytes:
    return new(3, skesk) + new(18, encrypted(packets))


@pytest.mark.parametrize(
    "literal",
    [
        *(old(11, LITERAL, length_type) for length_type in range(4)),
        new(11, LITERAL), parts(11, LITERAL, 0), parts(11, LITERAL, 2), parts(11, LITERAL, 9),
        new(11, b"u\x03abc" + bytes(4) + b"secret"),
    ],
)  # fmt: skip
def test_every_form_of_packet_header(literal: bytes) -> None:
    assert open_envelope(message(literal), PASSPHRASE) == Secret("secret")
    data = encrypted(literal)
    for skesk, sealed in itertools.product(
        [new(3, SIMPLE), *(old(3, SIMPLE, length_type) for length_type in range(3))],
        [new(18, data), parts(18, data, 0), parts(18, data, 4)],
    ):
        assert open_envelope(skesk + sealed, PASSPHRASE) == Secret("secret")


@pytest.mark.parametrize(("cipher", "size"), [(7, 16), (8, 24), (9, 32)])
def test_a_session_key_of_its_own(cipher: int, size: int) -> None:
    session_key = os.urandom(size)
    skesk = SIMPLE + cfb(SIMPLE_KEY, bytes([cipher]) + session_key)
    blob = new(3, skesk) + new(18, encrypted(new(11, LITERAL), session_key))
    assert open_envelope(blob, PASSPHRASE) == Secret("secret")
    with pytest.raises(WrongPassphrase):
        open_envelope(blob, Secret("another"))


def compressed(algorithm: int, data: bytes) -> bytes:
    return new(8, bytes([algorithm]) + data)


def test_a_compressed_packet_cannot_fill_the_memory() -> None:
    bomb = zlib.compress(new(11, LITERAL + bytes(1 << 28)), 9)
    assert len(bomb) < MAX_ENVELOPE
    with pytest.raises(KeystoreError, match=f"over {MAX_ENVELOPE} bytes"):
        open_envelope(message(compressed(2, bomb)), PASSPHRASE)


@pytest.mark.parametrize(
    "packets",
    [
        b"", b"\x00", new(11, b""), new(11, b"b"), new(11, b"b\xffab"), new(11, b"x" + LITERAL[1:]),
        new(11, LITERAL) + b"\0", new(11, LITERAL) * 2, new(11, LITERAL)[:-1], new(10, b"PGP"),
        compressed(2, b""), compressed(2, b"junk"), compressed(4, b""), new(8, b""),
        compressed(2, zlib.compress(new(11, LITERAL))[:-1]),
        compressed(2, zlib.compress(new(11, LITERAL)) + b"x"),
        compressed(3, bz2.compress(new(11, LITERAL))[:-1]), compressed(3, b"junk"),
        compressed(2, zlib.compress(compressed(2, zlib.compress(new(11, LITERAL))))),
        compressed(2, zlib.compress(new(11, LITERAL))) + b"x",
    ],
)  # fmt: skip
def test_content_that_is_no_secret(packets: bytes) -> None:
    with pytest.raises(KeystoreError) as raised:
        open_envelope(message(packets), PASSPHRASE)
    assert type(raised.value) is KeystoreError
    with pytest.raises(WrongPassphrase):
        open_envelope(message(packets), Secret("another"))


GOOD = encrypted(new(11, LITERAL))


@pytest.mark.parametrize(
    "blob",
    [
        b"", b"\x00", b"\xff", new(3, SIMPLE), new(18, GOOD), new(3, SIMPLE) + new(9, GOOD[1:]),
        new(3, SIMPLE) + new(18, GOOD) + b"x", new(3, SIMPLE) + new(18, GOOD)[:-1],
        new(3, SIMPLE) * 2 + new(18, GOOD), new(3, SIMPLE) + new(18, b"\x02" + GOOD[1:]),
        new(3, SIMPLE) + new(18, b""), new(3, SIMPLE) + new(18, b"\x01" + bytes(39)),
        new(3, b"") + new(18, GOOD), new(3, b"\x05" + SIMPLE[1:]) + new(18, GOOD),
        new(3, bytes([4, 2, 0, 8])) + new(18, GOOD), new(3, bytes([4, 9, 0, 1])) + new(18, GOOD),
        new(3, bytes([4, 9, 2, 8])) + new(18, GOOD), new(3, bytes([4, 9, 3, 8])) + new(18, GOOD),
        new(3, bytes([4, 9, 1, 8]) + bytes(7)) + new(18, GOOD),
        new(3, bytes([4, 9, 3, 8]) + bytes(8)) + new(18, GOOD),
        new(3, SIMPLE + bytes(18)) + new(18, GOOD),
        old(3, SIMPLE, 3), parts(3, SIMPLE, 1) + new(18, GOOD),
        b"\xc3\xff\xff\xff\xff\xff", b"\xd2" + b"\xe0x" * 100, bytes(MAX_ENVELOPE + 1),
        b"-----BEGIN PGP MESSAGE-----\n",
    ],
    ids=lambda blob: blob[:12].hex(),
)  # fmt: skip
def test_what_is_no_envelope(blob: bytes) -> None:
    with pytest.raises(KeystoreError) as raised:
        open_envelope(blob, PASSPHRASE)
    assert type(raised.value) is KeystoreError
    assert "grant the user access" in str(raised.value)


@pytest.mark.parametrize("position", range(2 + 4 + 7, 2 + 4 + 7 + len(GOOD), 5))
def test_each_damaged_byte_of_the_encrypted_part_is_seen(position: int) -> None:
    blob = bytearray(message(new(11, LITERAL)))
    blob[position] ^= 1
    with pytest.raises(KeystoreError):
        open_envelope(bytes(blob), PASSPHRASE)


# --- Without integrity protection, as Sigul 0.x has them ---------------------------------------

#: The accesses of the site of 0.207, and the passphrase of its key.
ACCESSES_OF_0_207 = {"root": "release-pw", "alice": "alice-release-pw"}
KEY_OF_0_207 = Secret("ah-OAB9yRMgNz9JUyrqisJ1KtKPjaQ4LNzgff_j2Nl2F4hYdAuQayJaSaXiKiVbq")


def envelope_of_0_207(user: str) -> bytes:
    path = held("site-0.207", "server.sqlite")
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        ((sealed,),) = db.execute(
            "SELECT encrypted_passphrase FROM key_accesses a JOIN users u ON u.id = a.user_id"
            " WHERE u.name = ?",
            (user,),
        ).fetchall()
    db.close()
    return bytes(sealed)


@pytest.mark.parametrize("user", ACCESSES_OF_0_207)
def test_envelopes_of_0_207_open(user: str) -> None:
    sealed = envelope_of_0_207(user)
    assert is_outdated(sealed)
    assert open_envelope(sealed, Secret(ACCESSES_OF_0_207[user])) == KEY_OF_0_207
    for wrong in ("", "release-pw2", *map(str, range(50))):
        with pytest.raises(WrongPassphrase):
            open_envelope(sealed, Secret(wrong))


#: SKESK with a simple S2K of SHA-1, CAST5.
CAST = bytes([4, 3, 0, 2])


def unprotected(packets: bytes, passphrase: Secret = PASSPHRASE) -> bytes:
    """A message of which nothing but the form says whether it is whole."""
    key = hashlib.sha1(passphrase.reveal(), usedforsecurity=False).digest()[:16]

    def cast(data: bytes, iv: bytes) -> bytes:
        encryptor = envelope.cast5_cfb(key, iv).encryptor()
        return encryptor.update(data) + encryptor.finalize()

    start = bytes(range(8))
    first = cast(start + start[-2:], bytes(8))
    return new(3, CAST) + new(9, first + cast(packets, first[2:]))


def old_form(secret: bytes, passphrase: Secret) -> bytes:
    """The envelope of a secret in the form of 0.x."""
    return unprotected(new(11, b"b\0" + bytes(4) + secret), passphrase)


def test_a_message_of_the_form_of_0_x() -> None:
    blob = unprotected(new(11, LITERAL))
    assert is_outdated(blob)
    assert open_envelope(blob, PASSPHRASE) == Secret("secret")
    with pytest.raises(WrongPassphrase):
        open_envelope(blob, Secret("another"))


@pytest.mark.parametrize(
    "packets",
    [b"", b"secret", new(11, b"b\0" + bytes(4)), new(11, b"b\0" + bytes(4) + b"\xff\xfe"),
     new(11, LITERAL) + b"x", new(8, b"\x01garbage"), new(11, b"b\0" + bytes(4) + b"a\nb")],
)  # fmt: skip
def test_what_is_no_secret_without_integrity_protection(packets: bytes) -> None:
    with pytest.raises(WrongPassphrase):
        open_envelope(unprotected(packets), PASSPHRASE)


@pytest.mark.parametrize(
    "blob",
    [
        new(3, CAST) + new(18, GOOD),
        new(3, CAST + bytes(17)) + new(9, bytes(40)),
        new(3, CAST) + new(9, bytes(40)) + b"x",
        new(3, SIMPLE) + new(9, bytes(40)),
        new(3, bytes([4, 10, 0, 2])) + new(9, bytes(40)),
    ],
)
def test_what_is_no_envelope_of_0_x(blob: bytes) -> None:
    with pytest.raises(KeystoreError) as raised:
        open_envelope(blob, PASSPHRASE)
    assert type(raised.value) is KeystoreError
    assert not is_outdated(blob)


def test_new_ones_are_not_outdated() -> None:
    assert not is_outdated(seal(SECRET, PASSPHRASE))
    assert not any(map(is_outdated, UNOPENABLE))
    assert not any(is_outdated(encrypted_passphrase(user, key)) for user, key, _ in ACCESSES)


# --- Limits, and refusals at the same cost -----------------------------------------------------


def test_what_cannot_be_sealed() -> None:
    with pytest.raises(KeystoreError, match="empty passphrase"):
        seal(SECRET, Secret(""))
    with pytest.raises(KeystoreError, match="larger than"):
        seal(Secret(bytes(MAX_SECRET + 1)), PASSPHRASE)
    assert len(seal(Secret(bytes(MAX_SECRET)), PASSPHRASE)) < MAX_ENVELOPE


def test_long_and_empty_passphrases() -> None:
    long = Secret("x" * 100_000)
    assert open_envelope(seal(SECRET, long), long) == SECRET
    with pytest.raises(WrongPassphrase):
        open_envelope(seal(SECRET, long), Secret(""))


#: What each form of envelope takes: hash, and bytes hashed.
NEW, OLD = ("sha256", 65_011_712), ("sha1", 65_011_712)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is derived from now on; it is done all the same."""
    derived: list[tuple[str, int]] = []
    derive = envelope._StringToKey.derive

    def counted(self: envelope._StringToKey, passphrase: Secret, key_bytes: int) -> bytes:
        derived.append((self.hash_name, self.count))
        return derive(self, passphrase, key_bytes)

    monkeypatch.setattr(envelope._StringToKey, "derive", counted)
    return derived


@pytest.mark.parametrize("bindings", [(), ("test,may_unbind=0",)], ids=["plain", "bound"])
def test_a_refusal_hashes_the_same_whatever_was_tried(
    work: list[tuple[str, int]], bindings: tuple[str, ...]
) -> None:
    registry = enabled_methods(["test"])
    layers = [parse_layer(binding) for binding in bindings]
    new = new_access(SECRET, PASSPHRASE, layers, registry)
    old = encrypted_passphrase("root", "release")
    oldest = old_form(b"secret", PASSPHRASE)
    for access in (new, old, oldest, None):
        work.clear()
        with pytest.raises(WrongPassphrase, match="does not unlock the key"):
            open_access(access, Secret("another"), registry)
        assert sorted(work)[-2:] == [OLD, NEW]
        # The oldest takes less than anybody can measure besides.
        assert len(work) == 2 + (access is oldest)
    work.clear()
    if bindings:
        with pytest.raises(CannotUnbind):
            open_access(new, PASSPHRASE, registry)
        assert sorted(work) == [OLD, NEW]
    else:
        assert open_access(new, PASSPHRASE, registry) == SECRET
        assert open_access(oldest, PASSPHRASE, registry) == Secret("secret")
        assert work == [NEW, ("sha1", 0)]
