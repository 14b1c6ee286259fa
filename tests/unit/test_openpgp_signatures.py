"""OpenPGP signatures made in process, as gpg and Sequoia judge them, and as gpg makes them."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pysequoia
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sigul_stack.formats.openpgp_certificate import read_certificate
from sigul_stack.formats.openpgp_hashes import HASHES, NUMBERS
from sigul_stack.formats.openpgp_packets import PacketType, encode_packet, split_packet
from sigul_stack.formats.openpgp_public_keys import verify
from sigul_stack.formats.openpgp_signatures import (
    Notation,
    Remarks,
    SignatureKind,
    SignatureParameters,
    literal,
)
from sigul_stack.formats.openpgp_text import MAX_LINE, ClearText, LineTooLong, armored
from tests.openpgp_certificates import DAY, NOW, POSITIVE, GnuPGHome, Key, Plan, Private, Said, make
from tests.ready_keys import ready_key

KINDS: dict[str, Callable[[], Private]] = {
    "rsa2048": functools.partial(ready_key, 65537, 2048),
    "rsa3072": functools.partial(ready_key, 65537, 3072),
    "dsa2048": functools.partial(dsa.generate_private_key, 2048),
    "secp256r1": lambda: ec.generate_private_key(ec.SECP256R1()),
    "secp384r1": lambda: ec.generate_private_key(ec.SECP384R1()),
    "secp521r1": lambda: ec.generate_private_key(ec.SECP521R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "brainpoolP256r1": lambda: ec.generate_private_key(ec.BrainpoolP256R1()),
    "brainpoolP384r1": lambda: ec.generate_private_key(ec.BrainpoolP384R1()),
    "brainpoolP512r1": lambda: ec.generate_private_key(ec.BrainpoolP512R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}
#: Curves that Sequoia, as pysequoia has it, does not compute with.
NOT_SEQUOIAS = frozenset({"secp256k1", "brainpoolP256r1", "brainpoolP384r1", "brainpoolP512r1"})
BINARY, TEXT = SignatureKind.BINARY, SignatureKind.TEXT
PLAN = Plan(30, ((Said(30, POSITIVE, flags=3),),))
NOTED = (Notation("a@example.org", "text"), Notation("b@example.org", "x" * 300))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GnuPGHome]:
    made = GnuPGHome(tmp_path_factory.mktemp("gpg") / "home")
    yield made
    made.close()


def parameters(
    key: Key, kind: SignatureKind = BINARY, name: str = "sha512", **more: Any
) -> SignatureParameters:
    return SignatureParameters(
        kind, key.algorithm, NUMBERS[name], NOW, key.fingerprint, Remarks(**more)
    )


def signed(key: Key, said: SignatureParameters, content: bytes) -> tuple[bytes, bytes]:
    """The digest of `content` and the key's signature of it."""
    algorithm = HASHES[said.hash]
    made = said.digest(hashlib.new(algorithm.name, content))
    return made, key.sign(made, algorithm)


def body(key: Key, said: SignatureParameters, content: bytes) -> bytes:
    return said.packet(*signed(key, said, content))


def inline_message(key: Key, said: SignatureParameters, content: bytes) -> bytes:
    return said.one_pass() + literal(content) + body(key, said, content)


def gpg_takes(home: GnuPGHome, *files: bytes) -> bool:
    names = []
    for number, content in enumerate(files):
        path = home.path / f"file{number}"
        path.write_bytes(content)
        names.append(str(path))
    outcome = home.run("--verify", *names)
    lines = outcome.stderr.decode(errors="replace").splitlines()
    good = [line for line in lines if line.startswith("[GNUPG:] GOODSIG ")]
    return outcome.returncode == 0 and len(good) == 1


def sequoia_takes(certificate: bytes, signature: bytes, data: bytes | None = None) -> bool:
    known = pysequoia.Cert.from_bytes(certificate)
    if data is None:
        return bool(pysequoia.verify(signature, lambda _ids: [known]).valid_sigs)
    given = pysequoia.Sig.from_bytes(signature)
    return bool(pysequoia.verify(data, lambda _ids: [known], signature=given).valid_sigs)


