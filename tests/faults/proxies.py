"""A TCP proxy: adds latency, and notes what kind of TLS records pass.

Stands between two real peers, in threads of the test's own process.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from types import TracebackType

#: Content types of TLS records.
HANDSHAKE, ALERT, DATA = 22, 21, 23
_LIMIT = 60.0


class Proxy:
    """Forwards connections to `port` on loopback; each byte arrives `delay` seconds later.

    `up` and `down` are, for each connection in the order of their coming, the TLS records that
    passed towards `port` and back, as (content type, length).
    """

    def __init__(self, port: int, delay: float = 0) -> None:
        self._target = port
        self._delay = delay
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.up: list[list[tuple[int, int]]] = []
        self.down: list[list[tuple[int, int]]] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    def _spawn(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _address = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target), timeout=_LIMIT)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self._sockets += [near, far]
            for source, target, notes in ((near, far, self.up), (far, near, self.down)):
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                records: list[tuple[int, int]] = []
                notes.append(records)
                late: queue.Queue[tuple[float, bytes]] = queue.Queue()
                self._spawn(self._read, source, late, records)
                self._spawn(self._write, target, late)

    def _read(
        self,
        source: socket.socket,
        late: queue.Queue[tuple[float, bytes]],
        records: list[tuple[int, int]],
    ) -> None:
        seen = bytearray()
        while True:
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            seen += data
            while len(seen) >= 5 and len(seen) >= 5 + int.from_bytes(seen[3:5], "big"):
                length = int.from_bytes(seen[3:5], "big")
                records.append((seen[0], length))
                del seen[: 5 + length]
            late.put((time.monotonic() + self._delay, data))
            if not data:
                return

    def _write(self, target: socket.socket, late: queue.Queue[tuple[float, bytes]]) -> None:
        while True:
            due, data = late.get()
            time.sleep(max(0.0, due - time.monotonic()))
            with contextlib.suppress(OSError):
                if data:
                    target.sendall(data)
                else:
                    target.shutdown(socket.SHUT_WR)
            if not data:
                return

    def close(self) -> None:
        """End it, and every connection through it."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for item in self._sockets:
            with contextlib.suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for item in self._sockets:
            item.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()
