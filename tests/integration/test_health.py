"""`sigul-stack health` on real sites: well, and broken in every way that it has to tell."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sigul_stack.cli.outcome import MAY_HAVE_HAPPENED
from sigul_stack.pki import Authority, NSSDatabase, read_password, renew_leaf
from sigul_stack.transport.status_socket import read_status
from tests.faults.proxies import Proxy
from tests.site import PROGRAM_SECONDS, Process, Site, module, wait_until

from .commands_support import ADMIN, done, failure

OK, WARNING, FAILED, UNKNOWN = 0, 1, 2, 3


def with_status(site: Site) -> Site:
    """Have both daemons of `site` serve their status; the server has four workers."""
    site.workers = 4
    for name in ("bridge", "server"):
        lines = site.extra.setdefault(name, {})
        lines["daemon"] = lines.get("daemon", "") + f"status-socket: {socket_of(site, name)}\n"
    site.configure()
    return site


def socket_of(site: Site, name: str) -> Path:
    """A daemon's status socket."""
    return site.path(f"run/{name}.sock")


@pytest.fixture(scope="module")
def served(
    template: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, Process]]:
    """A running site that is well, and its bridge."""
    site = with_status(Site.copy(template, tmp_path_factory.mktemp("health") / "site"))
    with site.running() as (bridge, server):
        server.wait_for("Waiting for a request at the bridge", 4)
        yield site, bridge


@pytest.fixture
def own(site: Site) -> Site:
    """A site of one test, with status sockets, not running."""
    return with_status(site)


def health(
    site: Site, component: str, *options: str, code: int, config: str = "", **further: Any
) -> dict[str, Any]:
    """Run a health check, which must exit with `code`; its report."""
    result = site.run(
        *module("stack"), "health", component,
        "-c", str(site.path(config or f"{component}.conf")), "--json", *options,
        code=code, **further,
    )  # fmt: skip
    report: dict[str, Any] = json.loads(result.stdout)
    assert report["component"] == component
    return report


def check(report: dict[str, Any], layer: str) -> dict[str, Any]:
    """The one check of `layer`."""
    (found,) = (item for item in report["checks"] if item["layer"] == layer)
    assert (found["state"] == "ok") == (found["cure"] == ""), found
    return dict(found)


def states(report: dict[str, Any]) -> dict[str, str]:
    """The state of each layer."""
    return {item["layer"]: item["state"] for item in report["checks"]}


# ---------------------------------------------------------------------------------- all is well


def test_a_bridge_that_is_well(served: tuple[Site, Process]) -> None:
    site, bridge = served
    before = bridge.text
    report = health(site, "bridge", code=OK)
    assert states(report) == dict.fromkeys(
        ("NSS database", "certificate", "outer TLS", "ports", "status", "attached servers"), "ok"
    )
    assert check(report, "outer TLS")["values"]["handshake_seconds"] > 0
    assert check(report, "certificate")["values"]["days_left"] in (728, 729)
    servers = check(report, "attached servers")
    assert servers["values"] == {"servers_waiting": 4, "requests_in_flight": 0}
    assert site.server_name in servers["finding"]
    # Neither look is more than that to the bridge.
    assert "WARNING" not in bridge.text.removeprefix(before)
    assert "Paired" not in bridge.text.removeprefix(before)


def test_a_server_that_is_well(served: tuple[Site, Process]) -> None:
    site, _bridge = served
    report = health(site, "server", "--deep", code=OK)
    assert states(report) == dict.fromkeys(
        (
            *("status", "attached workers", "database", "key store", "signing log"),
            *("NSS database", "certificate", "disk"),
        ),
        "ok",
    )
    values = check(report, "attached workers")["values"]
    assert (values["workers_attached"], values["workers_busy"]) == (4, 0)
    assert values["handshake_seconds"] > 0
    assert values["attached_seconds"] >= 0


def test_a_client_that_is_well(served: tuple[Site, Process]) -> None:
    site, _bridge = served
    report = health(site, "client", code=OK)
    assert states(report) == dict.fromkeys(
        ("NSS database", "certificate", "name resolution", "outer TLS"), "ok"
    )
    assert "127.0.0.1" in check(report, "name resolution")["finding"]


@pytest.mark.once("what our program compares and says")
def test_text_for_people_and_monitoring(served: tuple[Site, Process]) -> None:
    site, _bridge = served
    result = site.run(*module("stack"), "health", "client", "-c", str(site.path("client.conf")))
    first, *rest = result.stdout.decode().splitlines()
    assert first.startswith("SIGUL CLIENT OK - handshake 0.")
    assert "| handshake=" in first
    assert [line.split()[0] for line in rest] == ["ok"] * 4