@pytest.mark.system
@pytest.mark.parametrize("kind", KINDS)
def test_every_packet_is_taken(home: GnuPGHome, kind: str) -> None:
    """Detached, in clear text and in a message; with all that a signature may say besides."""
    secret, key, _ = make(PLAN, KINDS[kind]())
    public = home.take(secret, [])
    assert public is not None
    content = b"- a line \r\nand another\n\n"
    more = {
        "notations": NOTED,
        "policy_url": "https://example.org/policy",
        "key_server": "hkps://keys.example.org",
        "expires": 3650 * DAY,
    }
    text = io.BytesIO()
    state = hashlib.sha512()
    writer = ClearText(text.write, state, "SHA512")
    writer.feed(content)
    writer.finish()
    of_text = parameters(key, TEXT)
    made = of_text.digest(state)
    text.write(armored("SIGNATURE", of_text.packet(made, key.sign(made, hashes.SHA512()))))
    message = inline_message(key, parameters(key), content)
    # gpg takes no digest that is shorter than the curve's order.
    other = "sha512" if kind in ("secp521r1", "brainpoolP512r1") else "sha384"
    for said in (parameters(key), parameters(key, **more), parameters(key, name=other)):
        made = body(key, said, content)
        assert gpg_takes(home, made, content)
        assert not gpg_takes(home, made, content + b"x")
        if kind not in NOT_SEQUOIAS:
            assert sequoia_takes(public, made, content)
    assert gpg_takes(home, text.getvalue())
    assert gpg_takes(home, message)
    shown = home.run("--decrypt", given=message)
    assert shown.stdout == content
    if kind not in NOT_SEQUOIAS:
        assert sequoia_takes(public, text.getvalue())
        assert sequoia_takes(public, message)


@pytest.mark.system
def test_packets_are_those_of_gpg(home: GnuPGHome) -> None:
    """Of an Ed25519 key, whose signatures are no different from time to time: to the last byte."""
    secret, key, _ = make(PLAN)
    home.take(secret, [])
    data = b"content"
    options = [
        *("--digest-algo", "SHA512", "--set-notation", "b@example.org=text"),
        *("--set-notation", "!a@example.org=other", "--sig-policy-url", "!https://example.org/p"),
        *("--sig-keyserver-url", "hkps://k.example.org", "--default-sig-expire", "10d"),
    ]
    more = {
        "notations": (
            Notation("a@example.org", "other", critical=True),
            Notation("b@example.org", "text"),
        ),
        "policy_url": "https://example.org/p",
        "policy_critical": True,
        "key_server": "hkps://k.example.org",
        "expires": 10 * DAY,
    }
    plain = home.run("--digest-algo", "SHA512", "--detach-sign", given=data).stdout
    assert body(key, parameters(key), data) == plain
    # gpg's own subpackets beside these differ from release to release: none should.
    rich = home.run(*options, "--detach-sign", given=data).stdout
    assert body(key, parameters(key, **more), data) == rich
    armor = home.run(
        *("--digest-algo", "SHA512", "--comment", "a", "--comment", "b", "--armor"),
        "--detach-sign",
        given=data,
    )
    ours = armored("SIGNATURE", plain, [("Comment", "a"), ("Comment", "b")])
    assert ours == armor.stdout


def clear_text(content: bytes, cuts: list[int], *, escape_from: bool = True) -> tuple[bytes, bytes]:
    """The clear text before the signature, and what was digested."""
    text = io.BytesIO()
    seen = Seen()
    writer = ClearText(text.write, seen, "SHA512", escape_from=escape_from)  # type: ignore[arg-type]
    at = 0
    for cut in (*sorted(cuts), len(content)):
        writer.feed(content[at:cut])
        at = max(at, cut)
    writer.finish()
    return text.getvalue(), seen.data


class Seen:
    """A state of no digest, which keeps what it was given."""

    name = "sha512"

    def __init__(self) -> None:
        self.data = b""

    def copy(self) -> Seen:
        return self

    def update(self, data: bytes, /) -> None:
        self.data += data

    def digest(self) -> bytes:
        return b""


