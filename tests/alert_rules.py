"""The alert rules of role `monitoring`, rendered as Ansible does, and promtool to judge them.

Also what tells which metrics and labels a query of Prometheus names.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sigul_stack.observe.catalogue import BY_NAME, Kind

from .checkout import TOP

ROLE = TOP / "roles/monitoring"
_VARIABLES: dict[str, Any] = yaml.safe_load((ROLE / "vars/main.yml").read_text())
#: What the alerts are measured by, and how long each has to last, where nobody says otherwise.
LIMITS: dict[str, float] = _VARIABLES["_monitoring_limits"]
LASTING: dict[str, str] = _VARIABLES["_monitoring_for"]
#: Metrics that Prometheus itself and node_exporter give, which the rules use.
OTHERS = {"up": set[str](), "node_textfile_scrape_error": set[str]()}
#: Labels that Prometheus gives to all that it reads.
GIVEN = {"instance", "job"}


def template(name: str, **variables: object) -> str:
    """A template of the role, as Ansible renders it."""
    return _render(name, variables)


def _render(name: str, variables: Mapping[str, object], *brackets: str) -> str:
    # Tests of Debian 13, which are looked for in this file's users, too, have none.
    import jinja2

    begin, end = brackets or ("{{", "}}")
    environment = jinja2.Environment(  # noqa: S701 - no HTML
        variable_start_string=begin,
        variable_end_string=end,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["to_json"] = json.dumps
    text = (ROLE / "templates" / name).read_text()
    return environment.from_string(text).render(variables)


def rules(
    lasting: Mapping[str, str] | None = None, limits: Mapping[str, float] | None = None
) -> str:
    """The file of alert rules, with `monitoring_for` and `monitoring_limits` as given."""
    variables = {
        "lasting": {**LASTING, **(lasting or {})},
        "limits": {**LIMITS, **(limits or {})},
    }
    # Prometheus' own templates have Ansible's brackets.
    return _render("alerts.yml.j2", variables, "<<", ">>")


def alerts(text: str) -> list[dict[str, Any]]:
    """The alerts in a file of rules."""
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def promtool(*arguments: str | Path) -> str:
    """Run promtool, which has to succeed; what it prints."""
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_queries(queries: Mapping[str, str], directory: Path) -> None:
    """Have promtool parse queries, given by names that are shown where one is wrong."""
    records = [
        {"record": f"query_{number}", "expr": query, "labels": {"query": name}}
        for number, (name, query) in enumerate(queries.items())
    ]
    path = directory / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": records}]}))
    promtool("check", "rules", path)


def strange(query: str) -> Iterator[str]:
    """What a query names that no metric has: metrics, labels, values that a kind does not have."""
    labels_of = {name: {*metric.labels, *metric.named} for name, metric in BY_NAME.items()}
    known = {name: labels | GIVEN for name, labels in {**labels_of, **OTHERS}.items()}
    for name, metric in BY_NAME.items():
        if metric.kind is Kind.HISTOGRAM:
            labels = known.pop(name)
            known |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels}
            known |= {f"{name}_count": labels}
    plain = re.sub(r'"(?:[^"\\]|\\.)*"', '""', query)
    seen: set[str] = set()
    for name, matchers in re.findall(r"\b((?:sigul|node)_\w+|up)\b\s*(?:\{([^}]*)\})?", plain):
        if name not in known:
            yield f"{name} is no metric"
            continue
        seen |= known[name]
        own = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)
        yield from (f"{name} has no label {label}" for label in own if label not in known[name])
    for listed in re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", plain):
        for label in re.findall(r"\w+", listed):
            if label not in seen | GIVEN:
                yield f"{label} is a label of no metric there"


def counters_are_rates(query: str) -> Iterator[str]:
    """Counters that a query uses as they are: they only grow, and begin anew with each process."""
    for name in re.findall(r"\bsigul_\w+", query):
        metric = BY_NAME.get(re.sub(r"_(?:bucket|sum|count)$", "", name), BY_NAME.get(name))
        if metric and metric.kind is not Kind.GAUGE:
            before = query[: query.index(name)].rstrip()
            if not re.search(r"\b(?:rate|increase)\s*\($", before):
                yield f"{name} is used without rate or increase"
