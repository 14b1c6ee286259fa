"""`sigul_bridge`: the bridge's program."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NoReturn

from ..bridge.control import BridgeEvent
from ..bridge.heartbeat import Heartbeat
from ..bridge.open_files import fitted
from ..bridge.parent import BridgePlan, Listeners, ManagementPort, Parent, of_peers
from ..bridge.service import Bridge
from ..bridge.sight import Sight
from ..config import load_bridge
from ..config.bridge import BridgeSettings
from ..config.identity import (
    Identity,
    drop_privileges,
    drop_privileges_unless_roots,
    group_number,
    identity,
)
from ..logevents import tell
from ..observe.exposition import text
from ..observe.view import encode_view
from ..protocol.status import encode_ended, encode_status
from ..system.memory import lock_memory
from ..system.pipes import ParentPipes
from ..transport import nss
from ..transport.nss_certificates import Look
from ..transport.status_socket import status_socket
from .daemon import Control
from .daemon_start import DaemonConfiguration, run_daemon
from .hardening import harden_process
from .log_events import ProgramLog
from .outcome import run_program

log = logging.getLogger(__name__)

#: Longest view at the status socket, in bytes: far less than the kernel keeps for a connection.
VIEW_BYTES: Final = 100_000


def _metrics(sight: Sight) -> bytes:
    """The bridge's metrics as text, for who asks the status socket."""
    try:
        return text(sight.samples())
    except ImportError as error:
        # Loaded by the first who asks: a package that is replaced just now ends no bridge.
        tell(log, ProgramLog.METRICS_FAILED, why=str(error))
        return b""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bridge; returns its exit code."""
    harden_process()
    return run_daemon(
        "sigul_bridge",
        "Connects Sigul clients with signing servers.",
        "bridge.conf",
        load_bridge,
        _work,
        argv,
    )


def _work(source: DaemonConfiguration[BridgeSettings], control: Control) -> None:
    directory = control.pid_directory
    Parent(
        _plan(source.settings, source.digests),
        lambda: _plan(source.read_again(), source.digests),
        stop=control.stop,
        reload=control.reload,
        heartbeat=None
        if directory is None
        else Heartbeat(directory / "sigul_bridge.heartbeat", source.identity),
    ).run(control.ready)


def _plan(settings: BridgeSettings, loaded: Mapping[str, str]) -> BridgePlan:
    who = identity(settings.unix_user, settings.unix_group)
    settings = fitted(settings)

    def serve(listeners: Listeners, parent: ParentPipes) -> None:
        drop_privileges_unless_roots(who, settings.nss.path)
        nss.open_database(settings.nss)
        peers, managed = of_peers(listeners)
        bridge = Bridge(settings, peers)
        for listener in managed:
            # Imported here: what makes metrics is no part of a bridge that has none.
            from ..bridge.management import Management

            bridge.management = Management(listener, bridge.sight)
        drop_privileges(who)
        lock_memory(changes_user=False)
        with status_socket(
            settings.status_socket,
            lambda: encode_status(replace(bridge.status(), loaded=loaded)),
            commands={
                "end": lambda name: encode_ended(bridge.end(name)),
                "view": lambda _nothing: encode_view(bridge.sight.view(), VIEW_BYTES),
                "metrics": lambda _nothing: _metrics(bridge.sight),
            },
            shared=True,
        ) as status:
            if status is not None:
                status.serve()
            if bridge.management is not None:
                bridge.management.start()
            parent.send(BridgeEvent.READY)
            bridge.run(parent)

    def look(certificates: Look, tell: Callable[[bytes], None]) -> None:
        drop_privileges_unless_roots(who, settings.nss.path)
        nss.open_database(settings.nss)
        drop_privileges(who)
        lock_memory(changes_user=False)
        certificates.run(tell)

    return BridgePlan(
        serve,
        look,
        (
            (settings.listen_address, settings.server_listen_port, "server"),
            (settings.listen_address, settings.client_listen_port, "client"),
            *_management(settings, who),
        ),
        settings.shutdown_timeout,
        hand_over_timeout=settings.handshake_timeout
        + settings.header_timeout
        + settings.server_wait_timeout
        + settings.shutdown_timeout,
    )


def _management(settings: BridgeSettings, who: Identity | None) -> Iterator[ManagementPort]:
    """The management address, where there is one."""
    address, name = settings.management.listen, settings.management.socket_group
    if address is not None and address.path is None:
        yield ManagementPort(address)
    elif address is not None:
        group = None if name is None else group_number(name, "[management] socket-group")
        yield ManagementPort(address, who, group)


def program() -> NoReturn:
    """The installed program: `main`, whatever its standard streams are."""
    sys.exit(run_program(main))


if __name__ == "__main__":
    program()
