"""Walking the layers of a component, each only where those that it rests on hold.

Invariant: every layer has a place in the report. One that was not looked at says so, and why, so
that nobody takes silence for health.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Generic, TypeVar

from ..checks import Check, Report, State, failed
from ..config.fields import Loaded
from ..errors import SigulError
from ..secret import Secret
from ..transport.stream import Deadline

S = TypeVar("S")


class Layer(enum.StrEnum):
    """The layers that checks belong to, by the names that reports show."""

    CONFIGURATION = "configuration"
    TOOLS = "tools"
    WALLS = "walls"
    DATABASE = "NSS database"
    PASSWORD = "password"  # noqa: S105 - a layer
    CERTIFICATE = "certificate"
    KEY = "private key"
    RESOLUTION = "name resolution"
    TCP = "TCP"
    OUTER = "outer TLS"
    INNER = "inner TLS"
    RIGHTS = "rights"
    CLOCKS = "clocks"
    PORTS = "ports"
    ROLES = "roles"
    STATUS = "status"
    SERVERS = "attached servers"
    WORKERS = "attached workers"
    SERVER_DATABASE = "database"
    KEY_STORE = "key store"
    SIGNING_LOG = "signing log"
    DISK = "disk"
    #: Last, for nothing rests on it: what lies open does not keep anything from working.
    SECRETS = "secrets"


class Mode(enum.Enum):
    """The purposes for which a component is looked at."""

    #: Often, by monitoring: only what is live, cheap and disturbs no request.
    HEALTH = "health"
    #: By a person with a problem: everything, in an order that names the first thing to mend.
    DOCTOR = "doctor"


BOTH: Final = frozenset(Mode)
HEALTH: Final = frozenset({Mode.HEALTH})
DOCTOR: Final = frozenset({Mode.DOCTOR})


@dataclass(frozen=True, slots=True)
class Step:
    """A layer, how to look at it, the layers that must hold for that, and the modes it is for.

    A layer that the mode does not look at is taken to hold.
    """

    layer: Layer
    look: Callable[[], Check | Iterable[Check]]
    needs: tuple[Layer, ...] = ()
    modes: frozenset[Mode] = BOTH


@dataclass(frozen=True, slots=True)
class Limits:
    """From when on a number is a warning, and from when on a failure. See the commands' options.

    `timeout_seconds` limits a whole health check, or each single look of `doctor`. With
    `warn_push_days` 0 nobody is warned of a signing log that no other machine has.
    """

    warn_handshake_seconds: float = 1.0
    fail_handshake_seconds: float = 5.0
    warn_days: int = 30
    fail_days: int = 7
    warn_push_days: float = 2.0
    timeout_seconds: float = 10.0

    def of_handshake(self, seconds: float) -> State:
        """The state of a handshake of this length."""
        if seconds > self.fail_handshake_seconds:
            return State.FAILED
        return State.WARNING if seconds > self.warn_handshake_seconds else State.OK

    def of_days(self, days: int) -> State:
        """The state of a certificate with so many days left."""
        if days < self.fail_days:
            return State.FAILED
        return State.WARNING if days < self.warn_days else State.OK


#: A number for metrics: its name in the catalogue, its value, its labels.
Measured = tuple[str, float, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """The options of a person who asks for checks, besides the component and its file.

    `names` are what peers call the component. `ask_nss_password` serves where the configuration
    has none. `read_secret` gives the user's password, or the passphrase of `key`, for a prompt;
    without it rights are not looked at. `deep` has a server's stores looked at for health. With
    `alone` a bridge without servers is a warning, for it is not the bridge's fault. Numbers for
    metrics are added to `measured`; None: nobody wants them.
    """

    user_name: str | None = None
    names: tuple[str, ...] = ()
    ask_nss_password: Callable[[], Secret] | None = None
    read_secret: Callable[[str], Secret] | None = None
    key: str | None = None
    deep: bool = False
    alone: bool = False
    measured: list[Measured] | None = None


@dataclass(slots=True)
class CheckContext(Generic[S]):
    """The settings and limits that all checks of one component share."""

    component: str
    mode: Mode
    loaded: Loaded[S]
    limits: Limits
    options: CheckOptions
    _deadline: Deadline = field(init=False)

    def __post_init__(self) -> None:
        self._deadline = Deadline(self.limits.timeout_seconds, f"looking at the {self.component}")

    @property
    def settings(self) -> S:
        """The component's settings."""
        return self.loaded.settings

    def measure(self, name: str, value: float, **labels: str) -> None:
        """Note a number for metrics, if somebody wants them."""
        if self.options.measured is not None:
            self.options.measured.append((name, value, labels))

    def seconds(self) -> float:
        """The limit of the next look at the network, in seconds. Raises `DeadlineExceeded`."""
        if self.mode is Mode.DOCTOR:
            return self.limits.timeout_seconds
        return self._deadline.remaining()


class Skipped(SigulError):
    """A layer cannot be looked at, though nothing in it is known to be wrong."""


def failure(layer: Layer, error: SigulError) -> Check:
    """The check of a layer where `error` was met."""
    state = State.UNKNOWN if isinstance(error, Skipped) else State.FAILED
    return Check(layer, state, error.problem, error.cure or "see what the message names")


def walk(
    component: str, steps: Iterable[Step], tell: Callable[[Check], None] = lambda _check: None
) -> Report:
    """Look at one layer after the other, and leave out what rests on one that failed.

    `tell` is given each check as soon as it is made.
    """
    checks: list[Check] = []
    #: The layers that do not hold, each with the one to mend first.
    lost: dict[Layer, Layer] = {}
    for step in steps:
        cause = next((lost[layer] for layer in step.needs if layer in lost), None)
        for check in _looked(step, cause):
            checks.append(check)
            tell(check)
            if check.state in (State.FAILED, State.UNKNOWN):
                lost[step.layer] = cause or step.layer
    return Report(component, tuple(checks))


def _looked(step: Step, cause: Layer | None) -> Iterator[Check]:
    """The checks of one step; `cause` is the layer to mend before it can be looked at."""
    if cause is not None:
        yield Check(step.layer, State.UNKNOWN, "not looked at", f"mend first: {cause.value}")
        return
    try:
        found = step.look()
        yield from (found,) if isinstance(found, Check) else found
    except SigulError as error:
        yield failure(step.layer, error)


def walk_within(seconds: float, component: str, steps: Sequence[Step]) -> Report:
    """`walk`, over after `seconds` whatever a step waits for; that step then is a failure.

    The steps run in a thread of their own, which is left behind where it does not end.
    """
    checks: list[Check] = []
    begun: list[Layer] = []
    ended: Future[Report] = Future()

    def look(step: Step) -> Check | Iterable[Check]:
        begun.append(step.layer)
        return step.look()

    def run() -> None:
        try:
            ended.set_result(walk(component, noted, checks.append))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            ended.set_exception(error)

    noted = [replace(step, look=partial(look, step)) for step in steps]
    threading.Thread(target=run, name="health", daemon=True).start()
    if wait([ended], seconds).done:
        return ended.result()
    late = failed(
        begun[-1] if begun else steps[0].layer,
        f"this was not over when the whole look had lasted for its limit of {seconds:g} s",
        "see what it waits for: sigul-stack doctor; --timeout sets the limit",
    )
    return Report(component, (*checks, late))
