"""Files that are imported as OpenPGP keys and are odd: each is taken, or refused by its name.

What each GnuPG says of them differs, and is of no help to most people.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from sigul_stack.errors import RequestRefused, Status
from sigul_stack.formats.key_remarks import moment, remarks_for_rpm, remarks_on_state
from sigul_stack.formats.openpgp_keys import packets, read_keys
from sigul_stack.formats.openpgp_packets import PacketType, encode_packet
from sigul_stack.keystore.gnupg import GnuPGHome
from sigul_stack.secret import Secret
from sigul_stack.signing.rpm import ExpectedPackage, RPMSigner

from .gnupg_support import Outside, gnupg_home, openpgp_key, outside_home
from .rpm_support import Rpm, build, run

PASSPHRASE = Secret("pw")
TWO_DAYS = 2 * 24 * 3600

#: Secret keys of versions 5 and 6, made up; nothing of today's distributions reads them.
OTHER_VERSIONS = {
    5: "xf8AAACKBWsLy0gWAAAAPwMrZXEByMCdUDJHgrZgzV8RMbqnJCcYwJ0WE2UcpE5LAAAAAAAA",
    6: "xf8AAABLBmsLy0gbAAAAIJUg+LESmAjK7E1Myv7+yN69P/SSux9dBkJ0E9y4hT50AAAAAAAA",
}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[GnuPGHome]:
    """An empty home of a server."""
    with gnupg_home(tmp_path / "home") as home:
        yield home


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """A person's own gpg."""
    with outside_home(tmp_path_factory.mktemp("person") / "home") as outside:
        yield outside


def made(
    person: Outside,
    name: str,
    algorithm: str = "ed25519",
    *more: str,
    usage: str = "sign",
    expires: str = "never",
) -> str:
    """The fingerprint of a new key of the person's, made with the options `more`."""
    person.gpg(*more, "--quick-gen-key", f"{name} <{name}@example.org>", algorithm, usage, expires)
    listed = person.gpg("--with-colons", "--list-keys", f"={name} <{name}@example.org>").decode()
    return listed.split("\nfpr:", 1)[1].split(":", 9)[8]


def at(seconds: float) -> str:
    """An option that has gpg believe that it is that time, in seconds since now."""
    return time.strftime("--faked-system-time=%Y%m%dT%H%M%S!", time.gmtime(time.time() + seconds))


def refusal(home: GnuPGHome, data: bytes) -> str:
    """Why `data` are not imported; nothing is left then."""
    with pytest.raises(RequestRefused) as caught:
        home.import_secret(data, Secret(""), PASSPHRASE)
    assert caught.value.status == Status.INVALID_IMPORT
    assert caught.value.message is not None
    assert home.list_keys() == []
    problem, _, cure = caught.value.message.partition("; ")
    assert problem and cure, caught.value.message
    return caught.value.message


def test_a_key_of_another_version_is_named(home: GnuPGHome) -> None:
    for version, packet in OTHER_VERSIONS.items():
        data = base64.b64decode(packet).ljust(150, b"\0")[: 6 + base64.b64decode(packet)[5]]
        data += b"\xcd\x17" + f"v{version} <v{version}@example.inval>".encode()
        armoured = (
            b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n"
            + base64.encodebytes(data)
            + b"-----END PGP PRIVATE KEY BLOCK-----\n"
        )
        for form in (data, armoured):
            said = refusal(home, form)
            assert said.startswith(f"it is an OpenPGP key of version {version}, which this server")
            assert "; make a key of version 4" in said


def test_a_key_of_the_future_is_not_valid_yet(home: GnuPGHome, person: Outside) -> None:
    """As a machine with a fast clock makes one."""
    fingerprint = made(person, "fast", "ed25519", at(TWO_DAYS))
    (key,) = read_keys(person.export_secret(fingerprint))
    said = refusal(home, person.export_secret(fingerprint))
    assert said.startswith(
        f"key {fingerprint[-16:]} was made on {moment(key.primary.created)}, and this server's"
        " clock says "
    )
    assert ": it is not valid yet; set the clock that is wrong" in said


def test_a_key_by_md5_is_named(home: GnuPGHome, person: Outside) -> None:
    more = ("--allow-weak-digest-algos", "--cert-digest-algo")
    fingerprint = made(person, "md5", "rsa2048", *more, "MD5")
    said = refusal(home, person.export_secret(fingerprint))
    assert "with MD5 alone" in said
    # The cure that it names is one.
    person.gpg(*more, "SHA512", "--quick-set-expire", fingerprint, "0")
    data = person.export_secret(fingerprint)
    assert home.import_secret(data, Secret(""), PASSPHRASE) == fingerprint


