"""`sign-pe`: images for x86-64 and AArch64, verified by sbverify and pesigcheck."""

from __future__ import annotations

import datetime
import io
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.errors import RequestRefused, Status
from sigul_stack.keystore.pem import PrivateKey
from sigul_stack.signing import pe
from sigul_stack.signing.signers.pem import PemSigner
from tests.pe_images import Machine, make_image, make_layout
from tests.site import Site
from tests.unit.test_pe_images import FOLLOWING, OTHERWISE

from .commands_support import done, failure, leftovers, openssl, refused
from .signing_support import program, site_with_keys

KEYS = {"rsa": "RSA", "ecc": "ECC"}
NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site whose keys `rsa` and `ecc` have certificates `sb`, and gnupg key `pgp`."""
    directory = tmp_path_factory.mktemp("pe")
    with site_with_keys(template, directory, **KEYS, ca="RSA", pgp="gnupg") as site:
        root = done(
            site, "sign-certificate", "ca", "ca", "--subject-certificate-name", "root",
            "--certificate-type", "ca", "--validity", "1y", "-s", "CN=Root", secrets=["ca-pw"],
        )  # fmt: skip
        site.path("root.pem").write_bytes(root)
        for key in KEYS:
            certificate = done(
                site, "sign-certificate", "ca", key, "--issuer-certificate-name", "root",
                "--subject-certificate-name", "sb", "--certificate-type", "codesigning",
                "--validity", "1y", "-s", f"CN={key}", secrets=["ca-pw"],
            )  # fmt: skip
            site.path(f"{key}.pem").write_bytes(certificate)
        yield site


def image(directory: Path, machine: Machine = Machine.X86_64, **further: bytes) -> Path:
    path = directory / "image.efi"
    path.write_bytes(make_image(machine, **further))
    return path


def sign(site: Site, key: str, source: Path, target: Path) -> None:
    output = done(site, "sign-pe", key, "sb", str(source), "-o", str(target), secrets=[f"{key}-pw"])
    assert output == b""


def sbverify(site: Site, signed: Path, certificate: str, *, code: int = 0) -> None:
    program("sbverify", "--cert", site.path(f"{certificate}.pem"), signed, code=code)
    if code == 0:
        length_and_checksum_are_right(signed)


def length_and_checksum_are_right(signed: Path) -> None:
    """The signature's length leaves its padding out, and the checksum is of what is there."""
    image = signed.read_bytes()
    place, size = struct.unpack_from("<II", image, 0x80 + 24 + 112 + 4 * 8)
    (length,) = struct.unpack_from("<I", image, place)
    assert image[place + 8 : place + 10] == b"\x30\x82"  # a SEQUENCE, its length in two bytes
    assert length == 8 + 4 + int.from_bytes(image[place + 10 : place + 12], "big")
    assert size == len(image) - place == length + -length % 8
    at = 0x80 + 24 + 64
    words = struct.iter_unpack("<H", image[:at] + bytes(4) + image[at + 4 :])
    total = 0
    for (word,) in words:
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    assert struct.unpack_from("<I", image, at) == (total + len(image),)


def pesigcheck(signed: Path, *, code: int = 0) -> None:
    """Have pesigcheck compare the signature's digest with the image's.

    It is shown a database that allows the image's own digest, as pesign computes it: what decides
    is then the digest in the signature. `pesigcheck_certificate` has it look at certificates.
    """
    digest = program("pesign", "--hash", "--in", signed).stdout.decode().split()
    (text,) = (word for word in digest if len(word) == 64)
    # An EFI_SIGNATURE_LIST of one SHA-256 digest (UEFI Specification, 32.4.1).
    sha256 = bytes.fromhex("2616c4c14c509240aca941f936934328")
    database = signed.with_suffix(".db")
    database.write_bytes(
        sha256 + struct.pack("<III", 28 + 48, 0, 48) + bytes(16) + bytes.fromhex(text)
    )
    found = program("pesigcheck", "-n", "0", "-D", database, "-i", signed, code=code)
    assert (b"is valid" in found.stdout) == (code == 0), found.stdout


