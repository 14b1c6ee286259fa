"""Whether a bridge does its work: its own client port, its server port, the servers attached."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from functools import partial

from ..config.bridge import BridgeSettings
from ..protocol.status import BridgeStatus
from ..transport.stream import Deadline
from . import probes
from .common import Own, daemon_status, other_daemon, shake_hands, told_handshake, told_status
from .layers import Layer, Step, failed, ok, warning
from .limits import Limits
from .report import Check


def bridge_steps(
    settings: BridgeSettings, limits: Limits, *, alone: bool = False
) -> tuple[Step, ...]:
    """What to look at, on the bridge's own machine and as its own user.

    With `alone` a bridge without servers is a warning, for it is not the bridge's fault; otherwise
    it is a failure, for nothing can be signed.
    """
    own = Own(settings.nss, settings.bridge_cert_nickname, limits)
    deadline = Deadline(limits.timeout_seconds, "looking at the bridge")
    without = warning if alone else failed
    return (
        *own.steps(),
        Step(Layer.OUTER, partial(_client_port, settings, own, deadline), (Layer.DATABASE,)),
        Step(Layer.PORTS, partial(_server_port, settings, deadline)),
        Step(Layer.STATUS, partial(attached_servers, settings, deadline, without)),
    )


def own_address(addresses: tuple[str, ...]) -> str:
    """An address by which the bridge's machine reaches what listens on `addresses`."""
    for address in sorted(addresses, key=lambda item: ":" in item):
        try:
            listening = ipaddress.ip_address(address)
        except ValueError:
            return address  # a host name
        if not listening.is_unspecified:
            return address
        return "127.0.0.1" if listening.version == 4 else "::1"
    return "127.0.0.1"


def _client_port(settings: BridgeSettings, own: Own, deadline: Deadline) -> Iterator[Check]:
    mine = own.certificate
    host, port = own_address(settings.listen_address), settings.client_listen_port
    if not mine.is_for_tls_client:
        seconds = probes.connect(host, port, deadline.remaining())
        yield warning(
            Layer.OUTER,
            f"port {port} takes connections, but the bridge's certificate may not be a TLS client's"
            " (extended key usage), so the bridge cannot try the handshake itself",
            "have it issued again: sigul-stack pki issue --role bridge",
            connect_seconds=round(seconds, 6),
        )
        return
    names = [name for name in mine.names if not _is_address(name)] or [mine.common_name]
    done = shake_hands(own, host, port, names[0].replace("*", "bridge"), deadline)
    yield told_handshake(own.limits, done)
    if done.peer.fingerprint != mine.fingerprint:
        yield warning(
            Layer.OUTER,
            f"the bridge still shows a certificate of {done.certificate.not_before:%Y-%m-%d}, its"
            f" database has one of {mine.not_before:%Y-%m-%d}",
            "send the bridge SIGHUP, or start it again",
        )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _server_port(settings: BridgeSettings, deadline: Deadline) -> Iterator[Check]:
    port = settings.server_listen_port
    probes.connect(own_address(settings.listen_address), port, deadline.remaining())
    yield ok(Layer.PORTS, f"port {port} takes connections of servers")


def attached_servers(
    settings: BridgeSettings, deadline: Deadline, without: Callable[..., Check]
) -> Iterator[Check]:
    """What the bridge's status says: it runs, and who waits. `without` judges that nobody does."""
    status = daemon_status(settings.status_socket, deadline)
    if not isinstance(status, BridgeStatus):
        raise other_daemon(settings.status_socket)
    yield told_status(status)
    waiting, busy = status.servers_waiting, status.requests_in_flight
    values = {"servers_waiting": waiting, "requests_in_flight": busy}
    if waiting:
        names = ", ".join(sorted({server.common_name for server in status.servers}))
        yield ok(Layer.SERVERS, f"{waiting} connections of {names} wait for requests", **values)
    elif busy:
        yield warning(
            Layer.SERVERS,
            f"no server is free; {busy} requests are under way",
            "where this lasts, raise workers or max-requests in server.conf",
            **values,
        )
    else:
        yield without(
            Layer.SERVERS,
            "no signing server is attached, so nothing can be signed",
            "start the server, and see its log for why it does not come: sigul-stack doctor server",
            **values,
        )
