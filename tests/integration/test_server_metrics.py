"""A server's metrics: its file, what `sigul-stack metrics` prints, and what health checks write."""

from __future__ import annotations

import json
import re
import signal
import stat
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from prometheus_client.parser import text_string_to_metric_families

from sigul_stack.evidence.pushed import note_push
from sigul_stack.observe.catalogue import METRICS, Kind, Source
from tests.site import Site, module, wait_until

from .commands_support import ADMIN, AUTHENTICATION, done, refused

#: Exit codes of a health check.
WARNING, FAILED = 1, 2
#: Seconds for a worker's word to reach the supervisor.
SOON = 10.0

Values = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Values:
    """Each value of a text, by its name and labels; an empty one is none, as for Prometheus."""
    return {
        (
            sample.name,
            frozenset((key, text) for key, text in sample.labels.items() if text),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(values: Values, name: str, **labels: str) -> float | None:
    """One value; None where there is none."""
    return values.get((name, frozenset(labels.items())))


def requests(values: Values, op: str, result: str, version: str = "1", **labels: str) -> float:
    """How many requests of this kind were counted."""
    name = "sigul_server_requests_total"
    return value(values, name, op=op, result=result, version=version, **labels) or 0


def all_requests(values: Values) -> float:
    """How many requests were counted, those of the bridge included."""
    return sum(
        found for (name, _labels), found in values.items() if name == "sigul_server_requests_total"
    )


def phase(values: Values, name: str) -> float:
    """How often a phase was measured."""
    found = value(values, "sigul_server_phase_seconds_count", phase=name)
    assert found is not None
    return found


def with_metrics(site: Site, lines: str = "") -> Site:
    """Have a site's server write metrics, and tell them at its status socket."""
    lines_of = site.extra.setdefault("server", {})
    lines_of["metrics"] = f"file: {site.path('run/server.prom')}\n{lines}"
    lines_of["daemon"] = f"status-socket: {site.path('run/server.sock')}\n"
    lines_of["server"] = "max-spool-size: 100000000\nspool-min-free: 1000\n"
    site.configure()
    return site


def told(site: Site) -> Values:
    """What `sigul-stack metrics` prints at this moment."""
    command = (*module("stack"), "metrics", "server", "-c", str(site.path("server.conf")))
    return read(site.run(*command).stdout.decode())


def told_once(site: Site, op: str, result: str, count: int = 1, **labels: str) -> Values:
    """The same, once a request of this kind was counted so often."""
    found: list[Values] = []

    def counted() -> bool:
        found.append(told(site))
        return requests(found[-1], op, result, **labels) >= count

    wait_until(counted, SOON, f"{op} {result}")
    return found[-1]


def test_requests_and_their_phases_are_counted_without_names(site: Site) -> None:
    with_metrics(site)
    site.start_bridge()
    server = site.start_server()
    text = site.path("run/server.prom").read_text()
    assert value(read(text), "sigul_server_phase_seconds_count", phase="sign") == 0
    before = told_once(site, "list-users", "ok", 0)

    done(site, "list-users", secrets=[ADMIN])
    listed = told_once(site, "list-users", "ok")
    for name, more in (("unlock", 1), ("log", 1), ("sign", 0), ("store", 0)):
        assert phase(listed, name) == phase(before, name) + more, name
    # The bridge asks for the log's checkpoint besides.
    for name in ("receive", "inner_tls", "reply"):
        assert phase(listed, name) == all_requests(listed) > all_requests(before), name

    refused(site, AUTHENTICATION, "list-users", secrets=["wrong"])
    wrong = told_once(site, "list-users", "refused")
    assert value(wrong, "sigul_server_unlock_failures_total") == 1

    done(site, "new-key", "release", secrets=[ADMIN, "key-pw"])
    made = told_once(site, "new-key", "ok")
    assert phase(made, "store") == 1
    payload = site.path("payload")
    payload.write_bytes(b"data")
    signature = str(site.path("signature"))
    done(site, "sign-data", "-o", signature, "release", str(payload), secrets=["key-pw"])
    signed = told_once(site, "sign-data", "ok")
    assert phase(signed, "sign") == 1
    seconds = value(signed, "sigul_server_phase_seconds_sum", phase="sign")
    assert seconds is not None and 0 < seconds < 60

    # All there is, and the same in the file that it leaves.
    last = told(site)
    server.stop()
    path = site.path("run/server.prom")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    text = path.read_text()
    written = read(text)
    names = {name for name, _labels in written}
    for metric in METRICS:
        if metric.source is Source.SERVER:
            shown = f"{metric.name}_count" if metric.kind is Kind.HISTOGRAM else metric.name
            assert shown in names, metric.name
            assert f"# HELP {metric.name} {metric.help}" in text
    # But for workers: some may have come to the bridge meanwhile.
    of_workers = re.compile("_workers_|_handshake_")
    for (name, labels), found in last.items():
        if name.endswith(("_total", "_count")) and not of_workers.search(name):
            assert written[name, labels] == found, name
    said = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert not any(name in said for name in ("admin", "release", "payload", site.server_name))
    when = value(written, "sigul_server_metrics_timestamp_seconds")
    assert when is not None and abs(time.time() - when) < 60
    assert value(written, "sigul_server_workers", state="busy") == 0


def test_names_are_there_where_they_are_asked_for_and_proven(site: Site) -> None:
    with_metrics(site, "metrics-names: yes\n")
    with site.running():
        done(site, "list-users", secrets=[ADMIN])
        refused(site, AUTHENTICATION, "list-users", secrets=["wrong"])
        values = told_once(site, "list-users", "ok", user="admin")
        # Who has not proven who he is has no name.
        assert requests(told_once(site, "list-users", "refused"), "list-users", "refused") == 1
        assert requests(values, "list-users", "refused", user="admin") == 0


def test_a_file_that_cannot_be_written_is_told_of_once_and_ends_nothing(site: Site) -> None:
    with_metrics(site)
    path = site.path("run/server.prom")
    path.mkdir()
    with site.running() as (_bridge, server):
        failing = "Metrics cannot be given: the metrics' file"
        server.wait_for(failing)
        for times in (1, 2):
            server.popen.send_signal(signal.SIGHUP)  # which has it written at once
            server.wait_for("The configuration is taken", times)
        done(site, "list-users", secrets=[ADMIN])
        path.rmdir()
        server.popen.send_signal(signal.SIGHUP)
        server.wait_for("The metrics' file is written again")
        assert server.text.count(failing) == 1
        path.unlink()
        server.popen.send_signal(signal.SIGHUP)
        wait_until(path.exists, SOON, "a new file")
        assert list(path.parent.glob(".server.prom*")) == []


def test_a_name_that_node_exporter_does_not_read_is_refused(site: Site) -> None:
    site.extra["server"] = {"metrics": f"file: {site.path('run/server.txt')}\n"}
    site.configure()
    result = site.run(*module("server"), "-c", str(site.path("server.conf")), code=1)
    assert b"does not end in .prom" in result.stderr


def test_a_daemon_without_metrics_is_told_of(site: Site) -> None:
    result = site.run(
        *module("stack"), "metrics", "server", "-c", str(site.path("server.conf")), code=1
    )
    assert b"set status-socket" in result.stderr


def test_health_checks_write_what_they_have_found(site: Site) -> None:
    with_metrics(site)
    site.extra["bridge"] = {
        "bridge": f"signing-log-state: {site.path('run/logs')}\n",
        "daemon": f"status-socket: {site.path('run/bridge.sock')}\n",
    }
    site.configure()
    day = (datetime.now(UTC) + timedelta(days=12)).date().isoformat()

    def looked(component: str, *options: str, code: int) -> tuple[str, Values]:
        path = site.path(f"run/health_{component}.prom")
        result = site.run(
            *module("stack"), "health", component, "-c", str(site.path(f"{component}.conf")),
            "--metrics-file", str(path), *options, code=code,
        )  # fmt: skip
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        return result.stdout.decode(), read(path.read_text())

    def layer(values: Values, component: str, name: str) -> float | None:
        return value(values, "sigul_check_state", component=component, layer=name)

    with site.running():
        done(site, "new-key", "--expire-date", day, "release", secrets=[ADMIN, "key-pw"])
        text, server = looked("server", "--json", "--deep", code=WARNING)
        report = json.loads(text)
        worst: dict[str, float] = {}
        for item in report["checks"]:
            state = ("ok", "warning", "failed", "unknown").index(item["state"])
            worst[item["layer"]] = max(state, worst.get(item["layer"], 0))
        for name, state in worst.items():
            assert layer(server, "server", name) == state, name
        assert worst["key store"] == WARNING
        assert worst["database"] == worst["signing log"] == 0
        left = value(server, "sigul_key_days_left")
        assert left is not None and 10 < left < 13
        assert value(server, "sigul_signing_log_pushed_timestamp_seconds") == 0
        log = site.path("server/signing-log")
        size = sum(path.stat().st_size for path in log.rglob("*") if path.is_file())
        assert value(server, "sigul_signing_log_bytes") == size
        (disk,) = (item["values"] for item in report["checks"] if item["layer"] == "disk")
        for volume in ("database", "key_store", "spool", "signing_log"):
            free = value(server, "sigul_disk_free_ratio", component="server", volume=volume)
            assert free is not None and abs(free - disk[f"{volume}_free_ratio"]) < 0.01
        note_push(log, 1, "/srv/copy", datetime.fromtimestamp(1_700_000_000, UTC))
        _text, named = looked("server", "--metrics-names", "--warn-push", "0", code=WARNING)
        assert value(named, "sigul_key_days_left") is None
        assert value(named, "sigul_key_days_left", key="release") is not None
        assert value(named, "sigul_signing_log_pushed_timestamp_seconds") == 1_700_000_000

        text, bridge = looked("bridge", "--docker", code=0)
        assert text.startswith("SIGUL BRIDGE")
        assert layer(bridge, "bridge", "outer TLS") == 0
        assert value(bridge, "sigul_disk_free_ratio", component="bridge", volume="state")
    _text, client = looked("client", code=FAILED)
    assert layer(client, "client", "certificate") == 0
    assert layer(client, "client", "outer TLS") == FAILED
    for component, values in (("server", server), ("bridge", bridge), ("client", client)):
        when = value(values, "sigul_check_timestamp_seconds", component=component)
        assert when is not None and abs(time.time() - when) < 60
        for which in ("own", "ca"):
            days = value(
                values, "sigul_certificate_days_left", component=component, certificate=which
            )
            assert days is not None and days > 300
    # A metric of the catalogue that no component has would be one that nobody gives.
    names = {name for values in (server, bridge, client) for name, _labels in values}
    assert names == {metric.name for metric in METRICS if metric.source is Source.HEALTH}


def test_a_metrics_file_that_cannot_be_written_is_not_known_for_well(site: Site) -> None:
    """Else a timer would go on as if all were well, with numbers that nobody renews."""
    command = (*module("stack"), "health", "client", "-c", str(site.path("client.conf")))
    path = site.path("nowhere/health.prom")
    result = site.run(*command, "--metrics-file", str(path), code=FAILED)  # no bridge runs
    assert b"cannot be written: No such file or directory" in result.stderr
    result = site.run(*command, "--metrics-file", str(site.path("health.txt")), code=2)
    assert b"does not end in .prom" in result.stderr