def pesigcheck_certificate(site: Site, signed: Path, key: str) -> None:
    """Have pesigcheck allow a signer's certificate and no digest, and look at the signature.

    It wants the certificate of the signer itself, not the root, and an RSA key. That of Debian 12
    (pesign 0.112) wants a TLS server's certificate and looks at no database of NSS, so that it
    refuses whatever is signed with one for code. Both are held to that here, so that better ones
    are noticed.
    """
    der = openssl("x509", "-in", str(site.path(f"{key}.pem")), "-outform", "DER")
    allowed = signed.with_suffix(".der")
    allowed.write_bytes(der)
    reasons = []
    if b"--verbose" not in program("pesigcheck", "--help").stdout:
        reasons = [b"not approved for application", b"key usage inadequate"]
    elif KEYS[key] != "RSA":
        reasons = [b"does not match your certificate"]
    words = ("pesigcheck", "-n", "0", "-c", allowed, "-i", signed)
    found = program(*words, code=len(reasons))
    assert (b"is valid" in found.stdout) == (not reasons), found.stdout
    assert not reasons or any(reason in found.stderr for reason in reasons), found.stderr


@pytest.mark.parametrize("machine", Machine)
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "further",
    [{}, {"data": os.urandom(700_001)}, {"trailing": b"some bytes"}],
    ids=["small", "large", "trailing"],
)
def test_an_image_is_signed(
    running: Site, tmp_path: Path, key: str, machine: Machine, further: dict[str, bytes]
) -> None:
    source, signed = image(tmp_path, machine, **further), tmp_path / "signed.efi"
    sbverify(running, source, key, code=1)
    sign(running, key, source, signed)
    for certificate in (key, "root"):
        sbverify(running, signed, certificate)
    sbverify(running, signed, "ecc" if key == "rsa" else "rsa", code=1)
    pesigcheck(signed)
    pesigcheck_certificate(running, signed, key)
    # All but checksum and the place of the signatures is as it was.
    before, after = source.read_bytes(), signed.read_bytes()
    changed = [at for at in range(len(before)) if before[at] != after[at]]
    assert changed
    assert all(0x80 + 24 + 64 <= at < 0x80 + 24 + 112 + 5 * 8 for at in changed)
    # A changed image has no good signature.
    signed.write_bytes(after[:0x410] + b"\xff" + after[0x411:])
    sbverify(running, signed, key, code=1)
    pesigcheck(signed, code=1)


def test_a_signed_image_is_signed_anew(running: Site, tmp_path: Path) -> None:
    source, first, second = image(tmp_path), tmp_path / "first.efi", tmp_path / "second.efi"
    sign(running, "rsa", source, first)
    sign(running, "ecc", first, second)
    sbverify(running, second, "ecc")
    sbverify(running, second, "rsa", code=1)
    pesigcheck(second)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """An RSA key in a file, and its certificate."""
    return made_key(tmp_path_factory.mktemp("key") / "key", "rsa:2048")


def made_key(file: Path, *kind: str) -> tuple[Path, bytes]:
    """A key of that kind in a new file, and a certificate of it."""
    return file, openssl(
        "req", "-x509", "-newkey", *kind, "-nodes", "-keyout", str(file), "-subj", "/CN=T",
        "-days", "2",
    )  # fmt: skip


def sign_here(key: tuple[Path, bytes], image: bytes, signed: Path, further: bytes = b"") -> None:
    file, certificate = key
    private = load_pem_private_key(file.read_bytes(), None)
    assert isinstance(private, PrivateKey)
    with signed.open("w+b") as output:
        pe.sign_image(PemSigner(private), certificate + further, io.BytesIO(image), output, now=NOW)
        assert output.tell() == 0


