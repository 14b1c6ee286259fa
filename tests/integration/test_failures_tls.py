"""Connections that cannot be: strange CAs, expired certificates, no common TLS version; and IPv6.

Who is refused is told why, and nobody else notices. (Names in certificates: fault 12.)
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sigul_stack.pki import (
    Authority,
    LeafRequest,
    NSSDatabase,
    Role,
    make_site,
    read_certificates,
    read_password,
    renew_leaf,
)
from tests.site import BRIDGE_NAME, Site

from .commands_support import ADMIN, done, failure

#: Three years ago: certificates of then, valid for two years, have expired.
LONG_AGO = datetime.now(UTC) - timedelta(days=3 * 365)


@pytest.fixture(scope="module")
def aged(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site, not running, whose client alice has a certificate that expired a year ago."""
    site = Site.copy(template, tmp_path_factory.mktemp("aged") / "site")
    shutil.rmtree(site.path("pki"))
    # What runs out is renewed the second time; alice is not asked for then.
    for users, now in ((["admin", "alice"], LONG_AGO), (["admin"], None)):
        make_site(
            site.path("pki"), bridge=site.bridge_name, server=site.server_name, users=users, now=now
        )
    site.client_configuration("alice", "alice")
    site.extra = {"server": {"server": "workers: 2\n"}}
    return site


@pytest.fixture
def own(aged: Site, tmp_path: Path) -> Iterator[Site]:
    """A copy of that site for one test."""
    site = Site.copy(aged, tmp_path / "site")
    site.client_configuration("alice", "alice")
    yield site
    site.stop_all()


def database(site: Site, name: str) -> NSSDatabase:
    """The NSS database of a component."""
    directory = site.path("pki") / name
    return NSSDatabase(directory, read_password(directory / "nss-password"))


def expire(site: Site, name: str, now: datetime = LONG_AGO) -> None:
    """Give a component a certificate of long ago, or of another time, in place of its own."""
    authority = database(site, "ca")
    assert authority.password is not None
    renew_leaf(
        Authority.open(authority.directory, authority.password),
        database(site, name), f"sigul-{name}-cert", now=now,
    )  # fmt: skip


def with_elliptic_key(site: Site, name: str, nickname: str) -> None:
    """Give a component a certificate like its own, for a new key on P-256."""
    authority = database(site, "ca")
    assert authority.password is not None
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            rsa, "generate_private_key", lambda *_: ec.generate_private_key(ec.SECP256R1())
        )
        leaf = renew_leaf(
            Authority.open(authority.directory, authority.password),
            database(site, name), nickname, new_key=True,
        )  # fmt: skip
    assert isinstance(leaf.certificate.public_key(), ec.EllipticCurvePublicKey)


@pytest.mark.parametrize("tls", ["tls1.2", "tls1.3"])
@pytest.mark.parametrize(
    "names",
    [
        *(
            pytest.param([name], marks=pytest.mark.once("all of them are below"))
            for name in ("bridge", "server")
        ),
        ["bridge", "server", "clients/admin"],
    ],
    ids=str,
)
def test_certificates_may_be_for_elliptic_keys(own: Site, names: list[str], tls: str) -> None:
    """The bridge's serves the outer sessions, the server's the inner one."""
    for name in names:
        with_elliptic_key(own, name, f"sigul-{name.removesuffix('s/admin')}-cert")
    for component in ("bridge", "server", "client"):
        own.extra.setdefault(component, {})["nss"] = f"nss-min-tls: {tls}\nnss-max-tls: {tls}\n"
    own.configure()
    with own.running() as (bridge, _server):
        assert done(own, "list-users", secrets=[ADMIN]) == b"admin\n"
        assert done(own, "list-keys", secrets=[ADMIN]) == b""
        assert "handshake failed" not in bridge.text


def test_a_client_whose_certificate_has_expired(own: Site) -> None:
    with own.running() as (bridge, _server):
        line = failure(own, "list-users", config="alice.conf", secrets=[ADMIN])
        assert "expired" in line.lower()
        assert "sigul-stack pki renew" in line
        bridge.wait_for("[BRIDGE_TLS] Client handshake failed: ")
        assert "SEC_ERROR_EXPIRED_CERTIFICATE" in bridge.text
        assert done(own, "list-users", secrets=[ADMIN]) == b"admin\n"


