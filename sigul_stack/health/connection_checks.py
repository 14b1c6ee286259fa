"""Checks of the way to a bridge: name, TCP, TLS.

A client's look ends its handshake in order, before a request. A server's look shows the bridge no
certificate: one that the bridge accepted would wait there, and could be handed a client's request
in the moment before it ends. So it proves the bridge and the way to it, not that the bridge takes
the server's certificate; the server's log and status tell that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..checks import Check, State, failed, ok, warning
from ..config.client import ClientSettings
from ..config.server import ServerSettings
from ..errors import (
    DeadlineExceeded,
    PeerClosed,
    SigulError,
    TransportError,
)
from ..pki.certificate_info import covers
from ..transport.nss_errors import OF_DATES, explain
from ..transport.tcp import resolve
from . import probes
from .nss_checks import NSSChecks
from .steps import BOTH, DOCTOR, Layer, Mode, Step

#: The cure of a slow handshake.
SLOW: Final = "see whether the machines or the network between them are overloaded"

_CORRECT_THE_WAY: Final = "correct bridge-hostname, bridge-address or bridge-port"
#: What a failed TCP connection means, by the kernel's name for it.
_UNREACHABLE: Final = {
    "ECONNREFUSED": (
        "refuses the connection: the machine is there, and nothing listens",
        f"start the bridge, or {_CORRECT_THE_WAY}; a firewall that rejects looks the same",
    ),
    "ETIMEDOUT": (
        "does not answer in time: a firewall drops what is sent, or the machine is off",
        f"open the port between the two machines, or {_CORRECT_THE_WAY}",
    ),
}


def failed_handshake(layer: Layer, error: SigulError, peer: str, seconds: float) -> Check:
    """The check of a handshake with `peer` that failed within its limit of `seconds`."""
    if error.symbol not in OF_DATES and (found := explain(error.symbol, peer)) is not None:
        return failed(layer, found.problem, found.cure)
    if isinstance(error, DeadlineExceeded):
        return failed(
            layer,
            "the peer took the connection, but did not finish its TLS handshake in"
            f" {seconds:.3g} s",
            "look whether a bridge listens on that port, and not something silent before it;"
            " a bridge of 1.x begins the handshake only when somebody comes on its other port:"
            " upgrade it; one that hangs or is overloaded says so in its log",
        )
    if isinstance(error, PeerClosed):
        return failed(
            layer,
            "the peer ended the connection during the TLS handshake (PR_END_OF_FILE_ERROR or such)",
            "its log says why; where it is no bridge, but a proxy or another service, correct the"
            " port",
        )
    return failed(
        layer, error.problem, error.cure or "see what the message names, and the peer's log"
    )


def shake_hands(
    own: NSSChecks, host: str, port: int, hostname: str
) -> tuple[Check, probes.Handshake | None]:
    """A finished handshake as a check, and what it showed; given up when too slow to be healthy."""
    limits = own.context.limits
    seconds = min(own.context.seconds(), limits.fail_handshake_seconds)
    try:
        done = probes.handshake(
            host,
            port,
            hostname=hostname,
            settings=own.settings,
            identity=own.identity,
            timeout=seconds,
        )
    except TransportError as error:
        return failed_handshake(Layer.OUTER, error, hostname, seconds), None
    state = limits.of_handshake(done.handshake_seconds)
    check = Check(
        Layer.OUTER,
        state,
        f"{done.tls_version} handshake with '{done.peer.common_name}' in"
        f" {done.handshake_seconds:.3f} s ({done.cipher_suite})",
        "" if state is State.OK else SLOW,
        {
            "handshake_seconds": round(done.handshake_seconds, 6),
            "connect_seconds": round(done.connect_seconds, 6),
            "tls_version": done.tls_version,
            "cipher_suite": done.cipher_suite,
        },
    )
    return check, done


@dataclass(frozen=True, slots=True)
class BridgeConnectionChecks:
    """Checks of the way from a client or server to its bridge.

    `server_name` is the one that a client expects behind the bridge, which the bridge must not be
    able to play; None for a server, whose certificate is not shown.
    """

    settings: ClientSettings | ServerSettings
    own: NSSChecks
    server_name: str | None

    def steps(self) -> tuple[Step, ...]:
        """The layers, in order."""
        modes = DOCTOR if self.server_name is None else BOTH
        outer = self.without_certificate if self.server_name is None else self.handshake
        below_tls = (Layer.DATABASE, Layer.KEY, Layer.RESOLUTION, Layer.TCP)
        return (
            Step(Layer.RESOLUTION, self.resolution, (Layer.CONFIGURATION,), modes),
            Step(Layer.TCP, self.tcp, (Layer.RESOLUTION,), DOCTOR),
            Step(Layer.OUTER, outer, below_tls, modes),
        )

    @property
    def _dialled(self) -> tuple[str, int]:
        settings = self.settings
        return settings.bridge_address or settings.bridge_hostname, settings.bridge_port

    def resolution(self) -> Check:
        """Check that the name that is dialled has an address."""
        addresses = dict.fromkeys(str(item[4][0]) for item in resolve(*self._dialled))
        return ok(Layer.RESOLUTION, f"{self._dialled[0]} is {', '.join(addresses)}")

    def tcp(self) -> Check:
        """Check that something takes connections there."""
        where = "{}:{}".format(*self._dialled)
        try:
            seconds = probes.connect(*self._dialled, self.own.context.seconds())
        except TransportError as error:
            if (found := _UNREACHABLE.get(error.symbol)) is not None:
                return failed(Layer.TCP, f"{where} {found[0]}", found[1])
            return failed(
                Layer.TCP,
                error.problem,
                "mend the way there: routes, networks of containers, bridge-address",
            )
        return ok(Layer.TCP, f"{where} takes connections", connect_seconds=round(seconds, 4))

    def without_certificate(self) -> Check:
        """Check that the bridge is who it should be, without showing it a certificate."""
        name, seconds = self.settings.bridge_hostname, self.own.context.seconds()
        try:
            probes.greet(*self._dialled, hostname=name, settings=self.own.settings, timeout=seconds)
        except TransportError as error:
            return failed_handshake(Layer.OUTER, error, name, seconds)
        return ok(
            Layer.OUTER,
            f"{name} is a bridge whose certificate is right; whether it takes ours was"
            " not tried, so that no request is lost",
        )

    def handshake(self) -> Iterator[Check]:
        """Check that a handshake is finished, and for doctor the certificate that it showed."""
        check, done = shake_hands(self.own, *self._dialled, self.settings.bridge_hostname)
        if done is None or self.own.context.mode is Mode.HEALTH:
            yield check
            return
        left = done.certificate.days_left()
        yield dataclasses.replace(check, values={**check.values, "days_left": left})
        if left < self.own.context.limits.warn_days:
            yield warning(
                Layer.OUTER,
                f"the bridge's certificate expires in {left} days",
                "renew it there (sigul-stack pki renew)",
            )
        if self.server_name and covers(self.server_name, done.certificate.certificate):
            yield self._one_name(self.server_name)

    def _one_name(self, name: str) -> Check:
        """The check of a bridge whose certificate has the server's name, too."""
        if isinstance(self.settings, ClientSettings) and self.settings.require_own_server_key:
            return ok(
                Layer.OUTER,
                f"the bridge's certificate also names the server ({name}), which is told from the"
                " bridge by its key (require-own-server-key)",
            )
        # Where both have one name, that was somebody's choice.
        judge = warning if name == self.settings.bridge_hostname else failed
        return judge(
            Layer.OUTER,
            f"the bridge's certificate also names the server ({name}): this bridge could play the"
            " server and be told passphrases",
            "give the server a name of its own (it need not resolve), and issue the bridge's"
            " certificate without it; or set require-own-server-key: yes in [client]",
        )


def user_name_checks(settings: ClientSettings, own: NSSChecks) -> Iterator[Check]:
    """Check that the user's name is the certificate's, and the server's is not the bridge's."""
    leaf = own.leaf
    if leaf.common_name != settings.user_name:
        yield warning(
            Layer.CERTIFICATE,
            f"'{leaf.nickname}' is for the user '{leaf.common_name}', and user-name is"
            f" '{settings.user_name}': the server refuses that",
            f"set user-name (or -u) to {leaf.common_name}, unless the server has"
            " lenient-username-check or names it in proxy-usernames",
        )
    same = settings.server_hostname == settings.bridge_hostname
    if same and not settings.require_own_server_key:
        yield warning(
            Layer.CERTIFICATE,
            "server-hostname and bridge-hostname are the same: the bridge could play the server and"
            " be told passphrases",
            "give the server a name of its own, which need not resolve; or set"
            " require-own-server-key: yes in [client]",
        )
