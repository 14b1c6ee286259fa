"""The one list of checks of each component, of which `health` and `doctor` take theirs.

What a layer rests on comes before it. Nothing is changed. NSS is opened in this process, once: one
component can be looked at in it, and it must not fork afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from ..checks import Report
from ..config import PROGRAMS, load
from ..config.bridge import BridgeSettings
from ..config.client import ClientSettings, own_file
from ..config.identity import drop_privileges_unless_roots, identity, other_owner
from ..config.server import ServerSettings
from ..errors import SigulError
from ..pki.leaf import Role
from ..system.wall import support
from .bridge_checks import BridgeChecks
from .configuration_checks import file_checks, secret_checks, tool_checks, wall_checks
from .connection_checks import BridgeConnectionChecks, user_name_checks
from .log_checks import LogChecks
from .nss_checks import NSSChecks
from .request_checks import RequestChecks
from .rooms import disk_check
from .server_checks import ServerChecks
from .status_checks import status_step
from .steps import (
    DOCTOR,
    HEALTH,
    CheckContext,
    CheckOptions,
    Layer,
    Limits,
    Mode,
    Step,
    failure,
    walk,
    walk_within,
)

#: How long one look of `doctor` at the network may take, in seconds.
LIMIT_SECONDS: Final = 15.0


def examine(
    component: str,
    path: Path | None,
    options: CheckOptions | None = None,
    seconds: float = LIMIT_SECONDS,
) -> Report:
    """All checks of `client`, `bridge` or `server` as the file `path` configures it, for doctor.

    Each look at the network may take `seconds`.
    """
    limits = Limits(fail_handshake_seconds=seconds, fail_days=0, timeout_seconds=seconds)
    return _report(component, path, Mode.DOCTOR, limits, options or CheckOptions())


def check_health(
    component: str, path: Path | None, limits: Limits, options: CheckOptions
) -> Report:
    """The checks that tell whether a component works; over when its time is."""
    return _report(component, path, Mode.HEALTH, limits, options)


def _report(
    component: str, path: Path | None, mode: Mode, limits: Limits, options: CheckOptions
) -> Report:
    try:
        if path is None and component == "client":
            path = own_file()
        loaded = load(PROGRAMS[component](), path, user_name=options.user_name)
    except SigulError as error:
        return _without_settings(component, mode, error)
    try:
        _become_its_user(loaded.settings)
    except SigulError as error:
        return _without_settings(component, mode, error)
    context = CheckContext[Any](component, mode, loaded, limits, options)
    steps = [step for step in _LISTS[component](context) if mode in step.modes]
    if mode is Mode.HEALTH:
        return walk_within(limits.timeout_seconds, component, steps)
    return walk(component, steps)


def _become_its_user(settings: BridgeSettings | ServerSettings | ClientSettings) -> None:
    """Give up root where others can change the NSS database: it names modules that NSS loads.

    For the component's own user, or whoever can change it. Raises `ConfigurationError`.
    """
    if os.geteuid() != 0:
        return
    if isinstance(settings, ClientSettings):
        who = None
    else:
        who = identity(settings.unix_user, settings.unix_group)
    if who is None or who.uid == 0:
        who = other_owner(settings.nss.path)
    drop_privileges_unless_roots(who, settings.nss.path)


def _client(context: CheckContext[ClientSettings]) -> tuple[Step, ...]:
    settings = context.settings
    own = NSSChecks(context, Role.CLIENT, settings.client_cert_nickname)
    user_name = partial(user_name_checks, settings, own)
    return (
        *_setup(context, settings.binding.enabled),
        *own.steps(),
        Step(Layer.CERTIFICATE, user_name, (Layer.CERTIFICATE,), DOCTOR),
        *BridgeConnectionChecks(settings, own, settings.server_hostname).steps(),
        *RequestChecks(context, own).steps(),
        _secrets(context, own),
    )


def _bridge(context: CheckContext[BridgeSettings]) -> tuple[Step, ...]:
    own = NSSChecks(context, Role.BRIDGE, context.settings.bridge_cert_nickname)
    return (
        *_setup(context, ()),
        *own.steps(),
        *BridgeChecks(context, own).steps(),
        *_state(context),
        status_step(context),
        _secrets(context, own),
    )


def _server(context: CheckContext[ServerSettings]) -> tuple[Step, ...]:
    settings = context.settings
    own = NSSChecks(context, Role.SERVER, settings.server_cert_nickname)
    return (
        *_setup(context, settings.binding.enabled),
        *ServerChecks(context).steps(),
        *LogChecks(context).steps(),
        *own.steps(),
        *BridgeConnectionChecks(settings, own, None).steps(),
        status_step(context),
        _secrets(context, own),
    )


_LISTS: Final[dict[str, Callable[[CheckContext[Any]], tuple[Step, ...]]]] = {
    "client": _client,
    "bridge": _bridge,
    "server": _server,
}


def _setup(context: CheckContext[Any], bindings: tuple[str, ...]) -> tuple[Step, ...]:
    return (
        Step(Layer.CONFIGURATION, partial(file_checks, context), (), DOCTOR),
        Step(Layer.TOOLS, partial(tool_checks, context.component, bindings), (), DOCTOR),
        *(
            # A bridge starts none.
            [Step(Layer.WALLS, lambda: wall_checks(support()), (), DOCTOR)]
            if context.component != "bridge"
            else []
        ),
    )


def _state(context: CheckContext[BridgeSettings]) -> tuple[Step, ...]:
    """The step for the file system of what the bridge keeps, where it keeps anything."""
    path = context.settings.signing_log_state
    if path is None:
        return ()
    return (Step(Layer.DISK, lambda: disk_check(context, {"state": [path]}), (), HEALTH),)


def _secrets(context: CheckContext[Any], own: NSSChecks) -> Step:
    return Step(Layer.SECRETS, lambda: [*secret_checks(context), *own.secrets()], (), DOCTOR)


#: The layers that doctor names where there are no settings to look with.
_LAYERS: Final = {
    "client": (Layer.RESOLUTION, Layer.TCP, Layer.OUTER, Layer.INNER),
    "bridge": (Layer.ROLES, Layer.PORTS),
    "server": (
        Layer.SERVER_DATABASE,
        Layer.KEY_STORE,
        Layer.SIGNING_LOG,
        Layer.RESOLUTION,
        Layer.TCP,
        Layer.OUTER,
    ),
}


def _without_settings(component: str, mode: Mode, error: SigulError) -> Report:
    """The report where the configuration cannot be read: every later layer is not known."""
    nss = (Layer.DATABASE, Layer.PASSWORD, Layer.CERTIFICATE, Layer.KEY)
    layers = (*nss, *_LAYERS[component]) if mode is Mode.DOCTOR else ()
    rest = [Step(layer, tuple, (Layer.CONFIGURATION,)) for layer in layers]
    first = Step(Layer.CONFIGURATION, lambda: failure(Layer.CONFIGURATION, error))
    return walk(component, [first, *rest])
