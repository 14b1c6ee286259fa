"""What a bridge measures: each end of a request has its name, and nothing that peers do has no end.

Of requests in memory (tests/unit/test_session.py has the same desk), and of a clock of the tests.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sigul_stack.bridge.admission import Handshakes, OnlyLooked
from sigul_stack.bridge.budget import OverBudget, ShareTaken, TooManyRequests
from sigul_stack.bridge.groups import NotInGroup, SourceFailed
from sigul_stack.bridge.measures import (
    CERTIFICATE_SECONDS,
    MAX_CERTIFICATES,
    MAX_NAMED_SETS,
    MAX_RECENT,
    SERIES_MINUTES,
    Measures,
    Refusal,
    Result,
)
from sigul_stack.bridge.register import Visit
from sigul_stack.bridge.session import BridgeResources, RequestSession
from sigul_stack.bridge.sight import Sight
from sigul_stack.bridge.waiting import NoServer
from sigul_stack.config.bridge import BridgeSettings
from sigul_stack.config.management import ManagementSettings
from sigul_stack.config.shared import NSSSettings
from sigul_stack.errors import (
    DeadlineExceeded,
    PeerClosed,
    RemoteProtocolError,
    SigulError,
    TransportError,
)
from sigul_stack.kojihub import KojiError
from sigul_stack.logcontext import LogContext, work_for
from sigul_stack.observe.exposition import text
from sigul_stack.protocol.messages import UnknownVersion
from sigul_stack.protocol.status import WatchedLog
from sigul_stack.transport import memory
from sigul_stack.transport.stream import Peer
from tests.wire import (
    INNER_END,
    LIST_USERS,
    OUTER_END,
    eventually,
    in_background,
    inner,
    outer,
    reply,
)

LONG = 10.0
#: Of the chunk that the header is in, in bytes: it is counted by its content.
HEAD_CHUNK = 4
SETTINGS = BridgeSettings(
    nss=NSSSettings(directory="sql:/nonexistent"),
    header_timeout=LONG,
    idle_timeout=LONG,
    close_timeout=LONG,
    server_wait_timeout=LONG,
)


class Clock:
    """A time that the test sets, in seconds."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def visit(name: str = "ann", *, forwarded: bool = False, **known: object) -> Visit:
    """A client's visit whose request has begun."""
    near, _far = memory.pair(memory.nobody(name))
    made = Visit(near, lambda _reason: None, is_request=True)
    if forwarded:
        made.op, made.version, made.headed_at = "sign-data", 1, made.began
        made.server, _ = memory.pair(memory.nobody("server"))
        made.paired_at = made.began
    for field, value in known.items():
        setattr(made, field, value)
    return made


def over(measures: Measures, one: Visit, error: BaseException | None = None) -> None:
    """Have a visit end with that error, or without."""
    if error is None:
        with measures.visit(one):
            pass
    else:
        with contextlib.suppress(type(error)), measures.visit(one):
            raise error


def counted(measures: Measures) -> dict[tuple[str, str, str], int]:
    """How many requests ended, by operation, version and result."""
    return {
        (labels["op"], labels["version"], labels["result"]): count
        for labels, count in measures.requests.snapshot()
    }


def refused(measures: Measures) -> dict[str, int]:
    """The refusals that are not 0, by reason."""
    return {labels["reason"]: count for labels, count in measures.refusals.snapshot() if count}


@pytest.mark.parametrize(
    ("known", "error", "result"),
    [
        ({}, None, Result.OK),
        ({"is_refused": True}, None, Result.REFUSED),
        # A word that its client does not know ends the request by an error.
        ({"is_refused": True}, RemoteProtocolError("no proof"), Result.REFUSED),
        ({"reason": "ended by hand"}, TransportError("cut"), Result.ENDED),
        ({"reason": "ended by hand"}, None, Result.ENDED),
        ({}, PeerClosed("the client left"), Result.FAILED),
        ({}, TransportError("the server died"), Result.FAILED),
        ({}, ZeroDivisionError(), Result.FAILED),
    ],
)
def test_each_end_of_a_request_that_a_server_has(
    known: dict[str, object], error: BaseException | None, result: Result
) -> None:
    measures = Measures()
    over(measures, visit(forwarded=True, **known), error)
    assert counted(measures) == {("sign-data", "1", result.value): 1}
    assert [item.state for item in measures.recent()] == [result.value]
    assert refused(measures) == {}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OverBudget("too many"), Refusal.BUDGET),
        (ShareTaken("too many"), Refusal.BUDGET),
        (TooManyRequests("too fast"), Refusal.RATE),
        (NotInGroup("no"), Refusal.GROUP),
        (SourceFailed("no"), Refusal.GROUP_SOURCE),
        (UnknownVersion(7), Refusal.VERSION),
        (NoServer("none"), Refusal.NO_SERVER),
        (RemoteProtocolError("nonsense"), Refusal.PROTOCOL),
        (KojiError("no such RPM"), Refusal.KOJI),
        (DeadlineExceeded("too late"), Refusal.LATE),
        (TransportError("the bridge is ending"), Refusal.OTHER),
        (OSError("no room"), Refusal.OTHER),
    ],
)
def test_each_refusal_by_the_bridge(error: BaseException, reason: Refusal) -> None:
    measures = Measures()
    over(measures, visit(op="sign-data", version=0), error)
    assert counted(measures) == {("sign-data", "0", "refused_by_bridge"): 1}
    assert refused(measures) == {reason.value: 1}


