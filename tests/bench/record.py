"""What one run of the benchmark found, and its form as JSON (docs/bench/record.json).

Plain data: nothing is measured here. Times are in seconds, rates in MiB/s or a second, memory in
KiB. Each row has its floor from the same run, because only their ratio outlives the machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

#: Another number where the form changes.
FORM: Final = 2
#: The last release's record.
RELEASED: Final = Path(__file__).parents[2] / "docs/bench/record.json"

Better = Literal["lower", "higher"]


def times(value: float, floor: float, better: Better) -> float:
    """How many times worse than its floor a figure is; 1 is the floor itself."""
    return value / floor if better == "lower" else floor / value


@dataclass(frozen=True)
class Row:
    """One row of the table: a figure beside its floor."""

    name: str
    value: float
    unit: str
    better: Better
    floor: float
    #: What the floor is made of.
    floor_is: str
    aim: float
    #: The largest VmHWM of a client and of a server's worker, in KiB; 0: not measured.
    client_kib: int = 0
    worker_kib: int = 0
    #: Seconds of CPU a piece of work: of client, bridge, server.
    cpu: Mapping[str, float] = field(default_factory=dict)
    #: How many requests were measured, and what the fastest and the slowest took, in seconds.
    runs: int = 0
    fastest: float = 0
    slowest: float = 0
    #: The 95th percentile of what each request took, in seconds, and what it should be.
    p95: float | None = None
    aim_p95: float | None = None

    @property
    def ratio(self) -> float:
        """How many times worse than the floor; 1 is the floor itself."""
        return times(self.value, self.floor, self.better)

    @property
    def met(self) -> bool:
        """Whether the aim is met."""
        late = self.p95 is not None and self.aim_p95 is not None and self.p95 > self.aim_p95
        inside = self.value <= self.aim if self.better == "lower" else self.value >= self.aim
        return inside and not late


@dataclass(frozen=True)
class Curve:
    """How one cost grows: `points` are x, y, and y's floor."""

    name: str
    x: str
    y: str
    points: tuple[tuple[float, float, float], ...]

    @property
    def better(self) -> Better:
        """Whether more is better: of a rate."""
        return "higher" if self.y.endswith("a second") else "lower"


@dataclass(frozen=True)
class Record:
    """All of one run."""

    machine: Mapping[str, str]
    #: The median of each floor over the run, and the least and the most of it.
    floors: Mapping[str, float]
    floor_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    peer: tuple[Row, ...] = ()
    growth: tuple[Curve, ...] = ()

    @property
    def unsteady(self) -> float:
        """By how much a floor moved within the run (0.2: a fifth): how busy the machine was."""
        return max((high / low - 1 for low, high in self.floor_ranges.values()), default=0.0)

    def encode(self) -> str:
        """The record as JSON."""
        return json.dumps({"form": FORM, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def parse(cls, text: str) -> Record:
        """Read JSON that `encode` wrote; ValueError for another form."""
        data: dict[str, Any] = json.loads(text)
        if data.get("form") != FORM:
            raise ValueError(f"a record of form {data.get('form')}, not {FORM}: measure anew")
        return cls(
            machine=data["machine"],
            floors=data["floors"],
            floor_ranges={name: (low, high) for name, (low, high) in data["floor_ranges"].items()},
            rows=tuple(Row(**row) for row in data["rows"]),
            peer=tuple(Row(**row) for row in data["peer"]),
            growth=tuple(
                Curve(
                    curve["name"],
                    curve["x"],
                    curve["y"],
                    tuple((x, y, floor) for x, y, floor in curve["points"]),
                )
                for curve in data["growth"]
            ),
        )
