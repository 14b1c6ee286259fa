"""The table of a run, for a terminal and for docs/bench.md. Pure: from records to text."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.record import Record, Row

HEAD = (
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
    if not peers:
        return [HEAD, *map(cells, record.rows)]
    rows: list[tuple[str, ...]] = [(*HEAD[:2], "peer", *HEAD[2:])]
    for row in record.rows:
        own = cells(row)
        there = cells(peers[row.name])[1] if row.name in peers else "-"
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
    parts.append("\n".join(f"* {row.name}: {row.floor_is}" for row in record.rows))
    floors = [["floor", "measured"], ["---", "---"]]
    floors += [[name, figure(value, unit_of(name))] for name, value in record.floors.items()]
    parts.append("\n".join(f"| {' | '.join(row)} |" for row in floors))
    parts.append("\n".join(f"* {name}: {said}" for name, said in record.machine.items()))
    return "\n\n".join(parts) + "\n"


def unit_of(floor: str) -> str:
    """The unit of a floor: what is hashed or encrypted is a rate, all else a time."""
    return "MiB/s" if floor.startswith(("SHA", "AES")) else "s"


def text(record: Record) -> str:
    """All that `make bench` prints of a record."""
    machine = [f"{name}: {said}" for name, said in record.machine.items()]
    floors = [f"{name} {figure(value, unit_of(name))}" for name, value in record.floors.items()]
    reasons = [f"floor of {row.name}: {row.floor_is}" for row in record.rows]
    return "\n".join(
        [*machine, "", "floors: " + ", ".join(floors), "", *lines(with_peer(record)), "", *reasons]
    )
