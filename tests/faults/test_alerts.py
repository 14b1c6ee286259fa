"""Faults of a real site fire the alerts of role `monitoring`, and what mends them ends these.

Bridge and server run with Debian's Prometheus, Alertmanager, node_exporter and HAProxy, configured
by the role's own templates; limits are of seconds. All tests share one site, which each leaves
well. In containers: tests/kit/test_monitoring.py.
"""

from __future__ import annotations

import contextlib
import functools
import http
import http.client
import json
import shutil
import signal
import socket
import subprocess
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sigul_stack.evidence.pushed import note_push
from sigul_stack.formats.signed_note import PublicKey
from tests import alert_rules
from tests.alert_rules import LASTING as ALERTS
from tests.alert_rules import rules
from tests.faults.proxies import Proxy
from tests.site import Process, Site, free_port, module, popen, wait_until

pytestmark = [
    pytest.mark.long("roles/monitoring", "sigul_stack/observe", "sigul_stack/bridge/measures.py"),
    # The first one starts the site and four programs; an alert of the server's file takes 20 s.
    pytest.mark.timeout(300),
]

ADMIN = "admin-pw"
KEY, KEY_PASSPHRASE = "k1", "k1-pw"
#: Seconds for an alert to fire, and to end; on a machine that has other work, too.
SOON = 90.0
#: The role's limits, in the time of tests.
LIMITS = {
    "window_seconds": 15,
    "handshake_seconds": 1,
    "queue_seconds": 1,
    "log_checked_seconds": 5,
    # The server writes its numbers every 15 seconds.
    "server_seconds": 20,
    "unlock_failures": 2,
    "check_seconds": 100,
}
#: Nobody waits at a bridge for a moment, and none has the state of a server for a moment.
LASTING = "1s"
#: Peers of a port that may be in their handshake.
HANDSHAKES = 10


