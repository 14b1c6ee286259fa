"""The table of a run, for a terminal and for docs/bench.md. Pure: from records to text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.bench.record import Curve, Record, Row, times

#: By how much a floor may move in a run on a machine that does nothing else (0.3: 30 %).
QUIET: Final = 0.3
HEAD: Final = (
    "what",
    "here",
    "floor",
    "times",
    "aim",
    "",
    "client",
    "worker",
    "CPU: client, bridge, server",
)


def figure(value: float, unit: str) -> str:
    """A number with its unit, of three digits that count; seconds below one in ms."""
    if unit == "s" and value < 1:
        value, unit = value * 1000, "ms"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}{'' if unit.startswith('/') else ' '}{unit}"


def cells(row: Row) -> tuple[str, ...]:
    """One row as words."""
    here, aim = figure(row.value, row.unit), figure(row.aim, row.unit)
    if row.p95 is not None:
        here += f", p95 {figure(row.p95, 's')}"
    if row.aim_p95 is not None:
        aim += f", p95 {figure(row.aim_p95, 's')}"
    cpu = ", ".join(figure(row.cpu[who], "s") for who in ("client", "bridge", "server") if row.cpu)
    return (
        row.name, here, figure(row.floor, row.unit), f"{row.ratio:.1f}", aim,
        "met" if row.met else "missed", memory(row.client_kib), memory(row.worker_kib), cpu,
    )  # fmt: skip


def memory(kib: int) -> str:
    """KiB as MiB; a dash for what was not measured."""
    return f"{kib / 1024:.1f} MiB" if kib else "-"


def with_peer(record: Record) -> list[tuple[str, ...]]:
    """Head and rows, with the peer's figure beside ours where there is one."""
    peers = {row.name: row for row in record.peer}
    if not peers and "peer" not in record.machine:
        return [HEAD, *map(cells, record.rows)]
    rows: list[tuple[str, ...]] = [(*HEAD[:2], "peer", *HEAD[2:])]
    for row in record.rows:
        own = cells(row)
        there = cells(peers[row.name])[1] if row.name in peers else "failed"
        rows.append((*own[:2], there, *own[2:]))
    return rows


def lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side, for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def markdown(record: Record) -> str:
    """The same as a table of Markdown, and the floors and the machine behind it."""
    head, *rows = with_peer(record)
    text = [head, ["---"] * len(head), *rows]
    parts = ["\n".join(f"| {' | '.join(row)} |" for row in text)]
    parts.append("\n".join(f"* {line}" for line in behind(record)))
    floors = [["floor", "measured"], ["---", "---"]]
    floors += [[name, floor_figure(record, name)] for name in record.floors]
    parts.append("\n".join(f"| {' | '.join(row)} |" for row in floors))
    parts.append("\n".join(f"* {name}: {said}" for name, said in record.machine.items()))
    return "\n\n".join(parts) + "\n"


def behind(record: Record) -> list[str]:
    """What stands behind each figure: how often it was measured, and what its floor is made of."""
    ours = [f"{row.name}: {measured(row)}floor: {row.floor_is}" for row in record.rows]
    theirs = [f"peer's {row.name}: {measured(row).removesuffix('; ')}" for row in record.peer]
    return ours + theirs


def measured(row: Row) -> str:
    """How many requests a row is made of, and from what to what they took."""
    if not row.runs:
        return ""
    if row.runs == 1:
        return f"1 request of {figure(row.fastest, 's')}; "
    return f"{row.runs} requests of {figure(row.fastest, 's')} to {figure(row.slowest, 's')}; "


def floor_figure(record: Record, name: str) -> str:
    """A floor with its unit, and from what to what it moved in the run."""
    unit = unit_of(name)
    said = figure(record.floors[name], unit)
    if name in record.floor_ranges:
        low, high = record.floor_ranges[name]
        said += f" ({figure(low, unit)} to {figure(high, unit)})"
    return said


def growth(curves: Sequence[Curve]) -> list[str]:
    """Each point of the curves beside its floor."""
    rows: list[tuple[str, ...]] = [("how it grows", "", "here", "floor", "times")]
    for curve in curves:
        unit = "/s" if curve.better == "higher" else "s"
        for x, y, floor in curve.points:
            at = size(x) if curve.x.endswith("in bytes") else f"{x:,.0f}"
            rows.append((
                curve.name, f"{curve.x.removesuffix(' in bytes')}: {at}", figure(y, unit),
                figure(floor, unit), f"{times(y, floor, curve.better):.1f}",
            ))  # fmt: skip
    return lines(rows) if len(rows) > 1 else []


def size(count: float) -> str:
    """Bytes as KiB, MiB, GiB."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:g} {unit}"
    return f"{count:g} B"


def unit_of(floor: str) -> str:
    """The unit of a floor: what is hashed or encrypted is a rate, all else a time."""
    return "MiB/s" if floor.startswith(("SHA", "AES")) else "s"


def text(record: Record) -> str:
    """All that `make bench` prints of a record."""
    machine = [f"{name}: {said}" for name, said in record.machine.items()]
    floors = [f"floor of {name}: {floor_figure(record, name)}" for name in record.floors]
    grown = growth(record.growth)
    busy = [
        f"The machine was not quiet: a floor moved by {record.unsteady:.0%} within the run, so"
        " that figures and ratios are rough: measure again when nothing else runs."
    ] if record.unsteady > QUIET else []  # fmt: skip
    parts = (machine, floors, lines(with_peer(record)), behind(record), grown, busy)
    return "\n\n".join("\n".join(part) for part in parts if part)
