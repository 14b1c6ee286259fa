"""The table of NSS and NSPR errors that people meet, and their translation into the package's own.

Whatever explains a TLS failure (log lines, the client, `health`, `doctor`) has its words from here.
Code tells failures apart by `SigulError.symbol`, which is NSS's name for the error.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from nss.error import NSPRError

from ..errors import DeadlineExceeded, PeerClosed, TransportError


class Explanation(NamedTuple):
    """The meaning of an error: the problem, and what to do about it."""

    problem: str
    cure: str


_NO_COMMON_VERSION: Final = Explanation(
    "the two sides have no TLS version in common",
    "find out why there is no TLS version in common: compare nss-min-tls and nss-max-tls on both"
    " sides, in [nss] (tls1.2 on both is safe)",
)
_NO_COMMON_SUITE: Final = Explanation(
    "the two sides have no cipher suite in common",
    "compare the crypto policies of the two machines, and whether one is in FIPS mode; where the"
    " other side is too old for ECDHE with AES-GCM, nss-old-ciphers: yes, in [nss], lets it in",
)
_OURS_REFUSED: Final = Explanation(
    "the peer refuses our certificate",
    "import into the peer's NSS database the CA that issued it (sigul-stack pki import --ca), or"
    " have it issued by the site's CA; the peer's log names the reason",
)

#: By symbol. `{peer}` stands for the name that the peer should have.
_EXPLANATIONS: Final = {
    "SSL_ERROR_BAD_CERT_DOMAIN": Explanation(
        "the peer's certificate does not name {peer}",
        "compare the configured host name with the certificate's names (sigul-stack pki list,"
        " there); correct the one, or renew the other with --san {peer}",
    ),
    "SEC_ERROR_UNKNOWN_ISSUER": Explanation(
        "our NSS database does not have the CA that issued the peer's certificate",
        "import that CA into it (sigul-stack pki import --ca ca.pem), or have the peer's"
        " certificate issued by our CA",
    ),
    "SEC_ERROR_UNTRUSTED_ISSUER": Explanation(
        "our NSS database does not trust the CA that issued the peer's certificate",
        "import that CA into it (sigul-stack pki import --ca ca.pem); if it is there, trust it:"
        " certutil -M -n NICKNAME -t CT,, -d sql:DIRECTORY",
    ),
    "SEC_ERROR_UNTRUSTED_CERT": Explanation(
        "the peer's certificate is marked as not trusted in our NSS database",
        "find out who distrusted it, and have a new one issued",
    ),
    "SEC_ERROR_BAD_SIGNATURE": Explanation(
        "the peer's certificate is of another CA with the name of ours",
        "have both issued by one CA; remove the other from the database (sigul-stack pki remove)",
    ),
    "SEC_ERROR_EXPIRED_CERTIFICATE": Explanation(
        "the peer's certificate has expired",
        "renew it on the peer's side (sigul-stack pki renew); if it has not expired there, compare"
        " the two machines' clocks",
    ),
    "SEC_ERROR_EXPIRED_ISSUER_CERTIFICATE": Explanation(
        "the CA's certificate has expired",
        "renew it (sigul-stack pki renew-ca) and give it to every component",
    ),
    "SEC_ERROR_REUSED_ISSUER_AND_SERIAL": Explanation(
        "the peer's certificate has the issuer and serial number of another that our database"
        " knows",
        "look for two CAs of one name, as happens when a CA is made again under its old name:"
        " remove the old CA's certificates (sigul-stack pki remove) from every database, and issue"
        " anew from a CA with a name of its own",
    ),
    "SEC_ERROR_INADEQUATE_CERT_TYPE": Explanation(
        "the peer's certificate is not meant for this end of a TLS connection (extended key usage)",
        "issue it with the right --role (sigul-stack pki issue)",
    ),
    "SEC_ERROR_INADEQUATE_KEY_USAGE": Explanation(
        "the peer's certificate is not meant for this use",
        "issue it with the right --role (sigul-stack pki issue)",
    ),
    "SEC_ERROR_NO_TOKEN": Explanation(
        "python-nss-ng's own copies of NSS do not go with the system's",
        "in the checkout, scripts/use-system-nss VENV joins them",
    ),
    "SSL_ERROR_UNSUPPORTED_VERSION": _NO_COMMON_VERSION,
    "SSL_ERROR_PROTOCOL_VERSION_ALERT": _NO_COMMON_VERSION,
    "SSL_ERROR_NO_CYPHER_OVERLAP": _NO_COMMON_SUITE,
    "SSL_ERROR_HANDSHAKE_FAILURE_ALERT": _NO_COMMON_SUITE,
    "SSL_ERROR_NO_CERTIFICATE": Explanation(
        "the peer presented no certificate",
        "look whether it is a Sigul component: doctor looks at a bridge's port for servers without"
        " one; where it is, see the nickname in its configuration",
    ),
    "SSL_ERROR_BAD_CERT_ALERT": _OURS_REFUSED,
    "SSL_ERROR_CERTIFICATE_UNKNOWN_ALERT": _OURS_REFUSED,
    "SSL_ERROR_UNKNOWN_CA_ALERT": _OURS_REFUSED,
    "SSL_ERROR_EXPIRED_CERT_ALERT": Explanation(
        "our certificate has expired", "renew it (sigul-stack pki renew)"
    ),
    "SSL_ERROR_RX_RECORD_TOO_LONG": Explanation(
        "what answers there does not speak TLS",
        "correct the port: 44334 is the bridge's for clients, 44333 the one for servers",
    ),
}

#: Errors about dates (`nss_dates`): what we say of a peer's certificate, or of one above it; and
#: what a peer says of ours.
OURS_OF_DATES: Final = frozenset(
    {"SEC_ERROR_EXPIRED_CERTIFICATE", "SEC_ERROR_EXPIRED_ISSUER_CERTIFICATE"}
)
THEIRS_OF_DATES: Final = "SSL_ERROR_EXPIRED_CERT_ALERT"
OF_DATES: Final = OURS_OF_DATES | {THEIRS_OF_DATES}

#: How NSPR says that the connection is no more.
CLOSED: Final = frozenset(
    {
        "PR_CONNECT_ABORTED_ERROR",
        "PR_CONNECT_RESET_ERROR",
        "PR_END_OF_FILE_ERROR",
        "PR_NOT_CONNECTED_ERROR",
    }
)


def error_name(error: NSPRError) -> str:
    """The symbolic name of an NSPR or NSS error, such as `PR_IO_TIMEOUT_ERROR`."""
    # Some calls say what they did before it: `Unable to authenticate: (NAME) text`.
    text = str(error)
    found = re.search(r"(?:^|: )\(([A-Z0-9_]+)\)", text)
    return found[1] if found else text


def explain(symbol: str, peer: str) -> Explanation | None:
    """The meaning of an error on a connection to `peer`; None for one that is not in the table."""
    found = _EXPLANATIONS.get(symbol)
    if found is None:
        return None
    return Explanation(
        f"{found.problem.format(peer=peer)} ({symbol})", found.cure.format(peer=peer)
    )


def translate(
    error: NSPRError, what: str, timeout: float, peer: str, dates: Explanation | None = None
) -> TransportError:
    """The package's own error for `error`, met in doing `what` within `timeout` seconds.

    `peer` is the name that the other end should have, or its address where any name will do.
    `dates` is what is known of certificates out of date (`nss_dates`).
    """
    symbol = error_name(error)
    if symbol == "PR_IO_TIMEOUT_ERROR":
        return DeadlineExceeded(f"{what} took longer than the limit of {timeout:g} s")
    if symbol in CLOSED:
        return PeerClosed(f"{what}: the peer ended the connection ({symbol})", symbol=symbol)
    problem, cure = dates or explain(symbol, peer) or (str(error), "")
    return TransportError(f"{what}: {problem}", cure, symbol)
