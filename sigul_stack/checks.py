"""The result of looking at something, as data: for people, JSON, and exit codes for monitoring.

`health`, `doctor` and `pki check` are made of these. Imports nothing of the package.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Value = str | int | float | bool | None


class State(enum.IntEnum):
    """The result of one check, or of a whole report.

    The numbers are the exit codes of the Monitoring Plugins guidelines, which Nagios and what
    descends from it read; Docker takes 0 as healthy and anything else as not.
    """

    OK = 0
    WARNING = 1
    FAILED = 2
    #: It could not be looked at, for example because an earlier layer failed.
    UNKNOWN = 3

    @property
    def word(self) -> str:
        """The state's name in reports: `ok`, `warning`, `failed` or `unknown`."""
        return self.name.lower()


#: From the best to the worst, for the state of a whole: a failure outweighs what is not known.
_SEVERITY = (State.OK, State.UNKNOWN, State.WARNING, State.FAILED)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    `layer` is what it belongs to, in a few words (`NSS database`, `outer TLS`); `finding` one
    sentence on what is so; `cure` what to do about it, empty only where `state` is OK. `values`
    holds what machines want, with the unit in the name: `handshake_seconds`, `days_left`.
    """

    layer: str
    state: State
    finding: str
    cure: str = ""
    values: Mapping[str, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.finding}; {self.cure}" if self.cure else self.finding

    def as_json(self) -> dict[str, Any]:
        """The check as what `json.dumps` takes."""
        return {
            "layer": self.layer,
            "state": self.state.word,
            "finding": self.finding,
            "cure": self.cure,
            "values": dict(self.values),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All checks of one component, in the order in which they were made."""

    #: `bridge`, `client` or `server`.
    component: str
    checks: tuple[Check, ...]

    @property
    def state(self) -> State:
        """The worst state of all checks; UNKNOWN where there are none."""
        states = [check.state for check in self.checks]
        return max(states, key=_SEVERITY.index) if states else State.UNKNOWN

    @property
    def first_failure(self) -> Check | None:
        """The first check that failed: the layer to begin with."""
        return next((check for check in self.checks if check.state is State.FAILED), None)

    def as_json(self) -> dict[str, Any]:
        """The report as what `json.dumps` takes."""
        return {
            "component": self.component,
            "state": self.state.word,
            "checks": [check.as_json() for check in self.checks],
        }


def ok(layer: str, finding: str, **values: Value) -> Check:
    """A check of something that is as it should be."""
    return Check(layer, State.OK, finding, values=values)


def warning(layer: str, finding: str, cure: str, **values: Value) -> Check:
    """A check of something that works, and should be otherwise."""
    return Check(layer, State.WARNING, finding, cure, values)


def failed(layer: str, finding: str, cure: str, **values: Value) -> Check:
    """A check of what keeps a component from working, or of a secret that lies open."""
    return Check(layer, State.FAILED, finding, cure, values)


def any_failed(checks: Iterable[Check]) -> bool:
    """Tell whether any of the checks failed."""
    return any(check.state is State.FAILED for check in checks)