@pytest.mark.parametrize("name", FOLLOWING)
def test_consumers_hash_what_was_signed(key: tuple[Path, bytes], tmp_path: Path, name: str) -> None:
    certificate, signed = tmp_path / "cert", tmp_path / "signed"
    certificate.write_bytes(key[1])
    for length in (0, 0xA03):
        sign_here(key, make_layout(FOLLOWING[name], length=length), signed)
        program("sbverify", "--cert", certificate, signed)
        pesigcheck(signed)
        length_and_checksum_are_right(signed)


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_is_refused_is_what_one_of_them_hashes_otherwise(tmp_path: Path, name: str) -> None:
    """osslsigncode signs these, and sbverify or pesign does not take the result."""
    image, signed = tmp_path / "image", tmp_path / "signed"
    image.write_bytes(make_layout(OTHERWISE[name], length=0xC00))
    key, certificate = tmp_path / "key", tmp_path / "cert"
    certificate.write_bytes(made_key(key, "ec", "-pkeyopt", "ec_paramgen_curve:P-256")[1])
    program(
        "osslsigncode", "sign", "-h", "sha256", "-certs", certificate, "-key", key,
        "-in", image, "-out", signed,
    )  # fmt: skip
    verified = subprocess.run(
        ["sbverify", "--cert", certificate, signed], capture_output=True, check=False, timeout=60
    )
    digest = program("pesign", "--hash", "--in", signed).stdout.split()
    hashed = [bytes.fromhex(word.decode()) for word in digest if len(word) == 64]
    assert verified.returncode or not any(one in signed.read_bytes() for one in hashed)
    # Nor would it leave the server, if it were made.
    with signed.open("r+b") as file, pytest.raises(RequestRefused, match="would not be accepted"):
        pe.check_signed(file, certificate.read_bytes())


#: Kinds of keys, as openssl makes them.
KINDS = {
    "RSA 2048": ("rsa:2048",),
    "RSA 3072": ("rsa:3072",),
    **{
        curve: ("ec", "-pkeyopt", f"ec_paramgen_curve:{curve}")
        for curve in ("P-256", "P-384", "P-521")
    },
}


def parsed(signed: bytes) -> list[str]:
    """What openssl says of the signature, without what two of the same do not share."""
    (place,) = struct.unpack_from("<I", signed, 0x80 + 24 + 112 + 4 * 8)
    size = 4 + int.from_bytes(signed[place + 10 : place + 12], "big")
    text = openssl("asn1parse", "-inform", "der", data=signed[place + 8 : place + 8 + size])
    # Depth, type and value; the last value is the signature itself.
    lines = re.findall(r"(?m)^ *\d+:d=(\d+) .*?(prim|cons): (.*)$", text.decode())
    return [" ".join(line).split("UTCTIME")[0] for line in lines[:-1]]


@pytest.mark.parametrize("kind", KINDS)
def test_osslsigncode_makes_the_same_and_verifies_it(tmp_path: Path, kind: str) -> None:
    """All but the moment and the signature, with a certificate more, in images of many forms."""
    key, other = made_key(tmp_path / "key", *KINDS[kind]), made_key(tmp_path / "other", "rsa:2048")
    chain, unsigned, theirs, ours = (tmp_path / name for name in ("chain", "image", "theirs", "us"))
    chain.write_bytes(key[1] + other[1])
    for content in (
        make_image(Machine.X86_64),
        make_image(Machine.AARCH64, os.urandom(70_001), trailing=b"12345"),
        make_layout(FOLLOWING["of odd sizes"]),
    ):
        unsigned.write_bytes(content)
        theirs.unlink(missing_ok=True)
        program(
            "osslsigncode", "sign", "-h", "sha256", "-certs", chain, "-key", key[0],
            "-in", unsigned, "-out", theirs,
        )  # fmt: skip
        sign_here(key, content, ours, other[1])
        made = ours.read_bytes()
        assert made[: 0x80 + 24 + 64] == theirs.read_bytes()[: 0x80 + 24 + 64]
        assert made[0x200 : len(content)] == theirs.read_bytes()[0x200 : len(content)]
        assert parsed(made) == parsed(theirs.read_bytes())
        assert len(parsed(made)) > 60
        length_and_checksum_are_right(ours)
        verified = program("osslsigncode", "verify", "-CAfile", chain, "-in", ours)
        assert b"Signature verification: ok" in verified.stdout
        # Signed once more, by either, the first signature is gone.
        again = tmp_path / "again"
        sign_here(other, made, again)
        length_and_checksum_are_right(again)
        with again.open("rb") as file:
            pe.check_signed(file, other[1])


