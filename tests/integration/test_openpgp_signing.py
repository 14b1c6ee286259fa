"""OpenPGP signatures and decryption with the real gpg, checked by a gpg outside of the store."""

from __future__ import annotations

import hashlib
import io
import os
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import HashAlgorithm

from sigul_stack.errors import KeystoreError, RequestRefused, Status, WrongPassphrase
from sigul_stack.formats.openpgp_keys import packets
from sigul_stack.formats.openpgp_packets import PacketType, encode_packet
from sigul_stack.keystore.envelope import aes_cfb
from sigul_stack.keystore.gnupg import GnuPGHome, KeySettings, UserId
from sigul_stack.secret import Secret
from sigul_stack.signing.decryption import REFUSAL_SECONDS, DecryptionKey, decrypt
from sigul_stack.signing.objects import sign_commit, sign_manifest, sign_tag
from sigul_stack.signing.openpgp import OpenPGPKey
from sigul_stack.signing.signers.gnupg_agent import AgentSigner
from sigul_stack.system.programs import memory_file

from .gnupg_support import (
    CURVES,
    LEGACY_KEY,
    Outside,
    gnupg_home,
    legacy_home,
    legacy_passphrase,
    openpgp_key,
    outside_home,
)

PASSPHRASE = Secret.random(64)
OTHER_PASSPHRASE = Secret.random(64)
DATA = b"\0binary\r\ndata\xff" * 100


class Store:
    """A home with two keys, and a person who has the public keys of both."""

    def __init__(self, home: GnuPGHome, person: Outside) -> None:
        self.home = home
        self.person = person
        self.key = home.generate(PASSPHRASE, UserId("release"))
        self.other = home.generate(OTHER_PASSPHRASE, UserId("other"))
        for fingerprint in (self.key, self.other):
            person.gpg("--import", data=home.public(fingerprint))

    @property
    def opened(self) -> OpenPGPKey:
        """The first key."""
        return openpgp_key(self.home, self.key, PASSPHRASE)

    @property
    def for_decryption(self) -> DecryptionKey:
        """The first key, as it decrypts."""
        return DecryptionKey(self.home, self.key, PASSPHRASE)

    def sign(self, how: Callable[..., None], data: bytes, **options: bool) -> bytes:
        """A signature, by the first key."""
        target = io.BytesIO()
        how(self.opened, io.BytesIO(data), target, **options)
        return target.getvalue()

    def encrypt(self, data: bytes, *options: str, to: str | None = None) -> bytes:
        """A message as the person makes it."""
        return self.person.gpg("--encrypt", "--recipient", to or self.key, *options, data=data)

    def decrypt(self, message: bytes, **options: int) -> bytes:
        """What a message says to the first key."""
        target = io.BytesIO()
        decrypt(self.for_decryption, io.BytesIO(message), target, **options)
        return target.getvalue()


@pytest.fixture(scope="module", params=["RSA", "curves, and a path too long for sockets"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    directory = tmp_path_factory.mktemp("store")
    path, settings = directory / "gnupg", KeySettings()
    if request.param != "RSA":
        path, settings = directory / ("x" * 120), CURVES
    with gnupg_home(path, settings) as home, outside_home(directory / "person") as person:
        yield Store(home, person)


def assert_good(person: Outside, *arguments: str | Path, data: bytes = b"", key: str) -> bytes:
    """Check a signature by `key`; the signed content as gpg gives it."""
    found = person.gpg_output("--status-fd", "2", *map(str, arguments), data=data)
    (valid,) = re.findall(rb"VALIDSIG (\w+) .* (\w+)\n", found.stderr)
    assert valid[1].decode() == key
    assert re.search(rb"VALIDSIG (\S+ ){7}10 ", found.stderr), "the digest is not SHA-512"
    return found.stdout


# --- Signing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("armor", [True, False])
@pytest.mark.parametrize("data", [b"", b"x", DATA, b"text\n"])
def test_detached_signatures(store: Store, tmp_path: Path, armor: bool, data: bytes) -> None:
    signature = store.sign(OpenPGPKey.detach_sign, data, armor=armor)
    assert signature.startswith(b"-----BEGIN PGP SIGNATURE-----\n") == armor
    (tmp_path / "data").write_bytes(data)
    (tmp_path / "data.sig").write_bytes(signature)
    assert_good(store.person, "--verify", tmp_path / "data.sig", tmp_path / "data", key=store.key)


TEXTS = [
    b"", b"\n", b"one line\n", b"no newline at the end", b"- a dash\n--- three\n-----BEGIN PGP",
    b"dos\r\nlines\r\n", b"dos\r\nwithout an end", b"mixed\r\nlines\n", b"From me\n",
    b"trailing blanks  \t\n \n", b"\n\n\nempty lines\n\n", "Ünïcode ✓\n".encode(), b"nul\0byte\n",
    b"a" * 19_000 + b"\n", b"x" * 79 + b"\n" + b"short\n" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:12]))