# ------------------------------------------------------------------------------------------ deep


def test_both_layers_and_rights(served: tuple[Site, Process], tmp_path: Path) -> None:
    site, _bridge = served
    report = health(site, "client", "--deep", code=OK, secrets=[ADMIN])
    assert states(report).keys() > {"inner TLS", "rights"}
    assert check(report, "inner TLS")["values"]["request_seconds"] > 0
    file = tmp_path / "password"
    file.write_text(ADMIN + "\n")
    health(site, "client", "--deep", "--password-file", str(file), code=OK)


def test_a_wrong_password_is_told_from_a_broken_site(served: tuple[Site, Process]) -> None:
    site, _bridge = served
    report = health(site, "client", "--deep", code=FAILED, secrets=["wrong"])
    assert check(report, "inner TLS")["state"] == "ok"
    rights = check(report, "rights")
    assert "Authentication failed" in rights["finding"]
    assert "administrator" in rights["cure"]


def test_a_secret_that_does_not_come_is_told(served: tuple[Site, Process]) -> None:
    site, _bridge = served
    report = health(site, "client", "--deep", code=FAILED, stdin=b"admin-pw\n")
    assert "NUL" in check(report, "inner TLS")["finding"]
    assert "admin-pw" not in json.dumps(report)


@pytest.mark.once("what our program counts and says")
def test_an_ordinary_user_asks_for_a_key(served: tuple[Site, Process]) -> None:
    site, _bridge = served
    config = site.client_configuration("alice", "alice").name
    done(site, "new-user", "alice", secrets=[ADMIN])
    done(site, "new-key", "--key-type", "ECC", "--key-admin", "alice", "k", secrets=[ADMIN, "k-pw"])
    try:
        report = health(
            site, "client", "--deep", "--key", "k", code=OK, config=config, secrets=["k-pw"]
        )
        assert "get-public-key k" in check(report, "rights")["finding"]
        report = health(
            site, "client", "--deep", "--key", "k", code=FAILED, config=config, secrets=["no"]
        )
        assert "user of the key 'k'" in check(report, "rights")["cure"]
    finally:
        done(site, "delete-key", "k", secrets=[ADMIN])
        done(site, "delete-user", "alice", secrets=[ADMIN])


# ------------------------------------------------------------------------------- harms no request


@pytest.mark.once("what our program counts and says")
def test_two_hundred_probes_and_twenty_requests(served: tuple[Site, Process]) -> None:
    site, bridge = served
    failed_before = totals(site)["requests_failed_total"]
    probing = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.probing", str(site.path("client.conf")),
         "8", "200"],
        stdout=subprocess.PIPE, env=site.environment,
    )  # fmt: skip
    try:
        with ThreadPoolExecutor(4) as pool:
            listed = list(
                pool.map(lambda _number: done(site, "list-users", secrets=[ADMIN]), range(20))
            )
        output, _ = probing.communicate(timeout=PROGRAM_SECONDS)
    finally:
        probing.kill()
        probing.wait(PROGRAM_SECONDS)
    assert listed == [b"admin\n"] * 20
    assert output == b"200\n"
    assert totals(site)["requests_failed_total"] == failed_before
    wait_until(lambda: totals(site)["probes_total"] >= 200, 10, "the last probe's end")
    assert "ended the connection where more was due" not in bridge.text


def totals(site: Site) -> dict[str, int]:
    """What the bridge has counted."""
    found: dict[str, int] = json.loads(read_status(socket_of(site, "bridge"), 10))["totals"]
    return found


@pytest.mark.once("what our program counts and says")
def test_port_checks_are_no_faults(served: tuple[Site, Process]) -> None:
    site, bridge = served
    before, probes = bridge.text, totals(site)["probes_total"]
    for port in (site.client_port, site.server_port):
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    wait_until(lambda: totals(site)["probes_total"] == probes + 2, 10, "the checks' end")
    assert "WARNING" not in bridge.text.removeprefix(before)


@pytest.mark.once("what our program counts and says")
@pytest.mark.parametrize("name", ["bridge", "server"])
def test_peers_that_hang_at_the_status_socket(served: tuple[Site, Process], name: str) -> None:
    site, _bridge = served
    with ExitStack() as stack:
        for _ in range(30):
            peer = stack.enter_context(socket.socket(socket.AF_UNIX))
            peer.connect(str(socket_of(site, name)))
        assert done(site, "list-users", secrets=[ADMIN]) == b"admin\n"
        health(site, name, code=OK)


