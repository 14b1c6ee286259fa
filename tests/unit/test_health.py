"""Health checks without a site: states, limits, output, status documents and their socket."""

from __future__ import annotations

import datetime
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.bridge.budget import Budget
from sigul_stack.bridge.service import describe
from sigul_stack.bridge.waiting import Arrival
from sigul_stack.checks import Check, Report, State, failed, ok, warning
from sigul_stack.config.bridge import BridgeSettings
from sigul_stack.config.shared import NSSSettings
from sigul_stack.errors import ConfigurationError, DeadlineExceeded, ProtocolError, TransportError
from sigul_stack.health.bridge_checks import own_address
from sigul_stack.health.report_text import as_json, exit_code, health_text
from sigul_stack.health.steps import Layer, Limits, Step, walk_within
from sigul_stack.metrics import BridgeCount, Counters
from sigul_stack.protocol.status import (
    MAX_LISTED,
    AttachedWorker,
    BridgeStatus,
    ServerStatus,
    WaitingServer,
    decode_status,
    encode_status,
)
from sigul_stack.server.events import HANDSHAKE_SECONDS, WorkerEvent
from sigul_stack.system.pipes import EventReader, ParentPipes
from sigul_stack.transport import memory
from sigul_stack.transport.status_socket import StatusSocket, read_status, status_socket
from sigul_stack.transport.stream import Peer

# ------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize(
    ("seconds", "state"),
    [(0.9, State.OK), (1.0, State.OK), (1.1, State.WARNING), (5.0, State.WARNING),
     (5.1, State.FAILED)],
)  # fmt: skip
def test_a_handshake_is_slow_beyond_its_limits(seconds: float, state: State) -> None:
    assert Limits().of_handshake(seconds) is state


@pytest.mark.parametrize(
    ("days", "state"),
    [(30, State.OK), (29, State.WARNING), (7, State.WARNING), (6, State.FAILED),
     (-1, State.FAILED)],
)  # fmt: skip
def test_a_certificate_is_nearly_over_below_its_limits(days: int, state: State) -> None:
    assert Limits().of_days(days) is state


def fine(layer: Layer) -> Step:
    return Step(layer, lambda: [ok(layer, "fine")])


def test_what_hangs_fails_and_what_came_before_is_told() -> None:
    released = threading.Event()

    def hang() -> list[Check]:
        released.wait(60)
        return []

    steps = [fine(Layer.DATABASE), Step(Layer.OUTER, hang), fine(Layer.STATUS)]
    report = walk_within(0.2, "bridge", steps)
    released.set()
    assert [(check.layer, check.state) for check in report.checks] == [
        (Layer.DATABASE, State.OK),
        (Layer.OUTER, State.FAILED),
    ]
    assert "0.2 s" in report.checks[1].finding


def test_what_rests_on_a_failure_is_not_looked_at() -> None:
    def refuse() -> Iterator[Check]:
        raise TransportError("refused", "start it")

    steps = [
        Step(Layer.RESOLUTION, refuse),
        Step(Layer.OUTER, lambda: pytest.fail("looked"), (Layer.RESOLUTION,)),
    ]
    report = walk_within(60, "client", steps)
    assert [check.state for check in report.checks] == [State.FAILED, State.UNKNOWN]
    assert (report.checks[0].finding, report.checks[0].cure) == ("refused", "start it")


def test_a_fault_of_ours_is_not_taken_for_the_site_s() -> None:
    def broken() -> Iterator[Check]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        walk_within(60, "client", [Step(Layer.OUTER, broken)])


# ------------------------------------------------------------------------------------------ output

GREEN = Report(
    "bridge",
    (
        ok(Layer.CERTIFICATE, "valid", days_left=729),
        ok(Layer.OUTER, "done", handshake_seconds=0.012, tls_version="tls1.2"),
        ok(Layer.SERVERS, "4 wait", servers_waiting=4, requests_in_flight=0),
    ),
)


def test_the_first_line_is_for_monitoring() -> None:
    first, *rest = health_text(GREEN, Limits()).splitlines()
    assert first == (
        "SIGUL BRIDGE OK - handshake 0.012 s, 729 days left, 4 servers waiting,"
        " 0 requests in flight | handshake=0.012s;1;5 days_left=729;30:;7: servers_waiting=4"
        " requests_in_flight=0"
    )
    assert [line.split()[0] for line in rest] == ["ok", "ok", "ok"]


def test_the_first_line_names_the_worst() -> None:
    report = Report(
        "server",
        (
            warning(Layer.CERTIFICATE, "20 days left", "renew it", days_left=20),
            failed(Layer.WORKERS, "none | at\nall", "start the bridge"),
        ),
    )
    first, *rest = health_text(report, Limits(fail_days=3)).splitlines()
    assert first == (
        "SIGUL SERVER CRITICAL - attached workers: none / at all | days_left=20;30:;3:"
    )
    assert rest[0] == "warning  certificate: 20 days left; renew it"
    assert len(rest) == 2