def test_a_bridge_whose_certificate_has_expired(own: Site) -> None:
    expire(own, "bridge")
    own.start_bridge()
    server = own.start("server")
    line = failure(own, "list-users", secrets=[ADMIN])
    assert "SEC_ERROR_EXPIRED_CERTIFICATE" in line
    assert "sigul-stack pki renew" in line
    server.wait_for("SEC_ERROR_EXPIRED_CERTIFICATE")
    server.wait_for("next attempt in")


def test_a_server_whose_certificate_has_expired(own: Site) -> None:
    expire(own, "server")
    bridge = own.start_bridge()
    server = own.start("server")
    bridge.wait_for("[BRIDGE_TLS] Server handshake failed: ")
    assert "SEC_ERROR_EXPIRED_CERTIFICATE" in bridge.text
    server.wait_for("next attempt in")


def test_a_certificate_that_is_not_valid_yet(own: Site) -> None:
    """By the clock of who looks at it, which may be the one that is wrong."""
    later = datetime.now(UTC) + timedelta(days=700)
    expire(own, "bridge", later)
    bridge = own.start_bridge()
    server = own.start("server")
    clock = f"{datetime.now(UTC):%Y-%m-%d}"
    told = (
        f"the peer's certificate is not yet valid (SEC_ERROR_EXPIRED_CERTIFICATE): '{BRIDGE_NAME}',"
        f" valid from {later:%Y-%m-%d}"
    )
    line = failure(own, "list-users", secrets=[ADMIN])
    assert told in line
    assert f"this machine's clock says {clock}" in line
    assert "set the clock that is wrong" in line
    assert "renew" not in line
    server.wait_for(told)
    # The bridge hears that its own is refused, and of which dates that is by which clock.
    bridge.wait_for("our certificate is not yet valid (SSL_ERROR_EXPIRED_CERT_ALERT): ")


def test_a_server_whose_new_certificate_is_refused(own: Site) -> None:
    """With TLS 1.3 the bridge says so after the server's own end of the handshake."""
    tls_versions(own, BOTH, BOTH, BOTH)
    with own.running() as (bridge, server):
        expire(own, "server")
        server.popen.send_signal(signal.SIGHUP)
        server.wait_for("our certificate has expired (SSL_ERROR_EXPIRED_CERT_ALERT)")
        server.wait_for("next attempt in", 2)
        # Not taken for working, so the processes of the former configuration stay.
        assert done(own, "list-users", secrets=[ADMIN]) == b"admin\n"
        # It is not tried without a pause.
        assert bridge.text.count("[BRIDGE_TLS] Server handshake failed: ") < 20


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another CA, of the same name."""
    directory = tmp_path_factory.mktemp("stranger") / "pki"
    made = make_site(directory, bridge="b.example.net", server="s.example.net", users=[])
    return Authority.open(
        made.authority_directory, read_password(made.authority_directory / "nss-password")
    )


def replace_leaf(site: Site, name: str, authority: Authority, request: LeafRequest) -> None:
    """Give a component, which goes on trusting the site's CA, a certificate of another CA."""
    directory = site.path("pki") / name
    password = read_password(directory / "nss-password")
    (own_authority,) = read_certificates(site.path("pki/ca/ca.pem"))
    for file in directory.glob("*.db"):
        file.unlink()
    fresh = NSSDatabase(directory, password)
    with fresh.making():
        pass
    fresh.add_authority(own_authority)
    fresh.add_authority(authority.certificate)
    fresh.replace_leaf(authority.issue(request), request.role.nickname)


def test_a_client_of_another_ca(own: Site, stranger: Authority) -> None:
    replace_leaf(own, "clients/alice", stranger, LeafRequest(Role.CLIENT, "admin"))
    with own.running() as (bridge, _server):
        line = failure(own, "list-users", config="alice.conf", secrets=[ADMIN])
        assert "ALERT" in line or "CA" in line
        bridge.wait_for("[BRIDGE_TLS] Client handshake failed: ")
        assert done(own, "list-users", secrets=[ADMIN]) == b"admin\n"
        assert "CN: 'admin'" not in bridge.text.split("[BRIDGE_TLS] Client handshake failed")[0]


