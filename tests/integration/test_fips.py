"""Every NSS database in FIPS mode, as `modutil -fips true` has it, and a crypto policy in one.

Each certificate that is renewed here, and each run of doctor, is some runs of NSS's slow tools.
What holds for the other programs is in docs/fips.md.
"""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.openssl_peer import context, handshake, identity, list_users, suite
from tests.site import PROGRAM_SECONDS, Site, module

from .commands_support import ADMIN, done

DATABASES = ("bridge", "server", "clients/admin", "ca")
TOKEN = "NSS FIPS 140-2 Certificate DB"


def set_fips(directory: Path, *, on: bool) -> None:
    """Have NSS open a database in FIPS mode, or no more."""
    subprocess.run(
        ["modutil", "-dbdir", f"sql:{directory}", "-fips", "true" if on else "false", "-force"],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=PROGRAM_SECONDS, check=True,
    )  # fmt: skip
    assert ("FIPS" in (directory / "pkcs11.txt").read_text()) is on


@pytest.fixture
def fips(site: Site) -> Iterator[Site]:
    """A site whose four databases are in FIPS mode, not running."""
    identity(site)  # exported before
    for name in DATABASES:
        set_fips(site.path("pki") / name, on=True)
    yield site
    for name in DATABASES:
        set_fips(site.path("pki") / name, on=False)


def told(site: Site, *arguments: str) -> str:
    """What a `sigul-stack` command that succeeds says."""
    return site.run(*module("stack"), *arguments).stdout.decode()


def test_requests_renewal_and_doctor(fips: Site) -> None:
    """Certificates are renewed, with a new key too, and issued, and all of it serves."""
    pki = fips.path("pki")
    shown = subprocess.run(
        ["certutil", "-K", "-d", f"sql:{pki}/bridge", "-f", str(pki / "bridge/nss-password")],
        capture_output=True, timeout=PROGRAM_SECONDS, check=True,
    ).stdout.decode()  # fmt: skip
    assert TOKEN in shown
    renew = ("pki", "renew", "--ca", str(pki / "ca"), "--nickname")
    told(fips, *renew, "sigul-bridge-cert", str(pki / "bridge"))
    told(fips, *renew, "sigul-server-cert", "--new-key", str(pki / "server"))
    issue = ("pki", "issue", "--ca", str(pki / "ca"), "--role", "client", "--name", "carol")
    told(fips, *issue, "--into", str(pki / "clients/carol"))
    set_fips(pki / "clients/carol", on=True)
    fips.client_configuration("carol", "carol")
    with fips.running():
        assert done(fips, "list-users", secrets=[ADMIN]) == b"admin\n"
        done(fips, "new-user", "carol", secrets=[ADMIN])
        done(fips, "new-key", "k", secrets=[ADMIN, "k-pw"])
        done(fips, "grant-key-access", "k", "carol", secrets=["k-pw", "carols-pw"])
        text = fips.path("text")
        text.write_bytes(b"some text\n")
        signed = done(fips, "sign-text", "k", str(text), secrets=["carols-pw"], config="carol.conf")
        assert b"some text\n" in signed
        for component in ("client", "bridge", "server"):
            said = told(fips, "doctor", component, "-c", str(fips.path(f"{component}.conf")))
            assert f"{component}: ok" in said
            assert component != "client" or "(TLS_AES_128_GCM_SHA256)" in said


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_suites_are_those_that_fips_knows(fips: Site, version: str) -> None:
    """NSS's own limits do not reach them: ChaCha20 would be taken."""
    tls = getattr(ssl.TLSVersion, version)
    with fips.running():
        _, *suites = list_users(fips, *2 * [context(fips, version=tls)])
        assert all("AES" in name and "GCM" in name for name in suites)
        if version == "TLSv1_2":
            with pytest.raises(ssl.SSLError):
                handshake(fips, fips.client_port, context(fips, "ECDHE-RSA-CHACHA20-POLY1305"))


def policy() -> str:
    """The one of docs/fips.md."""
    page = (Path(__file__).parents[2] / "docs/fips.md").read_text()
    block = page.partition("```\n")[2].partition("```")[0]
    assert "name=Policy" in block
    return block


def test_a_policy_in_a_database(site: Site) -> None:
    """It holds beside our own list, which does not turn on again what the policy turned off."""
    modules = site.path("pki/bridge/pkcs11.txt")
    modules.write_text(modules.read_text().rstrip("\n") + "\n" + policy())
    with site.running():
        assert done(site, "list-users", secrets=[ADMIN]) == b"admin\n"
        for version, name in (
            ("TLSv1_2", "ECDHE-RSA-AES256-GCM-SHA384"),
            ("TLSv1_3", "TLS_AES_256_GCM_SHA384"),
        ):
            how = context(site, version=getattr(ssl.TLSVersion, version))
            with handshake(site, site.client_port, how) as tls:
                assert suite(tls) == name
        with pytest.raises(ssl.SSLError):
            handshake(site, site.client_port, context(site, "ECDHE-RSA-AES128-GCM-SHA256"))
        assert not signed_with(site, "SHA1")
        assert signed_with(site, "SHA256")


def signed_with(site: Site, name: str) -> bool:
    """Whether the bridge signs a handshake of TLS 1.2 with this hash and RSA."""
    told = subprocess.run(
        [
            "openssl", "s_client", "-connect", f"127.0.0.1:{site.client_port}", "-tls1_2",
            "-sigalgs", f"RSA+{name}", "-cipher", "DEFAULT@SECLEVEL=0",
            "-cert", str(identity(site)),
        ],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=PROGRAM_SECONDS, check=False,
    ).stdout  # fmt: skip
    return f"Peer signing digest: {name}".encode() in told