def test_json_is_the_report() -> None:
    document = json.loads(as_json(GREEN))
    assert (document["component"], document["state"]) == ("bridge", "ok")
    assert document["checks"][1] == {
        "layer": "outer TLS", "state": "ok", "finding": "done", "cure": "",
        "values": {"handshake_seconds": 0.012, "tls_version": "tls1.2"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("state", "plain", "docker"),
    [(State.OK, 0, 0), (State.WARNING, 1, 0), (State.FAILED, 2, 1), (State.UNKNOWN, 3, 1)],
)
def test_exit_codes(state: State, plain: int, docker: int) -> None:
    report = Report("client", (Check(Layer.OUTER, state, "x", "y"),))
    assert exit_code(report, docker=False) == plain
    assert exit_code(report, docker=True) == docker


@pytest.mark.parametrize(
    ("addresses", "own"),
    [
        (("::", "0.0.0.0"), "127.0.0.1"),  # noqa: S104 - a default
        (("::",), "::1"),
        (("192.0.2.7",), "192.0.2.7"),
        (("::", "192.0.2.7"), "192.0.2.7"),
        (("bridge.example.org",), "bridge.example.org"),
    ],
)
def test_a_bridge_reaches_itself_where_it_listens(addresses: tuple[str, ...], own: str) -> None:
    assert own_address(addresses) == own


# -------------------------------------------------------------------------------- status documents

BRIDGE = BridgeStatus(
    "1", 7, "2026-01-01T00:00:00+00:00", 1, (WaitingServer("s", "a:1", 2.5, 0.01),), 3,
    {"requests_total": 9},
)  # fmt: skip
SERVER = ServerStatus(
    "1", 7, "2026-01-01T00:00:00+00:00", 1, 2, 3, (AttachedWorker(8, 2.5, 0.01),),
    {"requests_total": 9},
)  # fmt: skip


@pytest.mark.parametrize("status", [BRIDGE, SERVER])
def test_a_status_is_read_as_it_was_written(status: BridgeStatus | ServerStatus) -> None:
    document = {**json.loads(encode_status(status)), "of a later version": 1}
    assert decode_status(json.dumps(document).encode()) == status


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b"null", b"\xff", b'{"component": "bridge"}',
     encode_status(BRIDGE).replace(b'"pid": 7', b'"pid": "7"'),
     encode_status(BRIDGE).replace(b'"servers": [', b'"servers": [1, ')],
)  # fmt: skip
def test_what_is_no_status_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="status"):
        decode_status(data)


def test_a_bridge_is_described_by_what_it_knows() -> None:
    counters = Counters(BridgeCount)
    budget = Budget(BridgeSettings(nss=NSSSettings(directory="sql:/none")), counters)
    with budget.request(memory.pair()[0]):
        for _ in range(2):
            counters.add(BridgeCount.REQUESTS)
        near, _far = memory.pair()
        near.peer = Peer("server", "", "192.0.2.1:5")
        many = [(near, Arrival(10.0, 0.25))] * (MAX_LISTED + 1)
        began = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        status = describe(many, budget.in_flight, counters.values(), began, 14.5)
    assert status.servers_waiting == MAX_LISTED + 1
    assert len(status.servers) == MAX_LISTED
    assert status.servers[0] == WaitingServer("server", "192.0.2.1:5", 4.5, 0.25)
    assert status.requests_in_flight == 1
    assert status.totals["requests_total"] == 2
    assert "requests_in_flight" not in status.totals
    assert budget.in_flight == 0


# ----------------------------------------------------------------------------------- status socket


def test_the_socket_gives_each_its_document_and_is_its_user_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with status_socket(path, lambda: b"document") as status:
        assert status is not None
        assert path.stat().st_mode & 0o777 == 0o600
        status.serve()
        assert [read_status(path, 10) for _ in range(3)] == [b"document"] * 3
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TransportError, match="no daemon answers"):
        read_status(path, 10)


def test_peers_that_do_not_read_hold_nobody_up(tmp_path: Path) -> None:
    document = b"x" * 50_000
    with status_socket(tmp_path / "s", lambda: document) as status:
        assert status is not None
        status.serve()
        idle = [socket.socket(socket.AF_UNIX) for _ in range(40)]
        try:
            for peer in idle:
                peer.connect(str(tmp_path / "s"))
            assert read_status(tmp_path / "s", 10) == document
        finally:
            for peer in idle:
                peer.close()
        assert read_status(tmp_path / "s", 10) == document


def test_a_former_daemon_s_socket_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    old = StatusSocket(path, lambda: b"old")
    old.serve()
    new = StatusSocket(path, lambda: b"new")
    new.serve()
    assert read_status(path, 10) == b"new"
    old.close()
    assert read_status(path, 10) == b"new"
    new.close()
    assert not path.exists()


def test_another_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="no socket"):
        StatusSocket(path, lambda: b"")
    assert path.read_text() == "precious"
    with pytest.raises(ConfigurationError, match="cannot be made"):
        StatusSocket(tmp_path / "missing/s", lambda: b"")


def test_reading_has_a_limit(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        with pytest.raises(DeadlineExceeded, match=r"0\.1 s"):
            read_status(tmp_path / "s", 0.1)


# ------------------------------------------------------------------------------------------ events


def test_events_come_in_order_and_end_with_the_worker() -> None:
    reader, writer = os.pipe()
    try:
        parent = ParentPipes(control=-1, events=writer)
        seconds = HANDSHAKE_SECONDS.pack(0.5)
        parent.send(WorkerEvent.ATTACHED, seconds)
        parent.send(WorkerEvent.DETACHED)
        parent.send(WorkerEvent.BUSY)
        os.close(writer)
        events = EventReader(reader)
        assert list(events.read() or ()) == [
            (WorkerEvent.ATTACHED, seconds),
            (WorkerEvent.DETACHED, b""),
            (WorkerEvent.BUSY, b""),
        ]
        assert events.read() is None
    finally:
        os.close(reader)


def test_a_worker_outlives_its_supervisor() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ParentPipes(control=-1, events=writer).send(WorkerEvent.BUSY)
    os.close(writer)
