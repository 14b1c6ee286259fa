"""The tables of `sigul-stack status`, of a bridge's view or a server's status.

Strings become text in `status_parts` alone, which escapes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from ..errors import SigulError
from ..observe import figures
from ..observe.page_charts import MINUTES, points_of
from ..observe.view import BridgeView, LatencySeries, RequestView
from ..protocol.status import RequestUnderWay, ServerStatus, WatchedLog
from .status_parts import (
    BAD,
    GOOD,
    SOFT,
    TITLE,
    Look,
    add_row,
    counts_grid,
    grid,
    more,
    section,
    table_of,
    text_of,
)

#: Heights of a chart's minute, the lowest first.
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
#: Columns from which on requests are a table.
_WIDE: Final = 118


def bridge_tables(view: BridgeView, look: Look) -> RenderableType:
    """All that is shown of a bridge."""
    conditions = len(view.conditions)
    state = (
        f"{look.bad} {figures.counted(conditions, 'condition')} to see to"
        if conditions
        else f"{look.good} All is well"
    )
    parts: list[RenderableType] = [
        text_of(state, BAD if conditions else f"bold {GOOD}"),
        _about("bridge", view.version, view.pid, view.started, view.now, look),
    ]
    for condition in view.conditions:
        since = figures.clock(condition.since, view.now)
        ago = figures.ago(condition.since, view.now) or "unknown"
        lines = Group(
            text_of(f"{look.bad} {figures.capital(condition.text)}", TITLE),
            text_of(f"  What to do: {condition.cure}"),
            text_of(f"  Since {since} ({ago}), alert {condition.name}", SOFT),
        )
        parts.append(Padding(lines, (1, 0, 0, 0)))
    parts += [
        *section("Requests under way", _requests(view, view.under_way, look, over=False)),
        *section("Last requests", _requests(view, view.recent, look, over=True)),
        *section("How long it took, the last hour", _latency(view.latency, look)),
        *section("Servers that wait", _servers(view, look)),
        *section("Certificates", _certificates(view, look)),
        *section("Signing logs", _logs(view, look)),
        *section("Connections at this moment", counts_grid(view.connections, look)),
        *section("In use, of what all may use", _budgets(view, look)),
        *section("Since the bridge began", counts_grid(view.totals, look)),
    ]
    return Group(*parts)


def server_tables(status: ServerStatus, look: Look) -> RenderableType:
    """All that is shown of a server."""
    attached = status.workers_attached
    state = (
        f"{look.good} {figures.counted(attached, 'worker waits', 'workers wait')} at the bridge"
        if attached
        else f"{look.bad} No worker waits at the bridge: nobody signs"
    )
    counts = {
        "workers that wait at the bridge": attached,
        "workers that dial it": status.workers_dialling,
        "workers with a request": status.workers_busy,
    }
    workers = table_of(look, "#Worker", "#Waiting for", "#Handshake took")
    for worker in status.workers[: look.rows]:
        waiting, handshake = worker.attached_seconds, worker.handshake_seconds
        add_row(workers, str(worker.pid), figures.duration(waiting), figures.duration(handshake))
    return Group(
        text_of(state, f"bold {GOOD}" if attached else BAD),
        _about("server", status.version, status.pid, status.started, "", look),
        *section("Requests under way", _server_requests(status.requests, look)),
        *section("Workers", counts_grid(counts, look)),
        *section("Workers that wait", [workers, more(status.workers, look)]),
        *section("Signing log", _own_log(status)),
        *section("Since the server began", counts_grid(status.totals, look)),
    )


def lost_notice(
    error: SigulError, every: float, seen: str, last: RenderableType | None
) -> RenderableType:
    """That a daemon does not answer, above what was shown of it at `seen`."""
    again = f"Asking again every {figures.duration(every)}."
    before = f" What follows is of {seen}." if seen and last is not None else ""
    told = f" It last answered at {seen}." if seen and last is None else ""
    lines: list[RenderableType] = [
        text_of(f"No answer: {error}", BAD),
        text_of(again + before + told, SOFT),
    ]
    return Group(*lines, *([Padding(last, (1, 0, 0, 0))] if last is not None else []))


# --- What they are made of -----------------------------------------------------------------------


def _about(what: str, version: str, pid: int, started: str, now: str, look: Look) -> Text:
    ago = figures.ago(started, now)
    text = f"Sigul {what} {version}, process {pid}, started {figures.date_and_time(started)}"
    text += f" ({ago})" if ago else ""
    text += f"; as of {figures.date_and_time(now)}" if now else ""
    if look.others > 0:
        former = figures.counted(look.others, "former process", "former processes")
        text += f"; {former} still there (sigul-stack requests list tells what is under way)"
    return text_of(text, SOFT)


def _requests(
    view: BridgeView, requests: Sequence[RequestView], look: Look, *, over: bool
) -> list[RenderableType | None]:
    if not requests:
        return []
    if look.width < _WIDE:
        lines = [_request_lines(view, item, look, over=over) for item in requests[: look.rows]]
        return [*lines, more(requests, look)]
    table = table_of(
        look,
        "Request",
        "Connection",
        "Operation",
        "Protocol",
        "Client",
        "Result" if over else "State",
        "Began",
        "#In queue",
        "#Took" if over else "#So far",
    )
    for item in requests[: look.rows]:
        add_row(
            table,
            item.id or "no id",
            item.connection,
            item.op or "not known yet",
            figures.protocol(item.version).removeprefix("protocol "),
            item.common_name,
            _state(item, look, over=over),
            figures.clock(item.began, view.now),
            figures.duration(item.queue_seconds),
            figures.duration(item.seconds),
        )
    return [table, more(requests, look)]


def _request_lines(view: BridgeView, item: RequestView, look: Look, *, over: bool) -> Text:
    """A request where there is no room for a table: an id stays in one piece."""
    op, version = item.op or "not known yet", figures.protocol(item.version)
    queue, took = figures.duration(item.queue_seconds), figures.duration(item.seconds)
    return Text.assemble(
        text_of(item.id or "no id", TITLE),
        text_of(f"  {op} ({version}) of "),
        text_of(item.common_name),
        "\n  ",
        _state(item, look, over=over),
        text_of(f", began {figures.clock(item.began, view.now)}, "),
        text_of(f"{'took' if over else 'so far'} {took}, {queue} in the queue"),
        text_of(f", connection {item.connection}", SOFT),
        overflow="fold",
    )


def _state(item: RequestView, look: Look, *, over: bool) -> Text:
    return _result(item.state, look) if over else text_of(figures.words(item.state))


def _result(state: str, look: Look) -> Text:
    if state == "ok":
        return text_of(f"{look.good} ok" if look.unicode else "ok", GOOD)
    return text_of(f"{look.bad} {figures.words(state)}", BAD)


def _latency(latency: Sequence[LatencySeries], look: Look) -> list[RenderableType | None]:
    drawn = look.unicode and look.width >= MINUTES + 40
    table = table_of(
        look,
        "What",
        *([f"Longest of each minute, {MINUTES} minutes ago to now"] if drawn else []),
        "#Last median",
        "#Longest",
        "#Times",
    )
    there = False
    for series in latency[: look.rows]:
        points = points_of(series)
        if not points:
            continue
        there = True
        longest = max(point[2] for point in points)
        add_row(
            table,
            figures.capital(figures.words(series.name)),
            *([_sparkline(series)] if drawn else []),
            figures.duration(points[-1][1]),
            figures.duration(longest),
            f"{sum(point[3] for point in points):,}",
        )
    return [table] if there else []


def _sparkline(series: LatencySeries) -> Text:
    """A character for each minute: none where nothing happened, else as high as its longest."""
    line = [" "] * MINUTES
    points = points_of(series)
    top = max(point[2] for point in points) or 1.0
    for minutes, _median, longest, _count in points:
        height = min(max(longest / top, 0.0), 1.0) * (len(_BLOCKS) - 1)
        line[MINUTES - 1 - minutes] = _BLOCKS[round(height)]
    return text_of("".join(line), "cyan")


def _servers(view: BridgeView, look: Look) -> list[RenderableType | None]:
    if not view.servers:
        return []
    table = table_of(look, "Server", "From", "#Waiting for", "#Handshake took")
    for item in view.servers[: look.rows]:
        waiting, handshake = item.waiting_seconds, item.handshake_seconds
        add_row(
            table,
            item.common_name,
            item.address,
            figures.duration(waiting),
            figures.duration(handshake),
        )
    return [table, more(view.servers, look)]


def _certificates(view: BridgeView, look: Look) -> list[RenderableType | None]:
    if not view.certificates:
        return []
    table = table_of(look, "Certificate of", "Part", "Ends", "#Left")
    for item in sorted(view.certificates, key=lambda item: item.days_left)[: look.rows]:
        few = item.days_left < figures.FEW_DAYS
        left = figures.days(item.days_left)
        add_row(
            table,
            item.common_name,
            item.role,
            figures.date(item.not_after),
            text_of(f"{look.bad} {left}", BAD) if few else left,
        )
    return [table, more(view.certificates, look)]


def _logs(view: BridgeView, look: Look) -> list[RenderableType | None]:
    if not view.logs:
        return []
    table = table_of(look, "Server", "Log", "#Leaves", "#Checked", "What was found")
    for item in view.logs[: look.rows]:
        add_row(
            table,
            item.common_name,
            item.origin,
            f"{item.size:,}",
            f"{figures.duration(item.seconds)} ago" if item.seconds >= 0 else "not yet",
            _found(item, look),
        )
    every = figures.duration(view.log_interval_seconds)
    note = f"Each is asked for its checkpoint every {every}." if view.log_interval_seconds else ""
    return [table, more(view.logs, look), text_of(note, SOFT) if note else None]


def _found(item: WatchedLog, look: Look) -> Text:
    if item.complaint:
        return text_of(f"{look.bad} {item.complaint}", BAD)
    if item.seconds < 0:
        return text_of("nothing yet")
    return text_of(f"{look.good} no complaint" if look.unicode else "no complaint", GOOD)


def _budgets(view: BridgeView, look: Look) -> list[RenderableType | None]:
    return grid(
        [
            (
                figures.capital(figures.words(name)),
                text_of(f"{look.bad} {figures.percent(ratio)}", BAD)
                if ratio >= figures.NEARLY_USED
                else text_of(figures.percent(ratio)),
            )
            for name, ratio in view.budgets.items()
        ],
        look,
    )


def _server_requests(
    requests: Sequence[RequestUnderWay], look: Look
) -> list[RenderableType | None]:
    if not requests:
        return []
    table = table_of(look, "Operation", "User", "Certificate of", "#So far")
    for item in sorted(requests, key=lambda item: -item.seconds)[: look.rows]:
        add_row(
            table,
            item.op or "not known yet",
            item.user or "not known yet",
            item.common_name,
            figures.duration(item.seconds),
        )
    return [table, more(requests, look)]


def _own_log(status: ServerStatus) -> list[RenderableType | None]:
    if not status.signing_log_size:
        return []
    leaves = figures.counted(status.signing_log_size, "leaf", "leaves")
    when = figures.date_and_time(status.signing_log_time)
    return [text_of(f"{leaves}; its last checkpoint was made {when}")]
