"""`sign-certificate`: chains of certificates, verified by openssl as strictly as it can."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.site import PROGRAM_SECONDS, Site

from .commands_support import ADMIN, done, failure, leftovers, openssl, refused
from .test_legacy_site import ALL_USERS, CODESIGN, as_user, expected, legacy_site

TYPES = ("ca", "codesigning", "sslserver")
PURPOSES = {"ca": "any", "codesigning": "any", "sslserver": "sslserver"}
PEM_KEYS = {"eccA": "ECC", "rsaA": "RSA", "eccB": "ECC", "rsaB": "RSA"}


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site with ECC and RSA keys (passphrase `NAME-pw`) and the gnupg key `pgp`."""
    site = Site.copy(template, tmp_path_factory.mktemp("certificates") / "site")
    with site.running():
        for name, keytype in {**PEM_KEYS, "pgp": "gnupg"}.items():
            done(site, "new-key", name, "--key-type", keytype, secrets=[ADMIN, f"{name}-pw"])
        yield site
        assert leftovers(site) == []


def arguments(
    issuer: str,
    subject: str,
    name: str,
    kind: str,
    dn: str,
    *further: str,
    issuer_name: str | None = None,
    validity: str = "2y",
) -> list[str]:
    return [
        "sign-certificate", issuer, subject, "--subject-certificate-name", name,
        "--certificate-type", kind, "--validity", validity,
        *(["-s", dn] if dn else []),
        *(["--issuer-certificate-name", issuer_name] if issuer_name else []), *further,
    ]  # fmt: skip


def signed(
    site: Site, issuer: str, *rest: str, issuer_name: str | None = None, validity: str = "2y"
) -> bytes:
    """A certificate that is issued without complaint."""
    named = {"issuer_name": issuer_name, "validity": validity}
    command = arguments(issuer, *rest, **named)  # type: ignore[arg-type]
    return done(site, *command, secrets=[f"{issuer}-pw"])


def parsed(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def verify(directory: Path, chain: list[bytes], purpose: str, *, code: int = 0) -> None:
    """`openssl verify -x509_strict` of a chain, root first."""
    root, *others, leaf = chain
    for name, content in (("root", root), ("between", b"".join(others)), ("leaf", leaf)):
        (directory / name).write_bytes(content)
    done_ = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-check_ss_sig", "-purpose", purpose,
         "-CAfile", directory / "root", *(["-untrusted", directory / "between"] if others else []),
         directory / "leaf"],
        capture_output=True, timeout=PROGRAM_SECONDS, check=False,
    )  # fmt: skip
    assert (done_.returncode == 0) == (code == 0), done_.stdout + done_.stderr


@pytest.mark.parametrize(
    ("root", "between", "leaf"),
    [("eccA", "rsaA", "eccB"), ("rsaA", "eccA", "rsaB"), ("rsaA", "rsaB", "eccB"),
     ("eccA", "eccB", "rsaB")],
)  # fmt: skip
def test_chains(running: Site, tmp_path: Path, root: str, between: str, leaf: str) -> None:
    mark = f"{root[0]}{between[0]}{leaf[0]}{root[-1]}"  # names are letters only
    chain = [
        signed(running, root, root, f"root{mark}", "ca", "CN=Root,O=Lab,C=XX"),
        signed(
            running, root, between, f"mid{mark}", "ca", "CN=Mid,O=Lab,C=XX",
            issuer_name=f"root{mark}",
        ),
    ]  # fmt: skip
    verify(tmp_path, chain, "any")
    for kind in TYPES:
        certificate = signed(
            running, between, leaf, f"{kind}{mark}", kind, f"CN={kind},O=Lab,C=XX",
            issuer_name=f"mid{mark}",
        )  # fmt: skip
        verify(tmp_path, [*chain, certificate], PURPOSES[kind])
        verify(tmp_path, [chain[0], certificate], PURPOSES[kind], code=2)  # a link is missing


