"""Whether a signing server does its work: its supervisor answers, workers wait at the bridge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from ..config.server import ServerSettings
from ..protocol.status import ServerStatus
from ..transport.stream import Deadline
from .common import Own, daemon_status, other_daemon, told_status
from .layers import Layer, Step, failed, warning
from .limits import Limits
from .report import Check, State


def server_steps(
    settings: ServerSettings, limits: Limits, deep: Sequence[Step] = ()
) -> tuple[Step, ...]:
    """What to look at, on the server's own machine and as its own user. `deep` comes with it."""
    own = Own(settings.nss, settings.server_cert_nickname, limits)
    deadline = Deadline(limits.timeout_seconds, "looking at the server")
    return (
        Step(Layer.STATUS, partial(attached_workers, settings, limits, deadline)),
        # These start programs, and no process forks once it has opened NSS.
        *deep,
        *own.steps(),
    )


def attached_workers(
    settings: ServerSettings, limits: Limits, deadline: Deadline
) -> Iterator[Check]:
    """What the server's status says: it runs, and how many of its workers wait at the bridge."""
    status = daemon_status(settings.status_socket, deadline)
    if not isinstance(status, ServerStatus):
        raise other_daemon(settings.status_socket)
    yield told_status(status)
    values: dict[str, int | float] = {
        "workers_attached": status.workers_attached,
        "workers_dialling": status.workers_dialling,
        "workers_busy": status.workers_busy,
    }
    if status.workers:
        # The newest tells how things are now; another may have waited for hours.
        newest = min(status.workers, key=lambda worker: worker.attached_seconds)
        seconds = newest.handshake_seconds
        values["handshake_seconds"] = round(seconds, 6)
        values["attached_seconds"] = newest.attached_seconds
        state = limits.of_handshake(seconds)
        yield Check(
            Layer.WORKERS,
            state,
            f"{status.workers_attached} workers wait at the bridge, the newest for"
            f" {newest.attached_seconds:.0f} s after a handshake of {seconds:.3f} s",
            ""
            if state is State.OK
            else "see whether the machines or the network between them are overloaded",
            values,
        )
    elif status.workers_busy:
        yield warning(
            Layer.WORKERS,
            f"no worker is free; {status.workers_busy} requests are under way",
            "where this lasts, raise workers or max-requests",
            **values,
        )
    else:
        yield failed(
            Layer.WORKERS,
            "no worker has finished a handshake with the bridge, so nothing can be signed",
            "see whether the bridge runs and the server's log for what it says:"
            " sigul-stack doctor server",
            **values,
        )
