"""What is slow, what is soon, and how long a whole look may take."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from .layers import Layer, Step, failed, walk
from .report import Check, Report, State


@dataclass(frozen=True, slots=True)
class Limits:
    """From when on a number is a warning, and from when on a failure. See the command's options."""

    warn_handshake_seconds: float = 1.0
    fail_handshake_seconds: float = 5.0
    warn_days: int = 30
    fail_days: int = 7
    timeout_seconds: float = 10.0

    def of_handshake(self, seconds: float) -> State:
        """What a handshake of this length is."""
        if seconds > self.fail_handshake_seconds:
            return State.FAILED
        return State.WARNING if seconds > self.warn_handshake_seconds else State.OK

    def of_days(self, days: int) -> State:
        """What a certificate with so many days left is."""
        if days < self.fail_days:
            return State.FAILED
        return State.WARNING if days < self.warn_days else State.OK


def walk_within(seconds: float, component: str, steps: Sequence[Step]) -> Report:
    """`walk`, over after `seconds` whatever a step waits for; that step then is a failure.

    The steps run in a thread of their own, which is left behind where it does not end.
    """
    checks: list[Check] = []
    begun: list[Layer] = []
    ended: list[Report | BaseException] = []

    def look(step: Step) -> list[Check]:
        begun.append(step.layer)
        return list(step.look())

    def run() -> None:
        try:
            ended.append(walk(component, noted, checks.append))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            ended.append(error)

    noted = [replace(step, look=partial(look, step)) for step in steps]
    thread = threading.Thread(target=run, name="health", daemon=True)
    thread.start()
    thread.join(seconds)
    if not ended:
        late = failed(
            begun[-1] if begun else steps[0].layer,
            f"this was not over when the whole look had lasted for its limit of {seconds:g} s",
            "see what it waits for: sigul-stack doctor; --timeout sets the limit",
        )
        return Report(component, (*checks, late))
    if isinstance(ended[0], BaseException):
        raise ended[0]
    return ended[0]
