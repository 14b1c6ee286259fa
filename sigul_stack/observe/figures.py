"""How figures and names of a view are said, the same on the page and in a terminal.

Every figure has its unit. What peers have said is never longer than `MAX_TEXT` and never more than
text. Only strings are made in here; who shows them escapes what his medium takes for markup.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from ..errors import printable, shortened

#: Longest name or text of others that is shown whole, in bytes of UTF-8.
MAX_TEXT: Final = 512
#: Days left from which on a certificate is marked: those of the alert.
FEW_DAYS: Final = 30.0
#: From what use on, 0 to 1, a budget is marked.
NEARLY_USED: Final = 0.8

_MINUTE, _HOUR, _DAY = 60, 3600, 86400

#: Names of the view whose words are not the name itself.
_WORDS: Final[Mapping[str, str]] = {
    # states of connections
    "handshake_client": "client handshakes",
    "handshake_server": "server handshakes",
    "waiting_server": "servers waiting",
    "header": "requests not yet read",
    "forwarded": "forwarded",
    # results
    "refused": "refused by the server",
    "refused_by_bridge": "refused by the bridge",
    "ended": "ended early",
    # budgets
    "waiting_servers": "waiting servers",
    # series
    "handshake client": "client handshakes",
    "handshake server": "server handshakes",
    "queue": "time in the queue",
    "request": "whole requests",
    # totals
    "requests_total": "requests",
    "requests_protocol_0_total": "of them, protocol 0",
    "requests_protocol_1_total": "of them, protocol 1",
    "requests_failed_total": "requests that failed",
    "requests_ended_total": "requests ended early",
    "probes_total": "port and health checks",
    "handshakes_refused_total": "handshakes refused",
    "over_budget_total": "refused: over budget",
    "too_slow_total": "ended: too slow",
    "group_refusals_total": "refused: not in the group",
    "group_source_failures_total": "refused: groups unknown",
    "servers_attached_total": "servers attached",
    "servers_dropped_total": "servers lost while waiting",
    "signing_log_checkpoints_total": "checkpoints found good",
    "signing_log_complaints_total": "complaints about logs",
    "signing_log_failures_total": "logs that did not answer",
    "workers_started_total": "workers started",
    "workers_crashed_total": "workers crashed",
    "spool_refusals_total": "refused: spool full",
    "attached_total": "handshakes with the bridge",
    "wrong_secrets_total": "wrong secrets",
    "delayed_after_wrong_secrets_total": "refused after wrong secrets",
}


def shown(text: str) -> str:
    """What a peer said, as one line of text that is not too long."""
    return printable(shortened(text, MAX_TEXT))


def words(name: str) -> str:
    """The words for a name of the view: of a state, a result, a budget, a series or a total."""
    return _WORDS.get(name) or shown(name).removesuffix("_total").replace("_", " ")


def capital(text: str) -> str:
    """`text` as it begins a line."""
    return text[:1].upper() + text[1:]


def counted(number: int, one: str, many: str = "") -> str:
    """A number and what of: `1 request`, `2 requests`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def protocol(version: int) -> str:
    """A version of the protocol; below 0 it is not known."""
    return f"protocol {version}" if version >= 0 else "protocol not known"


def duration(seconds: float) -> str:
    """A duration in the one or two units that fit: `0.4 ms`, `42 ms`, `1.2 s`, `3 h 12 min`."""
    if not 0 <= seconds < math.inf:
        return "unknown"
    if seconds < 1:
        milliseconds = seconds * 1000
        # 0.9996 s is 1 s, and not 1000 ms.
        if round(milliseconds) < 1000:
            return f"{milliseconds:.{1 if 0 < milliseconds < 10 else 0}f} ms"
    if round(seconds, 1) < _MINUTE:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller, smaller_unit in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{whole} s"


def moment(text: str) -> datetime | None:
    """The time that ISO 8601 names, in UTC; None where it is no time."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    try:
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (OverflowError, ValueError):
        return None


def date_and_time(text: str) -> str:
    """A time as `2026-12-01 10:00:00 UTC`; what is no time, as it is."""
    time = moment(text)
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time else shown(text) or "unknown"


def clock(text: str, now: str) -> str:
    """A time as `10:00:00`, with its date where that is not today's."""
    time, today = moment(text), moment(now)
    if time is None or (today is not None and time.date() == today.date()):
        return f"{time:%H:%M:%S}" if time else shown(text) or "unknown"
    return f"{time:%Y-%m-%d %H:%M:%S}"


def date(text: str) -> str:
    """A time's date: `2026-12-01`."""
    time = moment(text)
    return f"{time:%Y-%m-%d}" if time else shown(text) or "unknown"


def ago(text: str, now: str) -> str:
    """How long before `now` it was: `12 s ago`; empty where either is no time."""
    time, today = moment(text), moment(now)
    if time is None or today is None:
        return ""
    seconds = int((today - time).total_seconds())
    if seconds < 1:
        return "just now"
    return f"{seconds} s ago" if seconds < _MINUTE else f"{duration(seconds)} ago"


def days(number: float) -> str:
    """Days left: `34 days`; `ended 2 days ago` where it is over."""
    if not math.isfinite(number):
        return "unknown"
    whole = int(abs(number))
    if number < 0:
        return f"ended {counted(whole, 'day')} ago" if whole else "ended today"
    return counted(whole, "day") if whole else "less than a day"


def percent(ratio: float) -> str:
    """0 to 1 as `42 %`; what is in use at all is at least `1 %`."""
    if not math.isfinite(ratio):
        return "unknown"
    whole = round(ratio * 100)
    return f"{max(whole, 1) if ratio > 0 else whole} %"
