"""A report as text: of `health` for people and monitoring, of `doctor` for people; and as JSON.

The first line of a health check is `SIGUL COMPONENT STATE - TEXT | PERFORMANCE DATA` (Monitoring
Plugins development guidelines, which Nagios reads), each line after it one check.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..checks import Check, Report, State
from ..errors import printable
from .steps import Limits


@dataclass(frozen=True, slots=True)
class _Figure:
    """A value of checks in the first line: its label and unit for machines, its text for people."""

    name: str
    label: str
    text: str = ""
    unit: str = ""


_FIGURES: Final = (
    _Figure("handshake_seconds", "handshake", "handshake {:.3f} s", "s"),
    _Figure("request_seconds", "request", "request {:.3f} s", "s"),
    _Figure("sign_seconds", "sign", "signed in {:.3f} s", "s"),
    _Figure("verify_seconds", "verify", "verified in {:.3f} s", "s"),
    _Figure("log_seconds", "log", unit="s"),
    _Figure("canary_age_seconds", "canary_age", unit="s"),
    _Figure("days_left", "days_left", "{} days left"),
    _Figure("servers_waiting", "servers_waiting", "{} servers waiting"),
    _Figure("workers_attached", "workers_attached", "{} workers attached"),
    _Figure("workers_busy", "workers_busy", "{} busy"),
    _Figure("requests_in_flight", "requests_in_flight", "{} requests in flight"),
    _Figure("log_leaves", "log_leaves", "{} leaves in the signing log", "c"),
    _Figure("push_age_seconds", "push_age", unit="s"),
    *(
        _Figure(name, name, unit="c")
        for name in (
            "requests_total",
            "requests_protocol_0_total",
            "requests_protocol_1_total",
            "requests_failed_total",
            "handshakes_refused_total",
            "servers_dropped_total",
            "workers_crashed_total",
            "wrong_secrets_total",
            "delayed_after_wrong_secrets_total",
        )
    ),
)


def as_json(report: Report) -> str:
    """The report as one JSON document."""
    return json.dumps(report.as_json(), indent=2)


def health_text(report: Report, limits: Limits) -> str:
    """The report of a health check as lines."""
    return "\n".join([_summary(report, limits), *map(_line, report.checks)])


def exit_code(report: Report, *, docker: bool) -> int:
    """The state as an exit code; for Docker 0 (works, perhaps with a warning) or 1."""
    if docker:
        return 0 if report.state in (State.OK, State.WARNING) else 1
    return int(report.state)


def doctor_text(report: Report) -> str:
    """The report of `doctor` as lines: one a check, then the first failure and its cure."""
    width = max(len(check.layer) for check in report.checks)
    lines = [f"{report.component}: {report.state.word}", ""]
    for check in report.checks:
        lines.append(f"{check.state.word:<8} {check.layer:<{width}}  {printable(check.finding)}")
        if check.cure and check.state is State.WARNING:
            lines.append(f"{'':<8} {'':<{width}}  cure: {printable(check.cure)}")
    if (first := report.first_failure) is not None:
        lines += [
            "",
            f"First failure: {first.layer}: {printable(first.finding)}",
            f"Cure: {printable(first.cure)}",
        ]
    return "\n".join(lines)


def _summary(report: Report, limits: Limits) -> str:
    state = report.state
    figures = list(_figures(report))
    if state is State.OK:
        text = ", ".join(figure.text.format(value) for figure, value in figures if figure.text)
    else:
        worst = next((check for check in report.checks if check.state is state), None)
        text = f"{worst.layer}: {worst.finding}" if worst else "nothing was looked at"
    slow, too_slow = limits.warn_handshake_seconds, limits.fail_handshake_seconds
    thresholds = {
        "handshake_seconds": f";{slow:g};{too_slow:g}",
        "days_left": f";{limits.warn_days}:;{limits.fail_days}:",
    }
    data = " ".join(
        f"{figure.label}={value}{figure.unit}{thresholds.get(figure.name, '')}"
        for figure, value in figures
    )
    word = "CRITICAL" if state is State.FAILED else state.name
    # On one line, and without the sign that begins performance data.
    text = " ".join(text.replace("|", "/").split())
    head = f"SIGUL {report.component.upper()} {word} - {text}"
    return f"{head} | {data}" if data else head


def _figures(report: Report) -> Iterator[tuple[_Figure, int | float]]:
    for figure in _FIGURES:
        for check in report.checks:
            value = check.values.get(figure.name)
            if isinstance(value, int | float):
                yield figure, value
                break


def _line(check: Check) -> str:
    return " ".join(f"{check.state.word:8} {check.layer}: {check}".splitlines())
