"""TLS that a peer makes weak or dear: old cipher suites, handshakes and keys again and again.

The peers are OpenSSL's, whose own limits are lifted. What they may do as TLS 1.2 and no more is
here, too: peers of 1.x and siguldry go no further.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time

import pytest

from tests.hostile.conftest import Ground
from tests.hostile.work import Honest
from tests.openssl_peer import InnerWay, Program, context, handshake, identity, list_users, suite
from tests.site import PROGRAM_SECONDS, Site, free_port
from tests.wire import SampleRequest

CLIENT = ("clients/mallory", "sigul-client-cert")
ADMIN = ("clients/admin", "sigul-client-cert")
SERVER = ("server", "sigul-server-cert")
#: Without forward secrecy, with CBC, or with a group of the other side's choice.
OLD_SUITES = (
    "AES128-SHA",
    "AES256-SHA",
    "AES128-SHA256",
    "AES256-SHA256",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-RSA-AES128-SHA256",
    "DHE-RSA-AES128-SHA",
    "DHE-RSA-AES256-SHA",
    "DHE-RSA-AES128-SHA256",
    "DHE-RSA-AES256-SHA256",
    "DHE-RSA-AES128-GCM-SHA256",
)
MODERN = (
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
)
LET_IN = "nss-old-ciphers: yes\n"
#: Debian 13 says "ssl/tls alert", Debian 12 "sslv3 alert".
NO_SUITE = "alert handshake failure"
#: More than any peer has a reason for.
HANDSHAKES = 50


def outcomes(site: Site, port: int, who: tuple[str, str]) -> dict[str, str]:
    """For each suite, offered alone with TLS 1.2: that the bridge takes it, or why not."""
    found = {}
    for name in (*OLD_SUITES, *MODERN):
        try:
            with handshake(site, port, context(site, name, who=who)) as tls:
                found[name] = suite(tls)
        except ssl.SSLError as error:
            found[name] = str(error.reason).lower().replace("_", " ").removeprefix("sslv3 ")
    return found


def expected(*, old: bool) -> dict[str, str]:
    """What should come of it."""
    return {
        **{name: name if old else NO_SUITE for name in OLD_SUITES},
        **{name: name for name in MODERN},
    }


def test_suites_at_both_ports(ground: Ground) -> None:
    site = ground.site
    for port, who in ((site.client_port, CLIENT), (site.server_port, SERVER)):
        assert outcomes(site, port, who) == expected(old=False)
    ground.bridge.wait_for("the two sides have no cipher suite in common")


def test_suites_of_the_inner_session(ground: Ground) -> None:
    site = ground.site
    outer = context(site)
    for name in MODERN:
        reply, *used = list_users(site, outer, context(site, name))
        assert (reply[:4], used[1]) == (bytes(4), name)
        assert b"admin\0" in reply
    for name in OLD_SUITES:
        with pytest.raises(ssl.SSLError, match=NO_SUITE):
            list_users(site, outer, context(site, name))
    ground.server.wait_for("the two sides have no cipher suite in common")


def test_old_suites_where_they_are_let_in(quiet: Site) -> None:
    quiet.extra = {"bridge": {"nss": LET_IN}, "server": {"nss": LET_IN, "server": "workers: 2\n"}}
    quiet.configure()
    with quiet.running() as daemons:
        for port, who in ((quiet.client_port, CLIENT), (quiet.server_port, SERVER)):
            assert outcomes(quiet, port, who) == expected(old=True)
        how = context(quiet, "AES256-SHA")
        reply, *used = list_users(quiet, how, how)
        assert (reply[:4], used) == (bytes(4), ["AES256-SHA", "AES256-SHA"])
        for daemon in daemons:
            assert "[nss] nss-old-ciphers: cipher suites are taken that have no" in daemon.text


ENABLED = """
import json, sys
from nss import ssl
from sigul_stack.config.shared import NSSSettings
from sigul_stack.secret import Secret
from sigul_stack.transport import nss
directory, old = sys.argv[1:]
password = Secret(open(f"{directory}/nss-password", "rb").read().strip())
nss.open_database(NSSSettings(directory=f"sql:{directory}", password=password,
                              old_ciphers=old == "yes"))
