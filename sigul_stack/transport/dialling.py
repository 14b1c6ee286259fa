"""Dialling a peer over TCP and TLS, with NSS; also ahead, while a program loads what it needs then.

Invariant: what is dialled ahead is silent for `AHEAD_SECONDS` at most, for bridges of 1.x serve
nobody else meanwhile.
"""

from __future__ import annotations

import threading
from typing import Final

from ..config.shared import BridgeAddress, NSSSettings
from ..errors import SigulError
from .nss import TLSConnection, TLSIdentity
from .tcp import connect_tcp
from .watchdog import Watchdog

#: The longest that a connection which was dialled ahead waits to be taken, in seconds.
AHEAD_SECONDS: Final = 1.0


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


class DialledAhead:
    """One connection to a site's bridge that a thread dials from this object's making on.

    NSS is open before. Nothing is sent on it but its handshake, and who does not `take` it within
    `AHEAD_SECONDS` of that loses it.
    """

    def __init__(
        self, address: BridgeAddress, settings: NSSSettings, identity: TLSIdentity
    ) -> None:
        #: What guards the connection, and may guard others.
        self.watchdog = Watchdog()
        self._address, self._settings, self._identity = address, settings, identity
        self._lock = threading.Lock()
        self._is_over, self._is_taken = threading.Event(), threading.Event()
        self._connection: TLSConnection | None = None
        self._failure: SigulError | None = None
        # A daemon: nobody waits for it at the process's end.
        threading.Thread(target=self._run, name="dialling", daemon=True).start()

    def take(self) -> TLSConnection | None:
        """The connection, once; None where it is taken, has gone or has waited too long.

        Raises what `dial_bridge` has raised, and waits as long as that does.
        """
        with self._lock:
            if self._is_taken.is_set():
                return None
            self._is_taken.set()
        self._is_over.wait()
        if self._failure is not None:
            raise self._failure
        connection = self._connection
        if connection is not None and connection.has_gone():
            connection.discard()
            return None
        return connection

    def _run(self) -> None:
        try:
            self._connection = dial_bridge(
                self._address, self._settings, self._identity, watchdog=self.watchdog
            )
        except SigulError as error:
            self._failure = error
        finally:
            # What nobody foresaw is met again by who takes None, and dials.
            self._is_over.set()
        if self._is_taken.wait(AHEAD_SECONDS):
            return
        with self._lock:
            if self._is_taken.is_set():
                return
            self._is_taken.set()
        if self._connection is not None:
            self._connection.discard()