@pytest.mark.parametrize("key", ["eccA", "rsaA"])
@pytest.mark.parametrize(
    ("kind", "ca", "usage", "purposes"),
    [
        ("ca", "CA:TRUE", "Certificate Sign, CRL Sign", None),
        ("codesigning", "CA:FALSE", "Digital Signature", "Code Signing"),
        (
            "sslserver",
            "CA:FALSE",
            "Digital Signature, Key Encipherment",
            "TLS Web Server Authentication, TLS Web Client Authentication",
        ),
    ],
)
def test_what_a_certificate_says(
    running: Site, tmp_path: Path, key: str, kind: str, ca: str, usage: str, purposes: str | None
) -> None:
    pem = signed(running, key, key, f"says{kind}", kind, "CN=Says\\, it,O=Lab,C=XX")
    verify(tmp_path, [pem, pem], "any")
    text = openssl("x509", "-noout", "-text", data=pem).decode()
    assert "Version: 3 (0x2)" in text
    assert re.search(r"Signature Algorithm: (sha512With|ecdsa-with-SHA512)", text)
    assert re.search(rf"Basic Constraints: critical\n +{ca}\n", text)
    assert re.search(rf"X509v3 Key Usage: critical\n +{usage}\n", text)
    assert ("Extended Key Usage" in text) == (purposes is not None)
    assert purposes is None or re.search(rf"Extended Key Usage: \n +{purposes}\n", text)
    identifiers = re.findall(r"Key Identifier: \n +([0-9A-F:]{59})\n", text)
    assert len(identifiers) == 2
    assert len(set(identifiers)) == 1
    certificate = parsed(pem)
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 2 * 365
    assert certificate.subject.rfc4514_string() == "CN=Says\\, it,O=Lab,C=XX"
    (public,) = {
        done(running, "get-public-key", key, secrets=[f"{key}-pw"]),
        openssl("x509", "-noout", "-pubkey", data=pem),
    }
    assert public


def test_a_server_is_found_by_its_alternative_name(running: Site, tmp_path: Path) -> None:
    for mark, name, wanted in (
        ("a", "www.example.org", "DNS:www.example.org"),
        ("b", "*.example.org", "DNS:*.example.org"),
        ("c", "192.0.2.1", "IP Address:192.0.2.1"),
        ("d", "Our server", None),
    ):
        pem = signed(running, "eccA", "eccA", f"named{mark}", "sslserver", f"CN={name},O=Lab")
        verify(tmp_path, [pem, pem], "sslserver")
        text = openssl("x509", "-noout", "-text", data=pem).decode()
        found = re.search(r"Subject Alternative Name: \n +(.*)\n", text)
        assert (found and found[1]) == wanted


def test_one_that_outlasts_its_issuer_is_warned_of(running: Site) -> None:
    signed(running, "rsaA", "rsaA", "shortroot", "ca", "CN=Short", validity="1y")
    result = running.sigul(
        *arguments("rsaA", "eccB", "outlasting", "codesigning", "CN=Long", issuer_name="shortroot"),
        secrets=["rsaA-pw"],
    )
    assert parsed(result.stdout)
    (line,) = result.stderr.decode().splitlines()
    assert re.search("WARNING: the server warns: the certificate is valid until .* and its", line)
    assert line.endswith("; renew the issuer's first, or name a shorter validity")


@pytest.mark.parametrize("subject", ["CN=#0c0161", "CN=a\\00b"])
def test_bytes_are_no_name(running: Site, subject: str) -> None:
    line = failure(running, *arguments("eccA", "eccA", "bytes", "ca", subject), secrets=["eccA-pw"])
    assert "has control characters or bytes in it; write printable text" in line


def test_serial_numbers_are_random(running: Site) -> None:
    serials = {
        parsed(signed(running, "eccA", "eccA", f"serial{x}", "ca", "CN=S")).serial_number
        for x in "ab"
    }
    assert len(serials) == 2
    assert all(number.bit_length() > 64 for number in serials)


def test_all_parts_of_the_subject_count(running: Site) -> None:
    pem = done(
        running,
        *arguments(
            "eccA", "eccA", "parts", "ca", "", "--subject-common-name", ' A, "b" + c=d; <é>\\ ',
            "--subject-organizational-unit", "#unit", "--subject-organization", "Org",
            "--subject-locality", "Here", "--subject-state", "State",
            "--subject-country-name", "XX",
        ),
        secrets=["eccA-pw"],
    )  # fmt: skip
    found = [(part.rfc4514_attribute_name, part.value) for part in parsed(pem).subject]
    assert found == [
        ("C", "XX"),
        ("ST", "State"),
        ("L", "Here"),
        ("O", "Org"),
        ("OU", "#unit"),
        ("CN", ' A, "b" + c=d; <é>\\ '),
    ]


@pytest.mark.once("what our server refuses; openssl sees nothing of it")
def test_it_is_kept_and_its_name_taken(running: Site) -> None:
    pem = signed(running, "eccA", "eccA", "kept", "ca", "CN=Kept")
    (path,) = running.path("server/keys").glob("*.cert.kept.pem")
    assert path.read_bytes() == pem
    assert path.stat().st_mode & 0o777 == 0o644
    again = arguments("eccA", "eccA", "kept", "ca", "CN=Again")
    line = failure(running, *again, secrets=["eccA-pw"])
    assert line == (
        "The specified object already exists: key 'eccA' has a certificate named 'kept';"
        " choose another name"
    )
    assert path.read_bytes() == pem
    # Another key may have one of that name.
    signed(running, "rsaA", "rsaA", "kept", "ca", "CN=Kept")


