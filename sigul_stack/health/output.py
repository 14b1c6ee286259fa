"""A report of a health check as text: for people, and for what reads the plugin format of Nagios.

The first line is `SIGUL COMPONENT STATE - TEXT | PERFORMANCE DATA` (Monitoring Plugins development
guidelines), each line after it one check.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .limits import Limits
from .report import Check, Report, State


@dataclass(frozen=True, slots=True)
class _Figure:
    """A value of a check in the first line: its label there, its unit, how people read it."""

    label: str
    text: str
    unit: str = ""


_FIGURES: Final = {
    "handshake_seconds": _Figure("handshake", "handshake {:.3f} s", "s"),
    "request_seconds": _Figure("request", "request {:.3f} s", "s"),
    "days_left": _Figure("days_left", "{} days left"),
    "servers_waiting": _Figure("servers_waiting", "{} servers waiting"),
    "workers_attached": _Figure("workers_attached", "{} workers attached"),
    "workers_busy": _Figure("workers_busy", "{} busy"),
    "requests_in_flight": _Figure("requests_in_flight", "{} requests in flight"),
    "requests_total": _Figure("requests_total", "", "c"),
    "requests_failed_total": _Figure("requests_failed_total", "", "c"),
    "handshakes_refused_total": _Figure("handshakes_refused_total", "", "c"),
    "servers_dropped_total": _Figure("servers_dropped_total", "", "c"),
    "workers_crashed_total": _Figure("workers_crashed_total", "", "c"),
}


def as_json(report: Report) -> str:
    """The report as one JSON document."""
    return json.dumps(report.as_json(), indent=2)


def as_text(report: Report, limits: Limits) -> str:
    """The report as lines."""
    return "\n".join([_summary(report, limits), *map(_line, report.checks)])


def exit_code(report: Report, *, docker: bool) -> int:
    """The state as an exit code; for Docker 0 (works, perhaps with a warning) or 1."""
    if docker:
        return 0 if report.state in (State.OK, State.WARNING) else 1
    return int(report.state)


def _summary(report: Report, limits: Limits) -> str:
    state = report.state
    words = {State.FAILED: "CRITICAL"}
    if state is State.OK:
        text = ", ".join(
            figure.text.format(value) for figure, value in _figures(report) if figure.text
        )
    else:
        worst = next((check for check in report.checks if check.state is state), None)
        text = f"{worst.layer}: {worst.finding}" if worst else "nothing was looked at"
    slow, too_slow = limits.warn_handshake_seconds, limits.fail_handshake_seconds
    thresholds = {
        "handshake_seconds": f";{slow:g};{too_slow:g}",
        "days_left": f";{limits.warn_days}:;{limits.fail_days}:",
    }
    figures = " ".join(
        f"{figure.label}={value}{figure.unit}"
        + thresholds.get(next(name for name in _FIGURES if _FIGURES[name] is figure), "")
        for figure, value in _figures(report)
    )
    head = f"SIGUL {report.component.upper()} {words.get(state, state.name)} - {_flat(text)}"
    return f"{head} | {figures}" if figures else head


def _figures(report: Report) -> Iterator[tuple[_Figure, int | float]]:
    for name, figure in _FIGURES.items():
        for check in report.checks:
            value = check.values.get(name)
            if isinstance(value, int | float):
                yield figure, value
                break


def _line(check: Check) -> str:
    text = f"{check.state.word:8} {check.layer}: {check.finding}"
    return " ".join((text if check.state is State.OK else f"{text}; {check.cure}").splitlines())


def _flat(text: str) -> str:
    """Text on one line, without the sign that begins performance data."""
    return " ".join(text.replace("|", "/").split())
