"""The floor of two TLS handshakes: `python -m tests.bench.handshakes listen|dial SITE PORT`.

`listen` answers connections with the bridge's certificate; `dial` makes two handshakes with a
client's, one after the other as outer and inner session are, and prints their time in seconds.
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

from sigul_stack.config.shared import NSSSettings
from sigul_stack.secret import Secret
from sigul_stack.transport import nss
from sigul_stack.transport.dialling import dial
from tests.site import BRIDGE_NAME


def _open(directory: Path, nickname: str) -> tuple[NSSSettings, nss.TLSIdentity]:
    password = Secret((directory / "nss-password").read_bytes())
    settings = NSSSettings(
        directory=f"sql:{directory}", password=password, min_tls="tls1.2", max_tls="tls1.2"
    )
    nss.open_database(settings)
    return settings, nss.load_identity(nickname)


def _listen(site: Path, port: int) -> None:
    settings, identity = _open(site / "pki/bridge", "sigul-bridge-cert")
    with socket.create_server(("127.0.0.1", port)) as listener:
        print("listening", flush=True)
        while True:
            tcp, _address = listener.accept()
            connection = nss.TLSConnection(tcp, "client", None)
            connection.handshake_as_server(settings, identity, 10)
            connection.close()


def _dial(site: Path, port: int) -> None:
    settings, identity = _open(site / "pki/clients/admin", "sigul-client-cert")
    began = time.perf_counter()
    for _ in range(2):
        dial(
            "127.0.0.1", port, hostname=BRIDGE_NAME, settings=settings, identity=identity,
            connect_timeout=10, handshake_timeout=10,
        ).close()  # fmt: skip
    print(time.perf_counter() - began)


if __name__ == "__main__":
    {"listen": _listen, "dial": _dial}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
