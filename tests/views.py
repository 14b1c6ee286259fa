"""Views of a bridge to show: a calm one, a troubled one, an empty one, and one of hostile peers.

Everything in them is fixed, so that pictures of them are the same each time.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Final

from sigul_stack.metrics import BridgeCount
from sigul_stack.observe import figures, page_charts
from sigul_stack.observe.view import (
    BridgeView,
    CertificateView,
    Condition,
    LatencySeries,
    RequestView,
)
from sigul_stack.protocol.status import WaitingServer, WatchedLog

NOW: Final = "2026-12-01T10:42:30+00:00"

#: What a certificate's name may try: markup, the end of an attribute, another direction of
#: writing, a terminal's colours, and being long.
HOSTILE_NAMES: Final = (
    "<script>document.title='owned'</script>",
    "\"'><img src=//evil.example/x onerror=alert(1)>",
    "</style></title></table><h1>All is well</h1>",
    "alice\u202egnp.exe\u202c",
    "\x1b[31mred\x1b[0m [bold]rich[/bold] [link=http://evil.example]x[/link]",
    "&amp;&lt;&#x41;",
    "W" * 255,
    "a b\u2028c\x00d\ud800",
)


def calm() -> BridgeView:
    """A site on an ordinary morning."""
    return BridgeView(
        version="2.0.0",
        pid=4711,
        started="2026-11-24T06:15:02+00:00",
        now=NOW,
        connections={
            "handshake_client": 0,
            "handshake_server": 1,
            "waiting_server": 3,
            "header": 0,
            "queued": 1,
            "forwarded": 2,
        },
        totals=dict(
            zip(
                (count.value for count in BridgeCount),
                (18_342, 17_906, 436, 12, 1, 2_017, 4, 3, 1, 5, 0, 18_377, 6, 1_008, 0, 2),
                strict=True,
            )
        ),
        servers=(
            WaitingServer("sigul-server-1.example.org", "192.0.2.21:48122", 41.2, 0.0413),
            WaitingServer("sigul-server-1.example.org", "192.0.2.21:48130", 12.6, 0.0388),
            WaitingServer("sigul-server-2.example.org", "192.0.2.22:51204", 187.4, 0.0521),
        ),
        certificates=(
            CertificateView("bridge", "sigul-bridge.example.org", "2027-09-14T00:00:00Z", 286.6),
            CertificateView(
                "server", "sigul-server-1.example.org", "2027-09-14T00:00:00+00:00", 286.6
            ),
            CertificateView(
                "server", "sigul-server-2.example.org", "2027-03-02T00:00:00+00:00", 90.6
            ),
            CertificateView("client", "autosign", "2027-01-28T00:00:00+00:00", 57.6),
        ),
        under_way=(
            RequestView(
                "9f2c41d07be3a816", "c18342", "autosign", "sign-rpms", 1, "forwarded",
                "2026-12-01T10:42:11+00:00", 0.0021, 19.0,
            ),
            RequestView(
                "03be77a1c4d95f20", "c18343", "release-team", "sign-data", 1, "forwarded",
                "2026-12-01T10:42:29+00:00", 0.0018, 0.62,
            ),
            RequestView(
                "", "c18344", "legacy-builder", "sign-rpm", 0, "queued",
                "2026-12-01T10:42:30+00:00", 0.31, 0.31,
            ),
        ),
        recent=(
            RequestView(
                "5be0c81f9a27d463", "c18341", "autosign", "sign-rpm", 1, "ok",
                "2026-12-01T10:42:02+00:00", 0.0019, 0.412,
            ),
            RequestView(
                "e41a90f2bc7735d8", "c18340", "autosign", "sign-rpm", 1, "ok",
                "2026-12-01T10:41:58+00:00", 0.0022, 0.398,
            ),
            RequestView(
                "77d1a3be09c25f14", "c18339", "release-team", "sign-data", 1, "refused",
                "2026-12-01T10:40:37+00:00", 0.0017, 0.274,
            ),
            RequestView(
                "c08b6e12fd4497a3", "c18338", "image-builder", "sign-ostree", 1, "ok",
                "2026-12-01T10:36:20+00:00", 0.0031, 1.264,
            ),
            RequestView(
                "2a6f8d93e0b1c754", "c18337", "legacy-builder", "sign-rpm", 0, "ok",
                "2026-12-01T10:31:09+00:00", 0.214, 3.871,
            ),
        ),
        latency=(
            _series("handshake client", 0.041, 0.07, 4),
            _series("handshake server", 0.044, 0.06, 2),
            _series("queue", 0.0021, 0.012, 3),
            _series("request", 0.42, 0.9, 3),
        ),
        budgets={
            "connections": 0.031,
            "requests": 0.0625,
            "payloads": 0.24,
            "downloads": 0.0,
            "handshakes": 0.016,
            "waiting_servers": 0.3,
        },
        conditions=(),
        logs=(
            WatchedLog("sigul-server-1.example.org", "sigul-1.example.org/log", 18_204, 212, ""),
            WatchedLog("sigul-server-2.example.org", "sigul-2.example.org/log", 9_871, 214, ""),
        ),
        log_interval_seconds=600.0,
    )  # fmt: skip


def _series(name: str, median: float, spread: float, often: int) -> LatencySeries:
    """An hour of what looks like work; the same each time, for its seed is its name."""
    chance = random.Random(name)  # noqa: S311 - no secret
    points = []
    for minutes in range(60):
        if minutes in (17, 18, 44):
            continue
        middle = median * chance.lognormvariate(0, 0.12)
        longest = middle + spread * (2.2 if minutes == 31 else chance.lognormvariate(-1.2, 0.6))
        count = often + chance.randrange(4)
        points.append((minutes, round(middle, 6), round(longest, 6), count))
    return LatencySeries(name, tuple(points))


def troubled() -> BridgeView:
    """The same site on a bad one."""
    view = calm()
    return replace(
        view,
        connections={**view.connections, "waiting_server": 0, "queued": 7, "forwarded": 0},
        servers=(),
        under_way=tuple(
            RequestView(
                "", f"c{18342 + number}", "autosign", "sign-rpm", 1, "queued",
                "2026-12-01T10:41:10+00:00", 80.0 - number, 80.0 - number,
            )
            for number in range(7)
        ),
        recent=(
            RequestView(
                "5be0c81f9a27d463", "c18341", "autosign", "sign-rpm", 1, "failed",
                "2026-12-01T10:36:02+00:00", 0.0019, 11.412,
            ),
            RequestView(
                "", "c18340", "release-team", "sign-data", 1, "refused_by_bridge",
                "2026-12-01T10:35:58+00:00", 0.0, 0.0021,
            ),
            *view.recent,
        ),
        certificates=(
            CertificateView("bridge", "sigul-bridge.example.org", "2026-12-12T00:00:00Z", 10.6),
            *view.certificates[1:],
        ),
        budgets={**view.budgets, "requests": 0.875},
        conditions=(
            Condition(
                "SigulNoWaitingServer", "no server waits for requests",
                "look at the server: is its supervisor running, and does it reach the bridge's"
                " server port?",
                "2026-12-01T10:36:14+00:00",
            ),
            Condition(
                "SigulCertificateEnds", "the certificate of the bridge ends in 10 days",
                "renew it with sigul-stack pki renew", "2026-11-12T00:00:00+00:00",
            ),
        ),
        logs=(
            WatchedLog(
                "sigul-server-1.example.org", "sigul-server-1.example.org/log", 18_204, 912,
                "it has fewer leaves than it had",
            ),
            WatchedLog("sigul-server-2.example.org", "sigul-server-2.example.org/log", 0, -1, ""),
        ),
    )  # fmt: skip


def empty() -> BridgeView:
    """A bridge that has just begun."""
    return BridgeView(
        "2.0.0", 1, NOW, NOW, {}, {}, (), (), (), (), (), {}, (), (), 0.0
    )  # fmt: skip


def hostile() -> BridgeView:
    """What peers, and whoever else, might call themselves, everywhere at once; odd figures, too."""
    first = HOSTILE_NAMES[0]
    return BridgeView(
        version=first,
        pid=1,
        started="never",
        now=NOW,
        connections={first: 1, "waiting_server": 10**12},
        totals={HOSTILE_NAMES[1]: 10**15},
        servers=tuple(WaitingServer(name, name, 1e9, -1.0) for name in HOSTILE_NAMES),
        certificates=tuple(CertificateView(name, name, name, -3.5) for name in HOSTILE_NAMES),
        under_way=tuple(
            RequestView(name, name, name, name, 99, name, name, 1e12, -1.0)
            for name in HOSTILE_NAMES
        ),
        recent=tuple(
            RequestView(name, name, name, name, 0, name, "9999-12-31T23:59:59+00:00", 0.0, 0.0)
            for name in HOSTILE_NAMES
        ),
        latency=(
            LatencySeries(HOSTILE_NAMES[2], ((5, 1e300, 1e300, 1), (-4, 1.0, 1.0, 1))),
            LatencySeries("zero", ((0, 0.0, 0.0, 1),)),
            LatencySeries("none", ((600, 1.0, 1.0, 1),)),
        ),
        budgets=dict.fromkeys(HOSTILE_NAMES, 7.5),
        conditions=tuple(Condition(name, name, name, name) for name in HOSTILE_NAMES),
        logs=tuple(WatchedLog(name, name, 10**18, 1e9, name) for name in HOSTILE_NAMES),
        log_interval_seconds=600.0,
    )


def figures_of(view: BridgeView) -> list[str]:
    """Every figure, name and time of a view, as whoever shows it says it."""
    said = [figures.shown(view.version), str(view.pid), figures.date_and_time(view.now)]
    said += [figures.date_and_time(view.started)]
    for counts in (view.connections, view.totals):
        for name, count in counts.items():
            said += [figures.words(name), f"{count:,}"]
    for server in view.servers:
        said += [figures.shown(server.common_name), figures.shown(server.address)]
        said += [
            figures.duration(server.waiting_seconds),
            figures.duration(server.handshake_seconds),
        ]
    for certificate in view.certificates:
        said += [figures.shown(certificate.common_name), figures.shown(certificate.role)]
        said += [figures.date(certificate.not_after), figures.days(certificate.days_left)]
    for request in (*view.under_way, *view.recent):
        said += [figures.shown(request.id) or "no id", figures.shown(request.connection)]
        said += [figures.shown(request.common_name), figures.shown(request.op)]
        said += [str(request.version), figures.words(request.state)]
        said += [figures.clock(request.began, view.now)]
        said += [figures.duration(request.queue_seconds), figures.duration(request.seconds)]
    for name, ratio in view.budgets.items():
        said += [figures.words(name), figures.percent(ratio)]
    for condition in view.conditions:
        said += [figures.shown(text) for text in (condition.name, condition.text, condition.cure)]
        said += [figures.clock(condition.since, view.now)]
    for log in view.logs:
        said += [figures.shown(log.common_name), figures.shown(log.origin), f"{log.size:,}"]
        said += [figures.shown(log.complaint), figures.duration(log.seconds)]
    for series in view.latency:
        said += [figures.words(series.name)]
    return [item for item in said if item and item != "unknown"]


def points_of(view: BridgeView) -> list[str]:
    """Every point of the charts, as the page says it."""
    return [
        page_charts.point_text(point)
        for series in view.latency
        for point in page_charts.points_of(series)
    ]