def test_a_status_socket_is_its_user_s_alone(served: tuple[Site, Process]) -> None:
    site, _bridge = served
    assert socket_of(site, "bridge").stat().st_mode & 0o777 == 0o600
    assert socket_of(site, "server").stat().st_mode & 0o777 == 0o600


# ------------------------------------------------------------------------------ what has stopped


@pytest.mark.once("what our program counts and says")
def test_what_has_stopped_is_told(own: Site) -> None:
    bridge, server = own.start_bridge(), own.start_server()
    server.stop()
    report = health(own, "bridge", code=FAILED)
    assert "nothing can be signed" in check(report, "attached servers")["finding"]
    assert [layer for layer, state in states(report).items() if state != "ok"] == [
        "attached servers"
    ]
    # The container's own check: the bridge is well, and was started before its server.
    report = health(own, "bridge", "--docker", code=OK)
    assert check(report, "attached servers")["state"] == "warning"
    report = health(own, "server", code=FAILED)
    assert "no daemon answers" in check(report, "status")["finding"]
    bridge.popen.send_signal(signal.SIGKILL)
    bridge.popen.wait(PROGRAM_SECONDS)
    report = health(own, "bridge", code=FAILED)
    assert {"outer TLS", "ports", "status"} <= {
        layer for layer, state in states(report).items() if state == "failed"
    }
    report = health(own, "client", code=FAILED)
    assert "Connection refused" in check(report, "outer TLS")["finding"]
    own.start("server").wait_for("next attempt in")
    report = health(own, "server", "--docker", code=1)
    assert "nothing can be signed" in check(report, "attached workers")["finding"]
    # The socket that the killed bridge left is in nobody's way.
    own.start_bridge()
    health(own, "bridge", "--docker", code=OK)


@pytest.mark.once("what our program counts and says")
def test_a_bridge_that_hangs(own: Site) -> None:
    bridge = own.start_bridge()
    serving = bridge.serving
    os.kill(serving, signal.SIGSTOP)
    try:
        limits = ("--fail-handshake", "0.5", "--timeout", "1")
        report = health(own, "bridge", *limits, code=FAILED)
        assert "0.5 s" in check(report, "outer TLS")["finding"]
        assert check(report, "status")["state"] == "failed"
    finally:
        os.kill(serving, signal.SIGCONT)


@pytest.mark.once("what our program counts and says")
def test_daemons_without_status_sockets(site: Site) -> None:
    with site.running():
        for name in ("bridge", "server"):
            report = health(site, name, code=UNKNOWN)
            assert "status-socket" in check(report, "status")["cure"]


@pytest.mark.once("what our program counts and says")
def test_a_path_that_is_no_socket_stops_the_start(own: Site) -> None:
    for name in ("bridge", "server"):
        socket_of(own, name).write_text("precious")
        done_with = own.run(*module(name), "-c", str(own.path(f"{name}.conf")), code=1)
        assert b"no socket" in done_with.stderr
        assert socket_of(own, name).read_text() == "precious"


# --------------------------------------------------------------------- slow, expiring, misfitting


@pytest.mark.once("what our program counts and says")
def test_a_slow_handshake(served: tuple[Site, Process]) -> None:
    site, _bridge = served
    with Proxy(site.client_port, delay=0.2) as proxy:
        path = site.client_configuration("admin", "slow")
        path.write_text(path.read_text().replace(str(site.client_port), str(proxy.port)))
        report = health(site, "client", "--warn-handshake", "0.2", code=WARNING, config=path.name)
        assert check(report, "outer TLS")["values"]["handshake_seconds"] > 0.2
        limits = ("--warn-handshake", "0.1", "--fail-handshake", "0.3")
        report = health(site, "client", *limits, code=FAILED, config=path.name)
        assert check(report, "outer TLS")["state"] == "failed"


def database(site: Site, name: str) -> NSSDatabase:
    """One of the site's NSS databases."""
    directory = site.path("pki") / name
    return NSSDatabase(directory, read_password(directory / "nss-password"))


def authority(site: Site) -> Authority:
    """The site's CA."""
    found = database(site, "ca")
    assert found.password is not None
    return Authority.open(found.directory, found.password)


