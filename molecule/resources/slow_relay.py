"""Stands where the bridge is looked for, and makes the network between slow.

    slow_relay.py HOST SECONDS PORT...

What comes to a port goes to the same port of HOST, and back, each byte SECONDS after it came: twice
that from a question to its answer. It runs until it is stopped. Kernels that cannot delay packets
need nothing for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from typing import Final

#: Bytes read at once, and how many such pieces may be under way: then the sender has to wait.
PIECE_BYTES: Final = 65536
PIECES: Final = 256


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Pass on what comes, and that it ends, each piece `seconds` after it came."""
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(PIECES)
    now = asyncio.get_running_loop().time

    async def read() -> None:
        piece = b"more"
        while piece:
            piece = await reader.read(PIECE_BYTES)
            await under_way.put((now() + seconds, piece))

    async def write() -> None:
        while True:
            due, piece = await under_way.get()
            await asyncio.sleep(due - now())
            if not piece:
                writer.write_eof()
                return
            writer.write(piece)
            await writer.drain()

    await asyncio.gather(read(), write())


async def main(host: str, seconds: float, ports: list[int]) -> None:
    """Relay until stopped."""

    async def relay(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A peer that is gone ends its connection, and no other.
        with contextlib.suppress(OSError), contextlib.closing(writer):
            far_reader, far_writer = await asyncio.open_connection(host, port)
            with contextlib.closing(far_writer):
                await asyncio.gather(
                    carry(reader, far_writer, seconds), carry(far_reader, writer, seconds)
                )

    for port in ports:
        await asyncio.start_server(functools.partial(relay, port), port=port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), [int(port) for port in sys.argv[3:]]))