def test_clear_signed_text(store: Store, text: bytes) -> None:
    signed = store.sign(OpenPGPKey.clear_sign, text)
    assert signed.startswith(b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n")
    shown = assert_good(store.person, "--decrypt", data=signed, key=store.key)

    # What the format does not keep: how lines end, blanks there, and whether the last one does.
    def plain(found: bytes) -> list[bytes]:
        return [line.rstrip() for line in found.rstrip().split(b"\n")]

    assert plain(shown) == plain(text)


@pytest.mark.parametrize("length", [19_996, 100_000])
def test_a_line_that_gpg_would_cut_is_refused(store: Store, length: int) -> None:
    target = io.BytesIO()
    with pytest.raises(RequestRefused, match="a line of the text is too long"):
        store.opened.clear_sign(io.BytesIO(b"a" * length + b"\nb\n"), target)
    assert target.getvalue() == b""


def test_signed_messages(store: Store) -> None:
    message = store.sign(OpenPGPKey.message, DATA)
    assert assert_good(store.person, "--decrypt", data=message, key=store.key) == DATA


def test_signing_with_what_cannot_sign(store: Store) -> None:
    target = io.BytesIO()
    with pytest.raises(WrongPassphrase):
        openpgp_key(store.home, store.key, OTHER_PASSPHRASE).detach_sign(
            io.BytesIO(b"x"), target, armor=True
        )
    with pytest.raises(KeystoreError, match="the key is not in the key store"):
        openpgp_key(store.home, "0" * 40, PASSPHRASE).detach_sign(
            io.BytesIO(b"x"), target, armor=True
        )
    assert target.getvalue() == b""


def test_files_are_used_where_they_stand(store: Store, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"skipped\nline\nsigned\n")
    (tmp_path / "out").write_bytes(b"kept\n")
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("r+b") as target:
        source.readline()
        source.readline()
        target.seek(0, os.SEEK_END)
        target.write(b"also kept\n")
        store.opened.clear_sign(source, target)
        target.write(b"afterwards\n")
    found = (tmp_path / "out").read_bytes()
    assert found.startswith(b"kept\nalso kept\n-----BEGIN PGP SIGNED MESSAGE-----\n")
    assert found.endswith(b"-----END PGP SIGNATURE-----\nafterwards\n")
    assert assert_good(store.person, "--decrypt", data=found, key=store.key) == b"signed\n"


def test_a_failure_leaves_a_file_as_it_was(store: Store, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"kept")
    with (tmp_path / "out").open("ab") as target:
        with pytest.raises(RequestRefused):
            store.opened.clear_sign(io.BytesIO(b"a" * 99_999), target)
        with pytest.raises(RequestRefused):
            decrypt(store.for_decryption, io.BytesIO(b"x"), target)
        target.write(b" and more")
    assert (tmp_path / "out").read_bytes() == b"kept and more"


def test_descriptors_and_pipes(store: Store, tmp_path: Path) -> None:
    source, feed = os.pipe()
    drain, target = os.pipe()
    os.write(feed, b"piped")
    os.close(feed)
    with os.fdopen(source, "rb") as piped, os.fdopen(target, "wb") as output:
        store.opened.detach_sign(piped, output, armor=True)
    (tmp_path / "data.asc").write_bytes(os.read(drain, 10_000))
    os.close(drain)
    (tmp_path / "data").write_bytes(b"piped")
    assert_good(store.person, "--verify", tmp_path / "data.asc", tmp_path / "data", key=store.key)


# --- Checking what was signed ------------------------------------------------------------------


@pytest.mark.parametrize("how", [OpenPGPKey.clear_sign, OpenPGPKey.message, OpenPGPKey.detach_sign])
def test_a_signature_that_is_not_good_is_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch, how: Callable[..., None]
) -> None:
    """As a processor or a disk that fails may make it."""
    sign = AgentSigner.sign_digest

    def badly(signer: AgentSigner, digest: bytes, algorithm: HashAlgorithm) -> bytes:
        return sign(signer, bytes([digest[0] ^ 1]) + digest[1:], algorithm)

    monkeypatch.setattr(AgentSigner, "sign_digest", badly)
    target = io.BytesIO()
    with pytest.raises(KeystoreError, match="a signature that its public key does not take"):
        how(store.opened, io.BytesIO(DATA), target)
    assert target.getvalue() == b""


