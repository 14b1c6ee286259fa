"""The bridge's page: its view (`observe.view`) as one HTML document that asks for nothing else.

It is read without JavaScript, loads nothing, has no form and cannot be framed: `CSP` is the header
that it is to be served with, and a browser that obeys it runs and loads nothing even if a name got
out of its place. Names come from certificates and headers of peers: `markup` makes text of them.
Bounded: a list shows `MAX_ROWS` of what it is given, and says how many more there are.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from ..protocol.status import WaitingServer, WatchedLog
from .figures import (
    FEW_DAYS,
    NEARLY_USED,
    ago,
    capital,
    clock,
    counted,
    date,
    date_and_time,
    days,
    duration,
    moment,
    percent,
    shown,
    words,
)
from .markup import Element, element, written
from .page_charts import latency_chart, use_bar
from .page_style import STYLE
from .view import BridgeView, CertificateView, Condition, RequestView

#: Most rows of a table, charts, conditions or lines of a list.
MAX_ROWS: Final = 100

#: The header `Content-Security-Policy`: the one style sheet, and nothing else at all.
CSP: Final = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    + "'; img-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

T = TypeVar("T")
#: A cell: its text, or what is shown in its place.
Cell = str | Element
#: A column: its heading, and whether it has figures.
Column = tuple[str, bool]


def render(view: BridgeView) -> bytes:
    """The page, UTF-8."""
    conditions = len(view.conditions)
    state = headline(view)
    style = element("style")
    style.text = STYLE
    return written(
        element(
            "html",
            element(
                "head",
                element("meta", charset="utf-8"),
                element("title", f"Sigul bridge: {state.lower()}"),
                element("meta", name="viewport", content="width=device-width, initial-scale=1"),
                element("meta", name="color-scheme", content="light dark"),
                element("meta", name="referrer", content="no-referrer"),
                style,
            ),
            element(
                "body",
                _header(view, state, good=not conditions),
                element(
                    "main",
                    *([_conditions(view)] if conditions else []),
                    _glance(view),
                    _under_way(view),
                    _recent(view),
                    _latency(view),
                    _servers(view),
                    _certificates(view),
                    _logs(view),
                    element("div", _connections(view), _budgets(view), class_="pair"),
                    _totals(view),
                    id="content",
                ),
                _footer(),
            ),
            lang="en",
        )
    )


def headline(view: BridgeView) -> str:
    """The state of the bridge in a few words."""
    count = len(view.conditions)
    return f"{counted(count, 'condition')} to see to" if count else "All is well"


# --- The parts, from top to bottom ---------------------------------------------------------------


def _header(view: BridgeView, state: str, *, good: bool) -> Element:
    return element(
        "header",
        element("a", "Skip to the figures", href="#content", class_="skip"),
        element("p", "Sigul bridge", class_="kind"),
        element(
            "h1",
            element("span", "✓" if good else "▲", class_="sign", aria_hidden="true"),
            state,
            class_="good" if good else "bad",
        ),
        element(
            "p",
            "As of ",
            _time(view.now, view.now, date_and_time(view.now)),
            ". Version ",
            shown(view.version),
            f", process {view.pid}, started ",
            _time(view.started, view.now, date_and_time(view.started)),
            f" ({ago(view.started, view.now) or 'unknown'}). ",
            element("a", "Reload", href="./", class_="reload"),
            class_="about",
        ),
    )


def _conditions(view: BridgeView) -> Element:
    def item(condition: Condition) -> Element:
        return element(
            "li",
            element("h3", capital(shown(condition.text))),
            element("p", element("b", "What to do: "), shown(condition.cure)),
            element(
                "p",
                "Since ",
                _time(condition.since, view.now),
                f" ({ago(condition.since, view.now) or 'unknown'}). Alert ",
                element("code", shown(condition.name)),
                class_="small soft",
            ),
        )

    return _section(
        "Conditions",
        element("ul", *(item(one) for one in view.conditions[:MAX_ROWS]), class_="conditions"),
        _more(view.conditions),
    )


def _glance(view: BridgeView) -> Element:
    """The few figures that most people come for."""
    tiles: list[tuple[str, str, str]] = [
        (
            "Servers waiting",
            f"{view.connections.get('waiting_server', len(view.servers)):,}",
            "for a request",
        ),
        (
            "Requests under way",
            f"{view.connections.get('forwarded', 0):,}",
            f"{view.connections.get('queued', 0):,} in the queue",
        ),
        (
            "Requests so far",
            f"{view.totals.get('requests_total', 0):,}",
            f"{view.totals.get('requests_failed_total', 0):,} failed",
        ),
    ]
    if view.recent:
        last = view.recent[0]
        state = capital(shown(last.state).replace("_", " "))
        tiles.append(("Last request", state, ago(last.began, view.now)))
    else:
        tiles.append(("Last request", "None", "since the bridge began"))
    first = min(view.certificates, key=lambda item: item.days_left, default=None)
    left = (days(first.days_left), shown(first.common_name)) if first else ("None", "is known")
    tiles.append(("First certificate ends", *left))
    wrong = sum(bool(item.complaint) for item in view.logs)
    found = counted(wrong, "complaint") if wrong else "no complaint"
    tiles.append(("Signing logs", f"{len(view.logs):,}", found))
    return element(
        "section",
        element(
            "dl",
            *(
                element(
                    "div",
                    element("dt", name),
                    element("dd", figure, class_="big"),
                    element("dd", more, class_="more"),
                )
                for name, figure, more in tiles
            ),
            class_="glance",
        ),
        aria_label="At a glance",
    )


def _under_way(view: BridgeView) -> Element:
    def row(item: RequestView) -> list[Cell]:
        return [
            _request(item),
            _operation(item),
            shown(item.common_name),
            capital(words(item.state)),
            _time(item.began, view.now),
            duration(item.queue_seconds),
            duration(item.seconds),
        ]

    columns = _columns("Request", "Operation", "Client", "State", "Began", "#In queue", "#So far")
    return _table("Requests under way", columns, view.under_way, row, "None at this moment.")


def _recent(view: BridgeView) -> Element:
    def row(item: RequestView) -> list[Cell]:
        began = element(
            "span",
            _time(item.began, view.now),
            element("span", ago(item.began, view.now) or "unknown", class_="under"),
        )
        return [
            _request(item),
            _operation(item),
            shown(item.common_name),
            _result(item.state),
            began,
            duration(item.queue_seconds),
            duration(item.seconds),
        ]

    columns = _columns("Request", "Operation", "Client", "Result", "Began", "#In queue", "#Took")
    return _table("Last requests", columns, view.recent, row, "None since the bridge began.")


def _latency(view: BridgeView) -> Element:
    if not view.latency:
        return _section("How long it took", _nothing("Nothing was measured in this hour."))
    return _section(
        "How long it took",
        element(
            "p",
            "The last hour, minute by minute: a dark mark at the median, a light bar up to the"
            " longest.",
            class_="soft small",
        ),
        element("div", *map(latency_chart, view.latency[:MAX_ROWS]), class_="charts"),
        _more(view.latency),
    )


def _servers(view: BridgeView) -> Element:
    def row(item: WaitingServer) -> list[Cell]:
        return [
            shown(item.common_name),
            element("code", shown(item.address)),
            duration(item.waiting_seconds),
            duration(item.handshake_seconds),
        ]

    columns = _columns("Server", "From", "#Waiting for", "#Handshake took")
    return _table("Servers that wait", columns, view.servers, row, "No server waits: nobody signs.")


def _certificates(view: BridgeView) -> Element:
    def row(item: CertificateView) -> list[Cell]:
        few = item.days_left < FEW_DAYS
        left = f"▲ {days(item.days_left)}" if few else days(item.days_left)
        return [
            shown(item.common_name),
            capital(shown(item.role)),
            _time(item.not_after, view.now, date(item.not_after)),
            element("span", left, class_="marked" if few else "whole"),
        ]

    columns = _columns("Certificate of", "Part", "Ends", "#Left")
    certificates = sorted(view.certificates, key=lambda item: item.days_left)
    return _table("Certificates", columns, certificates, row, "None is known.")


def _logs(view: BridgeView) -> Element:
    def row(item: WatchedLog) -> list[Cell]:
        checked = f"{duration(item.seconds)} ago" if item.seconds >= 0 else "not yet"
        wrong = element("span", f"▲ {shown(item.complaint)}", class_="marked")
        fine = element("span", "✓ no complaint", class_="fine whole")
        return [
            shown(item.common_name),
            shown(item.origin),
            f"{item.size:,}",
            checked,
            wrong if item.complaint else fine,
        ]

    note = (
        f"Each is asked for its checkpoint every {duration(view.log_interval_seconds)}."
        if view.log_interval_seconds > 0
        else ""
    )
    columns = _columns("Server", "Log", "#Leaves", "#Checked", "What was found")
    return _table("Signing logs", columns, view.logs, row, "No server has shown one.", note)


def _connections(view: BridgeView) -> Element:
    rows = [(capital(words(name)), f"{count:,}") for name, count in view.connections.items()]
    return _list("Connections at this moment", rows)


def _budgets(view: BridgeView) -> Element:
    def use(ratio: float) -> Element:
        text = f"▲ {percent(ratio)}" if ratio >= NEARLY_USED else percent(ratio)
        marked = "marked" if ratio >= NEARLY_USED else "whole"
        return element("span", use_bar(ratio), element("span", text, class_=marked), class_="use")

    rows = [(capital(words(name)), use(ratio)) for name, ratio in view.budgets.items()]
    return _list("In use, of what all may use", rows)


def _totals(view: BridgeView) -> Element:
    rows = [(capital(words(name)), f"{count:,}") for name, count in view.totals.items()]
    return _list("Since the bridge began", rows, "list totals card")


def _footer() -> Element:
    return element(
        "footer",
        element(
            "p",
            "Times are UTC. ▲ marks what to look at. This page reads and changes nothing, and does"
            " not reload by itself.",
        ),
        element(
            "p",
            "The same for programs: ",
            element("a", "status.json", href="./status.json"),
            ", ",
            element("a", "metrics", href="./metrics"),
            ".",
        ),
    )


# --- What they are made of -----------------------------------------------------------------------


def _section(title: str, *content: Element | None) -> Element:
    name = title.lower().replace(" ", "-").replace(",", "")
    there = [item for item in content if item is not None]
    return element("section", element("h2", title, id=name), *there, aria_labelledby=name)


def _nothing(text: str) -> Element:
    return element("p", text, class_="nothing")


def _more(items: Sequence[object]) -> Element | None:
    left = len(items) - MAX_ROWS
    return element("p", f"… and {left:,} more.", class_="soft small") if left > 0 else None


def _columns(*names: str) -> list[Column]:
    """Columns of these headings; those of figures begin with `#`."""
    return [(name.removeprefix("#"), name.startswith("#")) for name in names]


def _table(
    title: str,
    columns: list[Column],
    items: Sequence[T],
    row: Callable[[T], Iterable[Cell]],
    empty: str,
    note: str = "",
) -> Element:
    """A section with a table. The first cell of a row names it."""
    if not items:
        return _section(title, _nothing(empty))
    heads = (
        element("th", name, scope="col", role="columnheader", **_figure_class(figures))
        for name, figures in columns
    )
    table = element(
        "table",
        element("caption", note or title, **({} if note else {"class_": "unseen"})),
        element("thead", element("tr", *heads, role="row"), role="rowgroup"),
        element(
            "tbody",
            *(element("tr", *_cells(columns, row(item)), role="row") for item in items[:MAX_ROWS]),
            role="rowgroup",
        ),
        role="table",
    )
    return _section(title, element("div", table, class_="card"), _more(items))


def _cells(columns: list[Column], cells: Iterable[Cell]) -> Iterable[Element]:
    for place, ((name, figures), cell) in enumerate(zip(columns, cells, strict=True)):
        if place == 0:
            yield element("th", cell, scope="row", role="rowheader")
        else:
            # In an element of its own: on a narrow screen the heading stands beside it.
            content = cell if isinstance(cell, Element) else element("span", cell)
            yield element("td", content, role="cell", data_label=name, **_figure_class(figures))


def _figure_class(figures: bool) -> dict[str, str]:
    return {"class_": "n"} if figures else {}


def _list(title: str, rows: Sequence[tuple[str, Cell]], kind: str = "list card") -> Element:
    if not rows:
        return _section(title, _nothing("Nothing is known."))
    items = (
        element("div", element("dt", name), element("dd", value)) for name, value in rows[:MAX_ROWS]
    )
    return _section(title, element("dl", *items, class_=kind), _more(rows))


def _time(text: str, now: str, said: str = "") -> Element:
    """A time, said as `clock` does where nothing else is given; what is no time, as it is."""
    if moment(text) is None:
        return element("span", said or clock(text, now))
    return element("time", said or clock(text, now), datetime=text, class_="whole")


def _request(item: RequestView) -> Element:
    return element(
        "span",
        element("code", shown(item.id) or "no id"),
        element("span", f"connection {shown(item.connection)}", class_="under"),
    )


def _operation(item: RequestView) -> Element:
    return element(
        "span",
        shown(item.op) or "not known yet",
        element("span", f"protocol {item.version}", class_="under"),
    )


def _result(state: str) -> Element:
    if state == "ok":
        return element("span", "✓ ok", class_="fine whole")
    return element("span", f"▲ {words(state)}", class_="marked")
