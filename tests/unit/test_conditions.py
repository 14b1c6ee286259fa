"""Conditions of a bridge's view, and the document that a view is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sigul_stack.errors import ProtocolError
from sigul_stack.observe.conditions import MAX_OF_A_RULE, NO_SERVER_SECONDS, RULES, Conditions
from sigul_stack.observe.view import (
    BridgeView,
    CertificateView,
    Condition,
    LatencySeries,
    RequestView,
    decode_view,
    encode_view,
)
from sigul_stack.protocol.status import WaitingServer, WatchedLog

REQUEST = RequestView(
    "0123456789abcdef", "c1", "ann", "sign-data", 1, "ok", "2026-12-01T00:00:00+00:00", 0.1, 0.5
)
WELL = BridgeView(
    version="1",
    pid=7,
    started="2026-12-01T00:00:00+00:00",
    now="2026-12-01T01:00:00+00:00",
    connections={"waiting_server": 1},
    totals={"requests_total": 1},
    servers=(WaitingServer("server", "192.0.2.1:5", 1.0, 0.01),),
    certificates=(CertificateView("bridge", "bridge", "2028-12-01T00:00:00+00:00", 730.0),),
    under_way=(replace(REQUEST, state="queued", queue_seconds=1.0),),
    recent=(REQUEST,),
    latency=(LatencySeries("handshake client", ((0, 0.01, 0.02, 3),)),),
    budgets={"connections": 0.1, "payloads": 2.0},
    conditions=(),
    logs=(WatchedLog("server", "server/log", 4, 10.0, ""),),
    log_interval_seconds=300.0,
)


def names(view: BridgeView, later: float = 0.0) -> list[str]:
    """The conditions of a view that has been so for that many seconds."""
    conditions = Conditions()
    conditions.of(view, 0.0)
    return [item.name for item in conditions.of(view, later)]


def test_where_all_is_well_there_is_none() -> None:
    assert names(WELL, 1e6) == []


CASES = {
    "SigulBridgeNoWaitingServer": {"connections": {"waiting_server": 0}},
    "SigulBridgeLogComplaint": {"logs": (WatchedLog("server", "l", 4, 10.0, "it forks"),)},
    "SigulBridgeLogNotChecked": {"logs": (WatchedLog("server", "l", 4, 961.0, ""),)},
    "SigulBridgeQueue": {"under_way": (replace(REQUEST, state="queued", queue_seconds=31.0),)},
    "SigulBridgeHandshakeSlow": {
        "latency": (LatencySeries("handshake server", ((3, 6.0, 6.0, 1), (1, 7.0, 9.0, 2))),)
    },
    "SigulCertificateExpiring": {
        "certificates": (CertificateView("server", "s", "2026-12-20T00:00:00+00:00", 19.5),)
    },
    "SigulBridgeBudget": {"budgets": {"connections": 0.9}},
}


@pytest.mark.parametrize(("name", "change"), CASES.items())
def test_each_condition(name: str, change: dict[str, object]) -> None:
    assert names(replace(WELL, **change), 1e6) == [name]  # type: ignore[arg-type]


def test_where_all_servers_are_busy_none_is_missed() -> None:
    assert names(replace(WELL, connections={"waiting_server": 0, "forwarded": 2}), 1e6) == []


def test_every_rule_is_tried() -> None:
    assert {rule.name for rule in RULES} == set(CASES)


def test_a_log_that_was_never_looked_at_has_some_time() -> None:
    view = replace(WELL, logs=(WatchedLog("server", "l", 0, -1.0, ""),))
    assert names(view, 599.0) == []
    assert names(view, 600.0) == ["SigulBridgeLogNotChecked"]


@pytest.mark.parametrize(
    "points",
    [
        ((0, 9.0, 9.0, 1),),  # once is no minutes
        ((9, 9.0, 9.0, 1), (8, 9.0, 9.0, 1)),  # over by now
        ((1, 9.0, 9.0, 1), (0, 0.1, 9.0, 3)),  # one of several
    ],
)
def test_handshakes_that_are_slow_now_and_then_are_none(
    points: tuple[tuple[int, float, float, int], ...],
) -> None:
    assert names(replace(WELL, latency=(LatencySeries("handshake client", points),))) == []


def test_since_when_it_holds_is_kept_until_it_does_not() -> None:
    conditions = Conditions()
    bad = replace(WELL, connections={"waiting_server": 0})

    def at(seconds: float, view: BridgeView) -> list[str]:
        view = replace(view, now=f"2026-12-01T01:00:{seconds:02.0f}+00:00")
        return [item.since for item in conditions.of(view, seconds)]

    assert NO_SERVER_SECONDS == 30
    assert at(0, bad) == at(29, bad) == []
    assert at(30, bad) == at(40, bad) == ["2026-12-01T01:00:00+00:00"]
    assert at(41, WELL) == []
    assert at(42, bad) == []


def test_a_condition_says_what_it_is_about_and_what_to_do() -> None:
    ends = CertificateView("client", "o'neill", "2026-12-20T00:00:00+00:00", 19.6)
    (one,) = Conditions().of(replace(WELL, certificates=(ends,)), 0.0)
    assert one == Condition(
        "SigulCertificateExpiring",
        r"the certificate of the client 'o\'neill' ends in 20 days (2026-12-20T00:00:00+00:00)",
        "renew it (sigul-stack pki renew) and give it to its component",
        WELL.now,
    )


def test_there_are_not_more_than_a_person_reads() -> None:
    many = tuple(CertificateView("client", str(number), "", 1.0) for number in range(1000))
    assert len(Conditions().of(replace(WELL, certificates=many), 0.0)) == MAX_OF_A_RULE


# ------------------------------------------------------------------------------------ the document


def test_a_view_comes_back_from_its_document() -> None:
    view = replace(WELL, conditions=(Condition("SigulBridgeQueue", "t", "c", "s"),))
    assert decode_view(encode_view(view)) == view


def test_readers_pass_over_what_they_do_not_know() -> None:
    document = json.loads(encode_view(WELL))
    document["more"] = document["recent"][0]["more"] = {"x": [1]}
    document["latency"][0]["points"][0].append("more")
    assert decode_view(json.dumps(document).encode()) == WELL


def test_a_view_is_cut_where_it_has_to_fit() -> None:
    """Whatever is in it: names of peers, complaints of servers."""
    long = replace(REQUEST, common_name="\U0001f40d" * 32)
    big = replace(
        WELL,
        recent=(long,) * 200,
        under_way=(long,) * 100,
        servers=(WaitingServer("\U0001f40d" * 32, "192.0.2.1:5", 1.0, 0.1),) * 100,
        certificates=(CertificateView("client", "\U0001f40d" * 32, "", 1.0),) * 100,
        logs=(WatchedLog("s", "o", 1, 1.0, "x" * 50_000),) * 20,
    )
    data = encode_view(big, 100_000)
    assert len(data) <= 100_000
    cut = decode_view(data)
    assert cut.recent
    assert cut.servers
    assert cut.connections == WELL.connections
    assert len(encode_view(big)) > 1_000_000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 100_000,
        json.dumps({"component": "bridge"}).encode(),
        encode_view(WELL).replace(b'"pid":7', b'"pid":"7"'),
        encode_view(WELL).replace(b'"pid":7', b'"pid":true'),
        encode_view(WELL).replace(b'"recent":[', b'"recent":[7,'),
        encode_view(WELL).replace(b'"points":[[0,', b'"points":[["x",'),
        encode_view(WELL).replace(b'"budgets":{', b'"budgets":7,"x":{'),
    ],
)
def test_what_is_no_view_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="no view of a bridge"):
        decode_view(data)
