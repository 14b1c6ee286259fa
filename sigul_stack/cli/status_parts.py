"""What the tables of `sigul-stack status` are made of.

Invariant: every string, whoever said it, comes to rich through `text_of`: as text, never as markup,
on one line, with everything escaped that a terminal would obey. Nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..observe import figures

#: Most counts of one kind.
_MOST: Final = 100
GOOD, BAD, SOFT, TITLE = "green", "bold red", "dim", "bold"


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


def text_of(text: str, style: str = "") -> Text:
    """A string as text and nothing else, in a style of rich."""
    return Text(figures.shown(text), style=style, overflow="fold")


def section(title: str, content: Iterable[RenderableType | None]) -> list[RenderableType]:
    """A heading and what stands under it; what is None is left out."""
    there = [item for item in content if item is not None]
    return [Text(), text_of(title, TITLE), *(there or [text_of("None.", SOFT)])]


def table_of(look: Look, *columns: str) -> Table:
    """A table of these headings; those of figures begin with `#`."""
    made = Table(
        box=box.SIMPLE_HEAD if look.unicode else box.ASCII2,
        show_edge=False,
        pad_edge=False,
        header_style=SOFT,
        padding=(0, 1, 0, 0),
    )
    for name in columns:
        figure = name.startswith("#")
        made.add_column(
            text_of(name.removeprefix("#")),
            justify="right" if figure else "left",
            no_wrap=figure,
            overflow="fold",
        )
    return made


def add_row(table: Table, *cells: str | Text) -> None:
    """Add a row to a table; strings become text."""
    table.add_row(*(cell if isinstance(cell, Text) else text_of(cell) for cell in cells))


def more(items: Sequence[object], look: Look) -> Text | None:
    """That some of `items` are not shown; None where all are."""
    left = len(items) - look.rows
    return text_of(f"and {left:,} more (--json has them)", SOFT) if left > 0 else None


def counts_grid(counts: Mapping[str, int], look: Look) -> list[RenderableType | None]:
    """Counts by the names of a view or a status."""
    pairs = [
        (figures.capital(figures.words(name)), text_of(f"{count:,}"))
        for name, count in counts.items()
    ]
    return grid(pairs, look)


def grid(pairs: list[tuple[str, Text]], look: Look) -> list[RenderableType | None]:
    """Names and figures, in as many columns of both as there is room for."""
    if not pairs:
        return []
    width = max(len(name) for name, _figure in pairs) + max(len(item) for _name, item in pairs) + 6
    columns = min(max(1, look.width // width), 4, len(pairs))
    made = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(columns):
        made.add_column(overflow="fold")
        made.add_column(justify="right", overflow="fold")
    shown = pairs[:_MOST]
    lines = -(-len(shown) // columns)
    for line in range(lines):
        cells: list[Text] = []
        for name, figure in shown[line::lines]:
            cells += [text_of(name), figure]
        made.add_row(*cells)
    return [made]
