"""How long keys are that a server makes, and how short ones may be that it takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.site import PROGRAM_SECONDS, Site, module

from .commands_support import ADMIN, done, failure

#: The lines of the fixture are left out where these words stand.
DEFAULTS = {"server": {"gnupg": "# gnupg-key-length, gnupg-subkey-length: absent\n"}}
SHORT = {
    "RSA": "Key-Type: RSA\nKey-Length: 1024\n",
    "DSA": "Key-Type: DSA\nKey-Length: 1024\n",
    "subkey": "Key-Type: RSA\nKey-Length: 2048\nSubkey-Type: RSA\nSubkey-Length: 1024\n",
}


def gpg(home: Path, *arguments: str, stdin: str = "") -> bytes:
    """Run gpg in a home of our own."""
    home.mkdir(mode=0o700, exist_ok=True)
    return subprocess.run(
        ["gpg", "--homedir", str(home), "--batch", "--no-tty", *arguments],
        input=stdin.encode(), capture_output=True, timeout=PROGRAM_SECONDS, check=True,
    ).stdout  # fmt: skip


def openpgp_key(home: Path, parameters: str) -> bytes:
    """A new secret key without a passphrase."""
    gpg(home, "--full-generate-key", stdin=f"%no-protection\n{parameters}Name-Real: short\n%commit")
    secret = gpg(home, "--export-secret-keys")
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], timeout=30, check=True)
    return secret


def pem_key(bits: int) -> bytes:
    """A new RSA key in PEM, without a passphrase."""
    return rsa.generate_private_key(65537, bits).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def lengths(home: Path, public: bytes) -> list[tuple[str, str]]:
    """Of each part of a public key its length and GnuPG's number of its algorithm."""
    file = home.with_suffix(".asc")
    file.write_bytes(public)
    listed = gpg(home, "--with-colons", "--show-keys", str(file)).decode()
    records = [line.split(":") for line in listed.splitlines()]
    return [(line[2], line[3]) for line in records if line[0] in ("pub", "sub")]


def test_a_new_key_is_rsa_of_4096_bits(site: Site, tmp_path: Path) -> None:
    """Where nothing is configured, at a site of 1.x too: all its tools read such a key."""
    site.extra = DEFAULTS
    site.configure()
    with site.running():
        public = done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        assert lengths(tmp_path / "gpg", public) == [("4096", "1"), ("4096", "1")]
        text = tmp_path / "text"
        text.write_bytes(b"some text\n")
        signed = done(site, "sign-text", "k", str(text), secrets=["k-pw"])
        assert b"some text\n" in signed


@pytest.mark.once("our own limits; what GnuPG makes is in test_gnupg_store")
@pytest.mark.parametrize(
    ("primary", "subkey", "expected"),
    [
        ("ed25519", "", [("255", "22")]),
        ("ed25519", "cv25519", [("255", "22"), ("255", "18")]),
        ("DSA", "ELG", [("2048", "17"), ("2048", "16")]),
    ],
)
def test_other_keys_on_request(
    site: Site, tmp_path: Path, primary: str, subkey: str, expected: list[tuple[str, str]]
) -> None:
    types = f"gnupg-key-type: {primary}\ngnupg-subkey-type: {subkey}\n"
    site.extra = {"server": {"gnupg": DEFAULTS["server"]["gnupg"] + types}}
    site.configure()
    with site.running():
        public = done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        assert lengths(tmp_path / "gpg", public) == expected


@pytest.mark.once("our own limits; what GnuPG makes is in test_gnupg_store")
def test_short_keys_are_not_imported(running_site: Site, tmp_path: Path) -> None:
    site, file = running_site, tmp_path / "secret"
    for name, parameters in SHORT.items():
        file.write_bytes(openpgp_key(tmp_path / name, parameters))
        line = failure(site, "import-key", "short", str(file), secrets=[ADMIN, "", "k-pw"])
        assert "a key of 1024 bits is too short; min-key-bits in [keys] here is 2048" in line
    file.write_bytes(pem_key(1024))
    line = failure(
        site, "import-key", "--key-type", "RSA", "short", str(file), secrets=[ADMIN, "", "k-pw"]
    )
    assert "a key of 1024 bits is too short; min-key-bits in [keys] here is 2048" in line
    assert done(site, "list-keys", secrets=[ADMIN]) == b""


def test_short_keys_that_are_there_sign_on(site: Site, tmp_path: Path) -> None:
    """They are told of at each start, and by `health --deep`."""
    file = tmp_path / "secret"
    site.extra = {"server": {"keys": "min-key-bits: 1024\n"}}
    site.configure()
    with site.running():
        file.write_bytes(openpgp_key(tmp_path / "gpg", SHORT["RSA"]))
        told = site.sigul("import-key", "old", str(file), secrets=[ADMIN, "", "k-pw"]).stderr
        assert b"takes no RSA key of 1024 bits" in told
        file.write_bytes(pem_key(1024))
        arguments = ("--key-type", "RSA", "older", str(file))
        done(site, "import-key", *arguments, secrets=[ADMIN, "", "k-pw"])
    site.extra = {}
    site.configure()
    text = tmp_path / "text"
    text.write_bytes(b"some text\n")
    with site.running() as (_bridge, server):
        assert b"some text\n" in done(site, "sign-text", "old", str(text), secrets=["k-pw"])
        for name in ("old (gnupg)", "older (RSA)"):
            assert f"key {name} has 1024 bits, and new ones have to have more" in server.text
        told = site.run(
            *module("stack"), "health", "server", "--deep", "-c", str(site.path("server.conf")),
            code=None,
        ).stdout.decode()  # fmt: skip
        assert "key old (gnupg) has 1024 bits" in told


@pytest.mark.once("our own limits; what GnuPG makes is in test_gnupg_store")
def test_lengths_that_are_configured_too_short(site: Site) -> None:
    """An existing file that says so does not keep the server from starting."""
    site.extra = {
        "server": {
            "gnupg": "gnupg-key-length: 1024\ngnupg-subkey-length: 1024\n",
            "keys": "rsa-key-size: 1024\n",
        }
    }
    site.configure()
    with site.running() as (_bridge, server):
        for option in ("gnupg-key-length", "gnupg-subkey-length", "rsa-key-size"):
            assert f"{option}: 1024 is less than min-key-bits, 2048: no such key" in server.text
        for kind in ((), ("--key-type", "RSA")):
            failure(site, "new-key", *kind, "k", secrets=[ADMIN, "k-pw"])
        server.wait_for("1024 is less than min-key-bits, 2048; write", 2)
        assert done(site, "list-keys", secrets=[ADMIN]) == b""