@pytest.mark.parametrize(
    ("manifest", "reference", "reason"),
    [
        (b"hello\n", "a.b/c:1", "this is no manifest of a container image: it is not JSON"),
        (b'{"schemaVersion": 2, "config": {}}', "a b", "'a b' cannot be the name of an image"),
        (b'{"schemaVersion": 2, "config": {}}', "", "'' cannot be the name of an image"),
    ],
)
def test_no_image_is_signed(store: Store, manifest: bytes, reference: str, reason: str) -> None:
    target = io.BytesIO()
    with pytest.raises(RequestRefused, match=reason):
        sign_manifest(store.opened, io.BytesIO(manifest), target, reference=reference, timestamp=1)
    assert target.getvalue() == b""


def test_no_commit_is_signed(store: Store, tmp_path: Path) -> None:
    for content in (b"", b"hello\n", bytes(200)):
        name = hashlib.sha256(content).hexdigest()
        (tmp_path / "commit").write_bytes(content)
        with (tmp_path / "commit").open("rb") as file:
            for source in (io.BytesIO(content), file):
                with pytest.raises(RequestRefused, match="this is no OSTree commit: it"):
                    sign_commit(store.opened, source, name)


def test_a_tag_without_a_line_end_is_not_signed(store: Store, tmp_path: Path) -> None:
    """git looks for the signature at the start of a line."""
    tag = b"object " + b"0" * 40 + b"\ntype commit\ntag v1\ntagger T <t@e> 1 +0000\n\nx"
    target = io.BytesIO()
    with pytest.raises(RequestRefused, match="does not end with a line end"):
        sign_tag(store.opened, io.BytesIO(tag), target)
    # git would verify it without that header, whatever was signed.
    other = tag.replace(b"\n\n", b"\ngpgsig -----BEGIN PGP SIGNATURE-----\n a\n\n") + b"\n"
    with pytest.raises(RequestRefused, match="the tag has a header gpgsig"):
        sign_tag(store.opened, io.BytesIO(other), target)
    sign_tag(store.opened, io.BytesIO(tag + b"\n"), target)
    (tmp_path / "tag").write_bytes(tag + b"\n")
    (tmp_path / "tag.asc").write_bytes(target.getvalue())
    assert_good(store.person, "--verify", tmp_path / "tag.asc", tmp_path / "tag", key=store.key)


def test_a_spooled_file_will_do(store: Store) -> None:
    with (
        tempfile.SpooledTemporaryFile(max_size=1000) as source,
        tempfile.SpooledTemporaryFile(max_size=1000) as target,
    ):
        source.write(b"text\n")
        source.seek(0)
        store.opened.clear_sign(source, target)
        target.seek(0)
        assert (
            assert_good(store.person, "--decrypt", data=target.read(), key=store.key) == b"text\n"
        )


def test_a_large_file_takes_little_memory(store: Store, tmp_path: Path) -> None:
    size = 120 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (tmp_path / "in").open("w+b") as source, (tmp_path / "out").open("w+b") as target:
        source.truncate(size)
        store.opened.detach_sign(source, target, armor=False)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10  # KiB
    assert_good(store.person, "--verify", tmp_path / "out", tmp_path / "in", key=store.key)


