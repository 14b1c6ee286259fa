"""Checks of what a daemon tells at its status socket: it runs, and its peers are there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from ..checks import Check, State, failed, ok, warning
from ..config.bridge import BridgeSettings
from ..config.digests import digests
from ..config.server import ServerSettings
from ..errors import DeadlineExceeded, RemoteProtocolError
from ..protocol.status import BridgeStatus, ServerStatus, decode_status
from ..transport.status_socket import read_status
from .connection_checks import SLOW
from .steps import BOTH, HEALTH, CheckContext, Layer, Skipped, Step

DaemonStatus = TypeVar("DaemonStatus", BridgeStatus, ServerStatus)

#: A daemon answers at once or not at all, in seconds.
_STATUS_SECONDS: Final = 3.0
#: A signing log is looked at late where that has not been done for so many intervals.
_LATE_LOOKS: Final = 3


def status_step(context: CheckContext[Any]) -> Step:
    """The step for a daemon's status.

    Health misses a status socket that is not set; doctor does not, for the other layers tell it
    what is wrong.
    """
    modes = BOTH if context.settings.status_socket is not None else HEALTH
    look = bridge_status_checks if context.component == "bridge" else server_status_checks
    return Step(Layer.STATUS, partial(look, context), (Layer.CONFIGURATION,), modes)


def bridge_status_checks(context: CheckContext[BridgeSettings]) -> Iterator[Check]:
    """Check what the bridge tells: it runs, and servers wait for requests."""
    status = _status(context, BridgeStatus)
    yield _alive(status)
    yield from _not_loaded(context, status)
    waiting, busy = status.servers_waiting, status.requests_in_flight
    values = {"servers_waiting": waiting, "requests_in_flight": busy}
    if waiting:
        names = ", ".join(sorted({server.common_name for server in status.servers}))
        yield ok(Layer.SERVERS, f"{waiting} connections of {names} wait for requests", **values)
    elif busy:
        yield _all_busy(Layer.SERVERS, "server", status, busy, " in server.conf", values)
    else:
        judge = warning if context.options.alone else failed
        yield judge(
            Layer.SERVERS,
            "no signing server is attached, so nothing can be signed",
            "start the server, and see its log for why it does not come: sigul-stack doctor server",
            **values,
        )
    yield from _watched_logs(status)


def _watched_logs(status: BridgeStatus) -> Iterator[Check]:
    """Check what the bridge has seen of servers' signing logs."""
    for item in status.logs:
        values: dict[str, int | float] = {"signing_log_size": item.size}
        if item.seconds >= 0:
            values["signing_log_seconds"] = item.seconds
        if item.complaint:
            yield failed(
                Layer.SIGNING_LOG,
                item.complaint,
                "tell the site's security people; `sigul-stack witness show -c FILE`, with the"
                " bridge's configuration, shows both checkpoints (docs/security.md)",
                **values,
            )
        elif 0 <= item.seconds <= _LATE_LOOKS * status.log_interval:
            yield ok(
                Layer.SIGNING_LOG,
                f"the log of {item.common_name} has {item.size} leaves, and extends what was known"
                f" {item.seconds:.0f} s ago",
                **values,
            )
        else:
            since = f"for {item.seconds:.0f} s" if item.seconds >= 0 else "yet"
            yield warning(
                Layer.SIGNING_LOG,
                f"the log of {item.common_name} was not looked at {since}",
                "the bridge's log says why; where all its servers are always busy, raise workers in"
                " server.conf",
                **values,
            )


def server_status_checks(context: CheckContext[ServerSettings]) -> Iterator[Check]:
    """Check what the server tells: it runs, and workers wait at the bridge."""
    status = _status(context, ServerStatus)
    yield _alive(status)
    yield from _not_loaded(context, status)
    values = {
        "workers_attached": status.workers_attached,
        "workers_dialling": status.workers_dialling,
        "workers_busy": status.workers_busy,
    }
    if status.workers:
        # The newest tells how things are now; another may have waited for hours.
        newest = min(status.workers, key=lambda worker: worker.attached_seconds)
        seconds = newest.handshake_seconds
        state = context.limits.of_handshake(seconds)
        yield Check(
            Layer.WORKERS,
            state,
            f"{status.workers_attached} workers wait at the bridge, the newest for"
            f" {newest.attached_seconds:.0f} s after a handshake of {seconds:.3f} s",
            "" if state is State.OK else SLOW,
            {
                **values,
                "handshake_seconds": round(seconds, 6),
                "attached_seconds": newest.attached_seconds,
            },
        )
    elif status.workers_busy:
        yield _all_busy(Layer.WORKERS, "worker", status, status.workers_busy, "", values)
    else:
        yield failed(
            Layer.WORKERS,
            "no worker has finished a handshake with the bridge, so nothing can be signed",
            "see whether the bridge runs and the server's log for what it says:"
            " sigul-stack doctor server",
            **values,
        )


def _status(context: CheckContext[Any], kind: type[DaemonStatus]) -> DaemonStatus:
    """The status that the component's daemon tells.

    Raises `Skipped` where it has no status socket, or `SigulError`.
    """
    path: Path | None = context.settings.status_socket
    if path is None:
        raise Skipped(
            "the daemon has no status socket",
            "set status-socket in [daemon], for example /run/sigul/status.sock, and start it again",
        )
    try:
        status = decode_status(read_status(path, round(min(context.seconds(), _STATUS_SECONDS), 1)))
    except DeadlineExceeded as error:
        raise DeadlineExceeded(
            error.problem,
            "the daemon hangs or its machine is overloaded: see its log, and start it again",
        ) from None
    if not isinstance(status, kind):
        raise RemoteProtocolError(
            f"'{path}' is another daemon's status socket", "give bridge and server a path each"
        )
    return status


def _alive(status: BridgeStatus | ServerStatus) -> Check:
    return ok(
        Layer.STATUS,
        f"version {status.version}, process {status.pid}, runs since {status.started}",
        version=status.version,
        pid=status.pid,
        started=status.started,
        **status.totals,
    )


def _not_loaded(context: CheckContext[Any], status: BridgeStatus | ServerStatus) -> Iterator[Check]:
    """Warn where files that the daemon has loaded are others by now."""
    here = digests(context.loaded)
    # A daemon of a former version tells none.
    changed = sorted(path for path in here if status.loaded.get(path, here[path]) != here[path])
    if changed:
        yield warning(
            Layer.STATUS,
            f"the {context.component} goes on with what it loaded before these were changed:"
            f" {', '.join(changed)}",
            "send it SIGHUP; where that changes nothing, its log says why it does not take them",
            unloaded=", ".join(changed),
        )


def _all_busy(
    layer: Layer,
    what: str,
    status: BridgeStatus | ServerStatus,
    requests: int,
    where: str,
    values: dict[str, int],
) -> Check:
    oldest = max(status.requests, key=lambda item: item.seconds, default=None)
    since = ""
    if oldest is not None:
        request = f" (request {oldest.request})" if oldest.request else ""
        since = f", the oldest for {oldest.seconds:.0f} s of '{oldest.common_name}'{request}"
    return warning(
        layer,
        f"no {what} is free; {requests} requests are under way{since}",
        f"where this lasts, raise workers or max-requests{where}, or end somebody's requests:"
        " sigul-stack requests --help",
        **values,
    )