@pytest.mark.once("what our program compares and says")
@pytest.mark.parametrize(
    ("days", "state", "text"),
    [(20, "warning", "19 days"), (3, "failed", "2 days"), (0, "failed", "expired on")],
)
def test_a_certificate_whose_time_is_nearly_over(
    site: Site, days: int, state: str, text: str
) -> None:
    renewed = renew_leaf(
        authority(site), database(site, "clients/admin"), "sigul-client-cert",
        lifetime=timedelta(days=days, seconds=0 if days else 1),
    )  # fmt: skip
    wait_until(lambda: days or renewed.expired(), 10, "the certificate's end")
    # The bridge does not run: one failure does not keep the others from being told.
    found = check(health(site, "client", code=FAILED), "certificate")
    assert found["state"] == state
    assert text in found["finding"]
    assert "pki renew" in found["cure"]


def test_a_wrong_nss_password(site: Site) -> None:
    site.path("pki/clients/admin/nss-password").write_text("wrong")
    report = health(site, "client", code=FAILED)
    found = check(report, "NSS database")
    assert "does not open" in found["finding"]
    assert f"(of {datetime.now(UTC):%Y}" in found["finding"]
    assert check(report, "outer TLS")["state"] == "unknown"


@pytest.mark.once("what our program counts and says")
def test_a_wrong_configuration(site: Site) -> None:
    site.path("bridge.conf").write_text("[daemon]\nstatus-socket: run/s\n")
    report = health(site, "bridge", code=FAILED)
    assert "absolute path" in check(report, "configuration")["finding"]


def test_a_bridge_whose_certificate_is_a_server_s_alone(own: Site) -> None:
    """As those of sites that were made before the bridge had a health check."""
    bridge = database(own, "bridge")
    old = bridge.find("sigul-bridge-cert").certificate
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, own.bridge_name)])
    model = (
        x509.CertificateBuilder(name, name, key.public_key(), 5)
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(own.bridge_name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    leaf = authority(own).renew(model, lifetime=timedelta(days=300), new_key=True)
    bridge.replace_leaf(leaf, "sigul-bridge-cert")
    with own.running():
        report = health(own, "bridge", code=WARNING)
        found = check(report, "outer TLS")
        assert "extended key usage" in found["finding"]
        assert "pki issue" in found["cure"]
        assert [layer for layer, state in states(report).items() if state != "ok"] == ["outer TLS"]


# A site is started, and health looks until the daemon has loaded what is there: seconds.
@pytest.mark.parametrize("name", ["bridge", "server"])
def test_a_daemon_that_goes_on_with_an_old_certificate(own: Site, name: str) -> None:
    """Of a bridge its handshake tells it, too."""
    with own.running() as daemons:
        renew_leaf(authority(own), database(own, name), f"sigul-{name}-cert")
        report = health(own, name, code=WARNING)
        stale = {one["layer"]: one for one in report["checks"] if one["state"] == "warning"}
        assert stale.keys() == {"status"} | ({"outer TLS"} if name == "bridge" else set())
        assert all("SIGHUP" in one["cure"] for one in stale.values())
        unloaded = stale["status"]["values"]["unloaded"].split(", ")
        assert str(database(own, name).directory / "cert9.db") in unloaded
        daemons[name == "server"].popen.send_signal(signal.SIGHUP)

        def well() -> bool:
            done = own.run(
                *module("stack"), "health", name, "-c", str(own.path(f"{name}.conf")), code=None
            )  # fmt: skip
            return done.returncode == OK

        wait_until(well, PROGRAM_SECONDS, "a daemon that has loaded what is there")


# ------------------------------------------------------------------------------- no user's rights


@pytest.mark.once("what our program compares and says")
def test_the_bridge_s_certificate_is_no_user_s(own: Site) -> None:
    """Though it may be a TLS client's, and the server does not compare names."""
    own.extra["server"]["server"] = "lenient-username-check: yes\n"
    own.configure()
    path = own.client_configuration("admin", "bridge-as-client")
    path.write_text(
        path.read_text()
        .replace("[nss]", "client-cert-nickname: sigul-bridge-cert\n[nss]")
        .replace("clients/admin", "bridge")
    )
    with own.running() as (_bridge, server):
        failure(own, "list-users", config=path.name, secrets=[ADMIN], code=MAY_HAVE_HAPPENED)
        server.wait_for("the bridge itself: refused")
        assert done(own, "list-users", secrets=[ADMIN]) == b"admin\n"
