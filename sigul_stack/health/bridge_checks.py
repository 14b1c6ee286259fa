"""Checks of what only a bridge has: two ports, and certificates that tell servers from clients."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from ..checks import Check, failed, ok, warning
from ..config.bridge import BridgeSettings
from ..errors import TransportError
from ..pki.certificate_info import CertificateInfo, covers
from ..transport.tcp import listen
from . import probes
from .connection_checks import shake_hands
from .nss_checks import NSSChecks
from .steps import DOCTOR, HEALTH, CheckContext, Layer, Step


@dataclass(frozen=True, slots=True)
class BridgeChecks:
    """Checks of one bridge; `own` are those of its NSS database."""

    context: CheckContext[BridgeSettings]
    own: NSSChecks

    def steps(self) -> tuple[Step, ...]:
        """The layers, in order."""
        return (
            Step(Layer.ROLES, self.roles, (Layer.CERTIFICATE,), DOCTOR),
            Step(Layer.PORTS, self.free_ports, (Layer.KEY,), DOCTOR),
            Step(Layer.OUTER, self.client_port, (Layer.DATABASE,), HEALTH),
            Step(Layer.PORTS, self.server_port, (), HEALTH),
        )

    def roles(self) -> Check:
        """Check that it can tell a server from a client, and cannot be taken for one itself."""
        servers = self.context.settings.server_cn
        if not servers:
            # Whether that is wanted, the configuration's warning has asked already.
            return warning(
                Layer.ROLES,
                "any certificate of the CA may play the signing server",
                "set server-cn in [bridge] to the common name in the server's certificate",
            )
        for name in servers:
            if name == self.own.leaf.common_name:
                return warning(
                    Layer.ROLES,
                    f"bridge and server have one name ({name}): whoever takes the bridge can attach"
                    " as a server, and be told passphrases by clients that do not look at keys",
                    "give the server a name of its own (it need not resolve); until then set"
                    " require-own-server-key: yes for all clients, which siguldry's and those of"
                    " 1.x do not have (docs/security.md)",
                )
            if covers(name, self.own.leaf.certificate):
                return failed(
                    Layer.ROLES,
                    f"the bridge's certificate also names the server ({name}): whoever takes the"
                    " bridge could play the server and be told passphrases",
                    "give the server a name of its own (it need not resolve), and issue the"
                    " bridge's certificate without it (docs/security.md)",
                )
        return ok(Layer.ROLES, f"only {', '.join(servers)} may play the server")

    def free_ports(self) -> Iterator[Check]:
        """Check that each port can be listened on, or that a bridge of this name does."""
        for port, peers in (
            (self.context.settings.client_listen_port, "clients"),
            (self.context.settings.server_listen_port, "servers"),
        ):
            try:
                for listener in listen(self.context.settings.listen_address, port):
                    listener.close()
            except TransportError as error:
                if error.symbol == "EADDRINUSE":
                    yield self._taken(port, peers)
                else:
                    yield failed(Layer.PORTS, error.problem, error.cure)
            else:
                yield ok(
                    Layer.PORTS,
                    f"port {port} (for {peers}) is free: the bridge does not run, and may listen",
                    running=False,
                )

    def _taken(self, port: int, peers: str) -> Check:
        """The check of a port that is taken, by a bridge with this certificate or not."""
        name = _dialled_name(self.own.leaf)
        for address in self.context.settings.listen_address:
            with contextlib.suppress(TransportError):
                probes.greet(
                    own_address((address,)),
                    port,
                    hostname=name,
                    settings=self.own.settings,
                    timeout=self.context.seconds(),
                )
                found = f"port {port} (for {peers}): a bridge named {name} listens"
                return ok(Layer.PORTS, found, running=True)
        return failed(
            Layer.PORTS,
            f"port {port} (for {peers}) is taken, and not by a bridge named {name}",
            f"see who has it (ss -ltnp 'sport = :{port}'), and end that program or choose another"
            " port",
        )

    def client_port(self) -> Iterator[Check]:
        """Check a handshake with the bridge's own port for clients, and the certificate shown."""
        leaf = self.own.leaf
        host, port = (
            own_address(self.context.settings.listen_address),
            self.context.settings.client_listen_port,
        )
        if not leaf.is_for_tls_client:
            seconds = probes.connect(host, port, self.context.seconds())
            yield warning(
                Layer.OUTER,
                f"port {port} takes connections, but the bridge's certificate may not be a TLS"
                " client's (extended key usage), so the bridge cannot try the handshake itself",
                "have it issued again: sigul-stack pki issue --role bridge",
                connect_seconds=round(seconds, 6),
            )
            return
        check, done = shake_hands(self.own, host, port, _dialled_name(leaf))
        yield check
        if done is not None and done.peer.fingerprint != leaf.fingerprint:
            yield warning(
                Layer.OUTER,
                f"the bridge still shows a certificate of {done.certificate.not_before:%Y-%m-%d},"
                f" its database has one of {leaf.not_before:%Y-%m-%d}",
                "send the bridge SIGHUP, or start it again",
            )

    def server_port(self) -> Check:
        """Check that the port for servers takes connections."""
        port = self.context.settings.server_listen_port
        probes.connect(
            own_address(self.context.settings.listen_address), port, self.context.seconds()
        )
        return ok(Layer.PORTS, f"port {port} takes connections of servers")


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


def _dialled_name(leaf: CertificateInfo) -> str:
    """A host name that the certificate has."""
    for name in leaf.names:
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.replace("*", "bridge")
    return leaf.common_name
