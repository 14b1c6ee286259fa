"""The options of NSS's sockets, the same for all: dialled, accepted, and those that listen.

Must not know connections, time limits or peers.
"""

from __future__ import annotations

from typing import Any, Final

import nss.ssl as nss_ssl
from nss.error import NSPRError

from ..config.shared import NSSSettings
from ..errors import NSSError
from .nss_database import TLSIdentity

#: The option of NSS's sockets that lets a peer ask for another handshake, and its value for never.
#: They are those of NSS's ssl.h; python-nss has no names for them.
_RENEGOTIATION: Final = 20
_NEVER: Final = 0


def configure(tls: Any, settings: NSSSettings) -> None:
    """Set what holds for either side of a handshake on `tls`, a socket of NSS."""
    tls.set_ssl_option(nss_ssl.SSL_SECURITY, True)
    # One thread reads while another writes.
    tls.set_ssl_option(nss_ssl.SSL_ENABLE_FDX, True)
    # Every peer is a new process: resuming sessions gains nothing and would need a cache file.
    tls.set_ssl_option(nss_ssl.SSL_NO_CACHE, True)
    # No peer of any version renegotiates; each such handshake costs a signature.
    tls.set_ssl_option(_RENEGOTIATION, _NEVER)
    tls.set_ssl_version_range(settings.min_tls, settings.max_tls)


def configure_as_server(tls: Any, settings: NSSSettings, identity: TLSIdentity) -> None:
    """Have `tls` be the server, whose peer must present a certificate. Raises `NSSError`.

    This reads the private key, for which NSS may derive keys from the database's password for tens
    of milliseconds. What a listening socket accepts afterwards has the key already.
    """
    configure(tls, settings)
    tls.set_ssl_option(nss_ssl.SSL_HANDSHAKE_AS_SERVER, True)
    tls.set_ssl_option(nss_ssl.SSL_REQUEST_CERTIFICATE, True)
    tls.set_ssl_option(nss_ssl.SSL_REQUIRE_CERTIFICATE, nss_ssl.SSL_REQUIRE_ALWAYS)
    try:
        tls.config_secure_server(
            identity.certificate, identity.key, identity.certificate.find_kea_type()
        )
    except NSPRError as error:
        raise NSSError(
            f"the certificate '{identity.nickname}' cannot serve TLS connections: {error}"
        ) from None
