"""Holds a run against another run's record: a regression guard, run by hand.

What is compared is each row's ratio to its floor, both of the same run, so that a slower machine
is no regression. Memory needs no floor. A row that only one of both has is named and passes.
"""

from __future__ import annotations

from typing import Final

from tests.bench.record import Record
from tests.bench.table import lines

#: How much worse a ratio may be: what two runs on a quiet machine differ by, and some more.
MARGIN: Final = 0.2


def compare(now: Record, then: Record, margin: float = MARGIN) -> tuple[str, bool]:
    """A table, and whether nothing is worse by more than `margin` (0.2: a fifth)."""
    rows, good = [("row", "floors then", "floors now", "change", "")], True
    before = {row.name: row for row in then.rows}
    for row in now.rows:
        old = before.pop(row.name, None)
        if old is None:
            rows.append((row.name, "-", f"{row.ratio:.2f}", "-", "new"))
            continue
        change = row.ratio / old.ratio - 1
        said = []
        if change > margin:
            said.append("SLOWER")
        for what, kib, old_kib in (
            ("client", row.client_kib, old.client_kib),
            ("worker", row.worker_kib, old.worker_kib),
        ):
            if old_kib and kib > old_kib * (1 + margin):
                said.append(f"MORE MEMORY ({what}: {old_kib / 1024:.0f} to {kib / 1024:.0f} MiB)")
        good = good and not said
        rows.append(
            (row.name, f"{old.ratio:.2f}", f"{row.ratio:.2f}", f"{change:+.0%}", ", ".join(said))
        )
    rows += [(name, f"{row.ratio:.2f}", "-", "-", "not measured") for name, row in before.items()]
    return "\n".join(lines(rows)) + "\n", good
