"""The way to the bridge: name, TCP, TLS. Errors that people meet are turned into cures here.

A client's look ends its handshake in order, before a request. A server's look shows the bridge no
certificate: one that the bridge accepted would wait there, and could be handed a client's request
in the moment before it ends. So it proves the bridge and the way to it, not that the bridge takes
the server's certificate; the server's log and status tell that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..config.shared import NSSSettings
from ..errors import DeadlineExceeded, PeerClosed, SigulError, TransportError
from ..pki.certificates import covers
from ..pki.inspection import WARN_DAYS
from . import probes
from .checks_nss import NSSLook
from .layers import Layer, Step, Value, failed, ok, warning
from .report import Check

#: A handshake that takes longer is a warning, in seconds.
SLOW_SECONDS: Final = 1.0

_SYMBOL: Final = re.compile(r"\b(?:SSL|SEC|PR)_[A-Z0-9_]+\b")

_VERSIONS: Final = (
    "the two sides have no TLS version in common",
    "let nss-min-tls and nss-max-tls in [nss] overlap on both sides (tls1.2 on both is safe)",
)
_OURS_REFUSED: Final = (
    "the peer refuses our certificate",
    "import into the peer's NSS database the CA that issued it (sigul-stack pki import --ca), or"
    " have it issued by the site's CA; the peer's log names the reason",
)
_OURS_EXPIRED: Final = ("our certificate has expired", "renew it (sigul-stack pki renew)")

#: What NSS's errors mean in a handshake, and the cure.
CAUSES: Final = {
    "SSL_ERROR_BAD_CERT_DOMAIN": (
        "the peer's certificate does not name {name}",
        "compare the configured name with the certificate's names (sigul-stack pki list, there);"
        " correct the one, or renew the other with --san {name}",
    ),
    "SEC_ERROR_UNKNOWN_ISSUER": (
        "our NSS database does not have the CA that issued the peer's certificate",
        "import that CA into it (sigul-stack pki import --ca ca.pem), or have the peer's"
        " certificate issued by our CA",
    ),
    "SEC_ERROR_UNTRUSTED_ISSUER": (
        "our NSS database does not trust the CA that issued the peer's certificate",
        "import that CA into it (sigul-stack pki import --ca ca.pem); if it is there, trust it:"
        " certutil -M -n NICKNAME -t CT,, -d sql:DIRECTORY",
    ),
    "SEC_ERROR_UNTRUSTED_CERT": (
        "the peer's certificate is marked as not trusted in our NSS database",
        "find out who distrusted it, and have a new one issued",
    ),
    "SEC_ERROR_BAD_SIGNATURE": (
        "the peer's certificate is of another CA with the name of ours",
        "have both issued by one CA; remove the other from the database (sigul-stack pki remove)",
    ),
    "SEC_ERROR_EXPIRED_CERTIFICATE": (
        "the peer's certificate has expired",
        "renew it on the peer's side (sigul-stack pki renew); if it has not expired there, compare"
        " the two machines' clocks",
    ),
    "SEC_ERROR_EXPIRED_ISSUER_CERTIFICATE": (
        "the CA's certificate has expired",
        "renew it (sigul-stack pki renew-ca) and give it to every component",
    ),
    "SEC_ERROR_REUSED_ISSUER_AND_SERIAL": (
        "the peer's certificate has the issuer and serial number of another that our database"
        " knows, as after making a CA anew under its old name",
        "remove the old CA's certificates (sigul-stack pki remove) from every database, and issue"
        " anew from a CA with a name of its own",
    ),
    "SEC_ERROR_INADEQUATE_CERT_TYPE": (
        "the peer's certificate is not meant for a TLS server",
        "issue it with the right --role (sigul-stack pki issue)",
    ),
    "SEC_ERROR_INADEQUATE_KEY_USAGE": (
        "the peer's certificate is not meant for this use",
        "issue it with the right --role (sigul-stack pki issue)",
    ),
    "SSL_ERROR_UNSUPPORTED_VERSION": _VERSIONS,
    "SSL_ERROR_PROTOCOL_VERSION_ALERT": _VERSIONS,
    "SSL_ERROR_NO_CYPHER_OVERLAP": (
        "the two sides have no cipher suite in common",
        "compare the crypto policies of the two machines",
    ),
    "SSL_ERROR_BAD_CERT_ALERT": _OURS_REFUSED,
    "SSL_ERROR_CERTIFICATE_UNKNOWN_ALERT": _OURS_REFUSED,
    "SSL_ERROR_UNKNOWN_CA_ALERT": _OURS_REFUSED,
    "SSL_ERROR_EXPIRED_CERT_ALERT": _OURS_EXPIRED,
    "SSL_ERROR_RX_RECORD_TOO_LONG": (
        "what answers there does not speak TLS",
        "correct the port: 44334 is the bridge's for clients, 44333 the one for servers",
    ),
}


def explain_tls(layer: Layer, error: SigulError, name: str, seconds: float) -> Check:
    """What a failed handshake with the peer that should be `name` means.

    `seconds` is the limit that it had.
    """
    text = str(error)
    for symbol in _SYMBOL.findall(text):
        if symbol in CAUSES:
            finding, cure = CAUSES[symbol]
            return failed(layer, f"{finding.format(name=name)} ({symbol})", cure.format(name=name))
    if isinstance(error, DeadlineExceeded):
        return failed(
            layer,
            f"the peer took the connection, but did not finish its TLS handshake in {seconds:g} s",
            "look whether a bridge listens on that port, and not something silent before it;"
            " a bridge of 1.x begins the handshake only when somebody comes on its other port:"
            " upgrade it; an overloaded one says so in its log",
        )
    if isinstance(error, PeerClosed):
        return failed(
            layer,
            "the peer ended the connection during the TLS handshake (PR_END_OF_FILE_ERROR or such)",
            "its log says why; where it is no bridge, but a proxy or another service, correct the"
            " port",
        )
    return failed(layer, text, "see what the message names, and the peer's log")


@dataclass
class BridgeLook:
    """The way from a client or server to its bridge. `seconds` is the limit of each layer.

    `shows_certificate` tells whether we show ours: a client does, a server does not.
    `server_name` is the server's, which the bridge must not have; None: not known.
    """

    hostname: str
    address: str | None
    port: int
    nss_look: NSSLook
    seconds: float
    shows_certificate: bool
    server_name: str | None = None

    @property
    def host(self) -> str:
        """What is dialled."""
        return self.address or self.hostname

    @property
    def settings(self) -> NSSSettings:
        """The NSS settings, with the password."""
        return self.nss_look.settings

    def steps(self) -> tuple[Step, ...]:
        """The layers, in order."""
        return (
            Step(Layer.RESOLUTION, self.resolution, (Layer.CONFIGURATION,)),
            Step(Layer.TCP, self.tcp, (Layer.RESOLUTION,)),
            Step(Layer.OUTER, self.tls, (Layer.KEY, Layer.TCP)),
        )

    def resolution(self) -> Iterator[Check]:
        """The name that is dialled has an address."""
        addresses = probes.resolve(self.host)
        yield ok(Layer.RESOLUTION, f"{self.host} is {', '.join(addresses)}")

    def tcp(self) -> Iterator[Check]:
        """Something takes connections there."""
        where = f"{self.host}:{self.port}"
        try:
            seconds = probes.connect(self.host, self.port, self.seconds)
        except TransportError as error:
            yield self._unreachable(where, str(error))
            return
        yield ok(Layer.TCP, f"{where} takes connections", connect_seconds=round(seconds, 4))

    @staticmethod
    def _unreachable(where: str, text: str) -> Check:
        if "refused" in text:
            return failed(
                Layer.TCP,
                f"{where} refuses the connection: the machine is there, and nothing listens",
                "start the bridge, or correct bridge-hostname, bridge-address or bridge-port; a"
                " firewall that rejects looks the same",
            )
        if "no answer in time" in text or "limit" in text:
            return failed(
                Layer.TCP,
                f"{where} does not answer in time: a firewall drops what is sent, or the machine is"
                " off",
                "open the port between the two machines, or correct bridge-hostname,"
                " bridge-address or bridge-port",
            )
        return failed(
            Layer.TCP,
            text.partition("; ")[0],
            "mend the way there: routes, networks of containers, bridge-address",
        )

    def tls(self) -> Iterator[Check]:
        """A handshake is finished, and the bridge is who it should be."""
        try:
            if not self.shows_certificate:
                probes.greet(
                    self.host,
                    self.port,
                    hostname=self.hostname,
                    settings=self.settings,
                    timeout=self.seconds,
                )
                yield ok(
                    Layer.OUTER,
                    f"{self.hostname} is a bridge whose certificate is right; whether it takes ours"
                    " was not tried, so that no request is lost",
                )
                return
            identity = self.nss_look.identity
            assert identity is not None  # noqa: S101 - the layer before
            done = probes.handshake(
                self.host,
                self.port,
                hostname=self.hostname,
                settings=self.settings,
                identity=identity,
                timeout=self.seconds,
            )
        except TransportError as error:
            yield explain_tls(Layer.OUTER, error, self.hostname, self.seconds)
            return
        yield from self._finished(done)

    def _finished(self, done: probes.Handshake) -> Iterator[Check]:
        seconds, left = done.handshake_seconds, done.certificate.days_left()
        values: dict[str, Value] = {
            "handshake_seconds": round(seconds, 4),
            "tls_version": done.tls_version,
            "days_left": left,
        }
        if seconds <= SLOW_SECONDS:
            took = f"finished in {seconds:.2f} s, {done.tls_version}, {done.peer.common_name}"
            yield ok(Layer.OUTER, took, **values)
        else:
            yield warning(
                Layer.OUTER,
                f"finished, but took {seconds:.1f} s",
                "look at the bridge's load and the way there; 1 s is slow",
                **values,
            )
        if left < WARN_DAYS:
            yield warning(
                Layer.OUTER,
                f"the bridge's certificate expires in {left} days",
                "renew it there (sigul-stack pki renew)",
            )
        if self.server_name is not None and covers(self.server_name, done.certificate.certificate):
            yield failed(
                Layer.OUTER,
                f"the bridge's certificate also names the server ({self.server_name}): this bridge"
                " could play the server and be told passphrases",
                "give the server a name of its own (it need not resolve), and issue the bridge's"
                " certificate without it",
            )
