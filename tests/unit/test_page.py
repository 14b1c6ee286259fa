"""The bridge's page as a document: what it says, and what it can never become.

What a browser makes of it is in tests/browser/test_page.py.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sigul_stack.observe import figures
from sigul_stack.observe.page import CSP, render
from sigul_stack.observe.page_charts import MINUTES
from sigul_stack.observe.page_parts import MAX_ROWS
from sigul_stack.observe.page_style import STYLE
from sigul_stack.observe.view import BridgeView, Condition, LatencySeries
from tests import views

VIEWS = {name: getattr(views, name) for name in ("calm", "troubled", "empty", "hostile")}
#: Elements that have no end.
VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})
ELEMENTS = frozenset(
    {
        "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section",
        "h1", "h2", "h3", "p", "a", "b", "span", "code", "time", "ul", "li", "dl", "dt", "dd",
        "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption",
        "svg", "g", "path", "rect",
    }
)  # fmt: skip


class Reader(HTMLParser):
    """Reads a page strictly: every element is closed in its turn."""

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page.decode())
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _value in attrs]
        assert len(names) == len(set(names))
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


@pytest.fixture(params=VIEWS, ids=str)
def view(request: pytest.FixtureRequest) -> BridgeView:
    made: BridgeView = VIEWS[request.param]()
    return made


def test_it_is_well_formed_and_of_few_elements(view: BridgeView) -> None:
    read = Reader(render(view))
    assert {tag for tag, _attributes in read.elements} <= ELEMENTS
    assert [tag for tag, _attributes in read.elements].count("h1") == 1


def test_every_figure_is_in_its_text(view: BridgeView) -> None:
    text = Reader(render(view)).text.casefold()
    missing = [
        item
        for item in views.figures_of(view) + views.points_of(view)
        if " ".join(item.split()).casefold() not in text
    ]
    assert missing == []


def test_the_policy_allows_its_style_and_nothing_else(view: BridgeView) -> None:
    (style,) = re.findall(rb"<style>(.*?)</style>", render(view), re.S)
    assert style.decode() == STYLE
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    allowed = dict(item.strip().split(" ", 1) for item in CSP.split(";"))
    assert allowed.pop("style-src") == f"'sha256-{digest}'"
    assert set(allowed.values()) == {"'none'"}
    assert {"default-src", "base-uri", "form-action", "frame-ancestors"} <= allowed.keys()


def test_it_asks_for_nothing_and_runs_nothing(view: BridgeView) -> None:
    read = Reader(render(view))
    assert "url(" not in STYLE and "@import" not in STYLE and "http" not in STYLE
    for tag, attributes in read.elements:
        assert not attributes.keys() & {"src", "style", "srcset", "action", "background"}
        assert not [name for name in attributes if name.startswith("on")]
        assert "refresh" not in (attributes.get("http-equiv") or "")
        if "href" in attributes:
            assert tag == "a"
            assert attributes["href"] in {"./", "./metrics", "./status.json", "#content"}


def test_what_peers_say_is_text_and_shown_as_it_was_said() -> None:
    page = render(views.hostile())
    assert b"<script" not in page and b"<img" not in page
    assert not any(mark.encode() in page for mark in ("\u202e", "\x1b", "\u2028", "\0"))
    text = Reader(page).text
    for name in views.HOSTILE_NAMES:
        assert figures.shown(name) in text
    assert "<script>document.title='owned'</script>" in text
    assert "alice\\u202egnp.exe" in text


def test_a_screen_reader_finds_its_way(view: BridgeView) -> None:
    read = Reader(render(view))
    ids = [attributes["id"] for _tag, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in read.elements:
        assert tag != "html" or attributes["lang"] == "en"
        if tag == "section":
            assert attributes.get("aria-label") or attributes["aria-labelledby"] in ids
        if tag == "th":
            assert attributes["scope"] in {"col", "row"}
        # On a narrow screen tables are no tables to a style sheet: these hold what they are.
        if tag in {"table", "thead", "tbody", "tr", "th", "td"}:
            assert attributes["role"]
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes["aria-label"]
    tags = [tag for tag, _attributes in read.elements]
    assert tags.count("table") == tags.count("caption") == tags.count("thead")
    assert tags.count("main") == tags.count("header") == tags.count("footer") == 1


def test_the_state_comes_first_and_is_told_in_words() -> None:
    assert "<title>Sigul bridge: all is well</title>" in render(views.calm()).decode()
    page = Reader(render(views.troubled())).text
    assert page.startswith("Sigul bridge: 2 conditions to see to")
    places = [page.index(text) for text in ("No server waits for requests", "Servers waiting")]
    assert places == sorted(places)
    assert "look at the server: is its supervisor running" in page
    assert "▲ 10 days" in page and "▲ refused by the bridge" in page and "▲ 88 %" in page


def test_its_size_has_a_bound_whatever_the_view_is() -> None:
    # What costs most in HTML: six bytes for one.
    name = '"' * 300
    hostile, calm = views.hostile(), views.calm()
    many = replace(
        calm,
        servers=tuple(replace(calm.servers[0], common_name=name) for _ in range(1500)),
        certificates=tuple(replace(calm.certificates[0], common_name=name) for _ in range(1500)),
        under_way=tuple(replace(calm.under_way[0], common_name=name) for _ in range(1500)),
        recent=tuple(replace(calm.recent[0], common_name=name) for _ in range(1500)),
        conditions=tuple(Condition(name, name, name, name) for _ in range(1500)),
        logs=tuple(replace(hostile.logs[0], complaint=name) for _ in range(1500)),
        latency=tuple(
            LatencySeries(name, tuple((minute, 0.1, 0.2, 3) for minute in range(1500)))
            for _ in range(150)
        ),
        budgets={f"{name}{number}": 0.5 for number in range(1500)},
        totals={f"{name}{number}": 5 for number in range(1500)},
    )
    page = render(many)
    assert len(page) < 3 * 1024**2
    text = Reader(page).text
    assert f"and {1500 - MAX_ROWS:,} more" in text
    assert f"{MINUTES} minutes ago: median" not in text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0 ms"), (0.0004, "0.4 ms"), (0.0421, "42 ms"), (0.9996, "1.0 s"), (1.24, "1.2 s"),
        (59.96, "1 min"), (125, "2 min 5 s"), (3600, "1 h"), (11520, "3 h 12 min"),
        (86400 * 7 + 3600 * 4, "7 d 4 h"), (-1, "unknown"),
    ],
)  # fmt: skip
def test_durations_have_units_that_fit(seconds: float, said: str) -> None:
    assert figures.duration(seconds) == said


@pytest.mark.parametrize(
    ("text", "clock", "ago"),
    [
        ("2026-12-01T10:42:02Z", "10:42:02", "28 s ago"),
        ("2026-12-01T12:42:02+02:00", "10:42:02", "28 s ago"),
        ("2026-11-30T10:42:30", "2026-11-30 10:42:30", "1 d ago"),
        ("2026-12-01T10:42:31+00:00", "10:42:31", "just now"),
        ("soon\n", "soon\\n", ""),
        ("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00+14:00", ""),
        ("", "unknown", ""),
    ],
)
def test_times_are_utc_and_what_is_none_is_shown_as_it_is(text: str, clock: str, ago: str) -> None:
    assert figures.clock(text, views.NOW) == clock
    assert figures.ago(text, views.NOW) == ago


def test_days_and_shares_are_told_as_people_read_them() -> None:
    assert [figures.days(number) for number in (34.9, 1.0, 0.5, -0.5, -3.5)] == [
        "34 days", "1 day", "less than a day", "ended today", "ended 3 days ago",
    ]  # fmt: skip
    shares = [figures.percent(ratio) for ratio in (0, 0.001, 0.42, 1)]
    assert shares == ["0 %", "1 %", "42 %", "100 %"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_unknown(number: float) -> None:
    for say in (figures.duration, figures.days, figures.percent):
        assert say(number) == "unknown"
    calm = views.calm()
    odd = LatencySeries("queue", ((1, number, number, 1), (2, 0.1, number, 1), (3, 0.1, 0.2, 1)))
    page = Reader(render(replace(calm, latency=(odd,), budgets={"requests": number}))).text
    assert "3 minutes ago: 100 ms, once" in page and "nan" not in page and "inf" not in page
