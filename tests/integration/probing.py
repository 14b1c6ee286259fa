"""Many probes of a bridge at once, in a process of its own: CONFIGURATION THREADS COUNT."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sigul_stack.config import load_client
from sigul_stack.health import probes
from sigul_stack.transport import nss


def main(configuration: str, threads: str, count: str) -> None:
    """Make `count` handshakes, so many at once; print how many there were."""
    settings = load_client(Path(configuration)).settings
    nss.open_database(settings.nss)
    identity = nss.load_identity(settings.client_cert_nickname)

    def probe(_number: int) -> str:
        return probes.handshake(
            settings.bridge_hostname,
            settings.bridge_port,
            hostname=settings.bridge_hostname,
            settings=settings.nss,
            identity=identity,
            timeout=60,
        ).peer.common_name

    with ThreadPoolExecutor(int(threads)) as pool:
        print(len(list(pool.map(probe, range(int(count))))))


if __name__ == "__main__":
    main(*sys.argv[1:])