def other_files(person: Outside) -> dict[str, bytes]:
    """Files that are no secret key for gnupg, by the words that name them."""
    fingerprint = made(person, "plain")
    secret, public = person.export_secret(fingerprint), person.gpg("--export", fingerprint)
    binary = person.export_secret(fingerprint, armor=False)
    other = ed25519.Ed25519PrivateKey.generate()
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    ssh = other.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    ssh_public = other.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    made_files = {
        "the file is empty": b"",
        "text in UTF-16": secret.decode().encode("utf-16"),
        "a byte order mark": b"\xef\xbb\xbf" + secret,
        "a public key only": public,
        "it holds no OpenPGP key; gpg --armor --export-secret-keys": b"some text\n",
        "damaged or incomplete": secret[: len(secret) // 2],
        "it is a private key in PEM; import it with --key-type": pem,
        "it is an OpenSSH private key; ssh-keygen -p -m PEM": ssh,
        "it is an SSH public key": ssh_public,
        "it is an X.509 certificate": b"-----BEGIN CERTIFICATE-----\nMIIB\n",
        "it is in DER": b"\x30\x82\x01\x22" + bytes(300),
        "it is a message encrypted with a passphrase": person.gpg(
            "--symmetric", data=secret, passphrase="x"
        ),
        "it is an OpenPGP message": person.gpg(
            "--symmetric", "--armor", data=secret, passphrase="x"
        ),
        "it is a signature": person.gpg("--detach-sign", "-u", fingerprint, data=b"x"),
        "it is a clear-signed text": person.gpg("--clear-sign", "-u", fingerprint, data=b"x"),
        "from private-keys-v1.d": b"Created: 20260101T000000\nKey: (private-key (ecc",
        "it is a keybox": b"\0\0\0 \1\1\0\2KBXf" + bytes(20),
        "it is an HTML page": b"<!DOCTYPE html><html>",
        "the key has no user ID": binary[: binary.index(b"plain <") - 2],
        "damaged or incomplete; export": binary[:60],
    }
    revocation = person.path / "openpgp-revocs.d" / f"{fingerprint}.rev"
    made_files["a signature or a revocation certificate"] = revocation.read_bytes().replace(
        b":-----BEGIN", b"-----BEGIN"
    )
    return made_files


def test_other_files_are_named(home: GnuPGHome, person: Outside) -> None:
    """Takes seconds: each of twenty files goes through gpg in a home of its own."""
    for words, data in other_files(person).items():
        said = refusal(home, data)
        assert words in said, (words, said)


def without_secrets(person: Outside, mode: int) -> bytes:
    """A key of Ed25519 with GnuPG's stub in the place of its secret: 1 nothing, 2 a card's."""
    fingerprint = made(person, f"stub {mode}")
    ((kind, body), *others) = packets(person.export_secret(fingerprint, armor=False))
    assert kind == PacketType.SECRET_KEY
    public = body[: 6 + 1 + body[6] + 2 + 33]  # up to the curve's OID and its point
    stub = b"\xff\x00\x65\x00GNU" + bytes([mode]) + (b"\x10" + bytes(16) if mode == 2 else b"")
    return b"".join(
        encode_packet(PacketType(kind), body) for kind, body in ((kind, public + stub), *others)
    )


def test_a_key_without_its_secret_is_told_from_a_public_one(
    home: GnuPGHome, person: Outside
) -> None:
    for mode, words in (
        (1, "the file has the key's form without its secret; export it with gpg"),
        (2, "the key's secret is on a smartcard or token, and the file only says on which; import"),
    ):
        assert words in refusal(home, without_secrets(person, mode))


def test_a_key_of_another_algorithm_is_named(home: GnuPGHome, person: Outside) -> None:
    """As RFC 9580 has Ed25519, in keys of version 4 too."""
    binary = person.export_secret(made(person, "algorithm"), armor=False)
    ((kind, body), *others) = packets(binary)
    point = body[6 + 1 + body[6] + 3 :][:32]
    key = body[:5] + bytes([27]) + point + b"\0" + bytes(32)
    data = b"".join(encode_packet(PacketType(k), b) for k, b in ((kind, key), *others))
    assert "an OpenPGP key of algorithm 27 (ed25519), which this server's" in refusal(home, data)


def signs(home: GnuPGHome, fingerprint: str) -> bool:
    """Whether a key signs."""
    key = openpgp_key(home, fingerprint, PASSPHRASE)
    try:
        return bool(key.detached_signature(io.BytesIO(b"x")))
    except Exception:
        return False


def test_what_a_key_cannot_do_is_remarked(home: GnuPGHome, person: Outside) -> None:
    """Taken, because it may be for decrypting or can be mended; and a person is told in time."""
    yesterday = time.strftime("%Y-%m-%d", time.gmtime(time.time() - TWO_DAYS / 2))
    expired = made(person, "old", "ed25519", at(-2 * TWO_DAYS), expires=yesterday)
    revoked = made(person, "gone")
    certificate = (person.path / "openpgp-revocs.d" / f"{revoked}.rev").read_bytes()
    person.gpg("--import", data=certificate.replace(b":-----BEGIN", b"-----BEGIN"))
    certifying = made(person, "cert", usage="cert")
    later = made(person, "later", usage="cert")
    person.gpg(at(TWO_DAYS), "--quick-add-key", later, "ed25519", "sign")
    plain = made(person, "fine")
    offline = made(person, "offline", usage="cert")
    person.gpg("--quick-add-key", offline, "ed25519", "sign")
    for fingerprint, words in {
        expired: "has expired on ",
        revoked: "the key is revoked",
        certifying: "nothing in the key may sign",
        later: "which is in the future: it signs nothing until then",
        plain: None,
        offline: None,
    }.items():
        option = "--export-secret-subkeys" if fingerprint == offline else "--export-secret-keys"
        data = person.gpg("--armor", option, fingerprint)
        (key,) = read_keys(data)
        told = [str(remark) for remark in remarks_on_state(key, time.time())]
        assert [words in text for text in told] == [True] if words else told == [], (words, told)
        assert home.import_secret(data, Secret(""), PASSPHRASE) == fingerprint
        assert signs(home, fingerprint) is (words is None), fingerprint


# ----------------------------------------------------------------------------- keys and rpm


@dataclass(frozen=True)
class Kind:
    """A kind of key: gpg's algorithm, further options, and what the two kinds of rpm take."""

    algorithm: str
    plain: bool
    sequoia: bool
    words: str = ""
    more: tuple[str, ...] = ()


KINDS = {
    "rsa2048": Kind("rsa2048", True, True),
    "ed25519": Kind("ed25519", True, True),
    "dsa2048": Kind("dsa2048", True, True),
    "nistp256": Kind("nistp256", False, True, "Header DSA signature: BAD"),
    "nistp521": Kind("nistp521", False, True, "Header DSA signature: BAD"),
    "rsa1024": Kind("rsa1024", True, False, "takes no RSA key of 1024 bits"),
    "dsa1024": Kind("dsa1024", True, False, "takes no DSA key of 1024 bits"),
    "sha1": Kind("rsa2048", True, False, "made with SHA-1", ("--cert-digest-algo", "SHA1")),
    "brainpoolP256r1": Kind("brainpoolP256r1", False, False, "no rpm verifies"),
    "secp256k1": Kind("secp256k1", False, False, "no rpm verifies"),
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A binary package."""
    return build(tmp_path_factory.mktemp("package")).read_bytes()


def rpm_verifies(directory: Path, public: bytes, package: bytes) -> bool:
    """Whether this machine's rpm imports a key, and finds a package's signature by it good."""
    rpm = Rpm(directory)
    (directory / "key.asc").write_bytes(public)
    (directory / "package.rpm").write_bytes(package)
    if rpm("rpmkeys", "--import", directory / "key.asc", code=None).returncode:
        return False
    lines = rpm("rpm", "-Kv", directory / "package.rpm", code=None).stdout.splitlines()
    return any(b"Signature" in line and line.endswith(b": OK") for line in lines)


def has_sequoia() -> bool:
    """Whether this machine's rpm leaves OpenPGP to Sequoia."""
    library = run("sh", "-c", "ldd $(command -v rpmkeys)").stdout
    return (
        b"sequoia" in library
        or b"sequoia"
        in run(
            "sh", "-c", "ldd $(ldd $(command -v rpmkeys) | awk '/librpmio/ { print $3 }')"
        ).stdout
    )


@pytest.mark.parametrize("name", KINDS)
def test_what_is_remarked_is_what_this_machines_rpm_does(
    home: GnuPGHome, person: Outside, package: bytes, tmp_path: Path, name: str
) -> None:
    kind = KINDS[name]
    fingerprint = made(person, f"for {name}", kind.algorithm, *kind.more)
    data = person.export_secret(fingerprint)
    (key,) = read_keys(data)
    remarks = list(remarks_for_rpm(key))
    assert any(kind.words in str(remark) for remark in remarks) if kind.words else not remarks
    home.import_secret(data, Secret(""), PASSPHRASE)
    output = io.BytesIO()
    signer = RPMSigner(openpgp_key(home, fingerprint, PASSPHRASE))
    if not kind.plain and not kind.sequoia:
        with pytest.raises(RequestRefused) as caught:
            signer.sign(io.BytesIO(package), ExpectedPackage(), output)
        assert caught.value.message is not None
        assert f"no rpm verifies signatures by {name}; sign RPMs with" in caught.value.message
        assert output.getvalue() == b""
        return
    signer.sign(io.BytesIO(package), ExpectedPackage(), output)
    takes = rpm_verifies(tmp_path / "rpm", home.public(fingerprint), output.getvalue())
    assert takes is (kind.sequoia if has_sequoia() else kind.plain)
    if name == "sha1":  # and the cure is one
        home.change_expiration(fingerprint, PASSPHRASE, None)
        (key,) = read_keys(home.public(fingerprint))
        assert not list(remarks_for_rpm(key))
        assert rpm_verifies(tmp_path / "after", home.public(fingerprint), output.getvalue())
