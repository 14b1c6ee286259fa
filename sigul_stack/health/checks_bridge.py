"""What only a bridge has: two ports, and certificates that tell servers from clients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from ..config.bridge import BridgeSettings
from ..errors import TransportError
from ..pki.certificates import covers
from ..transport.tcp import listen
from . import probes
from .checks_nss import NSSLook
from .layers import Layer, Step, failed, from_text, ok
from .report import Check, State

#: Addresses that mean all of the machine's, and one of them to dial.
_DIALLED = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not listened on


@dataclass
class BridgeOwnLook:
    """A bridge's own layers. `seconds` is the limit of each look at a port."""

    settings: BridgeSettings
    nss_look: NSSLook
    seconds: float

    def steps(self) -> tuple[Step, ...]:
        """The layers, in order."""
        return (
            Step(Layer.ROLES, self.roles, (Layer.CERTIFICATE,)),
            Step(Layer.PORTS, self.ports, (Layer.KEY,)),
        )

    def roles(self) -> Iterator[Check]:
        """It can tell a server from a client, and cannot be taken for a server itself."""
        leaf = self.nss_look.leaf
        if not self.settings.server_cn:
            # Whether that is wanted, the configuration's warning has asked already.
            yield Check(
                Layer.ROLES,
                State.WARNING,
                "any certificate of the CA may play the signing server",
                "set server-cn in [bridge] to the common name in the server's certificate",
            )
            return
        for name in self.settings.server_cn:
            if leaf is not None and covers(name, leaf.certificate):
                yield failed(
                    Layer.ROLES,
                    f"the bridge's certificate also names the server ({name}): whoever takes the"
                    " bridge could play the server and be told passphrases",
                    "give the server a name of its own (it need not resolve), and issue the"
                    " bridge's certificate without it (docs/security.md)",
                )
                return
        yield ok(Layer.ROLES, f"only {', '.join(self.settings.server_cn)} may play the server")

    def ports(self) -> Iterator[Check]:
        """Each port can be listened on, or a bridge of this name does."""
        for port, peers in (
            (self.settings.client_listen_port, "clients"),
            (self.settings.server_listen_port, "servers"),
        ):
            try:
                with contextlib.ExitStack() as stack:
                    for listener in listen(self.settings.listen_address, port):
                        stack.enter_context(listener)
            except TransportError as error:
                yield self._taken(port, peers, error)
            else:
                yield ok(
                    Layer.PORTS,
                    f"port {port} (for {peers}) is free: the bridge does not run, and may listen",
                    running=False,
                )

    def _taken(self, port: int, peers: str, error: TransportError) -> Check:
        """A port that cannot be listened on: by a bridge with this certificate, or not."""
        leaf = self.nss_look.leaf
        if leaf is None or "already in use" not in str(error):
            return from_text(Layer.PORTS, State.FAILED, str(error))
        name = next(iter(leaf.names), leaf.common_name)
        for address in self.settings.listen_address:
            host = _DIALLED.get(address, address)
            with contextlib.suppress(TransportError):
                probes.greet(
                    host,
                    port,
                    hostname=name,
                    settings=self.nss_look.settings,
                    timeout=self.seconds,
                )
                found = f"port {port} (for {peers}): a bridge named {name} listens"
                return ok(Layer.PORTS, found, running=True)
        return failed(
            Layer.PORTS,
            f"port {port} (for {peers}) is taken, and not by a bridge named {name}",
            f"see who has it (ss -ltnp 'sport = :{port}'), and end that program or choose another"
            " port",
        )
