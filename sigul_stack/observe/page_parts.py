"""What the sections of the page are made of: tables, and lists of names with figures.

Tables have their roles in words, for on a narrow screen they are shown as cards (`page_style`).
Bounded: of what it is given a table or list shows `MAX_ROWS`, and says how many more there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from .markup import Element, element

#: Most rows of a table, charts, conditions or lines of a list.
MAX_ROWS: Final = 100

T = TypeVar("T")
#: A cell: its text, or what is shown in its place.
Cell = str | Element
#: A column: its heading, and whether it has figures.
Column = tuple[str, bool]


def section(title: str, *content: Element | None) -> Element:
    """A part of the page under a heading; what is None is left out."""
    name = title.lower().replace(" ", "-").replace(",", "")
    there = [item for item in content if item is not None]
    return element("section", element("h2", title, id=name), *there, aria_labelledby=name)


def nothing(text: str) -> Element:
    """What stands where nothing is to be shown."""
    return element("p", text, class_="nothing")


def more(items: Sequence[object]) -> Element | None:
    """That some of `items` are not shown; None where all are."""
    left = len(items) - MAX_ROWS
    return element("p", f"… and {left:,} more.", class_="soft small") if left > 0 else None


def columns_of(*names: str) -> list[Column]:
    """Columns of these headings; those of figures begin with `#`."""
    return [(name.removeprefix("#"), name.startswith("#")) for name in names]


def table_section(
    title: str,
    columns: list[Column],
    items: Sequence[T],
    row: Callable[[T], Iterable[Cell]],
    empty: str,
    note: str = "",
) -> Element:
    """A section with a table. The first cell of a row names it."""
    if not items:
        return section(title, nothing(empty))
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
    return section(title, element("div", table, class_="card"), more(items))


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


def list_section(title: str, rows: Sequence[tuple[str, Cell]], kind: str = "list card") -> Element:
    """A section with names and what each of them has."""
    if not rows:
        return section(title, nothing("Nothing is known."))
    items = (
        element("div", element("dt", name), element("dd", value)) for name, value in rows[:MAX_ROWS]
    )
    return section(title, element("dl", *items, class_=kind), more(rows))