def test_a_server_of_another_ca(own: Site, stranger: Authority) -> None:
    replace_leaf(own, "server", stranger, LeafRequest(Role.SERVER, own.server_name))
    bridge = own.start_bridge()
    server = own.start("server")
    bridge.wait_for("[BRIDGE_TLS] Server handshake failed: ")
    server.wait_for("next attempt in")
    assert "Server authenticated" not in bridge.text


def test_a_bridge_of_another_ca(own: Site, stranger: Authority) -> None:
    replace_leaf(own, "bridge", stranger, LeafRequest(Role.BRIDGE, own.bridge_name))
    own.start_bridge()
    server = own.start("server")
    line = failure(own, "list-users", secrets=[ADMIN])
    assert "was not issued by a CA that this NSS database trusts" in line or "SEC_ERROR" in line
    server.wait_for("next attempt in")


ONLY_1_2 = "nss-min-tls: tls1.2\nnss-max-tls: tls1.2\n"
ONLY_1_3 = "nss-min-tls: tls1.3\nnss-max-tls: tls1.3\n"
BOTH = "nss-min-tls: tls1.2\nnss-max-tls: tls1.3\n"


def tls_versions(site: Site, bridge: str, server: str, client: str) -> None:
    """Configure the TLS versions of the three."""
    site.extra = {
        "bridge": {"nss": bridge}, "client": {"nss": client},
        "server": {"nss": server, "server": "workers: 2\n"},
    }  # fmt: skip
    site.configure()


@pytest.mark.parametrize(
    ("bridge", "server", "client"),
    [(ONLY_1_2, BOTH, BOTH), (BOTH, BOTH, ONLY_1_2), (BOTH, ONLY_1_3, BOTH)],
    ids=["bridge 1.2", "client 1.2", "server 1.3"],
)
def test_tls_versions_that_go_together(
    own: Site, tmp_path: Path, bridge: str, server: str, client: str
) -> None:
    tls_versions(own, bridge, server, client)
    text = tmp_path / "text"
    text.write_bytes(b"some text\n" * 300_000)
    with own.running():
        done(own, "new-key", "k", secrets=[ADMIN, "k-pw"])
        signed = done(own, "sign-text", "k", str(text), secrets=["k-pw"])
        assert text.read_bytes() in signed


def test_no_tls_version_in_common_with_the_bridge(own: Site) -> None:
    tls_versions(own, ONLY_1_2, ONLY_1_2, ONLY_1_3)
    with own.running() as (bridge, _server):
        line = failure(own, "list-users", secrets=[ADMIN])
        assert "no TLS version in common: compare nss-min-tls and nss-max-tls" in line
        bridge.wait_for("[BRIDGE_TLS] Client handshake failed: ")


def test_no_tls_version_in_common_with_the_server(own: Site) -> None:
    tls_versions(own, BOTH, ONLY_1_3, ONLY_1_2)
    with own.running() as (_bridge, server):
        line = failure(own, "list-users", secrets=[ADMIN])
        assert "no TLS version in common: compare nss-min-tls and nss-max-tls" in line
        assert "inner session" in line
        server.wait_for("no TLS version in common")


@pytest.mark.once("how addresses are dialled")
def test_a_site_on_ipv6(own: Site, tmp_path: Path) -> None:
    own.listen_address = "::1"
    own.addresses = {own.bridge_name: "::1", own.server_name: "::1"}
    own.configure()
    text = tmp_path / "text"
    text.write_bytes(b"some text\n")
    with own.running() as (bridge, _server):
        assert done(own, "list-users", secrets=[ADMIN]) == b"admin\n"
        done(own, "new-key", "k", secrets=[ADMIN, "k-pw"])
        assert b"some text\n" in done(own, "sign-text", "k", str(text), secrets=["k-pw"])
        assert "Client connected ([::1]:" in bridge.text


@pytest.mark.once("how addresses are dialled")
def test_an_address_that_does_not_answer_leaves_the_other(own: Site) -> None:
    # The name has both addresses, and the bridge listens on the second kind only.
    own.addresses = {own.bridge_name: "::1", own.server_name: "127.0.0.1"}
    own.configure()
    with own.path("hosts").open("a") as hosts:
        hosts.write(f"127.0.0.1 {own.bridge_name}\n")
    with own.running():
        assert done(own, "list-users", secrets=[ADMIN]) == b"admin\n"