def test_who_is_refused_before_a_request_is_no_request() -> None:
    measures = Measures()
    over(measures, visit(is_request=False), OverBudget("too many"))
    over(measures, visit(is_request=False), OnlyLooked())
    over(measures, visit(is_request=False), PeerClosed("left"))
    assert counted(measures) == {}
    assert refused(measures) == {"budget": 1}
    assert measures.recent() == ()


def test_a_header_that_never_came_is_of_no_operation() -> None:
    measures = Measures()
    over(measures, visit(), SigulError("nonsense"))
    assert counted(measures) == {("unknown", "unknown", "refused_by_bridge"): 1}
    (item,) = measures.recent()
    assert (item.op, item.version) == ("", -1)


def test_whatever_peers_do_what_is_kept_has_an_end() -> None:
    clock = Clock()
    measures = Measures(names=True, clock=clock)
    for number in range(MAX_NAMED_SETS + 100):
        over(measures, visit(f"client {number}", forwarded=True))
    for number in range(MAX_CERTIFICATES + 100):
        peer = Peer(f"client {number}" + "x" * 1000, "", "", not_after=1.0)
        measures.shook_hands("client", peer, 0.01)
    for _ in range(3 * SERIES_MINUTES):
        clock.now += 60
        for _ in range(100):
            measures.shook_hands("server", Peer("s", "", ""), 0.5)
    assert len(measures.requests.snapshot()) == MAX_NAMED_SETS + 1
    assert len(measures.recent()) == MAX_RECENT
    assert len(measures.met()) == MAX_CERTIFICATES
    assert max(len(name) for name in measures.met()) <= 128
    points = {series.name: series.points for series in measures.latency()}["handshake server"]
    assert len(points) == SERIES_MINUTES
    assert points[0] == (SERIES_MINUTES - 1, 0.5, 0.5, 100)
    assert points[-1] == (0, 0.5, 0.5, 100)


def test_a_request_costs_little() -> None:
    """A thousand of them less than a second, which is some hundred times what it takes."""
    measures = Measures(names=True)
    visits = [visit(forwarded=True, answered_at=time.monotonic() + 1) for _ in range(1000)]
    begin = time.monotonic()
    for one in visits:
        measures.queued(one)
        over(measures, one)
    assert time.monotonic() - begin < 1


def test_a_minute_without_anything_has_no_point() -> None:
    clock = Clock()
    measures = Measures(clock=clock)
    for seconds in (1.0, 3.0, 2.0):
        measures.shook_hands("client", Peer("c", "", ""), seconds)
    clock.now += 120
    measures.shook_hands("client", Peer("c", "", ""), 0.25)
    points = {series.name: series.points for series in measures.latency()}
    assert points["handshake client"] == ((2, 2.0, 3.0, 3), (0, 0.25, 0.25, 1))
    clock.now += 60 * SERIES_MINUTES
    assert {series.points for series in measures.latency()} == {()}


def test_clients_certificates_are_known_for_a_day_the_newest_of_each() -> None:
    clock = Clock()
    measures = Measures(clock=clock)
    measures.shook_hands("client", Peer("ann", "1", "", not_after=5.0), 0.1)
    measures.shook_hands("client", Peer("ann", "2", "", not_after=9.0), 0.1)
    measures.shook_hands("server", Peer("server", "3", "", not_after=9.0), 0.1)
    assert measures.met() == {"ann": 9.0}
    clock.now += CERTIFICATE_SECONDS + 1
    assert measures.met() == {}


def test_bytes_never_go_back() -> None:
    """Neither while a request moves, nor when it is over."""
    measures = Measures()
    one = visit(forwarded=True)
    one.up, one.down = 10, 5
    here = [one]
    assert measures.moved(lambda: here) == (10, 5)
    over(measures, one)
    assert measures.moved(lambda: here) == (10, 5)
    assert measures.moved(list) == (10, 5)


def sight(resources: BridgeResources, logs: tuple[WatchedLog, ...] = ()) -> Sight:
    """What is seen of a bridge that has these resources."""
    kinds = {kind: Handshakes(4) for kind in ("client", "server")}
    ends = time.time() + 86400 * 100
    return Sight(resources, kinds, lambda _at: logs, ("bridge", ends), datetime.now(UTC))