#: Texts of what matters to the format, more often than not.
TEXTS = st.lists(
    st.sampled_from(
        [b"\n", b"\r\n", b"\r", b" ", b"\t", b"-", b"- ", b"From ", b"a", b"\0", b"\xff", b"\x0b"]
    ),
    max_size=24,
).map(b"".join)
GPGS = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def signing_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GnuPGHome, Key]]:
    """A home with one key, of Ed25519: its signature tells what was digested."""
    made = GnuPGHome(tmp_path_factory.mktemp("gpg") / "home")
    secret, key, _ = make(PLAN)
    made.take(secret, [])
    yield made, key
    made.close()


def as_gpg(signing_home: tuple[GnuPGHome, Key], content: bytes, *options: str) -> None:
    home, key = signing_home
    outcome = home.run("--digest-algo", "SHA512", *options, "--clear-sign", given=content)
    text, digested = clear_text(content, [], escape_from="--no-escape-from-lines" not in options)
    said = parameters(key, TEXT)
    assert text + armored("SIGNATURE", body(key, said, digested)) == outcome.stdout


@pytest.mark.system
@GPGS
@given(content=TEXTS)
def test_clear_text_is_that_of_gpg(signing_home: tuple[GnuPGHome, Key], content: bytes) -> None:
    as_gpg(signing_home, content)


@pytest.mark.system
@pytest.mark.long("sigul_stack/formats", "tests/openpgp_certificates.py")
@settings(GPGS, max_examples=2_000)
@given(content=st.one_of(TEXTS, st.binary(max_size=300)), escape_from=st.booleans())
def test_much_clear_text_is_that_of_gpg(
    signing_home: tuple[GnuPGHome, Key], content: bytes, escape_from: bool
) -> None:
    as_gpg(signing_home, content, *([] if escape_from else ["--no-escape-from-lines"]))


@pytest.mark.system
@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"\n\n", b"a", b"a\n", b" ", b"\t\n", b"-", b"--\n-",
        b"-----BEGIN PGP X-----\n",
        b"a \r", b"a\r\n", b"a\r\r\n", b"a \t \r\n\r\n",
        b"From a\n>From b\nFrom\n", b"\0\n\xff\xfe",
        b"a\x0b\x0c \n", b"- - a\n", b"x" * MAX_LINE + b"\n", b"x" * MAX_LINE,
        b"\n" + b" " * MAX_LINE + b"\n",
        "Gr\u00fc\u00dfe\u2028\u0085\n".encode(),
    ],
    ids=lambda content: repr(content[:12]),
)  # fmt: skip
def test_corners_of_clear_text(signing_home: tuple[GnuPGHome, Key], content: bytes) -> None:
    as_gpg(signing_home, content)
    as_gpg(signing_home, content, "--no-escape-from-lines")


@pytest.mark.system
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\nmore\n"])
@pytest.mark.parametrize("before", [b"", b"some\n"])
def test_lines_are_too_long_where_gpg_cuts_them(
    signing_home: tuple[GnuPGHome, Key], before: bytes, end: bytes
) -> None:
    for size in (MAX_LINE - 1, MAX_LINE, MAX_LINE + 1):
        content = before + b"x" * size + end
        home, _ = signing_home
        outcome = home.run("--clear-sign", given=content)
        cut = b"input line longer than" in outcome.stderr
        for cuts in ([], [5], list(range(0, len(content), 1000))):
            if cut:
                with pytest.raises(LineTooLong):
                    clear_text(content, cuts)
            else:
                clear_text(content, cuts)


@given(content=TEXTS, cuts=st.lists(st.integers(0, 60), max_size=6))
def test_clear_text_is_the_same_however_it_is_cut(content: bytes, cuts: list[int]) -> None:
    assert clear_text(content, cuts) == clear_text(content, [])


@given(content=TEXTS)
def test_what_is_digested_can_be_read_out_of_the_text(content: bytes) -> None:
    """As a reader has it to do (RFC 9580, 7): no line can stand for another, or for the armour."""
    text, digested = clear_text(content, [])
    head, _, lines = text.partition(b"\n\n")
    assert head == b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512"
    assert lines.endswith(b"\n")
    read = []
    for line in lines[:-1].split(b"\n"):
        assert not re.match(rb"-(?! )", line)
        read.append(line.removeprefix(b"- ").rstrip(b" \t\r\0"))
    # A text's last line end belongs to the signature's armour, and so do those of one empty line.
    assert b"\r\n".join(read) == digested or (digested == b"" and read == [b""])