def test_the_key_is_not_used_where_the_right_has_gone_meanwhile(
    key: tuple[Path, bytes], tmp_path: Path
) -> None:
    class NoKey(PemSigner):
        def sign_digest(self, *_: object) -> bytes:
            raise AssertionError

    def gone() -> None:
        raise RequestRefused(Status.AUTHENTICATION_FAILED)

    private = load_pem_private_key(key[0].read_bytes(), None)
    assert isinstance(private, PrivateKey)
    with (tmp_path / "out").open("w+b") as output, pytest.raises(RequestRefused) as refused:
        pe.sign_image(
            NoKey(private), key[1], io.BytesIO(make_image(Machine.X86_64)), output, now=NOW,
            before_use=gone,
        )  # fmt: skip
    assert refused.value.status is Status.AUTHENTICATION_FAILED


def test_a_signature_that_is_not_the_keys_is_kept(key: tuple[Path, bytes], tmp_path: Path) -> None:
    """As a failing processor makes one, or a certificate that is another key's."""
    other = made_key(tmp_path / "other", "rsa:2048")
    with pytest.raises(RequestRefused, match="not by the certificate's key"):
        sign_here((other[0], key[1]), make_image(Machine.X86_64), tmp_path / "signed")


@pytest.mark.once("our own arithmetic")
@given(
    pieces=st.lists(st.binary(max_size=9), max_size=6),
    start=st.integers(0, 3),
)
def test_the_checksums_words_are_those_of_the_whole(pieces: list[bytes], start: int) -> None:
    whole = bytes(start) + b"".join(pieces)
    whole += bytes(len(whole) % 2)
    expected = sum(word for (word,) in struct.iter_unpack("<H", whole))
    at, words = start, 0
    for piece in pieces:
        words += pe._words(at, piece)
        at += len(piece)
    assert words % 0xFFFF == expected % 0xFFFF


def test_a_result_that_does_not_hold_is_kept(key: tuple[Path, bytes], tmp_path: Path) -> None:
    signed = tmp_path / "signed"
    sign_here(key, make_image(Machine.X86_64), signed)
    other = openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=T"
    )
    whole = signed.read_bytes()
    for content, certificate, reason in (
        (whole[:0x410] + b"\xff" + whole[0x411:], key[1], "not of the digest that firmware makes"),
        (whole, other, "not by the certificate's key"),
        (whole[:-40] + bytes(40), key[1], "not by the certificate's key|is damaged"),
        (make_image(Machine.X86_64), key[1], "of another kind"),
    ):
        with pytest.raises(RequestRefused, match=reason):
            pe.check_signed(io.BytesIO(content), certificate)
    file = io.BytesIO(whole)
    pe.check_signed(file, key[1])
    assert file.getvalue() == whole


def test_issuers_between_root_and_certificate_are_in_the_signature(
    running: Site, tmp_path: Path
) -> None:
    done(
        running, "sign-certificate", "ca", "ecc", "--issuer-certificate-name", "root",
        "--subject-certificate-name", "between", "--certificate-type", "ca", "--validity", "1y",
        "-s", "CN=Between", secrets=["ca-pw"],
    )  # fmt: skip
    done(
        running, "sign-certificate", "ecc", "rsa", "--issuer-certificate-name", "between",
        "--subject-certificate-name", "below", "--certificate-type", "codesigning",
        "--validity", "1y", "-s", "CN=Below", secrets=["ecc-pw"],
    )  # fmt: skip
    signed = tmp_path / "signed.efi"
    done(
        running, "sign-pe", "rsa", "below", str(image(tmp_path)), "-o", str(signed),
        secrets=["rsa-pw"],
    )  # fmt: skip
    sbverify(running, signed, "root")
    pesigcheck(signed)


@pytest.mark.parametrize("kind", ["ca", "sslserver"])
def test_a_certificate_for_something_else_is_warned_of(
    running: Site, tmp_path: Path, kind: str
) -> None:
    """With which sbverify, that is given the root, refuses what is signed."""
    done(
        running, "sign-certificate", "ca", "rsa", "--issuer-certificate-name", "root",
        "--subject-certificate-name", kind, "--certificate-type", kind, "--validity", "1y",
        "-s", f"CN={kind}", secrets=["ca-pw"],
    )  # fmt: skip
    signed = tmp_path / "signed.efi"
    result = running.sigul(
        "sign-pe", "rsa", kind, str(image(tmp_path)), "-o", str(signed), secrets=["rsa-pw"]
    )
    assert result.stderr.decode() == (
        "WARNING: the server warns: the certificate is not for signing code: sbverify and"
        " osslsigncode refuse the signature where they verify more than the key; use one of type"
        " codesigning\n"
    )
    sbverify(running, signed, "root", code=1)


