"""Dialling a peer over TCP and TLS, with NSS."""

from __future__ import annotations

from ..config.shared import BridgeAddress, NSSSettings
from .nss import TLSConnection, TLSIdentity
from .tcp import connect_tcp
from .watchdog import Watchdog


def dial(
    host: str,
    port: int,
    *,
    hostname: str,
    settings: NSSSettings,
    identity: TLSIdentity,
    connect_timeout: float,
    handshake_timeout: float,
    patience: float = 0,
    wake: int | None = None,
    watchdog: Watchdog | None = None,
) -> TLSConnection:
    """Connect to `host`:`port` and finish a TLS handshake; the peer must be `hostname`.

    All limits are in seconds; for `patience` and `wake` see `TLSConnection.handshake_as_client`.
    """
    tcp = connect_tcp(host, port, connect_timeout)
    connection = TLSConnection(tcp, f"{host}:{port}", watchdog)
    try:
        connection.handshake_as_client(
            settings, identity, hostname, handshake_timeout, patience, wake
        )
    except BaseException:
        connection.discard()
        raise
    return connection


def dial_bridge(
    address: BridgeAddress,
    settings: NSSSettings,
    identity: TLSIdentity,
    *,
    patience: float = 0,
    wake: int | None = None,
    watchdog: Watchdog | None = None,
) -> TLSConnection:
    """`dial` a site's bridge, as a client or server has it configured."""
    return dial(
        address.bridge_address or address.bridge_hostname,
        address.bridge_port,
        hostname=address.bridge_hostname,
        settings=settings,
        identity=identity,
        connect_timeout=address.connect_timeout,
        handshake_timeout=address.handshake_timeout,
        patience=patience,
        wake=wake,
        watchdog=watchdog,
    )
