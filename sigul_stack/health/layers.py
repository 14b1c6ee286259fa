"""Walking the layers of a component, each only where those that it rests on hold.

Invariant: every layer has a place in the report. One that was not looked at says so, and why, so
that nobody takes silence for health.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import SigulError
from .report import Check, Report, State

Value = str | int | float | bool | None


class Layer(enum.StrEnum):
    """What a check belongs to, by the name that reports show."""

    CONFIGURATION = "configuration"
    TOOLS = "tools"
    DATABASE = "NSS database"
    PASSWORD = "password"  # noqa: S105 - a layer
    CERTIFICATE = "certificate"
    KEY = "private key"
    RESOLUTION = "name resolution"
    TCP = "TCP"
    OUTER = "outer TLS"
    INNER = "inner TLS"
    RIGHTS = "rights"
    PORTS = "ports"
    ROLES = "roles"
    STATUS = "status"
    SERVERS = "attached servers"
    WORKERS = "attached workers"
    SERVER_DATABASE = "database"
    KEY_STORE = "key store"
    #: Last, for nothing rests on it: what lies open does not keep anything from working.
    SECRETS = "secrets"


@dataclass(frozen=True, slots=True)
class Step:
    """A layer, how to look at it, and the layers that must hold for that."""

    layer: Layer
    look: Callable[[], Iterable[Check]]
    needs: tuple[Layer, ...] = ()


class Unlooked(SigulError):
    """A layer cannot be looked at, though nothing in it is known to be wrong.

    The message says why and, behind a semicolon, what makes it possible.
    """


def walk(
    component: str, steps: Sequence[Step], tell: Callable[[Check], None] = lambda _check: None
) -> Report:
    """Look at one layer after the other, and leave out what rests on one that failed.

    `tell` is given each check as soon as it is made.
    """
    checks: list[Check] = []
    lost: dict[Layer, Layer] = {}
    for step in steps:
        cause = next((lost[layer] for layer in step.needs if layer in lost), None)
        if cause is not None:
            lost[step.layer] = cause
            found = [
                Check(step.layer, State.UNKNOWN, "not looked at", f"mend first: {cause.value}")
            ]
        else:
            found = list(_looked(step))
        checks += found
        for check in found:
            tell(check)
        if cause is not None:
            continue
        if any(check.state in (State.FAILED, State.UNKNOWN) for check in found):
            lost[step.layer] = step.layer
    return Report(component, tuple(checks))


def _looked(step: Step) -> Iterator[Check]:
    try:
        yield from step.look()
    except Unlooked as error:
        yield _told(step.layer, State.UNKNOWN, error)
    except SigulError as error:
        yield _told(step.layer, State.FAILED, error)


def _told(layer: Layer, state: State, error: SigulError) -> Check:
    return from_text(layer, state, str(error))


def from_text(layer: Layer, state: State, text: str) -> Check:
    """A check from a message of this package.

    Its cure stands behind the first semicolon, in those about the database behind the last colon.
    """
    finding, _, cure = text.partition("; ")
    if not cure:
        finding, _, cure = text.rpartition(": ")
    if not finding:
        finding, cure = text, ""
    return Check(layer, state, finding, cure or "see what the message names")


def ok(layer: Layer, finding: str, **values: Value) -> Check:
    """Something that is as it should be."""
    return Check(layer, State.OK, finding, values=values)


def warning(layer: Layer, finding: str, cure: str, **values: Value) -> Check:
    """Something that works, and should be otherwise."""
    return Check(layer, State.WARNING, finding, cure, values)


def failed(layer: Layer, finding: str, cure: str, **values: Value) -> Check:
    """Something that keeps the component from working, or a secret that lies open."""
    return Check(layer, State.FAILED, finding, cure, values)
