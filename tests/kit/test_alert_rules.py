"""Each alert fires where it should, and none of them where a site is well: promtool says so.

So do queries of the dashboard: each names metrics and labels that `sigul_stack.observe.catalogue`
has. Alerts that faults of a real site fire are in tests/faults/test_alerts.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from sigul_stack.observe.catalogue import BY_NAME
from tests.alert_rules import (
    LASTING,
    LIMITS,
    ROLE,
    alerts,
    check_queries,
    counters_are_rates,
    promtool,
    rules,
    strange,
)
from tests.checkout import TOP

#: Seconds since 1970, as tests of rules begin there: the time itself, a sample a minute.
NOW = "0+60x70"
BRIDGE = 'instance="gate:9101",job="sigul-bridge"'
FILES = 'instance="files:9100",job="sigul-files"'

#: A site that is well, by series and their values, a minute each (promtool's notation).
WELL = {
    f"up{{{BRIDGE}}}": "1x70",
    f"up{{{FILES}}}": "1x70",
    f"node_textfile_scrape_error{{{FILES}}}": "0x70",
    f'sigul_bridge_connections{{state="waiting_server",{BRIDGE}}}': "4x70",
    f'sigul_bridge_connections{{state="forwarded",{BRIDGE}}}': "0x70",
    # Ten handshakes a minute, all of less than 5 s and nine of ten of less than 0.1 s.
    f'sigul_bridge_handshake_seconds_bucket{{le="0.1",side="client",{BRIDGE}}}': "0+9x70",
    f'sigul_bridge_handshake_seconds_bucket{{le="5.0",side="client",{BRIDGE}}}': "0+10x70",
    f'sigul_bridge_handshake_seconds_bucket{{le="30.0",side="client",{BRIDGE}}}': "0+10x70",
    f'sigul_bridge_handshake_seconds_bucket{{le="+Inf",side="client",{BRIDGE}}}': "0+10x70",
    f"sigul_bridge_queue_oldest_seconds{{{BRIDGE}}}": "2x70",
    f'sigul_bridge_budget_used_ratio{{budget="connections",{BRIDGE}}}': "0.8x70",
    f'sigul_bridge_budget_used_ratio{{budget="requests",{BRIDGE}}}': "1x70",
    f"sigul_bridge_signing_log_complaints{{{BRIDGE}}}": "0x70",
    f"sigul_bridge_signing_log_checked_timestamp_seconds{{{BRIDGE}}}": NOW,
    f'sigul_bridge_certificate_days_left{{certificate="bridge",{BRIDGE}}}': "300x70",
    f'sigul_bridge_certificate_days_left{{certificate="server",{BRIDGE}}}': "31x70",
    f"sigul_server_metrics_timestamp_seconds{{{FILES}}}": NOW,
    # A mistyped password now and then.
    f"sigul_server_unlock_failures_total{{{FILES}}}": "0x30 1x40",
    f"sigul_server_signing_log_failures_total{{{FILES}}}": "0x70",
    f"sigul_server_signing_log_checkpoint_timestamp_seconds{{{FILES}}}": NOW,
    f'sigul_server_requests_total{{op="sign-data",result="ok",version="1",{FILES}}}': "0+1x70",
    f'sigul_check_state{{component="server",layer="signing log",{FILES}}}': "1x70",
    f'sigul_check_state{{component="bridge",layer="outer TLS",{FILES}}}': "0x70",
    f'sigul_check_timestamp_seconds{{component="server",{FILES}}}': NOW,
    f'sigul_certificate_days_left{{certificate="own",component="server",{FILES}}}': "30x70",
    f"sigul_key_days_left{{{FILES}}}": "30x70",
    f'sigul_disk_free_ratio{{component="server",volume="spool",{FILES}}}': "0.1x70",
    f"sigul_signing_log_pushed_timestamp_seconds{{{FILES}}}": NOW,
    f"sigul_canary_success{{{FILES}}}": "1x70",
    f"sigul_canary_timestamp_seconds{{{FILES}}}": NOW,
}
GONE = "_x70"

#: For each alert, what else is so where it fires: series and their values; and which further alerts
#: come with it. What is true for less than the alert's time does not fire it.
FIRES: list[tuple[str, Mapping[str, str], set[str]]] = [
    ("SigulBridgeDown", {f"up{{{BRIDGE}}}": "0x70"}, set()),
    (
        "SigulBridgeNoWaitingServer",
        {f'sigul_bridge_connections{{state="waiting_server",{BRIDGE}}}': "0x70"},
        set(),
    ),
    (
        "SigulBridgeHandshakeSlow",
        {f'sigul_bridge_handshake_seconds_bucket{{le="0.1",side="client",{BRIDGE}}}': "0+4x70",
         f'sigul_bridge_handshake_seconds_bucket{{le="5.0",side="client",{BRIDGE}}}': "0+8x70"},
        set(),
    ),
    ("SigulBridgeQueue", {f"sigul_bridge_queue_oldest_seconds{{{BRIDGE}}}": "61x70"}, set()),
    ("SigulBridgeBudget",
     {f'sigul_bridge_budget_used_ratio{{budget="connections",{BRIDGE}}}': "0.9x70"}, set()),
    ("SigulBridgeLogComplaint", {f"sigul_bridge_signing_log_complaints{{{BRIDGE}}}": "1x70"},
     set()),
    (
        "SigulBridgeLogNotChecked",
        {f"sigul_bridge_signing_log_checked_timestamp_seconds{{{BRIDGE}}}": "0x70"},
        set(),
    ),
    ("SigulServerNotRunning", {f"sigul_server_metrics_timestamp_seconds{{{FILES}}}": "0x70"},
     set()),
    ("SigulServerNotRunning", {f"sigul_server_metrics_timestamp_seconds{{{FILES}}}": GONE}, set()),
    ("SigulUnlockFailures", {f"sigul_server_unlock_failures_total{{{FILES}}}": "0+3x70"}, set()),
    (
        "SigulLogNotWritten",
        {f"sigul_server_signing_log_failures_total{{{FILES}}}": "0+1x70"},
        set(),
    ),
    (
        "SigulLogNotWritten",
        {f"sigul_server_signing_log_checkpoint_timestamp_seconds{{{FILES}}}": "0x70"},
        set(),
    ),
    (
        "SigulLogNotWritten",
        {f'sigul_check_state{{component="server",layer="signing log",{FILES}}}': "2x70"},
        {"SigulCheckFailed"},
    ),
    (
        "SigulCertificateExpiring",
        {f'sigul_certificate_days_left{{certificate="own",component="server",{FILES}}}': "29x70"},
        set(),
    ),
    (
        "SigulCertificateExpiring",
        {f'sigul_bridge_certificate_days_left{{certificate="server",{BRIDGE}}}': "29x70"},
        set(),
    ),
    ("SigulKeyExpiring", {f"sigul_key_days_left{{{FILES}}}": "29x70"}, set()),
    ("SigulDiskFull",
     {f'sigul_disk_free_ratio{{component="server",volume="spool",{FILES}}}': "0.09x70"}, set()),
    ("SigulCheckFailed",
     {f'sigul_check_state{{component="bridge",layer="outer TLS",{FILES}}}': "2x70"}, set()),
    ("SigulCheckMissing", {f'sigul_check_timestamp_seconds{{component="server",{FILES}}}': "0x70"},
     set()),
    ("SigulCheckMissing", {f"up{{{FILES}}}": "0x70"}, set()),
    ("SigulCanaryFailed", {f"sigul_canary_success{{{FILES}}}": "0x70"}, set()),
]  # fmt: skip

#: What is well, although something is not as it was in WELL.
STILL_WELL: list[tuple[str, Mapping[str, str]]] = [
    ("nothing is out of the ordinary", {}),
    (
        "all servers are busy",
        {
            f'sigul_bridge_connections{{state="waiting_server",{BRIDGE}}}': "0x70",
            f'sigul_bridge_connections{{state="forwarded",{BRIDGE}}}': "4x70",
        },
    ),
    (
        "no server waits for less than a minute",
        {f'sigul_bridge_connections{{state="waiting_server",{BRIDGE}}}': "4x59 0x10"},
    ),
    (
        "nothing is signed, so no checkpoint is made",
        {
            f"sigul_server_signing_log_checkpoint_timestamp_seconds{{{FILES}}}": "0x70",
            f'sigul_server_requests_total{{op="sign-data",result="ok",version="1",{FILES}}}': (
                "5x70"
            ),
        },
    ),
    (
        "there is no canary, no signing log, and no key that expires",
        {
            name: GONE
            for name in WELL
            if re.match("sigul_(canary|signing_log|server_signing|key)", name)
        },
    ),
    (
        "a new log was not pushed yet",
        {f"sigul_signing_log_pushed_timestamp_seconds{{{FILES}}}": "0x70"},
    ),
]


def case(name: str, series: Mapping[str, str], expected: set[str]) -> dict[str, Any]:
    """A test of promtool, in which after an hour these alerts fire and no other."""
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": key, "values": value} for key, value in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "1h",
                "exp_samples": [
                    {"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(expected)
                ],
            }
        ],
    }


def after_days(alert: str, series: Mapping[str, str]) -> dict[str, Any]:
    """A test over two days, with samples each half hour: this alert and no other."""
    # What else is needed so that it is the only one.
    running = {
        f"sigul_server_metrics_timestamp_seconds{{{FILES}}}": "0+1800x100",
        f'sigul_check_timestamp_seconds{{component="server",{FILES}}}': "0+1800x100",
    }
    made = case(f"{alert} after two days", {**running, **series}, {alert})
    made["promql_expr_test"][0]["eval_time"] = "49h"
    return {**made, "interval": "30m"}


def check(directory: Path, interval: str, tests: list[dict[str, Any]]) -> None:
    """Have promtool run tests, in which rules are evaluated so often."""
    (directory / "alerts.yml").write_text(rules())
    whole = {"rule_files": ["alerts.yml"], "evaluation_interval": interval, "tests": tests}
    (directory / "tests.yml").write_text(yaml.safe_dump(whole, width=1000))
    promtool("test", "rules", directory / "tests.yml")


def test_every_alert_has_a_case() -> None:
    names = {alert["alert"] for alert in alerts(rules())}
    assert {name for name, _, _ in FIRES} | {"SigulLogNotPushed"} == names
    assert set(LASTING) == names


def test_alerts_fire_where_they_should_and_nowhere_else(tmp_path: Path) -> None:
    tests = [case(name, {**WELL, **other}, set()) for name, other in STILL_WELL]
    tests += [case(name, {**WELL, **other}, {name} | more) for name, other, more in FIRES]
    check(tmp_path, "3m", tests)


def test_alerts_fire_after_days(tmp_path: Path) -> None:
    pushed = f"sigul_signing_log_pushed_timestamp_seconds{{{FILES}}}"
    tried = f"sigul_canary_timestamp_seconds{{{FILES}}}"
    tests = [
        # Never, and once.
        after_days("SigulLogNotPushed", {pushed: "0x100"}),
        after_days("SigulLogNotPushed", {pushed: "60x100"}),
        after_days("SigulCanaryFailed", {tried: "0x100"}),
    ]
    check(tmp_path, "30m", tests)


def test_rules_are_good_and_explain_themselves(tmp_path: Path) -> None:
    (tmp_path / "alerts.yml").write_text(rules())
    promtool("check", "rules", "--lint=all", "--lint-fatal", tmp_path / "alerts.yml")
    for alert in alerts(rules()):
        assert set(alert["annotations"]) == {"summary", "description"}, alert["alert"]
        assert alert["labels"]["severity"] in ("page", "ticket")


def test_variables_of_the_role_reach_the_rules() -> None:
    marked = {name: 1000 + number for number, name in enumerate(LIMITS)}
    lasting = {name: f"{2000 + number}s" for number, name in enumerate(LASTING)}
    text = rules(lasting, marked)
    assert [str(value) for value in marked.values() if str(value) not in text] == []
    for alert in alerts(text):
        assert alert["for"] == lasting[alert["alert"]]


def test_alerts_are_in_the_documentation() -> None:
    """With what they are measured by."""
    template = (ROLE / "templates/alerts.yml.j2").read_text()
    expected = []
    for alert in alerts(rules()):
        name = alert["alert"]
        own = template.partition(f"- alert: {name}\n")[2].partition("- alert:")[0]
        limits = sorted(set(re.findall(r"limits\.(\w+)", own)))
        shown = ", ".join(f"`{limit}` {LIMITS[limit]}" for limit in limits) or "–"
        row = f"| `{name}` | {alert['labels']['severity']} | {alert['for']} | {shown} | "
        expected.append(row)
    pages = [*TOP.glob("docs/observe*.md")]
    rows = [
        line
        for page in pages
        for line in page.read_text().splitlines()
        if re.match(r"\| `Sigul\w+` \| (?:page|ticket) \|", line)
    ]
    assert [row for row in rows if not row.startswith(tuple(expected))] == []
    assert len(rows) == len(expected), "\n".join(expected)


def test_every_alert_is_fired_by_a_fault() -> None:
    text = (TOP / "tests/faults/test_alerts.py").read_text()
    fired = set(re.findall(r'"(Sigul\w+)"', text))
    assert {alert["alert"] for alert in alerts(rules())} - fired == set()


# --- Queries -------------------------------------------------------------------------------------


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROLE / "files/dashboard.json").read_text())
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def dashboard_queries() -> Iterator[tuple[str, str]]:
    for panel in panels():
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "5m")
            yield f"{panel['title']} {target['refId']}", query.replace("$instance", ".*")


def test_queries_name_what_there_is(tmp_path: Path) -> None:
    queries = dict(dashboard_queries())
    queries |= {alert["alert"]: alert["expr"] for alert in alerts(rules())}
    found = [
        f"{name}: {fault}"
        for name, query in queries.items()
        for fault in (*strange(query), *counters_are_rates(query))
    ]
    assert found == []
    check_queries(queries, tmp_path)


def test_series_of_the_cases_are_as_they_are_written() -> None:
    every = [WELL, *(other for _, other in STILL_WELL), *(other for _, other, _ in FIRES)]
    for name in {name for series in every for name in series}:
        assert list(strange(name)) == [], name
        metric = BY_NAME.get(name.partition("{")[0])
        if metric is not None:
            own = set(re.findall(r"(\w+)=", name)) - {"instance", "job"}
            assert own == set(metric.labels), name


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("sigul_bridge_no_such_thing", "is no metric"),
        ("sigul_bridge_handshake_seconds", "is no metric"),
        ('sigul_bridge_connections{stat="x"}', "has no label stat"),
        ("sum by (phase) (sigul_bridge_connections)", "phase is a label of no metric there"),
        ("sigul_server_unlock_failures_total > 3", "without rate or increase"),
        ("sum(sigul_server_phase_seconds_bucket)", "without rate or increase"),
    ],
)
def test_a_wrong_query_is_told(query: str, fault: str) -> None:
    assert any(fault in line for line in (*strange(query), *counters_are_rates(query)))


def test_every_panel_says_what_it_shows() -> None:
    shown = panels()
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])
    for panel in shown:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        position = panel["gridPos"]
        assert position["x"] + position["w"] <= 24, panel["title"]


def test_the_dashboard_shows_every_metric() -> None:
    text = " ".join(query for _, query in dashboard_queries())
    named = set(re.findall(r"\bsigul_\w+", re.sub(r"_(?:bucket|sum|count)\b", "", text)))
    assert set(BY_NAME) - named == set()
