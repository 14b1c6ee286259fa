"""The floor of a TLS handshake: `python -m tests.bench.handshakes listen|dial PKI PORT [RUNS]`.

`listen` answers connections with the bridge's certificate, as a listener that is configured once;
`dial` makes handshakes with a client's and prints the median of one in seconds, both its sides.
"""

from __future__ import annotations

import socket
import statistics
import sys
import time
from pathlib import Path

from sigul_stack.config.shared import NSSSettings
from sigul_stack.secret import Secret
from sigul_stack.transport import nss
from sigul_stack.transport.dialling import dial
from tests.site import BRIDGE_NAME


def _open(directory: Path, nickname: str) -> tuple[NSSSettings, nss.TLSIdentity]:
    password = Secret((directory / "password").read_bytes().strip())
    settings = NSSSettings(
        directory=f"sql:{directory}", password=password, min_tls="tls1.2", max_tls="tls1.2"
    )
    nss.open_database(settings)
    return settings, nss.load_identity(nickname)


def _listen(pki: Path, port: int) -> None:
    settings, identity = _open(pki / "bridge", "sigul-bridge-cert")
    with socket.create_server(("127.0.0.1", port)) as listener:
        print("listening", flush=True)
        while True:
            tcp, _address = listener.accept()
            connection = nss.TLSConnection(tcp, "client", None)
            connection.handshake_as_server(settings, identity, 10)
            connection.close()


def _dial(pki: Path, port: int, runs: int) -> None:
    settings, identity = _open(pki / "client", "sigul-client-cert")
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        dial(
            "127.0.0.1", port, hostname=BRIDGE_NAME, settings=settings, identity=identity,
            connect_timeout=10, handshake_timeout=10,
        ).close()  # fmt: skip
        times.append(time.perf_counter() - began)
    print(statistics.median(times))


if __name__ == "__main__":
    if sys.argv[1] == "listen":
        _listen(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        _dial(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