@pytest.mark.once("what our server refuses; openssl sees nothing of it")
@pytest.mark.parametrize(
    ("command", "text"),
    [
        (
            arguments("eccA", "none", "x", "ca", "CN=X"),
            "The specified key was not found: there is no subject key 'none'",
        ),
        (
            arguments("eccA", "pgp", "x", "ca", "CN=X"),
            "Unsupported keytype for operation: the subject key 'pgp' is a gnupg key",
        ),
        (
            arguments("eccA", "eccB", "x", "ca", "CN=X", issuer_name="nowhere"),
            "Unknown error: key 'eccA' has no certificate named 'nowhere'",
        ),
        (arguments("eccA", "eccB", "x", "ca", "CN=X"), "Unknown error: a certificate without"),
        (arguments("eccA", "eccA", "x", "ca", "no name"), "Unknown error: the subject 'no name'"),
        (arguments("eccA", "eccA", "x", "ca", "C=XXX"), "Unknown error: the subject 'C=XXX'"),
        (
            arguments("eccA", "eccA", "x", "ca", "CN=X", validity="8000y"),
            "Unknown error: a validity of 8000y ends after the year 9999",
        ),
        (
            arguments("eccA", "eccA", "x", "ca", "CN=X", validity=f"{'9' * 200}y"),
            "Unknown error: a validity of 999",
        ),
    ],
)
def test_what_is_refused(running: Site, command: list[str], text: str) -> None:
    before = sorted(running.path("server/keys").iterdir())
    line = failure(running, *command, secrets=["eccA-pw"])
    assert line.startswith(text)
    assert sorted(running.path("server/keys").iterdir()) == before


@pytest.mark.once("what our server refuses; openssl sees nothing of it")
def test_the_wrong_keys_and_people(running: Site) -> None:
    command = arguments("pgp", "eccA", "x", "ca", "CN=X")
    refused(running, "Unsupported keytype for operation", *command, secrets=["pgp-pw"])
    command = arguments("eccA", "eccA", "x", "ca", "CN=X")
    refused(running, "Authentication failed", *command, secrets=["rsaA-pw"])
    command = arguments("none", "eccA", "x", "ca", "CN=X")
    refused(running, "Authentication failed", *command, secrets=["eccA-pw"])


@pytest.mark.once("what our server refuses; openssl sees nothing of it")
def test_only_a_ca_issues(running: Site) -> None:
    signed(running, "eccA", "eccA", "leaf", "codesigning", "CN=Leaf")
    command = arguments("eccA", "eccB", "x", "ca", "CN=X", issuer_name="leaf")
    line = failure(running, *command, secrets=["eccA-pw"])
    assert line == ("Unknown error: the issuer certificate is not a CA's; name one of type ca")


def test_an_existing_sites_certificate_issues(tmp_path: Path) -> None:
    site = legacy_site(tmp_path, ALL_USERS)
    # As old bridges are configured: this site's client and server certificates share a DNS name.
    bridge = site.path("bridge.conf")
    bridge.write_text(bridge.read_text().replace("server-cn: localhost\n", ""))
    with site.running():
        root = expected("codesign-root.out")
        # As the 1.2 server made it, with its name for itself.
        command = arguments("codesign", "codesign", "again", "ca", "CN=Lab Root,O=Lab,C=XX")
        ours = done(site, *command, secrets=["codesign-pw"], **as_user("alice"))
        for part in (lambda c: c.subject, lambda c: c.issuer, lambda c: list(c.extensions)):
            assert part(parsed(ours)) == part(parsed(root))
        leaf = done(
            site,
            *arguments(
                "codesign", "ima", "leaf", "codesigning", "CN=Signer,O=Lab,C=XX",
                issuer_name="root",
            ),
            secrets=["codesign-pw"], **as_user("alice"),
        )  # fmt: skip
        verify(tmp_path, [root, leaf], "any")
        taken = arguments("codesign", "codesign", "root", "ca", "CN=Other")
        line = failure(site, *taken, secrets=["codesign-pw"], **as_user("alice"))
        assert "has a certificate named 'root'" in line
        assert site.path(f"server/keys/{CODESIGN}.cert.root.pem").read_bytes() == root
