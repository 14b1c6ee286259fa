"""A server's metrics: its file for node_exporter, and what `sigul-stack metrics` prints."""

from __future__ import annotations

import signal
import stat
import time
from collections.abc import Iterator, Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sigul_stack.observe.catalogue import METRICS, Kind, Source
from tests.site import Process, Site, module, wait_until

from .commands_support import ADMIN, AUTHENTICATION, done, refused

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


@pytest.fixture(scope="module")
def served(
    template: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, Process]]:
    """A running site with metrics, and its server."""
    site = with_metrics(Site.copy(template, tmp_path_factory.mktemp("metrics") / "site"))
    with site.running() as (_bridge, server):
        yield site, server


def test_requests_and_their_phases_are_counted_without_names(
    served: tuple[Site, Process],
) -> None:
    site, server = served
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
    for (name, labels), found in last.items():
        if name.endswith(("_total", "_count")) and "workers" not in name:
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