@pytest.mark.once("our own reading of images")
def test_malformed_images_are_refused(running: Site, tmp_path: Path) -> None:
    whole = make_image(Machine.AARCH64)
    source = tmp_path / "bad"
    for content in (
        b"", b"MZ", b"junk" * 1000, whole[:-1], whole[:0x90], bytes(100_000),
        whole[:0x3C] + b"\xff\xff\xff\xff" + whole[0x40:],
        whole[: 0x80 + 6] + b"\xff\xff" + whole[0x80 + 8 :],
        whole[: 0x80 + 24 + 60] + bytes(4) + whole[0x80 + 24 + 64 :],
    ):  # fmt: skip
        source.write_bytes(content)
        line = failure(
            running, "sign-pe", "rsa", "sb", str(source), "-o", str(tmp_path / "out"),
            secrets=["rsa-pw"],
        )  # fmt: skip
        assert line.startswith("Unknown error: this is no PE image that can be signed: ")
        assert not (tmp_path / "out").exists()
        assert leftovers(running) == []
    # The server is up, and no worker crashed.
    sign(running, "rsa", image(tmp_path), tmp_path / "out")
    sbverify(running, tmp_path / "out", "rsa")
    assert "unforeseen" not in running.processes[-1].text


def test_refused(running: Site, tmp_path: Path) -> None:
    source = str(image(tmp_path))
    refused(
        running, "Unsupported keytype for operation", "sign-pe", "pgp", "sb", source,
        secrets=["pgp-pw"],
    )  # fmt: skip
    refused(running, "Authentication failed", "sign-pe", "rsa", "sb", source, secrets=["no"])
    line = failure(running, "sign-pe", "rsa", "none", source, secrets=["rsa-pw"])
    assert line.startswith("Unknown error: key 'rsa' has no certificate named 'none' (it has: ")


def test_an_imported_key(running: Site, tmp_path: Path) -> None:
    """A curve that is not the default, from a file in the traditional form."""
    file = tmp_path / "key"
    file.write_bytes(openssl("ecparam", "-genkey", "-noout", "-name", "secp384r1"))
    done(
        running, "import-key", "imported", str(file), "--key-type", "ECC",
        secrets=["admin-pw", "none", "imported-pw"],
    )  # fmt: skip
    running.path("imported.pem").write_bytes(
        done(
            running, "sign-certificate", "imported", "imported", "--subject-certificate-name",
            "sb", "--certificate-type", "codesigning", "--validity", "1y", "-s", "CN=I",
            secrets=["imported-pw"],
        )
    )  # fmt: skip
    sign(running, "imported", image(tmp_path), tmp_path / "signed")
    sbverify(running, tmp_path / "signed", "imported")


@pytest.mark.once("which program is looked for")
def test_a_server_needs_no_program_for_it(template: Site, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("gpg", "gpgconf", "gpg-agent"):
        (tools / name).symlink_to(str(shutil.which(name)))
    site = Site.copy(template, tmp_path / "site")
    try:
        site.start_bridge()
        before = os.environ["PATH"]
        os.environ["PATH"] = str(tools)
        try:
            site.start_server()
        finally:
            os.environ["PATH"] = before
        done(site, "new-key", "rsa", "--key-type", "RSA", secrets=["admin-pw", "rsa-pw"])
        certificate = done(
            site, "sign-certificate", "rsa", "rsa", "--subject-certificate-name", "sb",
            "--certificate-type", "codesigning", "--validity", "1y", "-s", "CN=I",
            secrets=["rsa-pw"],
        )  # fmt: skip
        site.path("rsa.pem").write_bytes(certificate)
        sign(site, "rsa", image(tmp_path), tmp_path / "signed")
        sbverify(site, tmp_path / "signed", "rsa")
    finally:
        site.stop_all()