suites = [item for item in ssl.ssl_implemented_ciphers if ssl.get_default_cipher_pref(item)]
print(json.dumps([ssl.get_cipher_suite_info(item).cipher_suite_name for item in suites]))
"""


@pytest.mark.parametrize("old", ["no", "yes"])
def test_suites_that_no_option_lets_in(ground: Ground, old: str) -> None:
    """NSS itself still takes RC4 and 3DES; the OpenSSL here does not, and cannot try them."""
    database = ground.site.path("pki/bridge")
    told = subprocess.run(
        [sys.executable, "-c", ENABLED, database, old],
        stdout=subprocess.PIPE, text=True, timeout=PROGRAM_SECONDS, check=True,
    ).stdout  # fmt: skip
    enabled = json.loads(told)
    assert "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" in enabled
    assert ("TLS_RSA_WITH_AES_128_CBC_SHA" in enabled) is (old == "yes")
    words = {word for name in enabled for word in name.split("_")}
    assert not words & {"RC4", "3DES", "DES", "DSS", "NULL", "MD5", "anon", "CAMELLIA", "SEED"}


# ------------------------------------------------------------------------------ again and again


@pytest.mark.parametrize("port", ["client", "server"])
def test_renegotiation_at_a_port(ground: Ground, honest: Honest, port: str) -> None:
    site = ground.site
    number, who = (site.client_port, CLIENT) if port == "client" else (site.server_port, SERVER)
    with (
        honest.during(f"renegotiation at the port for {port}s"),
        Program.client(site, number, who, "tls1_2") as mallory,
    ):
        assert mallory.renegotiates(HANDSHAKES) == 0


def test_renegotiation_of_the_inner_session(ground: Ground, honest: Honest) -> None:
    site = ground.site
    request = SampleRequest({"op": b"list-users", "user": b"admin"})
    with (
        honest.during("renegotiation with the server"),
        InnerWay(site, request, context(site)) as way,
        Program.client(site, way.port, ADMIN, "tls1_2") as mallory,
    ):
        assert mallory.renegotiates(HANDSHAKES) == 0
        assert "alert read:warning:no renegotiation" in mallory.text


def test_a_bridge_that_asks_a_server_to_renegotiate(quiet: Site) -> None:
    """A server is the TLS client there."""
    port = free_port()
    quiet.extra = {"server": {"server": f"bridge-port: {port}\nworkers: 1\n"}}
    own = identity(quiet, "bridge", "sigul-bridge-cert")
    quiet.configure()
    conf = quiet.path("server.conf")
    conf.write_text(conf.read_text().replace(f"bridge-port: {quiet.server_port}\n", "", 1))
    with Program(
        quiet, "s_server", "-accept", f"127.0.0.1:{port}", "-tls1_2", "-cert", str(own),
        "-CAfile", str(quiet.path("pki/ca/ca.pem")), "-Verify", "3",
    ) as bridge:  # fmt: skip
        bridge.wait_for("ACCEPT")
        quiet.start("server")
        bridge.wait_for("SSL_accept:SSLv3/TLS write finished")
        bridge.type("R")
        refused = "alert read:warning:no renegotiation"
        bridge.wait_for(refused)
        # The server dials anew, and may have finished that handshake by now.
        before = bridge.text.partition(refused)[0]
        assert before.count("SSL_accept:SSLv3/TLS write finished") == 1


def test_new_keys_again_and_again(ground: Ground, honest: Honest) -> None:
    """TLS 1.3 has no renegotiation, but lets a peer ask for new keys: none lives longer for it.

    Neither who asks all the time nor who asks now and then, and is ended between two records.
    """
    site = ground.site
    asked, begin = 0, time.monotonic()
    due = begin
    with (
        honest.during("updates of TLS 1.3's keys"),
        Program.client(site, site.client_port, CLIENT, "tls1_3") as mallory,
        Program.client(site, site.client_port, CLIENT, "tls1_3") as patient,
    ):
        while not (mallory.has_ended and patient.has_ended):
            mallory.type("K")
            if time.monotonic() > due:
                patient.type("K")
                due += 0.5
            asked += 1
            time.sleep(0.002)
            assert time.monotonic() < begin + 60, "the header's deadline does not count"
    assert asked > 100
    ground.bridge.wait_for("sending the request's header took longer than the limit of 10 s", 2)


def test_nothing_is_kept_or_sent_early(ground: Ground) -> None:
    """No session is resumed, so none is stored; nothing is compressed, and no data come early."""
    site = ground.site
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        how = context(site, version=version, who=CLIENT)
        with handshake(site, site.client_port, how) as tls:
            assert tls.compression() is None
            tls.settimeout(0.5)
            with pytest.raises(TimeoutError):  # a ticket of TLS 1.3 comes behind the handshake
                tls.recv(1)
            first = tls.session
            assert first is None or not first.has_ticket
        if first is None:
            continue
        with handshake(site, site.client_port, how, session=first) as tls:
            assert not tls.session_reused


# ------------------------------------------------------------------------------ peers of TLS 1.2


@pytest.mark.parametrize(
    ("outer", "inner"),
    [("TLSv1_2", "TLSv1_2"), ("TLSv1_2", "TLSv1_3"), ("TLSv1_3", "TLSv1_2"), ("TLSv1_3",) * 2],
)
def test_a_client_by_openssl(ground: Ground, outer: str, inner: str) -> None:
    """A request by a client that has one version for each session, as siguldry has TLS 1.2."""
    site = ground.site
    versions = [getattr(ssl.TLSVersion, name) for name in (outer, inner)]
    reply, *suites = list_users(site, *(context(site, version=version) for version in versions))
    assert (reply[:4], b"admin\0" in reply) == (bytes(4), True)
    assert [name.startswith("TLS_") for name in suites] == [
        name == "TLSv1_3" for name in (outer, inner)
    ]