def values(seen: Sight) -> dict[str, float]:
    """The samples of a bridge: `name{label=value,…}` and the value."""
    return {
        f"{sample.name}{{{','.join(f'{k}={v}' for k, v in sorted(sample.labels.items()))}}}": (
            sample.value
        )
        for family in text_string_to_metric_families(text(seen.samples()).decode())
        for sample in family.samples
    }


def test_a_request_from_its_header_to_its_end() -> None:
    """Through the session itself: states, bytes, times, and the ids of its connection."""
    resources = BridgeResources(SETTINGS)
    seen = sight(resources)
    try:
        server_near, server = memory.pair(memory.nobody("server"))
        near, far = memory.pair(memory.nobody("ann"))

        def serve() -> None:
            work_for(LogContext("c7", "0123456789abcdef"))
            RequestSession(near, resources, lambda: None).run()

        far.write(outer(LIST_USERS.outer), LONG)
        with in_background(serve):
            assert eventually(lambda: seen.view().connections["queued"] == 1)
            (one,) = seen.view().under_way
            assert (one.id, one.connection, one.op) == ("0123456789abcdef", "c7", "list-users")
            assert (one.common_name, one.version, one.state) == ("ann", 1, "queued")
            assert values(seen)["sigul_bridge_queue_length{}"] == 1
            resources.waiting.add(server_near)
            assert eventually(lambda: seen.view().connections["forwarded"] == 1)
            far.write(inner(LIST_USERS.inner) + INNER_END, LONG)
            taken = b""
            while not taken.endswith(INNER_END):
                taken += server.read(100_000, LONG)
            server.write(INNER_END + outer(reply()) + OUTER_END, LONG)
            data = b""
            while not data.endswith(OUTER_END):
                data += far.read(100_000, LONG)
            far.close()
        found = values(seen)
        ended = "sigul_bridge_requests_total{op=list-users,result=ok,version=1}"
        assert found[ended] == 1
        assert found["sigul_bridge_queue_seconds_count{}"] == 1
        assert found["sigul_bridge_request_seconds_count{op=list-users}"] == 1
        assert found["sigul_bridge_bytes_total{direction=up}"] == len(taken) - HEAD_CHUNK
        assert found["sigul_bridge_bytes_total{direction=down}"] == len(data)
        (one,) = seen.view().recent
        assert (one.id, one.state, one.seconds > one.queue_seconds > 0) == (
            "0123456789abcdef", "ok", True,
        )  # fmt: skip
        assert seen.view().under_way == ()
    finally:
        resources.close()


@pytest.mark.parametrize("names", [False, True])
def test_names_are_given_away_where_they_were_asked_for(names: bool) -> None:
    management = ManagementSettings(metrics_names=names)
    resources = BridgeResources(dataclasses.replace(SETTINGS, management=management))
    logs = (
        WatchedLog("server-a", "a/log", 3, 5.0, ""),
        WatchedLog("server-b", "b/log", 3, 7.0, "it forks"),
    )
    seen = sight(resources, logs)
    try:
        for name in ("server-a", "server-a", "server-b"):
            near, _far = memory.pair(memory.nobody(name))
            near.peer = dataclasses.replace(near.peer, not_after=time.time() + 86400 * 50)
            resources.waiting.add(near)
        ann = Peer("ann", "", "", not_after=time.time() + 86400 * 10)
        resources.measures.shook_hands("client", ann, 0.1)
        over(resources.measures, visit("ann", forwarded=True))
        found = values(seen)
        written = text(seen.samples()).decode()
        waiting = {key: value for key, value in found.items() if "waiting_servers{" in key}
        requests = "sigul_bridge_requests_total{op=sign-data,result=ok,version=1}"
        if names:
            assert waiting == {
                "sigul_bridge_waiting_servers{server=server-a}": 2,
                "sigul_bridge_waiting_servers{server=server-b}": 1,
            }
            assert found["sigul_bridge_signing_log_complaints{server=server-b}"] == 1
            assert found["sigul_bridge_signing_log_complaints{server=server-a}"] == 0
            assert found[requests.replace("{", "{client=ann,")] == 1
        else:
            assert waiting == {"sigul_bridge_waiting_servers{}": 3}
            assert found["sigul_bridge_signing_log_complaints{}"] == 1
            assert found[requests] == 1
            assert not [name for name in ("ann", "server-a", "server-b") if name in written]
            checked = found["sigul_bridge_signing_log_checked_timestamp_seconds{}"]
            assert time.time() - checked == pytest.approx(7, abs=2)
            days = "sigul_bridge_certificate_days_left{certificate=%s}"
            assert found[days % "client"] == pytest.approx(10, abs=0.1)
            assert found[days % "server"] == pytest.approx(50, abs=0.1)
            assert found[days % "bridge"] == pytest.approx(100, abs=0.1)
    finally:
        resources.close()
