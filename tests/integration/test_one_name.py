"""A site whose bridge and server have one name, `localhost`: who is told from whom, and by what.

docs/security.md, "One name for bridge and server".
"""

from __future__ import annotations

import json
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sigul_stack.cli.outcome import MAY_HAVE_HAPPENED
from tests.openssl_peer import handshake, list_users
from tests.site import ADMIN_PASSWORD, Process, Site, module

from .test_pki_export import openssl_client

NAME = "localhost"
OWN_KEY = {"client": {"client": "require-own-server-key: yes\n"}}
WARNING = 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The site, not running."""
    return Site.make(
        tmp_path_factory.mktemp("one") / "site",
        ("admin", "alice"),
        bridge_name=NAME,
        server_name=NAME,
        addresses={NAME: "127.0.0.1"},
        workers=2,
    )


@pytest.fixture
def site(made: Site, tmp_path: Path) -> Iterator[Site]:
    """A copy of it for one test."""
    fresh = Site.copy(made, tmp_path / "site")
    fresh.addresses = made.addresses
    fresh.configure()
    yield fresh
    fresh.stop_all()
    shutil.rmtree(fresh.directory)


@pytest.fixture(scope="module")
def running(made: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A copy that runs, for tests that change nothing."""
    shared = Site.copy(made, tmp_path_factory.mktemp("run") / "site")
    shared.addresses = made.addresses
    shared.configure()
    with shared.running():
        yield shared


def lists_users(site: Site) -> None:
    assert site.sigul("list-users", secrets=[ADMIN_PASSWORD]).stdout == b"admin\n"


def posing(site: Site, whose: str, nickname: str) -> Process:
    """A server that shows the certificate of somebody else."""
    site.write_configuration(
        "posing",
        {
            "server": f"bridge-hostname: {NAME}\nbridge-port: {site.server_port}\n"
            f"server-cert-nickname: {nickname}\nspool-directory: {site.path('server/spool')}\n"
            "workers: 1\n",
            "database": f"database-path: {site.path('server/server.sqlite')}\n",
            "gnupg": f"gnupg-home: {site.path('server/gnupg')}\n",
            "keys": f"keys-storage: {site.path('server/keys')}\n",
            "nss": site.nss_lines(whose),
        },
    )
    return site.start("server", config="posing.conf")


