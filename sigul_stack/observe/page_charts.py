"""The charts of the page: SVG in the page itself, every point of it also told in words.

A chart is a list to who does not see it: each minute is an item with its figures, which a pointer
sees, too. Bounded: a chart has `MINUTES` points at most, whatever it is given.
"""

from __future__ import annotations

import math
from typing import Final

from .figures import capital, counted, duration, words
from .markup import Element, element
from .view import LatencySeries

#: Minutes that a chart shows.
MINUTES: Final = 60
#: Size of a chart in its own units; a minute is `_STEP` wide.
_STEP, _HEIGHT, _MARGIN = 5, 60, 2
_WIDTH: Final = MINUTES * _STEP

Point = tuple[int, float, float, int]


def points_of(series: LatencySeries) -> list[Point]:
    """The points of the last hour, the oldest first."""
    good = (
        (minutes, median, longest, count)
        for minutes, median, longest, count in series.points
        if 0 <= minutes < MINUTES and math.isfinite(median) and math.isfinite(longest)
    )
    return sorted(good, reverse=True)[-MINUTES:]


def point_text(point: Point) -> str:
    """A point in words."""
    minutes, median, longest, count = point
    when = f"{counted(minutes, 'minute')} ago" if minutes else "this minute"
    if count == 1:
        return f"{when}: {duration(median)}, once"
    return f"{when}: median {duration(median)}, longest {duration(longest)}, {count:,} times"


def summary(points: list[Point]) -> str:
    """What the hour was, in words."""
    longest = max(item[2] for item in points)
    times = sum(item[3] for item in points)
    return f"{counted(times, 'time')} in this hour, longest {duration(longest)}"


def latency_chart(series: LatencySeries) -> Element:
    """The figure of a series: its latest median, and a bar for each minute, median to longest."""
    points = points_of(series)
    title = element("h3", capital(words(series.name)))
    if not points:
        return element(
            "figure", title, element("p", "None in this hour.", class_="nothing"), class_="card"
        )
    top = _nice(max(item[2] for item in points))
    latest = points[-1]
    return element(
        "figure",
        element("figcaption", title),
        element(
            "p",
            element("b", duration(latest[1])),
            " ",
            element("span", f"median {_when(latest[0])}", class_="soft"),
            " ",
            element("span", capital(summary(points)), class_="soft small"),
        ),
        _svg(series.name, points, top),
        element(
            "div",
            element("span", f"{MINUTES} minutes ago"),
            element("span", f"full height {duration(top)}"),
            element("span", "now"),
            class_="ends",
        ),
        class_="card",
    )


def _when(minutes: int) -> str:
    return f"{counted(minutes, 'minute')} ago" if minutes else "in this minute"


def _svg(name: str, points: list[Point], top: float) -> Element:
    """Bars of a light colour up to the longest, on each a mark at the median."""
    drawing = element(
        "svg",
        role="list",
        aria_label=f"{capital(words(name))} by minute",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
    )
    for share in (0.0, 0.5, 1.0):
        y = f"{_y(share, 1.0):g}"
        line = element("path", d=f"M0 {y}H{_WIDTH}", class_="base", aria_hidden="true")
        drawing.append(line)
    for point in points:
        minutes, median, longest, _count = point
        x = _WIDTH - (minutes + 0.5) * _STEP
        low, high, middle = _y(0, top), min(_y(longest, top), _y(0, top) - 1), _y(median, top)
        middle = min(middle, low - 1)
        drawing.append(
            element(
                "g",
                element("title", point_text(point)),
                element("path", d=f"M{x:g} {low:g}V{high:g}", class_="range", stroke_width="3"),
                element("path", d=f"M{x - 1.5:g} {middle:g}h3", class_="median", stroke_width="2"),
                role="listitem",
            )
        )
    return drawing


def _y(value: float, top: float) -> float:
    share = min(max(value / top, 0.0), 1.0)
    return round(_HEIGHT - _MARGIN - share * (_HEIGHT - 2 * _MARGIN), 1)


def _nice(value: float) -> float:
    """The next round number, for a scale."""
    if not 0 < value < math.inf:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    steps = (step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8))
    return next((step for step in steps if value <= step), 10 * power)


def use_bar(ratio: float) -> Element:
    """A bar of what is in use, 0 to 1; the figure stands beside it (`percent`)."""
    # max() gives 0 for what is no number.
    used = f"{min(max(0.0, ratio), 1.0) * 100:.0f}"
    return element(
        "svg",
        element("rect", width="100", height="8", rx="4", class_="all"),
        element("rect", width=used, height="8", rx="4", class_="used"),
        viewBox="0 0 100 8",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
