"""`sign-pe`: images for x86-64 and AArch64, verified by sbverify and pesigcheck."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pe_images import Machine, make_image
from tests.site import Site

from .commands_support import done, failure, leftovers, openssl, refused
from .signing_support import program, site_with_keys

KEYS = {"rsa": "RSA", "ecc": "ECC"}


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


def test_a_missing_tool_is_an_error_for_this_operation_alone(
    template: Site, tmp_path: Path
) -> None:
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
        done(
            site, "sign-certificate", "rsa", "rsa", "--subject-certificate-name", "sb",
            "--certificate-type", "codesigning", "--validity", "1y", "-s", "CN=I",
            secrets=["rsa-pw"],
        )  # fmt: skip
        line = failure(site, "sign-pe", "rsa", "sb", str(image(tmp_path)), secrets=["rsa-pw"])
        assert line == (
            "Unknown error: osslsigncode is not installed; install the package osslsigncode"
        )
        done(site, "list-users", secrets=["admin-pw"])
    finally:
        site.stop_all()
