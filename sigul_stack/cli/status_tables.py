"""The tables of `sigul-stack status`, of a bridge's view or a server's status.

Invariant: every string, whoever said it, comes to rich through `_text`: as text, never as markup,
on one line, with everything escaped that a terminal would obey. Nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..errors import SigulError
from ..observe import figures
from ..observe.page_charts import MINUTES, points_of
from ..observe.view import BridgeView, LatencySeries, RequestView
from ..protocol.status import RequestUnderWay, ServerStatus, WatchedLog

#: Heights of a chart's minute, the lowest first.
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
#: Columns from which on a connection has one of its own.
_WIDE: Final = 118

#: Characters of a request's id.
_ID: Final = 16

_GOOD, _BAD, _SOFT, _TITLE = "green", "bold red", "dim", "bold"


@dataclass(frozen=True, slots=True)
class Look:
    """How much is shown: columns of the terminal, rows of a table, and what else is known.

    `unicode`: whether the terminal has more than ASCII. `others`: the daemon's former processes.
    """

    width: int
    rows: int
    unicode: bool = True
    others: int = 0

    @property
    def good(self) -> str:
        """The mark of what is well."""
        return "✓" if self.unicode else "ok:"

    @property
    def bad(self) -> str:
        """The mark of what to look at."""
        return "▲" if self.unicode else "!"


def _text(text: str, style: str = "") -> Text:
    return Text(figures.shown(text), style=style, overflow="fold")


def bridge_tables(view: BridgeView, look: Look) -> RenderableType:
    """All that is shown of a bridge."""
    conditions = len(view.conditions)
    state = (
        f"{look.bad} {figures.counted(conditions, 'condition')} to see to"
        if conditions
        else f"{look.good} All is well"
    )
    parts: list[RenderableType] = [
        _text(state, _BAD if conditions else f"bold {_GOOD}"),
        _about("bridge", view.version, view.pid, view.started, view.now, look),
    ]
    for condition in view.conditions:
        since = figures.clock(condition.since, view.now)
        ago = figures.ago(condition.since, view.now) or "unknown"
        lines = Group(
            _text(f"{look.bad} {figures.capital(condition.text)}", _TITLE),
            _text(f"  What to do: {condition.cure}"),
            _text(f"  Since {since} ({ago}), alert {condition.name}", _SOFT),
        )
        parts.append(Padding(lines, (1, 0, 0, 0)))
    parts += [
        *_section("Requests under way", _requests(view, view.under_way, look, over=False)),
        *_section("Last requests", _requests(view, view.recent, look, over=True)),
        *_section("How long it took, the last hour", _latency(view.latency, look)),
        *_section("Servers that wait", _servers(view, look)),
        *_section("Certificates", _certificates(view, look)),
        *_section("Signing logs", _logs(view, look)),
        *_section("Connections at this moment", _counts(view.connections, look)),
        *_section("In use, of what all may use", _budgets(view, look)),
        *_section("Since the bridge began", _counts(view.totals, look)),
    ]
    return Group(*parts)


def server_tables(status: ServerStatus, look: Look) -> RenderableType:
    """All that is shown of a server."""
    attached = status.workers_attached
    state = (
        f"{look.good} {figures.counted(attached, 'worker')} wait at the bridge"
        if attached
        else f"{look.bad} No worker waits at the bridge: nobody signs"
    )
    counts = {
        "workers that wait at the bridge": attached,
        "workers that dial it": status.workers_dialling,
        "workers with a request": status.workers_busy,
    }
    workers = _table(look, "#Worker", "#Waiting for", "#Handshake took")
    for worker in status.workers[: look.rows]:
        waiting, handshake = worker.attached_seconds, worker.handshake_seconds
        _row(workers, str(worker.pid), figures.duration(waiting), figures.duration(handshake))
    return Group(
        _text(state, f"bold {_GOOD}" if attached else _BAD),
        _about("server", status.version, status.pid, status.started, "", look),
        *_section("Requests under way", _server_requests(status.requests, look)),
        *_section("Workers", _counts(counts, look)),
        *_section("Workers that wait", [workers, _more(status.workers, look)]),
        *_section("Signing log", _own_log(status)),
        *_section("Since the server began", _counts(status.totals, look)),
    )


def lost_notice(
    error: SigulError, every: float, seen: str, last: RenderableType | None
) -> RenderableType:
    """That a daemon does not answer, above what was shown of it at `seen`."""
    again = f"Asking again every {figures.duration(every)}."
    before = f" What follows is of {seen}." if seen and last is not None else ""
    told = f" It last answered at {seen}." if seen and last is None else ""
    lines: list[RenderableType] = [
        _text(f"No answer: {error}", _BAD),
        _text(again + before + told, _SOFT),
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
    return _text(text, _SOFT)


def _section(title: str, content: Iterable[RenderableType | None]) -> list[RenderableType]:
    there = [item for item in content if item is not None]
    return [Text(), _text(title, _TITLE), *(there or [_text("None.", _SOFT)])]


def _table(look: Look, *columns: str) -> Table:
    """A table of these headings; those of figures begin with `#`."""
    made = Table(
        box=box.SIMPLE_HEAD if look.unicode else box.ASCII2,
        show_edge=False,
        pad_edge=False,
        header_style=_SOFT,
        padding=(0, 1, 0, 0),
    )
    for name in columns:
        figure = name.startswith("#")
        made.add_column(
            _text(name.removeprefix("#")),
            justify="right" if figure else "left",
            # An id is compared, and copied: it stays in one piece.
            no_wrap=figure,
            min_width=_ID if name == "Request" else None,
            overflow="fold",
        )
    return made


def _row(table: Table, *cells: str | Text) -> None:
    table.add_row(*(cell if isinstance(cell, Text) else _text(cell) for cell in cells))


def _more(items: Sequence[object], look: Look) -> Text | None:
    left = len(items) - look.rows
    return _text(f"and {left:,} more (--json has them)", _SOFT) if left > 0 else None


def _requests(
    view: BridgeView, requests: Sequence[RequestView], look: Look, *, over: bool
) -> list[RenderableType | None]:
    if not requests:
        return []
    wide = look.width >= _WIDE
    table = _table(
        look,
        "Request",
        *(["Connection"] if wide else []),
        "Operation",
        *(["Protocol"] if wide else []),
        "Client",
        "Result" if over else "State",
        "Began",
        "#In queue",
        "#Took" if over else "#So far",
    )
    for item in requests[: look.rows]:
        name, op = item.id or "no id", item.op or "not known yet"
        version = figures.protocol(item.version)
        state = _result(item.state, look) if over else _text(figures.words(item.state))
        parts = (name, item.connection, op, version.removeprefix("protocol "))
        _row(
            table,
            *(parts if wide else (_lines(name, item.connection), _lines(op, version))),
            item.common_name,
            state,
            figures.clock(item.began, view.now),
            figures.duration(item.queue_seconds),
            figures.duration(item.seconds),
        )
    return [table, _more(requests, look)]


def _lines(*texts: str) -> Text:
    """Texts one below the other."""
    return Text("\n").join(_text(text) for text in texts)


def _result(state: str, look: Look) -> Text:
    if state == "ok":
        return _text(f"{look.good} ok" if look.unicode else "ok", _GOOD)
    return _text(f"{look.bad} {figures.words(state)}", _BAD)


def _latency(latency: Sequence[LatencySeries], look: Look) -> list[RenderableType | None]:
    drawn = look.unicode and look.width >= MINUTES + 40
    table = _table(
        look,
        "What",
        *([f"Longest of each minute, {MINUTES} minutes ago to now"] if drawn else []),
        "#Median",
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
        _row(
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
    return _text("".join(line), "cyan")


def _servers(view: BridgeView, look: Look) -> list[RenderableType | None]:
    if not view.servers:
        return []
    table = _table(look, "Server", "From", "#Waiting for", "#Handshake took")
    for item in view.servers[: look.rows]:
        waiting, handshake = item.waiting_seconds, item.handshake_seconds
        _row(
            table,
            item.common_name,
            item.address,
            figures.duration(waiting),
            figures.duration(handshake),
        )
    return [table, _more(view.servers, look)]


def _certificates(view: BridgeView, look: Look) -> list[RenderableType | None]:
    if not view.certificates:
        return []
    table = _table(look, "Certificate of", "Part", "Ends", "#Left")
    for item in sorted(view.certificates, key=lambda item: item.days_left)[: look.rows]:
        few = item.days_left < figures.FEW_DAYS
        left = figures.days(item.days_left)
        _row(
            table,
            item.common_name,
            item.role,
            figures.date(item.not_after),
            _text(f"{look.bad} {left}", _BAD) if few else left,
        )
    return [table, _more(view.certificates, look)]


def _logs(view: BridgeView, look: Look) -> list[RenderableType | None]:
    if not view.logs:
        return []
    table = _table(look, "Server", "Log", "#Leaves", "#Checked", "What was found")
    for item in view.logs[: look.rows]:
        _row(
            table,
            item.common_name,
            item.origin,
            f"{item.size:,}",
            f"{figures.duration(item.seconds)} ago" if item.seconds >= 0 else "not yet",
            _found(item, look),
        )
    every = figures.duration(view.log_interval_seconds)
    note = f"Each is asked for its checkpoint every {every}." if view.log_interval_seconds else ""
    return [table, _more(view.logs, look), _text(note, _SOFT) if note else None]


def _found(item: WatchedLog, look: Look) -> Text:
    if item.complaint:
        return _text(f"{look.bad} {item.complaint}", _BAD)
    if item.seconds < 0:
        return _text("nothing yet")
    return _text(f"{look.good} no complaint" if look.unicode else "no complaint", _GOOD)


def _budgets(view: BridgeView, look: Look) -> list[RenderableType | None]:
    return _grid(
        [
            (
                figures.capital(figures.words(name)),
                _text(f"{look.bad} {figures.percent(ratio)}", _BAD)
                if ratio >= figures.NEARLY_USED
                else _text(figures.percent(ratio)),
            )
            for name, ratio in view.budgets.items()
        ],
        look,
    )


def _counts(counts: Mapping[str, int], look: Look) -> list[RenderableType | None]:
    pairs = [
        (figures.capital(figures.words(name)), _text(f"{count:,}"))
        for name, count in counts.items()
    ]
    return _grid(pairs, look)


def _grid(pairs: list[tuple[str, Text]], look: Look) -> list[RenderableType | None]:
    """Names and figures, in as many columns of both as there is room for."""
    if not pairs:
        return []
    width = max(len(name) for name, _figure in pairs) + max(len(item) for _name, item in pairs) + 6
    columns = min(max(1, look.width // width), 4, len(pairs))
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(columns):
        grid.add_column(overflow="fold")
        grid.add_column(justify="right", overflow="fold")
    shown = pairs[: max(look.rows, 25)]
    lines = -(-len(shown) // columns)
    for line in range(lines):
        cells: list[Text] = []
        for name, figure in shown[line::lines]:
            cells += [_text(name), figure]
        grid.add_row(*cells)
    return [grid]


def _server_requests(
    requests: Sequence[RequestUnderWay], look: Look
) -> list[RenderableType | None]:
    if not requests:
        return []
    table = _table(look, "Operation", "User", "Certificate of", "#So far")
    for item in sorted(requests, key=lambda item: -item.seconds)[: look.rows]:
        _row(
            table,
            item.op or "not known yet",
            item.user or "not known yet",
            item.common_name,
            figures.duration(item.seconds),
        )
    return [table, _more(requests, look)]


def _own_log(status: ServerStatus) -> list[RenderableType | None]:
    if not status.signing_log_size:
        return []
    leaves = figures.counted(status.signing_log_size, "leaf", "leaves")
    when = figures.date_and_time(status.signing_log_time)
    return [_text(f"{leaves}; its last checkpoint was made {when}")]
