"""Prints the seconds from a TLS client's first words to the answer: the least of some tries.

round_trip.py HOST PORT
"""

from __future__ import annotations

import socket
import ssl
import sys
import time
from typing import Final

#: Tries, of which the quickest counts, and the seconds that one may take.
TRIES: Final = 3
SECONDS: Final = 20.0


def round_trip(host: str, port: int) -> float:
    """The seconds of one try."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    talk = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(
        incoming, outgoing, server_hostname=host
    )
    try:
        talk.do_handshake()
    except ssl.SSLWantReadError:
        hello = outgoing.read()
    with socket.create_connection((host, port), timeout=SECONDS) as connection:
        began = time.monotonic()
        connection.sendall(hello)
        if not connection.recv(1):
            sys.exit(f"{host}:{port} has ended the connection")
        return time.monotonic() - began


if __name__ == "__main__":
    print(min(round_trip(sys.argv[1], int(sys.argv[2])) for _ in range(TRIES)))