@pytest.mark.once("our own clock")
def test_an_agent_that_takes_too_long_is_given_up(store: Store) -> None:
    hurried = GnuPGHome(store.home.path, time_limit=0.0005)
    target = io.BytesIO()
    with pytest.raises(KeystoreError) as caught:
        # The clock may be looked at after the answer has come.
        for _ in range(20):
            openpgp_key(hurried, store.key, PASSPHRASE).detach_sign(io.BytesIO(b"x"), target)
    assert "signing-timeout" in str(caught.value)


# --- Decrypting --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [[], ["--armor"], ["--compress-algo", "none"], ["--compress-algo", "bzip2"],
     ["--throw-keyids"], ["--cipher-algo", "AES128"], ["--textmode"]],
    ids=" ".join,
)  # fmt: skip
def test_messages_to_the_key(store: Store, options: list[str]) -> None:
    for data in (b"", b"clear\n", b"clear text\n" * 50_000):
        clear = store.decrypt(store.encrypt(data, *options))
        assert clear.replace(b"\r\n", b"\n") == data


def test_a_message_to_several_keys(store: Store) -> None:
    friend = store.person.make_key("friend")
    message = store.encrypt(b"clear", "--recipient", friend)
    assert store.decrypt(message) == b"clear"
    assert store.person.gpg("--decrypt", data=message) == b"clear"


@pytest.mark.parametrize("options", [[], ["--armor"]], ids=["binary", "armoured"])
def test_a_message_to_a_key_and_a_passphrase(store: Store, options: list[str]) -> None:
    message = store.person.gpg(
        *("--encrypt", "--recipient", store.key, "--symmetric", *options),
        data=b"clear",
        passphrase="other",
    )
    assert store.decrypt(message) == b"clear"


@pytest.mark.parametrize("armored", [False, True], ids=["binary", "armoured"])
def test_a_passphrase_that_opens_to_another_session_key(store: Store, armored: bool) -> None:
    """As one in 85 such messages does by chance: gpg looks for no other key then."""
    other = store.person.gpg(
        *("--encrypt", "--recipient", store.key, "--symmetric"),
        data=b"other",
        passphrase=PASSPHRASE.reveal().decode(),
    )
    (confusing,) = (
        encode_packet(PacketType.SESSION_KEY, body)
        for kind, body in packets(other)
        if kind == PacketType.SESSION_KEY
    )
    message = confusing + store.encrypt(b"clear")
    if armored:
        text = store.person.gpg("--enarmor", data=message)
        message = text.replace(b"PGP ARMORED FILE", b"PGP MESSAGE")
    assert store.decrypt(message) == b"clear"
    broken = bytearray(confusing + store.encrypt(b"clear"))
    broken[-5] ^= 1
    with pytest.raises(RequestRefused, match="Decryption failed"):
        store.decrypt(bytes(broken))


def test_a_message_signed_by_somebody_unknown(store: Store) -> None:
    signer = store.person.make_key("signer")
    assert store.decrypt(store.encrypt(b"clear", "--sign", "--local-user", signer)) == b"clear"


def packet_end(message: bytes, start: int) -> int:
    """Where the packet at `start` ends; only the lengths that gpg writes for small packets."""
    if not message[start] & 0x40:
        octets = 1 << (message[start] & 3)
        size = int.from_bytes(message[start + 1 : start + 1 + octets], "big")
        return start + 1 + octets + size
    first = message[start + 1]
    if first < 192:
        return start + 2 + first
    return start + 3 + (first - 192 << 8) + message[start + 2] + 192


def without_integrity_protection(store: Store) -> bytes:
    """A message as programs of old wrote them: a packet of tag 9, with nothing to prove it.

    It is made with the session key of a proper message, whose session key packet it keeps.
    """
    message = store.encrypt(b"clear", "--cipher-algo", "AES256")
    with memory_file(message) as stdin:
        shown = store.home.run(
            ["--show-session-key", "--decrypt"], passphrase=PASSPHRASE, stdin=stdin
        )
    (line,) = shown.status.of("SESSION_KEY")
    cipher, _, key = line.arguments[0].partition(":")
    assert cipher == "9"

    def encrypt(iv: bytes, clear: bytes) -> bytes:
        return aes_cfb(bytes.fromhex(key), iv).encryptor().update(clear)

    start = os.urandom(16)
    sealed = encrypt(bytes(16), start + start[-2:])
    # The cipher's feedback starts anew behind the first 18 bytes, unlike in other packets.
    sealed += encrypt(sealed[2:18], b"\xcb\x0bb\0\0\0\0\0clear")
    unprotected = message[: packet_end(message, 0)] + bytes([0xC9, len(sealed)]) + sealed
    with memory_file(unprotected) as stdin:
        forced = store.home.run(
            ["--ignore-mdc-error", "--decrypt"], passphrase=PASSPHRASE, stdin=stdin
        )
    assert forced.output == b"clear"
    return unprotected