def test_long_runs_of_blanks_cost_no_more_than_letters() -> None:
    """Lines of blanks that end in a letter, which a search backwards would go through each time."""
    content = (b" " * (MAX_LINE - 1) + b"x\n") * 500
    text, digested = clear_text(content, [])
    assert len(text) == len(content) + len(clear_text(b"", [])[0]) - 1
    assert len(digested) == len(content) + 500 - 2


@given(
    content=st.binary(max_size=100),
    created=st.integers(0, 2**32 - 1),
    notes=st.lists(st.tuples(st.text(max_size=300), st.text(max_size=2000)), max_size=3),
    url=st.text(max_size=300),
    expires=st.none() | st.integers(1, 2**32 - 1),
)
def test_a_packet_holds_what_it_was_given(
    content: bytes, created: int, notes: list[tuple[str, str]], url: str, expires: int | None
) -> None:
    key = ONE_KEY
    remarks = Remarks(tuple(Notation(*note) for note in notes), url, expires=expires)
    said = SignatureParameters(BINARY, 22, NUMBERS["sha512"], created, key.fingerprint, remarks)
    made, numbers = signed(key, said, content)
    kind, inside, rest = split_packet(said.packet(made, numbers))
    assert (kind, rest) == (PacketType.SIGNATURE, b"")
    assert inside.startswith(said.hashed)
    unhashed = len(said.hashed)
    assert inside[unhashed : unhashed + 12] == b"\0\x0a\x09\x10" + key.fingerprint[-8:]
    assert inside[unhashed + 12 : unhashed + 14] == made[:2]
    check(key, inside[unhashed + 14 :], made)


def check(key: Key, numbers: bytes, made: bytes) -> None:
    """Verify the two MPIs of a signature of Ed25519."""
    first = 2 + (int.from_bytes(numbers[:2], "big") + 7) // 8
    halves = (numbers[2:first], numbers[first + 2 :])
    signature = b"".join(half.rjust(32, b"\0") for half in halves)
    verify(key.private.public_key(), "sha512", made, signature)


ONE_KEY = Key(NOW)


def test_zeros_in_front_of_numbers_are_no_part_of_them() -> None:
    """An MPI begins with its highest bit; what checks gets all bytes back."""
    said = parameters(ONE_KEY)
    short = 0
    for number in range(2_000):
        made, numbers = signed(ONE_KEY, said, b"%d" % number)
        if 0 in (numbers[0], numbers[32]):
            short += 1
            inside = split_packet(said.packet(made, numbers))[1][len(said.hashed) + 14 :]
            assert len(inside) < 68
            check(ONE_KEY, inside, made)
    assert short


def test_native_signatures_are_as_they_are() -> None:
    """Of algorithm 27, which a key of version 4 may have (RFC 9580, 5.2.3.1)."""
    said = SignatureParameters(BINARY, 27, NUMBERS["sha512"], NOW, ONE_KEY.fingerprint)
    made = said.packet(bytes(64), bytes(range(64)))
    assert made.endswith(bytes(range(64)))
    public = ONE_KEY.private.public_key().public_bytes_raw()  # type: ignore[union-attr]
    packet_body = b"\4" + NOW.to_bytes(4, "big") + b"\x1b" + public
    part = read_certificate(encode_packet(PacketType.PUBLIC_KEY, packet_body)).parts()[0]
    assert (part.algorithm, part.public_key) == (27, ONE_KEY.private.public_key())


def test_states_of_other_digests_are_refused() -> None:
    with pytest.raises(ValueError, match="sha256"):
        parameters(ONE_KEY).digest(hashlib.sha256())
    with pytest.raises(ValueError, match="algorithm 99"):
        replace(parameters(ONE_KEY), algorithm=99).packet(bytes(64), bytes(64))


@given(data=st.binary(max_size=200))
def test_armour_gives_back_what_is_in_it(data: bytes) -> None:
    lines = armored("SIGNATURE", data).decode().splitlines()
    assert base64.b64decode("".join(lines[2:-2])) == data
    assert all(len(line) <= 64 for line in lines[2:-1])