@dataclass
class Watched:
    """A site, its daemons, and where Alertmanager and Prometheus answer."""

    site: Site
    bridge: Process
    server: Process
    alertmanager: int
    prometheus: int

    def firing(self) -> set[str]:
        """The names of alerts that Alertmanager has."""
        alerts = json.loads(get(self.alertmanager, "/api/v2/alerts"))
        return {alert["labels"]["alertname"] for alert in alerts}

    def wait(self, condition: Callable[[set[str]], bool], what: str) -> None:
        """Wait until a condition of what fires holds."""
        seen: list[set[str]] = []

        def holds() -> bool:
            seen[:] = [self.firing()]
            return condition(seen[0])

        try:
            wait_until(holds, SOON, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; now fire {sorted(seen[0])}") from None

    def fires(self, *names: str) -> None:
        """Wait until all these alerts fire."""
        self.wait(lambda firing: set(names) <= firing, f"{names} firing")

    def ends(self, *names: str) -> None:
        """Wait until none of these fires any more."""
        self.wait(lambda firing: not set(names) & firing, f"the end of {names}")

    def query(self, expression: str) -> list[Any]:
        """What Prometheus answers to a query."""
        words = urllib.parse.urlencode({"query": expression})
        answer = json.loads(get(self.prometheus, f"/api/v1/query?{words}"))
        found: list[Any] = answer["data"]["result"]
        return found

    def look(self, *components: str, prefix: tuple[str, ...] = ()) -> None:
        """Have health checks write what they find."""
        for component in components or ("bridge", "server", "client"):
            self.site.run(
                *prefix, *module("stack"), "health", component, "-c",
                str(self.site.path(f"{component}.conf")),
                "--metrics-file", str(self.site.path(f"metrics/{component}/health.prom")),
                code=None,
            )  # fmt: skip

    def canary(self, code: int, passphrase: str = KEY_PASSPHRASE) -> None:
        """Have a canary sign with the key, and write what became of it."""
        self.site.run(
            *module("stack"), "canary", "-c", str(self.site.path("client.conf")), "--key", KEY,
            "--public-key", str(self.site.path("k1.asc")),
            "--log-key", str(self.log() / "key.pub"), "--timeout", "10",
            "--state-file", str(self.site.path("canary.json")),
            "--metrics-file", str(self.site.path("metrics/client/canary.prom")),
            secrets=[passphrase], code=code,
        )  # fmt: skip

    def start_server(self, prefix: tuple[str, ...] = ()) -> None:
        """Start the server again."""
        self.server = self.site.start_server(2, prefix=prefix)

    def stop_server(self) -> None:
        """End the server in order."""
        assert self.server.stop() == 0
        self.site.processes.remove(self.server)

    def log(self) -> Path:
        """The server's signing log."""
        return self.site.path("server/signing-log")

    def ask(self, code: int = 0, password: str = ADMIN, config: str = "client.conf") -> None:
        """Have the users listed."""
        self.site.sigul("list-users", secrets=[password], code=code, config=config)


def configured(site: Site) -> Site:
    """A site as the roles configure one that is watched."""
    for name in ("bridge", "server", "client"):
        site.path(f"metrics/{name}").mkdir(parents=True)
    site.path("management").mkdir(mode=0o700)
    site.extra = {
        "bridge": {
            "bridge": f"signing-log-interval: 1\nsigning-log-state: {site.path('run/seen.json')}\n"
            f"max-handshakes: {HANDSHAKES}\n",
            "daemon": f"status-socket: {site.path('run/bridge.sock')}\n",
            "management": f"listen: unix:{site.path('management/m.sock')}\n",
        },
        "server": {
            "daemon": f"status-socket: {site.path('run/server.sock')}\n",
            "metrics": f"file: {site.path('metrics/server/server.prom')}\n",
        },
    }
    site.configure()
    return site


@contextlib.contextmanager
def programs(site: Site) -> Iterator[tuple[int, int]]:
    """What watches the site; where Alertmanager and Prometheus answer."""
    gate, health, files, prometheus, alertmanager = (free_port() for _ in range(5))
    at = site.path("watch")
    at.mkdir()
    gates = [{"name": "bridge", "port": gate, "to": f"unix@{site.path('management/m.sock')}"}]
    text = alert_rules.template("haproxy.cfg.j2", _monitoring_gates_here=gates)
    text = text.replace("bind :", "bind 127.0.0.1:").replace(":9000", f":{health}")
    (at / "haproxy.cfg").write_text(text)
    text = alert_rules.template(
        "prometheus.yml.j2", monitoring_interval_seconds=1, sigul_site="test",
        _monitoring_bridges=[f"127.0.0.1:{gate}"], _monitoring_files=[f"127.0.0.1:{files}"],
    )  # fmt: skip
    text = text.replace("alertmanager:9093", f"127.0.0.1:{alertmanager}")
    (at / "prometheus.yml").write_text(text)
    lasting = dict.fromkeys(ALERTS, LASTING)
    (at / "alerts.yml").write_text(rules(lasting, LIMITS))
    (at / "alertmanager.yml").write_text(alert_rules.template("alertmanager.yml.j2"))
    commands = [
        ["haproxy", "-W", "-db", "-f", "haproxy.cfg"],
        [
            "prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile",
            f"--collector.textfile.directory={site.path('metrics')}/*",
            "--web.disable-exporter-metrics", f"--web.listen-address=127.0.0.1:{files}",
        ],
        [
            "prometheus-alertmanager", "--config.file=alertmanager.yml",
            "--storage.path=alertmanager", f"--web.listen-address=127.0.0.1:{alertmanager}",
            "--cluster.listen-address=",
        ],
        [
            "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=prometheus",
            f"--web.listen-address=127.0.0.1:{prometheus}", "--rules.alert.resend-delay=1s",
        ],
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        for command in commands:
            output = stack.enter_context((at / f"{command[0]}.log").open("wb"))
            process = subprocess.Popen(command, cwd=at, stdout=output, stderr=output)
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
        for port in (alertmanager, prometheus):
            wait_until(functools.partial(ready, port), 30, f"port {port} being ready")
        yield alertmanager, prometheus


def get(port: int, path: str) -> bytes:
    """What is there at a port of this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise OSError(answer.status)
        return answer.read()


def ready(port: int) -> bool:
    """Whether a program of the Prometheus family is ready."""
    with contextlib.suppress(OSError):
        get(port, "/-/ready")
        return True
    return False


@pytest.fixture(scope="module")
def watched(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    site = configured(Site.copy(template, tmp_path_factory.mktemp("alerts") / "site"))
    with site.running() as (bridge, server), programs(site) as addresses:
        made = Watched(site, bridge, server, *addresses)
        site.sigul("new-key", KEY, secrets=[ADMIN, KEY_PASSPHRASE])
        # Before any health check there is nothing that certificates and disks are told by.
        made.fires("SigulCheckMissing")
        made.look()
        made.ends("SigulCheckMissing", "SigulServerNotRunning", "SigulBridgeNoWaitingServer")
        yield made


@pytest.fixture(autouse=True)
def mended(watched: Watched) -> Iterator[None]:
    """Daemons that a test has left down, as one that failed does, are started again."""
    yield
    if watched.bridge.popen.poll() is not None:
        watched.bridge = watched.site.start_bridge()
    if watched.server.popen.poll() is not None:
        watched.start_server()


def test_a_site_that_is_well_has_no_alerts(watched: Watched) -> None:
    watched.look()
    watched.wait(lambda firing: firing == set(), "the end of all alerts")
    assert len(watched.query("up == 1")) == 2
    # What the dashboard asks for first is there.
    for name in ("sigul_bridge_info", "sigul_server_info", "sigul_check_state"):
        assert watched.query(name), name


def test_health_checks_that_nobody_makes(watched: Watched) -> None:
    for path in watched.site.path("metrics").glob("*/health.prom"):
        path.unlink()
    watched.fires("SigulCheckMissing")
    watched.look()
    watched.ends("SigulCheckMissing")


def test_a_server_that_is_killed(watched: Watched) -> None:
    site = watched.site
    watched.server.popen.kill()
    watched.server.popen.wait(10)
    site.processes.remove(watched.server)
    watched.fires("SigulBridgeNoWaitingServer")
    # Before a request waits, which could be one that is served.
    watched.look("bridge")
    pipe = subprocess.PIPE
    words = [*module("sigul"), "--batch", "-c", str(site.path("client.conf")), "list-users"]
    client = popen(words, env=site.environment, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        assert client.stdin
        client.stdin.write(f"{ADMIN}\0".encode())
        client.stdin.flush()
        watched.fires(
            "SigulBridgeQueue", "SigulCheckFailed",
            "SigulBridgeLogNotChecked", "SigulServerNotRunning",
        )  # fmt: skip
        watched.start_server()
        assert client.wait(30) == 0
    finally:
        client.kill()
        client.communicate()
    watched.look()
    watched.ends(
        "SigulBridgeNoWaitingServer", "SigulBridgeQueue", "SigulCheckFailed",
        "SigulBridgeLogNotChecked", "SigulServerNotRunning",
    )  # fmt: skip


def test_a_bridge_that_is_killed(watched: Watched) -> None:
    watched.bridge.popen.kill()
    watched.bridge.popen.wait(10)
    watched.site.processes.remove(watched.bridge)
    watched.fires("SigulBridgeDown")
    watched.bridge = watched.site.start_bridge()
    watched.ends("SigulBridgeDown", "SigulBridgeNoWaitingServer")


def test_handshakes_that_are_slow(watched: Watched) -> None:
    site = watched.site
    with Proxy(site.client_port, delay=1.0) as proxy:
        text = site.path("client.conf").read_text()
        slow = text.replace(f"bridge-port: {site.client_port}", f"bridge-port: {proxy.port}")
        site.path("slow.conf").write_text(slow)
        for _ in range(3):
            watched.ask(config="slow.conf")
        watched.fires("SigulBridgeHandshakeSlow")
    watched.ends("SigulBridgeHandshakeSlow")


def test_connections_that_fill_a_budget(watched: Watched) -> None:
    """Their handshakes are in time, or the bridge ends them: then there are others."""
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", watched.site.client_port)

        def filled() -> bool:
            for _ in range(2):
                stack.enter_context(socket.create_connection(address, timeout=5))
            return "SigulBridgeBudget" in watched.firing()

        wait_until(filled, SOON, "the alert of the budget")
    watched.ends("SigulBridgeBudget")


def test_guesses_at_a_password(watched: Watched) -> None:
    for _ in range(6):
        watched.ask(code=1, password="wrong-pw")
    watched.fires("SigulUnlockFailures")
    watched.ends("SigulUnlockFailures")


def test_a_certificate_that_ends_soon(watched: Watched) -> None:
    site = watched.site

    def renew(years: str) -> None:
        site.run(
            *module("stack"), "pki", "renew", "--ca", str(site.path("pki/ca")),
            "--nickname", "sigul-bridge-cert", "--years", years, str(site.path("pki/bridge")),
        )  # fmt: skip
        watched.bridge.popen.send_signal(signal.SIGHUP)
        watched.look("bridge")

    renew("0.05")
    watched.fires("SigulCertificateExpiring")
    renew("1")
    watched.ends("SigulCertificateExpiring")


def test_a_key_that_expires_soon(watched: Watched) -> None:
    day = (datetime.now(UTC) + timedelta(days=12)).date().isoformat()
    site = watched.site
    site.sigul("new-key", "--expire-date", day, "short", secrets=[ADMIN, "short-pw"])
    site.run(
        *module("stack"), "health", "server", "--deep", "-c", str(site.path("server.conf")),
        "--metrics-file", str(site.path("metrics/server/health.prom")), code=None,
    )  # fmt: skip
    watched.fires("SigulKeyExpiring")
    site.sigul("delete-key", "short", secrets=[ADMIN])
    watched.look("server")
    watched.ends("SigulKeyExpiring")


def test_a_log_that_is_not_pushed(watched: Watched) -> None:
    now = datetime.now(UTC)
    note_push(watched.log(), 1, "/srv/copy", now - timedelta(days=3))
    watched.look("server")
    watched.fires("SigulLogNotPushed")
    note_push(watched.log(), 1, "/srv/copy", now)
    watched.look("server")
    watched.ends("SigulLogNotPushed")


@pytest.mark.parametrize("fault", ["a wrong passphrase", "no server"])
def test_a_canary_that_fails(watched: Watched, fault: str) -> None:
    site = watched.site
    key = site.sigul("get-public-key", KEY, secrets=[KEY_PASSPHRASE]).stdout
    site.path("k1.asc").write_bytes(key)
    watched.canary(code=0)
    wait_until(
        lambda: watched.query("sigul_canary_success == 1") != [], SOON, "a canary that is well"
    )
    assert "SigulCanaryFailed" not in watched.firing()
    if fault == "no server":
        watched.stop_server()
        watched.canary(code=2)
        watched.fires("SigulCanaryFailed")
        watched.start_server()
    else:
        watched.canary(code=2, passphrase="wrong-pw")
        watched.fires("SigulCanaryFailed")
    watched.canary(code=0)
    watched.ends("SigulCanaryFailed")


def test_a_disk_that_is_full(watched: Watched, tmp_path: Path) -> None:
    """The signing log's: the server refuses to sign."""
    site, log, copy = watched.site, watched.log(), tmp_path / "log"
    watched.stop_server()
    shutil.copytree(log, copy)
    script = (
        'mount -t tmpfs -o size=512k,mode=700 none "$1" && cp -a "$2/." "$1" && shift 2'
        ' && exec "$@"'
    )
    watched.start_server(("unshare", "--mount", "sh", "-c", script, "sh", str(log), str(copy)))
    pid = watched.server.popen.pid
    inside = Path(f"/proc/{pid}/root{log}")
    data = tmp_path / "data"
    data.write_bytes(b"data")
    words = ("sign-data", "-o", str(tmp_path / "signature"), KEY, str(data))
    site.sigul(*words, secrets=[KEY_PASSPHRASE])
    with (inside / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    site.sigul(*words, secrets=[KEY_PASSPHRASE], code=1)
    watched.look("server", prefix=("nsenter", f"--target={pid}", "--mount"))
    watched.fires("SigulDiskFull", "SigulLogNotWritten")
    (inside / "filler").unlink()
    site.sigul(*words, secrets=[KEY_PASSPHRASE], code=None)
    shutil.copytree(inside, copy, dirs_exist_ok=True)
    watched.stop_server()
    shutil.rmtree(log)
    shutil.copytree(copy, log)
    watched.start_server()
    watched.look("server")
    watched.ends("SigulDiskFull", "SigulLogNotWritten")


def test_a_log_that_was_put_back(watched: Watched, tmp_path: Path) -> None:
    """An old copy of it: the bridge has seen more."""
    site, log, yesterday = watched.site, watched.log(), tmp_path / "yesterday"
    watched.stop_server()
    shutil.copytree(log, yesterday)
    watched.start_server()
    for _ in range(3):
        watched.ask()
    size = (log / "checkpoint").read_text().splitlines()[1]
    seen = site.path("run/seen.json")
    wait_until(lambda: rf"\n{size}\n" in seen.read_text(), SOON, f"a bridge that has seen {size}")
    watched.stop_server()
    shutil.rmtree(log)
    shutil.copytree(yesterday, log)
    watched.start_server()
    watched.fires("SigulBridgeLogComplaint")
    origin = PublicKey.parse((log / "key.pub").read_text()).name
    for config in ("bridge.conf", "client.conf"):
        site.run(
            *module("stack"), "witness", "accept", "-c", str(site.path(config)), origin, code=None
        )
    watched.ends("SigulBridgeLogComplaint")