def damaged(message: bytes, position: int) -> bytes:
    """`message` with one bit changed."""
    changed = bytearray(message)
    changed[position] ^= 1
    return bytes(changed)


def undecryptable(store: Store) -> dict[str, bytes]:
    person, good = store.person, store.encrypt(b"secret text\n" * 20, "--compress-algo", "none")
    session = packet_end(good, 0)
    stranger = person.make_key("stranger")
    signed = person.gpg("--sign", "--local-user", stranger, data=b"clear")
    literal = b"\xcb\x0bb\0\0\0\0\0clear"
    return {
        "for another key here": store.encrypt(b"secret", to=store.other),
        "for another key here, unnamed": store.encrypt(b"x", "--throw-keyids", to=store.other),
        "for an unknown key": person.gpg("-e", "-r", stranger, data=b"secret"),
        "for an unknown key, unnamed": person.gpg("-e", "-R", stranger, data=b"secret"),
        "symmetric": person.gpg("-c", data=b"secret", passphrase="another"),
        "symmetric with the key's passphrase": person.gpg(
            "-c", data=b"secret", passphrase=PASSPHRASE.reveal().decode()
        ),
        "nothing": b"",
        "no OpenPGP": b"what?\n",
        "binary": bytes(range(256)) * 4,
        "broken armour": b"-----BEGIN PGP MESSAGE-----\n\nAAAA\n-----END PGP MESSAGE-----\n",
        "a literal packet": literal,
        "signed only": signed,
        "clear-signed": person.gpg("--clear-sign", "--local-user", stranger, data=b"clear\n"),
        "a public key": store.home.public(store.key),
        "session key only": good[:session],
        "without its session key": good[session:],
        "cut in the middle": good[: (session + len(good)) // 2],
        "cut at the end": good[:-1],
        "without the MDC": good[:-22],
        "two messages": good + good,
        "something before": literal + good,
        "something behind": good + literal,
        "damaged session key": damaged(good, 20),
        "damaged recipient": damaged(good, 4),
        "damaged at the start": damaged(good, session + 8),
        "damaged inside": damaged(good, -100),
        "damaged MDC": damaged(good, -1),
        "without integrity protection": without_integrity_protection(store),
    }


def test_whatever_cannot_be_decrypted_gives_the_same_answer(store: Store, tmp_path: Path) -> None:
    answers = {}
    for name, message in undecryptable(store).items():
        with (tmp_path / "out").open("w+b") as target:
            answer: tuple[object, ...] = ("decrypted",)
            try:
                decrypt(store.for_decryption, io.BytesIO(message), target, refusal_seconds=0)
            except RequestRefused as error:
                answer = (error.status, error.message)
            answers[name] = (*answer, target.read())
    assert answers == dict.fromkeys(answers, (Status.DECRYPT_FAILED, None, b""))


def test_whatever_cannot_be_decrypted_takes_the_same_time(store: Store) -> None:
    """Medians of a few rounds, so that what else the machine does has little part in them."""
    clear = os.urandom(1 << 20)
    good = store.encrypt(clear, "--compress-algo", "none")
    messages = {
        "for another key here": store.encrypt(clear, to=store.other),
        "for an unknown key": store.person.gpg(
            "-e", "-r", store.person.make_key("nobody"), data=clear
        ),
        "damaged at the end": damaged(good, -1),
        "damaged session key": damaged(good, 20),
    }
    taken: dict[str, list[float]] = {name: [] for name in messages}
    for _ in range(5):
        for name, message in messages.items():
            began = time.monotonic()
            with pytest.raises(RequestRefused):
                decrypt(store.for_decryption, io.BytesIO(message), io.BytesIO())
            taken[name].append(time.monotonic() - began)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    # Unpadded, the first two take half the time of the others.
    assert max(medians.values()) - min(medians.values()) < REFUSAL_SECONDS / 10, medians
    assert min(medians.values()) >= REFUSAL_SECONDS


def test_no_clear_text_is_released_before_all_of_it_is_proven(store: Store, tmp_path: Path) -> None:
    message = store.encrypt(os.urandom(5 << 20), "--compress-algo", "none")
    broken = damaged(message, -40)
    with (tmp_path / "out").open("w+b") as target:
        target.write(b"before")
        with pytest.raises(RequestRefused):
            decrypt(store.for_decryption, io.BytesIO(broken), target)
        target.seek(0)
        assert target.read() == b"before"
    with pytest.raises(RequestRefused):
        store.decrypt(broken)


def test_the_size_of_clear_text_is_limited(store: Store) -> None:
    bomb = store.encrypt(bytes(20 << 20), "--compress-algo", "zlib")
    assert len(bomb) < 1 << 20
    with pytest.raises(RequestRefused) as raised:
        store.decrypt(bomb, max_output=1 << 20)
    assert raised.value.status == Status.DECRYPT_FAILED
    assert len(store.decrypt(bomb)) == 20 << 20


def test_a_wrong_passphrase_is_no_fault_of_the_message(store: Store) -> None:
    message, target = store.encrypt(b"secret"), io.BytesIO()
    with pytest.raises(WrongPassphrase):
        decrypt(DecryptionKey(store.home, store.key, OTHER_PASSPHRASE), io.BytesIO(message), target)
    with pytest.raises(KeystoreError):
        decrypt(DecryptionKey(store.home, "0" * 40, PASSPHRASE), io.BytesIO(message), target)
    assert target.getvalue() == b""


def test_an_agent_that_remembers_passphrases_opens_no_other_key(tmp_path: Path) -> None:
    path = tmp_path / "gnupg"
    path.mkdir(mode=0o700)
    (path / "gpg-agent.conf").write_text("default-cache-ttl 600\n")
    with gnupg_home(path) as home, outside_home(tmp_path / "person") as person:
        store = Store(home, person)
        person.gpg("--import", data=home.public(store.other))
        message = store.encrypt(b"secret", to=store.other)
        target = io.BytesIO()
        decrypt(DecryptionKey(home, store.other, OTHER_PASSPHRASE), io.BytesIO(message), target)
        assert target.getvalue() == b"secret"
        # The agent has the other key's passphrase now: gpg by itself could use it.
        with memory_file(message) as stdin:
            assert home.run(["--decrypt"], stdin=stdin).output == b"secret"
        with pytest.raises(RequestRefused) as raised:
            store.decrypt(message)
        assert raised.value.status == Status.DECRYPT_FAILED


def test_options_of_the_site_do_not_undo_integrity_protection(store: Store) -> None:
    (store.home.path / "gpg.conf").write_text("ignore-mdc-error\n")
    try:
        with pytest.raises(RequestRefused):
            store.decrypt(without_integrity_protection(store))
    finally:
        (store.home.path / "gpg.conf").unlink()


# --- An existing site --------------------------------------------------------------------------


def test_the_key_of_an_existing_site_signs_and_decrypts(tmp_path: Path) -> None:
    passphrase = legacy_passphrase()
    with legacy_home(tmp_path / "gnupg") as home, outside_home(tmp_path / "person") as person:
        person.gpg("--import", data=home.public(LEGACY_KEY))
        signed, clear = io.BytesIO(), io.BytesIO()
        openpgp_key(home, LEGACY_KEY, passphrase).clear_sign(io.BytesIO(b"text\n"), signed)
        assert_good(person, "--decrypt", data=signed.getvalue(), key=LEGACY_KEY)
        message = person.gpg("--encrypt", "--recipient", LEGACY_KEY, data=b"secret")
        decrypt(DecryptionKey(home, LEGACY_KEY, passphrase), io.BytesIO(message), clear)
        assert clear.getvalue() == b"secret"