def doctor(site: Site, component: str, code: int) -> dict[str, Any]:
    done = site.run(
        *(*module("stack"), "doctor", component, "--json"),
        *("-c", str(site.path(f"{component}.conf"))), code=code,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert isinstance(report, dict)
    return report


def findings(report: dict[str, Any], state: str) -> str:
    return "\n".join(
        f"{check['layer']}: {check['finding']} | {check['cure']}"
        for check in report["checks"]
        if check["state"] == state
    )


# -------------------------------------------------------------------------------- it works


@pytest.mark.parametrize("own_key", [False, True])
def test_requests_are_served(running: Site, own_key: bool) -> None:
    running.extra = OWN_KEY if own_key else {}
    running.client_configuration("admin")
    lists_users(running)


def test_openssl_checks_the_name_in_both_sessions(running: Site, tmp_path: Path) -> None:
    """As siguldry's client does, with what is exported for it."""
    done = ("pki", "export", str(running.path("pki/clients/admin")), "--to", str(tmp_path / "out"))
    running.run(*module("stack"), *done)
    how = openssl_client(tmp_path / "out", ssl.TLSVersion.TLSv1_2)
    reply, *_ = list_users(running, how, how)
    assert (reply[:4], b"admin\0" in reply) == (bytes(4), True)
    tcp = socket.create_connection(("127.0.0.1", running.client_port), 30)
    with tcp, pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        how.wrap_socket(tcp, server_hostname="sigul-bridge.example.org")
    running.server_name = "sigul-server.example.org"
    try:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            list_users(running, how, how)
    finally:
        running.server_name = NAME


def test_the_bridge_looks_at_itself(running: Site) -> None:
    """Though its name is one of server-cn; the server's own certificate is no client's."""
    said = running.run(
        *(*module("stack"), "health", "bridge", "-c", str(running.path("bridge.conf"))), code=None
    ).stdout.decode()
    assert "handshake with 'localhost'" in said
    assert "failed" not in said


# --------------------------------------------------------------- who cannot pose as whom


@pytest.mark.once("what our programs compare and say")
def test_a_client_is_no_server(site: Site) -> None:
    bridge = site.start_bridge()
    poser = posing(site, "clients/alice", "sigul-client-cert")
    bridge.wait_for("'alice' is not a signing server's name: server-cn lists localhost")
    assert "Waiting for a request at the bridge" not in poser.text
    poser.stop()


def test_a_client_that_server_cn_lets_in_is_told_no_secret(site: Site) -> None:
    """Its certificate is no TLS server's: whom the bridge lets in is not who the client trusts."""
    conf = site.path("bridge.conf")
    conf.write_text(conf.read_text().replace(f"server-cn: {NAME}\n", f"server-cn: {NAME} alice\n"))
    bridge = site.start_bridge()
    poser = posing(site, "clients/alice", "sigul-client-cert")
    bridge.wait_for("Server authenticated with CN: 'alice'")
    done = site.sigul("list-users", secrets=[ADMIN_PASSWORD], code=None)
    assert done.returncode != 0
    assert b"the peer's certificate is not meant for this use" in done.stderr
    assert "list-users" not in poser.text


def pretend(site: Site, role: str, code: int = 1) -> None:
    """A request, refused, of a client that shows the certificate of bridge or server."""
    name = f"as-{role}"
    site.extra = {name: {"client": f"client-cert-nickname: sigul-{role}-cert\n"}}
    config = site.write_configuration(
        name,
        {
            "client": f"bridge-hostname: {NAME}\nbridge-port: {site.client_port}\n"
            f"server-hostname: {NAME}\nuser-name: admin\n",
            "nss": site.nss_lines(role),
        },
    )
    site.sigul("list-users", secrets=[ADMIN_PASSWORD], config=config, code=code)


@pytest.mark.once("what our programs compare and say")
def test_a_server_is_no_client(running: Site) -> None:
    pretend(running, "server")
    assert "'localhost' is a signing server, which may not be a client" in running.processes[0].text


@pytest.mark.once("what our programs compare and say")
def test_the_bridges_own_certificate_is_no_users(running: Site) -> None:
    """The bridge lets it in, for its health check; the server serves none of its requests."""
    pretend(running, "bridge", MAY_HAVE_HAPPENED)
    running.processes[1].wait_for("the client of this request is 'localhost', the bridge itself")


@pytest.mark.parametrize(
    "renewed",
    [False, pytest.param(True, marks=pytest.mark.once("NSS sees another certificate, as before"))],
)
def test_a_bridge_that_plays_the_server(site: Site, renewed: bool) -> None:
    """It has the name, and is told passphrases by whoever does not look at its key.

    A renewed certificate is another one with the same key.
    """
    bridge = site.start_bridge()
    if renewed:
        site.run(
            *(*module("stack"), "pki", "renew", "--ca", str(site.path("pki/ca"))),
            *(str(site.path("pki/bridge")), "--nickname", "sigul-bridge-cert"),
        )
    poser = posing(site, "bridge", "sigul-bridge-cert")
    bridge.wait_for("Server authenticated with CN: 'localhost'")
    lists_users(site)
    assert "Request 'list-users' of user 'admin' done" in poser.text
    site.extra = OWN_KEY
    site.client_configuration("admin")
    bridge.wait_for("Server authenticated with CN: 'localhost'", 2)
    done = site.sigul("list-users", secrets=[ADMIN_PASSWORD], code=1)
    assert b"has shown the bridge's own key" in done.stderr
    assert b"No secret was told" in done.stderr
    assert poser.text.count("Request 'list-users'") == 1
    # One with a key of its own, as in the site, is taken.
    poser.stop()
    site.start_server()
    lists_users(site)


# ---------------------------------------------------------------------------- what doctor says


@pytest.mark.once("what our programs compare and say")
def test_doctor_says_what_the_risk_is(running: Site) -> None:
    running.extra = {}
    running.client_configuration("admin")
    report = doctor(running, "client", WARNING)
    said = findings(report, "warning")
    assert "outer TLS: the bridge's certificate also names the server (localhost)" in said
    assert "could play the server and be told passphrases" in said
    assert "set require-own-server-key: yes in [client]" in said
    assert "inner TLS: the server 'localhost' answered" in findings(report, "ok")
    said = findings(doctor(running, "bridge", WARNING), "warning")
    assert "roles: bridge and server have one name (localhost)" in said
    assert "be told passphrases by clients that do not look at keys" in said
    assert "siguldry" in said
    running.extra = OWN_KEY
    running.client_configuration("admin")
    report = doctor(running, "client", 0)
    assert "told from the bridge by its key" in findings(report, "ok")


@pytest.mark.once("what our programs compare and say")
def test_who_makes_such_a_site_is_told(tmp_path: Path, made: Site) -> None:
    words = ("pki", "site", "--dir", str(tmp_path / "pki"), "--bridge", "b.example.org")
    for more, told in (
        (("--server", NAME), False),
        (("--server", NAME, "--bridge-san", "LOCALHOST,127.0.0.1"), True),
    ):
        done = made.run(*module("stack"), *words, *more)
        assert (b"the bridge's certificate also names the server" in done.stderr) == told
        assert (b"require-own-server-key" in done.stderr) == told


def test_nobody_without_a_certificate_gets_in(running: Site) -> None:
    """On either port."""
    how = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    how.maximum_version = ssl.TLSVersion.TLSv1_2
    how.load_verify_locations(running.path("pki/ca/ca.pem"))
    for port in (running.client_port, running.server_port):
        with pytest.raises(ssl.SSLError):
            handshake(running, port, how)
