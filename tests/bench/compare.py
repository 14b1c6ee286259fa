"""Holds a run against another run's record: a regression guard, run by hand.

What is compared is each row's ratio to its floor, both of the same run, so that a slower machine
is no regression. Memory needs no floor. Growth is drawn, and not compared. A row that only one of
both has is named and passes; where no row is in both, nothing was compared, which is no success.
"""

from __future__ import annotations

from typing import Final

from tests.bench.record import Record, Row
from tests.bench.table import lines

#: How much worse a ratio may be (0.2: a fifth): what two runs on a quiet machine differ by, and
#: some more.
MARGIN: Final = 0.2
#: How many times as much worse a 95th percentile may be: it is the word of a few slow requests.
P95_MARGINS: Final = 2


def unlike(now: str, then: Record) -> str | None:
    """Why a run on databases `now` cannot be held against a record, or None."""
    before = then.machine["databases"]
    return None if now == before else f"the record is of databases {before}, this run of {now}"


def compare(now: Record, then: Record, margin: float = MARGIN) -> tuple[str, bool]:
    """A table and a verdict, and whether nothing is worse by more than `margin`."""
    rows, bad, compared = [("row", "floors then", "floors now", "change", "")], [], 0
    before = {row.name: row for row in then.rows}
    for row in now.rows:
        old = before.pop(row.name, None)
        if old is None:
            rows.append((row.name, "-", f"{row.ratio:.2f}", "-", "new"))
            continue
        compared += 1
        said = [*_slower(row, old, margin), *_larger(row, old, margin)]
        bad += [f"{row.name}: {one}" for one in said]
        change = f"{row.ratio / old.ratio - 1:+.0%}"
        rows.append(
            (row.name, f"{old.ratio:.2f}", f"{row.ratio:.2f}", change, ", ".join(said) or "good")
        )
    rows += [(name, f"{row.ratio:.2f}", "-", "-", "not measured") for name, row in before.items()]
    if not compared:
        bad.append("no row is in both")
    verdict = [f"REGRESSION: {one}" for one in bad] or [
        f"no regression: {compared} rows, each within {margin:.0%}"
    ]
    return "\n".join([*lines(rows), "", *verdict]) + "\n", not bad


def _slower(row: Row, old: Row, margin: float) -> list[str]:
    said = []
    if row.ratio > old.ratio * (1 + margin):
        said.append(
            f"SLOWER ({old.ratio:.2f} to {row.ratio:.2f} times the floor; allowed {margin:.0%})"
        )
    if row.p95 is not None and old.p95 is not None:
        # A rate's floor in requests a second makes of seconds a number without unit.
        now, then, allowed = row.p95 * row.floor, old.p95 * old.floor, P95_MARGINS * margin
        if now > then * (1 + allowed):
            said.append(
                f"SLOWER p95 ({then:.2f} to {now:.2f} times the floor; allowed {allowed:.0%})"
            )
    return said


def _larger(row: Row, old: Row, margin: float) -> list[str]:
    return [
        f"MORE MEMORY ({what}: {then / 1024:.0f} to {now / 1024:.0f} MiB; allowed {margin:.0%})"
        for what, now, then in (
            ("client", row.client_kib, old.client_kib),
            ("worker", row.worker_kib, old.worker_kib),
        )
        if then and now > then * (1 + margin)
    ]
