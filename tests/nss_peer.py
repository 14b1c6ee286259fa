"""One end of a TLS handshake, by NSS itself and nothing of the package: a process of its own.

    python -m tests.nss_peer ORDER

ORDER is JSON: `directory` and `password_file` of the NSS database, `nickname` of the certificate in
it, the version of `tls`, `only_rsa` (it knows no suites, and no listener's keys, but of RSA), and
the `hostname` that it dials; null for the end that listens. Standard input is the connection. With
`wait` there is none: it tells what it has opened, looks its key up once more when a line comes, and
ends; with "use" it has the key decrypted each time, as a listener, and tells the CPU time. What it
saw goes to standard output, as JSON.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from nss import nss, ssl
from nss.error import NSPRError

_MILLISECONDS = 20_000


def main(order: dict[str, Any]) -> None:
    """Do what is ordered."""
    password = Path(order["password_file"]).read_text()
    nss.set_password_callback(lambda _slot, retry: None if retry else password)
    nss.nss_init("sql:" + order["directory"])
    ssl.set_domestic_policy()
    certificate = nss.find_cert_from_nickname(order["nickname"])
    key = nss.find_key_by_any_cert(certificate)
    answer = {"serial": int(certificate.serial_number)}
    if order["wait"] == "use":
        print(json.dumps(answer | {"use_seconds": use(certificate, key)}), flush=True)
        sys.stdin.readline()
        certificate = nss.find_cert_from_nickname(order["nickname"])
        answer |= {"use_seconds": use(certificate, nss.find_key_by_any_cert(certificate))}
    elif order["wait"]:
        print(json.dumps(answer), flush=True)
        sys.stdin.readline()
        nss.find_key_by_any_cert(nss.find_cert_from_nickname(order["nickname"]))
    elif order["tls"]:
        answer |= handshake(order, certificate, key)
    print(json.dumps(answer), flush=True)


def use(certificate: Any, key: Any) -> float:
    """Configure a socket that listens, which decrypts the key; the CPU time in seconds."""
    begun = time.process_time()
    tls = ssl.SSLSocket()
    tls.set_ssl_option(ssl.SSL_SECURITY, True)
    tls.config_secure_server(certificate, key, certificate.find_kea_type())
    return time.process_time() - begun


def handshake(order: dict[str, Any], certificate: Any, key: Any) -> dict[str, Any]:
    """Do one on standard input; what is known of the peer, or the error."""
    answer: dict[str, Any] = {}
    tcp = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    tcp.setblocking(True)
    tls = ssl.SSLSocket.import_tcp_socket(tcp.detach())
    tls.set_ssl_option(ssl.SSL_SECURITY, True)
    tls.set_ssl_option(ssl.SSL_NO_CACHE, True)
    tls.set_ssl_version_range(order["tls"], order["tls"])
    if order.get("only_rsa"):
        for suite in ssl.ssl_implemented_ciphers:
            if ssl.get_cipher_suite_info(suite).auth_algorithm_name == "ECDSA":
                tls.set_cipher_pref(suite, False)
    listens = order["hostname"] is None
    if listens:
        tls.set_ssl_option(ssl.SSL_HANDSHAKE_AS_SERVER, True)
        tls.set_ssl_option(ssl.SSL_REQUEST_CERTIFICATE, True)
        tls.set_ssl_option(ssl.SSL_REQUIRE_CERTIFICATE, ssl.SSL_REQUIRE_ALWAYS)
        kea = nss.ssl_kea_rsa if order.get("only_rsa") else certificate.find_kea_type()
        try:
            tls.config_secure_server(certificate, key, kea)
        except NSPRError as error:
            return {"error": str(error)}
    else:
        tls.set_ssl_option(ssl.SSL_HANDSHAKE_AS_CLIENT, True)
        tls.set_hostname(order["hostname"])
        tls.set_client_auth_data_callback(lambda _names: (certificate, key))
    try:
        tls.reset_handshake(listens)
        tls.force_handshake_timeout(_MILLISECONDS)
        # With TLS 1.3 the listener's verdict on the dialler comes after the handshake.
        if listens:
            tls.send(b"welcome", _MILLISECONDS)
        else:
            assert tls.recv(100, _MILLISECONDS) == b"welcome"
        peer = tls.get_peer_certificate()
        if not listens:
            answer["hostname"] = bool(peer.verify_hostname(order["hostname"]))
        usage = nss.certificateUsageSSLClient if listens else nss.certificateUsageSSLServer
        answer["verified"] = bool(peer.verify_now(nss.get_default_certdb(), True, usage))
        answer["peer"] = peer.subject_common_name
    except NSPRError as error:
        answer["error"] = str(error)
    return answer


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    # Tidying all up that the fork server has imported would take longer than the handshake.
    sys.stdout.flush()
    os._exit(0)
