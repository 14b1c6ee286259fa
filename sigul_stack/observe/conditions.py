"""Conditions of a bridge that a person should see to: fixed thresholds, named as the alerts are.

A table, and who keeps since when each holds. The alert rules (role `monitoring`) have thresholds of
their own; these are for the page and `sigul-stack status`, where no Prometheus is. Nothing in here
waits or looks at anything but a view.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from ..errors import quoted
from .view import BridgeView, Condition

#: A handshake that takes so long is slow, in seconds; of the last minutes, so many have to be.
SLOW_HANDSHAKE_SECONDS: Final = 5.0
HANDSHAKE_MINUTES: Final = 5
SLOW_MINUTES: Final = 2
#: How long no server may wait, in seconds.
NO_SERVER_SECONDS: Final = 30.0
#: A certificate that ends within so many days is to be renewed.
CERTIFICATE_DAYS: Final = 30.0
#: How long a request may wait for a turn or a server, in seconds.
QUEUE_SECONDS: Final = 30.0
#: A part of a limit that is nearly all of it, and how long that may be so, in seconds.
FULL_PART: Final = 0.9
FULL_SECONDS: Final = 60.0
#: What one name alone may have all of, without harm to others.
_OF_ONE_NAME: Final = frozenset({"requests", "payloads"})
#: A log that was not looked at for so many intervals, and seconds, is not watched.
LOG_INTERVALS: Final = 3
LOG_SECONDS: Final = 60.0
#: Most conditions of one rule: certificates, say, may all end at once.
MAX_OF_A_RULE: Final = 20

#: What a condition is about, and its text; several of one rule differ in the first.
_Found = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition: `name` as its alert has it; it counts once it holds for `seconds`."""

    name: str
    find: Callable[[BridgeView], Iterator[_Found]]
    cure: str
    seconds: float = 0.0


def _slow_handshakes(view: BridgeView) -> Iterator[_Found]:
    for series in view.latency:
        what, _, side = series.name.partition(" ")
        late = [point for point in series.points if point[0] < HANDSHAKE_MINUTES]
        slow = [median for _ago, median, _longest, _count in late]
        if what == "handshake" and len(slow) >= SLOW_MINUTES and min(slow) > SLOW_HANDSHAKE_SECONDS:
            yield side, f"TLS handshakes with {side}s take {slow[-1]:.1f} s"


def _no_server(view: BridgeView) -> Iterator[_Found]:
    # Where all of them are busy, that is no fault.
    if not (view.connections.get("waiting_server") or view.connections.get("forwarded")):
        yield "", "no signing server is here: none waits for a request, and none has one"


def _certificates(view: BridgeView) -> Iterator[_Found]:
    for item in view.certificates:
        if item.days_left < CERTIFICATE_DAYS:
            whose = "this bridge" if item.role == "bridge" else f"the {item.role}"
            ends = "has ended" if item.days_left < 0 else f"ends in {item.days_left:.0f} days"
            text = f"the certificate of {whose} {quoted(item.common_name)} {ends}"
            yield f"{item.role} {item.common_name}", f"{text} ({item.not_after})"


def _queue(view: BridgeView) -> Iterator[_Found]:
    waiting = [item.queue_seconds for item in view.under_way if item.state == "queued"]
    if waiting and max(waiting) > QUEUE_SECONDS:
        yield "", f"{len(waiting)} requests wait, the first of them for {max(waiting):.0f} s"


def _full(view: BridgeView) -> Iterator[_Found]:
    for name, part in view.budgets.items():
        if part >= FULL_PART and name not in _OF_ONE_NAME:
            yield name, f"{name.replace('_', ' ')}: {part:.0%} of what may be in use at once is"


def _complaints(view: BridgeView) -> Iterator[_Found]:
    for item in view.logs:
        if item.complaint:
            yield (
                item.common_name,
                f"the signing log of {quoted(item.common_name)}: {item.complaint}",
            )


def _not_checked(view: BridgeView) -> Iterator[_Found]:
    limit = LOG_INTERVALS * view.log_interval_seconds + LOG_SECONDS
    for item in view.logs:
        if item.seconds > limit:
            text = f"was last looked at {item.seconds:.0f} s ago"
            yield item.common_name, f"the signing log of {quoted(item.common_name)} {text}"


def _never_checked(view: BridgeView) -> Iterator[_Found]:
    for item in view.logs:
        if item.seconds < 0:
            text = "was not looked at since the bridge began"
            yield item.common_name, f"the signing log of {quoted(item.common_name)} {text}"


_LOG_CURE: Final = (
    "let a server wait for the bridge to ask (raise `workers`); the bridge's log says what failed"
)
#: In the order in which they are shown.
RULES: Final = (
    Rule(
        "SigulBridgeNoWaitingServer",
        _no_server,
        "start the server, or see in its log why it does not reach this bridge's server port",
        NO_SERVER_SECONDS,
    ),
    Rule(
        "SigulBridgeLogComplaint",
        _complaints,
        "somebody has to look before anything is signed again (sigul-stack log, docs/audit.md)",
    ),
    Rule("SigulBridgeLogNotChecked", _not_checked, _LOG_CURE),
    Rule("SigulBridgeLogNotChecked", _never_checked, _LOG_CURE, 600.0),
    Rule(
        "SigulBridgeQueue",
        _queue,
        "raise the server's `workers`, or see what the requests under way are busy with",
    ),
    Rule(
        "SigulBridgeHandshakeSlow",
        _slow_handshakes,
        "look at the way to these peers, at this machine's load, and whether many connect at once",
    ),
    Rule(
        "SigulCertificateExpiring",
        _certificates,
        "renew it (sigul-stack pki renew) and give it to its component",
    ),
    Rule(
        "SigulBridgeBudget",
        _full,
        "see whose requests they are (sigul-stack requests list); raise the limit in bridge.conf"
        " where they are meant",
        FULL_SECONDS,
    ),
)


class Conditions:
    """Keeps since when each condition holds; for all threads. To be asked every few seconds."""

    def __init__(self) -> None:
        #: By rule and what it is about: when it was first found, as `at` and as a time of day.
        self._since: dict[tuple[int, str], tuple[float, str]] = {}
        self._lock = threading.Lock()

    def of(self, view: BridgeView, at: float) -> tuple[Condition, ...]:
        """The conditions of `view`, whose `now` is the moment `at` (`time.monotonic`)."""
        found: dict[tuple[int, str], str] = {}
        for number, rule in enumerate(RULES):
            for _, (what, text) in zip(range(MAX_OF_A_RULE), rule.find(view), strict=False):
                found[number, what] = text
        with self._lock:
            self._since = {key: self._since.get(key, (at, view.now)) for key in found}
            return tuple(
                Condition(RULES[key[0]].name, text, RULES[key[0]].cure, self._since[key][1])
                for key, text in found.items()
                if at - self._since[key][0] >= RULES[key[0]].seconds
            )

    def added_to(self, view: BridgeView, at: float) -> BridgeView:
        """`view` with its conditions; see `of`."""
        return replace(view, conditions=self.of(view, at))
