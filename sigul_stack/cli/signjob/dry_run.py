"""A dry run's looks at a client: its database, certificate, key and the bridge's name.

Nothing is connected to: a bridge of old is disturbed by a connection that brings no request.
"""

from __future__ import annotations

from typing import Final

from ...checks import Check, State
from ...config.client import ClientSettings
from ...config.fields import Loaded
from ...errors import SigulError
from ...health.connection_checks import BridgeConnectionChecks
from ...health.nss_checks import NSSChecks
from ...health.steps import CheckContext, CheckOptions, Layer, Limits, Mode, Step, walk
from ...pki.leaf import Role
from .attempt import refuse_password
from .events import Events, reason_of

#: Seconds for one look.
_SECONDS: Final = 60.0


def check_client(loaded: Loaded[ClientSettings], events: Events) -> None:
    """Look at all that signing rests on before a connection. Raises `SigulError`."""
    settings = loaded.settings
    context = CheckContext(
        "client",
        Mode.DOCTOR,
        loaded,
        Limits(fail_days=0, timeout_seconds=_SECONDS),
        CheckOptions(ask_nss_password=refuse_password),
    )
    own = NSSChecks(context, Role.CLIENT, settings.client_cert_nickname)
    name = BridgeConnectionChecks(settings, own, settings.server_hostname)
    steps = [
        *(step for step in own.steps() if Mode.DOCTOR in step.modes),
        Step(Layer.RESOLUTION, name.resolution),
    ]

    def tell(check: Check) -> None:
        events.tell("log", text=reason_of(f"{check.layer}: {check.state.word}: {check}"))

    for check in walk("client", steps, tell).checks:
        # What is not known keeps a dry run from saying that all is well, too.
        if check.state in (State.FAILED, State.UNKNOWN):
            raise SigulError(f"{check.layer}: {check.finding}", check.cure)
