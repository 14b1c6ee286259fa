"""A running bridge's management address and its view: what is there after requests of each kind."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sigul_stack.observe.catalogue import METRICS, Kind, Source
from sigul_stack.observe.view import BridgeView, decode_view
from sigul_stack.transport.status_socket import ask
from tests.faults.observe import workers
from tests.site import DAEMON_SECONDS, Process, Site, free_port, module, nul, popen, wait_until

from .commands_support import ADMIN

pytestmark = pytest.mark.once("a bridge's numbers, and who may ask for them")

PASSPHRASE = "a-passphrase"
KEY = "metrics-key"


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, as a reverse proxy speaks it."""

    def __init__(self, path: Path) -> None:
        super().__init__("sigul.example.org", timeout=DAEMON_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def get(address: int | Path, path: str) -> bytes:
    """What is at a path of a management address, which is a port or a Unix socket."""
    connection = (
        UnixConnection(address)
        if isinstance(address, Path)
        else http.client.HTTPConnection("127.0.0.1", address, timeout=DAEMON_SECONDS)
    )
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    assert answer.status == 200, body
    return body


def view(address: int | Path) -> BridgeView:
    """The bridge's view."""
    return decode_view(get(address, "/status.json"))


def samples(text: bytes) -> dict[str, list[tuple[dict[str, str], float]]]:
    """All samples of a text, by name."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def configure(site: Site, listen: int | Path, further: str = "") -> None:
    """Give the site's bridge a management address."""
    address = f"unix:{listen}" if isinstance(listen, Path) else f"127.0.0.1:{listen}"
    site.extra["bridge"] = {
        "management": f"listen: {address}\n{further}",
        "bridge": "signing-log-interval: 1\n",
        "daemon": f"status-socket: {site.path('run/status')}\n",
    }
    site.configure()


@contextlib.contextmanager
def under_way(site: Site, server: Process, seen: Callable[[], BridgeView]) -> Iterator[BridgeView]:
    """A request of `admin` is at a server that does nothing; the client is killed at the end."""
    stopped = list(workers(server.popen.pid))
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        command = [*module("sigul"), "--batch", "-c", str(site.path("client.conf")), "list-users"]
        pipe = subprocess.PIPE
        with popen(command, env=site.environment, stdin=pipe, stdout=pipe, stderr=pipe) as client:
            assert client.stdin is not None
            client.stdin.write(nul(ADMIN))
            client.stdin.close()
            wait_until(lambda: seen().connections["forwarded"] == 1, DAEMON_SECONDS, "the request")
            try:
                yield seen()
            finally:
                client.kill()
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_every_metric_and_the_view_after_requests_of_each_kind(site: Site) -> None:
    port = free_port()
    configure(site, port)
    with site.running() as (bridge, server):
        site.sigul("list-users", secrets=[ADMIN])
        site.sigul("new-key", KEY, secrets=[ADMIN, PASSPHRASE])
        data, signature = site.path("data"), site.path("data.sig")
        data.write_bytes(b"some data\n")
        site.sigul("sign-data", "-o", str(signature), KEY, str(data), secrets=[PASSPHRASE])
        site.sigul("list-users", secrets=["wrong"], code=None)
        with under_way(site, server, lambda: view(port)) as seen:
            (one,) = seen.under_way
            assert (one.common_name, one.op, one.version, one.state) == (
                "admin", "list-users", 1, "forwarded",
            )  # fmt: skip
        wait_until(lambda: len(view(port).recent) == 5, DAEMON_SECONDS, "the end of the request")
        asked = site.run(*module("stack"), "metrics", "bridge", "-c", str(site.path("bridge.conf")))
        assert b'sigul_bridge_requests_total{op="sign-data",result="ok",version="1"} 1.0' in (
            asked.stdout
        )
        wait_until(
            lambda: view(port).totals["signing_log_checkpoints_total"] > 0,
            DAEMON_SECONDS,
            "a look at the signing log",
        )
        seen = view(port)
        assert [(item.op, item.state) for item in seen.recent] == [
            ("list-users", "failed"),
            ("list-users", "refused"),
            ("sign-data", "ok"),
            ("new-key", "ok"),
            ("list-users", "ok"),
        ]
        # As in the lines of all logs; the killed client may have begun no inner session.
        assert all(re.fullmatch("[0-9a-f]{16}", item.id) for item in seen.recent[1:])
        assert f"{{{seen.recent[1].id}}}" in bridge.text
        assert {item.role for item in seen.certificates} == {"bridge", "server", "client"}
        assert all(700 < item.days_left < 735 for item in seen.certificates)
        assert {series.name: sum(point[3] for point in series.points) for series in seen.latency}[
            "request"
        ] == 4
        assert [item.complaint for item in seen.logs] == [""]

        # The status socket tells the same, with or without a management address.
        told = decode_view(ask(site.path("run/status"), "view", DAEMON_SECONDS))
        assert (told.recent, told.pid) == (seen.recent, seen.pid)
        assert told.certificates[0] == seen.certificates[0]

        checked = "sigul_bridge_signing_log_checked_timestamp_seconds"
        wait_until(
            lambda: checked in samples(get(port, "/metrics")), DAEMON_SECONDS, "the newest numbers"
        )
        text = get(port, "/metrics")
        found = samples(text)
        for metric in METRICS:
            if metric.source is Source.BRIDGE:
                name = metric.name + "_count" * (metric.kind is Kind.HISTOGRAM)
                assert name in found, name
                assert all(set(labels) == set(metric.labels) for labels, _ in found[name]), name
        ended = {
            (labels["op"], labels["version"], labels["result"]): value
            for labels, value in found["sigul_bridge_requests_total"]
        }
        assert ended == {
            ("list-users", "1", "ok"): 1,
            ("list-users", "1", "refused"): 1,
            ("list-users", "1", "failed"): 1,
            ("new-key", "1", "ok"): 1,
            ("sign-data", "1", "ok"): 1,
        }
        # No name of anybody or anything.
        for name in ("admin", KEY, site.server_name, site.bridge_name, "data.sig"):
            assert name.encode() not in text, name
        assert b"<h1" in get(port, "/")


def test_a_unix_socket_names_and_a_hand_over(site: Site) -> None:
    """The address is there all the time, and the newest process is who answers."""
    path = site.path("run/management")
    configure(site, path)
    with site.running() as (bridge, _server):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        site.sigul("list-users", secrets=[ADMIN])
        assert b"admin" not in get(path, "/metrics")
        before = view(path).pid

        over, failures = threading.Event(), []

        def scrape() -> None:
            while not over.wait(0.02):
                try:
                    get(path, "/metrics")
                except OSError as error:
                    failures.append(error)

        scraping = threading.Thread(target=scrape)
        scraping.start()
        try:
            configure(site, path, "metrics-names: yes\n")
            bridge.popen.send_signal(signal.SIGHUP)
            wait_until(lambda: view(path).pid != before, DAEMON_SECONDS, "the next process")
            wait_until(
                lambda: view(path).connections["waiting_server"] > 0, DAEMON_SECONDS, "its servers"
            )
        finally:
            over.set()
            scraping.join()
        assert failures == []
        site.sigul("list-users", secrets=[ADMIN])
        wait_until(lambda: len(view(path).recent) == 1, DAEMON_SECONDS, "the request's end")
        wait_until(
            lambda: "sigul_bridge_requests_total" in samples(get(path, "/metrics")),
            DAEMON_SECONDS,
            "an answer that is not kept from before",
        )
        found = samples(get(path, "/metrics"))
        assert found["sigul_bridge_requests_total"] == [
            ({"op": "list-users", "version": "1", "result": "ok", "client": "admin"}, 1.0)
        ]
        waiting = [labels for labels, _ in found["sigul_bridge_waiting_servers"]]
        assert waiting == [{"server": site.server_name}]

        # Another address, and the former one's name is gone.
        port = free_port()
        configure(site, port)
        bridge.popen.send_signal(signal.SIGHUP)
        bridge.wait_for(f"Metrics and page are at 127.0.0.1:{port}")
        wait_until(lambda: not path.exists(), DAEMON_SECONDS, "the end of the former address")
        assert view(port).pid != before

        # None at all: the status socket has the view all the same.
        site.extra["bridge"].pop("management")
        site.configure()
        pid = view(port).pid
        bridge.popen.send_signal(signal.SIGHUP)

        def status() -> BridgeView:
            return decode_view(ask(site.path("run/status"), "view", DAEMON_SECONDS))

        wait_until(lambda: status().pid != pid, DAEMON_SECONDS, "the next process")
        with pytest.raises(ConnectionRefusedError):
            wait_until(lambda: not view(port), DAEMON_SECONDS, "the end of the address")


def test_an_address_that_is_taken_keeps_the_bridge_from_starting(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        configure(site, other.getsockname()[1])
        done = site.run(*module("bridge"), "-c", str(site.path("bridge.conf")), code=1)
    assert b"cannot listen on 127.0.0.1 port" in done.stderr
    configure(site, site.path("none/management"))
    done = site.run(*module("bridge"), "-c", str(site.path("bridge.conf")), code=1)
    assert b"[management] listen: '" in done.stderr
    assert b"cannot be made: No such file or directory; name a path" in done.stderr
