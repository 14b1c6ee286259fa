"""The bridge's page: its view (`observe.view`) as one HTML document that asks for nothing else.

It is read without JavaScript, loads nothing, has no form and cannot be framed: `CSP` is the header
that it is to be served with, and a browser that obeys it runs and loads nothing even if a name got
out of its place. Names come from certificates and headers of peers: `markup` makes text of them.
Bounded: a list shows `page_parts.MAX_ROWS` of what it is given, and says how many more there are.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

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
    protocol,
    shown,
    words,
)
from .markup import Element, element, written
from .page_charts import latency_chart, use_bar
from .page_parts import (
    MAX_ROWS,
    Cell,
    columns_of,
    list_section,
    more,
    nothing,
    section,
    table_section,
)
from .page_style import STYLE
from .view import BridgeView, CertificateView, Condition, RequestView

#: The header `Content-Security-Policy`: the one style sheet, and nothing else at all.
CSP: Final = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    + "'; img-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


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

    return section(
        "Conditions",
        element("ul", *(item(one) for one in view.conditions[:MAX_ROWS]), class_="conditions"),
        more(view.conditions),
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

    columns = columns_of("Request", "Operation", "Client", "State", "Began", "#In queue", "#So far")
    return table_section("Requests under way", columns, view.under_way, row, "None at this moment.")


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

    columns = columns_of("Request", "Operation", "Client", "Result", "Began", "#In queue", "#Took")
    return table_section("Last requests", columns, view.recent, row, "None since the bridge began.")


def _latency(view: BridgeView) -> Element:
    if not view.latency:
        return section("How long it took", nothing("Nothing was measured in this hour."))
    return section(
        "How long it took",
        element(
            "p",
            "The last hour, minute by minute: a dark mark at the median, a light bar up to the"
            " longest.",
            class_="soft small",
        ),
        element("div", *map(latency_chart, view.latency[:MAX_ROWS]), class_="charts"),
        more(view.latency),
    )


def _servers(view: BridgeView) -> Element:
    def row(item: WaitingServer) -> list[Cell]:
        return [
            shown(item.common_name),
            element("code", shown(item.address)),
            duration(item.waiting_seconds),
            duration(item.handshake_seconds),
        ]

    columns = columns_of("Server", "From", "#Waiting for", "#Handshake took")
    return table_section(
        "Servers that wait", columns, view.servers, row, "No server waits: nobody signs."
    )


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

    columns = columns_of("Certificate of", "Part", "Ends", "#Left")
    certificates = sorted(view.certificates, key=lambda item: item.days_left)
    return table_section("Certificates", columns, certificates, row, "None is known.")


def _logs(view: BridgeView) -> Element:
    def row(item: WatchedLog) -> list[Cell]:
        checked = f"{duration(item.seconds)} ago" if item.seconds >= 0 else "not yet"
        return [
            shown(item.common_name),
            shown(item.origin),
            f"{item.size:,}",
            checked,
            _found(item),
        ]

    note = (
        f"Each is asked for its checkpoint every {duration(view.log_interval_seconds)}."
        if view.log_interval_seconds > 0
        else ""
    )
    columns = columns_of("Server", "Log", "#Leaves", "#Checked", "What was found")
    return table_section("Signing logs", columns, view.logs, row, "No server has shown one.", note)


def _found(item: WatchedLog) -> Cell:
    if item.complaint:
        return element("span", f"▲ {shown(item.complaint)}", class_="marked")
    if item.seconds < 0:
        return "nothing yet"
    return element("span", "✓ no complaint", class_="fine whole")


def _connections(view: BridgeView) -> Element:
    rows = [(capital(words(name)), f"{count:,}") for name, count in view.connections.items()]
    return list_section("Connections at this moment", rows)


def _budgets(view: BridgeView) -> Element:
    def use(ratio: float) -> Element:
        text = f"▲ {percent(ratio)}" if ratio >= NEARLY_USED else percent(ratio)
        marked = "marked" if ratio >= NEARLY_USED else "whole"
        return element("span", use_bar(ratio), element("span", text, class_=marked), class_="use")

    rows = [(capital(words(name)), use(ratio)) for name, ratio in view.budgets.items()]
    return list_section("In use, of what all may use", rows)


def _totals(view: BridgeView) -> Element:
    rows = [(capital(words(name)), f"{count:,}") for name, count in view.totals.items()]
    return list_section("Since the bridge began", rows, "list totals card")


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


# --- What is in a cell ---------------------------------------------------------------------------


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
        element("span", protocol(item.version), class_="under"),
    )


def _result(state: str) -> Element:
    if state == "ok":
        return element("span", "✓ ok", class_="fine whole")
    return element("span", f"▲ {words(state)}", class_="marked")
