"""Draws a record: `python -m tests.bench.draw [FILE]`.

It writes docs/bench/*.svg, and the part of docs/bench.md that is made from the record.

The SVG is written here, of plain lines and text, so that nothing has to be installed for it and
the same record gives the same bytes. Both axes are logarithmic.
"""

from __future__ import annotations

import html
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.bench import table
from tests.bench.record import RELEASED, Curve, Record

PAGE: Final = Path(__file__).parents[2] / "docs/bench.md"
BEGIN, END = "<!-- begin: python -m tests.bench.draw -->", "<!-- end -->"
_WIDTH, _HEIGHT = 760, 430
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 44, 64, 74
#: Told apart by those who see no red or green, too; each line has its own mark besides.
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_SMALL: Final = 1e-12


def names(record: Record) -> dict[str, list[Curve]]:
    """The pictures of a record: a file's name, and the curves that share its axes."""
    found: dict[str, list[Curve]] = {}
    for curve in record.growth:
        found.setdefault(curve.x.partition(" ")[0].lower() + ".svg", []).append(curve)
    return found


def axis(values: Sequence[float]) -> tuple[int, int]:
    """Whole powers of ten around the values."""
    low = math.floor(math.log10(max(min(values), _SMALL)) + 1e-9)
    high = math.ceil(math.log10(max(*values, _SMALL)) - 1e-9)
    return low, max(high, low + 1)


def label(power: int, unit: str) -> str:
    """What stands at a power of ten: sizes as the field says them, seconds below one in ms."""
    value = 10.0**power
    if "second" in unit and "a second" not in unit and power < 0:
        return f"{value * 1000:g} ms" if power >= -3 else f"{value * 1e6:g} µs"
    if "second" in unit and "a second" not in unit:
        return f"{value:g} s"
    return f"{value:,.0f}" if power >= 0 else f"{value:g}"


def picture(curves: Sequence[Curve], machine: str) -> str:
    """One SVG of curves that share their axes; `machine` is said below."""
    first = curves[0]
    points = [
        (x, value) for curve in curves for x, y, floor in curve.points for value in (y, floor)
    ]
    in_bytes = first.x.endswith("in bytes")
    x_low, x_high = map(float, axis([x for x, _y in points]))
    y_low, y_high = axis([y for _x, y in points])
    if in_bytes:
        x_low, x_high = (math.log10(end(x for x, _y in points)) for end in (min, max))
        x_high = max(x_high, x_low + 1)
    across, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (math.log10(x) - x_low) / (x_high - x_low) * across,
            _TOP + (y_high - math.log10(max(y, _SMALL))) / (y_high - y_low) * down,
        )

    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        ' font-family="system-ui, sans-serif" font-size="13" fill="#222">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        _text(_LEFT, 26, f"{first.y[0].upper()}{first.y[1:]} by {first.x}", 'font-size="17"'),
    ]
    for power in range(y_low, y_high + 1):
        _x, y = place(10.0**x_low, 10.0**power)
        parts.append(_line(_LEFT, y, right, y, "#ddd"))
        parts.append(_text(_LEFT - 8, y + 4, label(power, first.y), 'text-anchor="end"'))
        for part in range(2, 10) if power < y_high else ():
            _x, y = place(10.0**x_low, part * 10.0**power)
            parts.append(_line(_LEFT, y, right, y, "#f1f1f1"))
    # Where something was measured, not powers of ten: few enough to name each.
    last = -100.0
    for at in sorted({x for x, _y in points}):
        x, _y = place(at, 10.0**y_low)
        parts.append(_line(x, _TOP, x, bottom, "#eee"))
        if x - last >= 46:
            said = table.size(at) if in_bytes else f"{at:,.0f}"
            parts.append(_text(x, bottom + 20, said, 'text-anchor="middle"'))
            last = x
    parts.append(_line(_LEFT, bottom, right, bottom, "#222"))
    parts.append(_line(_LEFT, _TOP, _LEFT, bottom, "#222"))
    unit = first.x.replace(" in bytes", "")
    parts.append(
        _text(_LEFT + across / 2, bottom + 42, f"{unit} (log scale)", 'text-anchor="middle"')
    )
    parts.append(
        f'<text transform="translate(20 {_TOP + down / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{html.escape(first.y)} (log scale)</text>'
    )
    beside = float(_LEFT)
    for number, curve in enumerate(curves):
        colour = _COLOURS[number % len(_COLOURS)]
        values = [place(x, y) for x, y, _floor in curve.points]
        floors = [place(x, floor) for x, _y, floor in curve.points]
        parts += [_path(values, colour, "2.2"), _path(floors, colour, "1.2", dashed=True)]
        parts += [_mark(number, x, y, colour) for x, y in values]
        parts.append(_mark(number, beside + 6, 46, colour))
        parts.append(_text(beside + 18, 50, curve.name))
        beside += 40 + 7.2 * len(curve.name)
    parts.append(_text(right, 26, "dashed: the floor", 'text-anchor="end" fill="#666"'))
    parts.append(_text(_LEFT, _HEIGHT - 10, machine, 'font-size="10" fill="#666"'))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, said: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{html.escape(said)}</text>'


def _path(
    places: Sequence[tuple[float, float]], colour: str, width: str, *, dashed: bool = False
) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>'
    )


def _line(x: float, y: float, to_x: float, to_y: float, colour: str) -> str:
    return f'<path d="M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}" stroke="{colour}"/>'


def _mark(number: int, x: float, y: float, colour: str) -> str:
    kind = number % 3
    if kind == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    if kind == 1:
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>'
    return f'<path d="M{x:.1f} {y - 5:.1f}l5 9h-10z" fill="{colour}"/>'


def machine_line(record: Record) -> str:
    """The machine in one line."""
    said = record.machine
    return (
        f"{said['CPU']}, {said['cores']} cores, {said['memory']}, kernel {said['kernel']}, Python"
        f" {said['Python']}, NSS {said['NSS']}; {said['date']}, {said['commit']}"
    )


def pictures(record: Record) -> dict[str, str]:
    """All pictures: a file's name, its content."""
    return {name: picture(curves, machine_line(record)) for name, curves in names(record).items()}


def page(text: str, record: Record) -> str:
    """The page with its part between the marks made from the record."""
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"the page has no part between {BEGIN} and {END}")
    images = "\n\n".join(
        f"![{curves[0].y} by {curves[0].x}](bench/{name})" for name, curves in names(record).items()
    )
    return f"{before}{BEGIN}\n\n{table.markdown(record)}\n{images}\n\n{END}{after}"


def main() -> None:
    """Write the pictures beside the record, and the page's part."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RELEASED
    record = Record.parse(path.read_text())
    for name, content in pictures(record).items():
        path.with_name(name).write_text(content)
    if path.resolve() == RELEASED.resolve():
        PAGE.write_text(page(PAGE.read_text(), record))


if __name__ == "__main__":
    main()
