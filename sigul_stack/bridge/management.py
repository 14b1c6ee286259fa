"""The bridge's management address: HTTP for whoever is on this machine, to read and no more.

    GET or HEAD of   /metrics       Prometheus' text format
                     /              the page, for people
                     /status.json   the view, for programs

One thread serves all of it, and never waits for a peer: who is slow, silent or many costs others a
moment and the bridge nothing. A connection has one request of MAX_REQUEST_BYTES and SECONDS for
all; of MAX_PEERS at once the oldest makes room; RATE are taken a second, and answers are kept for
all who ask in the next (`_Page`). There is no login, so the address is loopback or a Unix socket,
and a browser shows it only to who typed its name (see `_Exchange._is_for_us`).
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from typing import Final

from ..logevents import tell
from ..observe import exposition, page
from ..observe.view import encode_view
from ..transport.tcp import printable_address
from .log_events import BridgeLog
from .sight import Sight

log = logging.getLogger(__name__)

#: Connections at once, and the seconds that one of them may last.
MAX_PEERS: Final = 16
SECONDS: Final = 5.0
#: Longest request line and headers, in bytes.
MAX_REQUEST_BYTES: Final = 8192
#: Connections that are taken a second, and those that may come at once after a pause.
RATE: Final = 50.0
_BURST: Final = 20
#: How long an answer is given to all who ask, in seconds; and how many times as long as the
#: processor was busy with it, where that is longer.
KEPT_SECONDS: Final = 1.0
KEPT_TIMES: Final = 20.0
#: Pause after an accept that failed for want of descriptors or memory, in seconds.
_FAILED_SECONDS: Final = 0.5
_READ_BYTES: Final = 64 * 1024
#: Most that is read of a peer behind its request, in bytes.
_MAX_REST: Final = 64 * 1024

#: Headers of every answer.
_HEADERS: Final = (
    ("Content-Security-Policy", page.CSP),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Connection", "close"),
)


class _Page:
    """One answer: its media type, and the bytes, which are made anew once they are too old.

    However many ask, making one takes at most a twentieth (KEPT_TIMES) of a processor.
    """

    def __init__(self, content_type: str, make: Callable[[], bytes]) -> None:
        self.content_type = content_type
        self._make = make
        self._data = b""
        self._until = 0.0

    def data(self) -> bytes:
        """The answer of this moment. For one thread."""
        if time.monotonic() >= self._until:
            begin = time.thread_time()
            self._data = self._make()
            took = time.thread_time() - begin
            self._until = time.monotonic() + max(KEPT_SECONDS, KEPT_TIMES * took)
        return self._data


class _Exchange(BaseHTTPRequestHandler):
    """One request, which is whole, and its answer: `answer`. Reads and writes memory alone.

    An empty request stands for one that is too long.
    """

    protocol_version = "HTTP/1.1"
    command = ""
    request_version = ""
    requestline = ""
    headers: Message

    def __init__(self, request: bytes, pages: Mapping[str, _Page], *, any_host: bool) -> None:
        # Not the base's, which reads a socket.
        self.rfile = BytesIO(request)
        self.wfile = self._answer = BytesIO()
        self._pages = pages
        self._any_host = any_host
        if request:
            self.handle_one_request()
        else:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    @property
    def answer(self) -> bytes:
        """All that is to be sent."""
        return self._answer.getvalue()

    def do_GET(self) -> None:
        """Answer."""
        if not self._is_for_us():
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        found = self._pages.get(self.path.partition("?")[0])
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self._send(HTTPStatus.OK, found.content_type, found.data())

    do_HEAD = do_GET

    def _is_for_us(self) -> bool:
        """Tell whether the request names this machine, or comes by a Unix socket.

        A page from elsewhere may have its own name lead to this machine's addresses (DNS
        rebinding). Then a browser lets it read what comes, and says that name as Host.
        """
        if self._any_host:
            return True
        host, colon, port = self.headers.get("Host", "").rpartition(":")
        if not (colon and port.isdigit()):
            host = self.headers.get("Host", "")
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
            return True
        return host.lower() == "localhost"

    def _send(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        # Headers are for whoever asks, of whatever version; HTTP/0.9 had none.
        self.request_version = self.protocol_version
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in _HEADERS:
            self.send_header(name, value)
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with an error, in words of our own: nothing of the request comes back."""
        status = HTTPStatus(code)
        if status is HTTPStatus.NOT_IMPLEMENTED:
            status = HTTPStatus.METHOD_NOT_ALLOWED
        self._send(status, "text/plain; charset=utf-8", f"{status.phrase}\n".encode())

    def handle_expect_100(self) -> bool:
        """Answer who would send more first that nothing else is read."""
        self.send_error(HTTPStatus.EXPECTATION_FAILED)
        return False

    def version_string(self) -> str:
        """Tell the name alone."""
        return "sigul-bridge"

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a line for each request would be a hostile peer's to write."""


@dataclass(slots=True, eq=False)
class _Peer:
    """A connection: what came, what is still to be sent, and when it ends in any case."""

    tcp: socket.socket
    due: float
    request: bytearray = field(default_factory=bytearray)
    answer: memoryview | None = None
    rest: int = 0


class Management:
    """Serves `sight` at a listening socket, which is its own from now on. See `close`."""

    def __init__(self, listener: socket.socket, sight: Sight) -> None:
        self._listener = listener
        self._any_host = listener.family == socket.AF_UNIX
        self._pages = {
            "/": _Page("text/html; charset=utf-8", lambda: page.render(sight.view())),
            "/metrics": _Page(exposition.CONTENT_TYPE, lambda: exposition.text(sight.samples())),
            "/status.json": _Page("application/json", lambda: encode_view(sight.view())),
        }
        # What makes it is loaded now, while nobody waits for it.
        exposition.text(sight.samples())
        self._peers: dict[int, _Peer] = {}
        #: The time at which connections would come that came at RATE until now.
        self._paced = 0.0
        self._wake_read, self._wake_write = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="management", daemon=True)

    def start(self) -> None:
        """Serve, in a thread of its own, until `close`."""
        self._thread.start()
        name = self._listener.getsockname()
        address = "its Unix socket" if self._any_host else printable_address(name)
        tell(log, BridgeLog.MANAGEMENT_SERVED, address=address, process=os.getpid())

    def close(self) -> None:
        """End it; again is nothing. Connections under way end."""
        self._wake_write.close()
        if self._thread.ident is not None:
            self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        listens = False
        try:
            while True:
                now = time.monotonic()
                if listens != (self._paced - now < _BURST / RATE):
                    listens = not listens
                    if listens:
                        self._selector.register(self._listener, selectors.EVENT_READ)
                    else:
                        self._selector.unregister(self._listener)
                for key, _events in self._selector.select(self._pause(now, listens=listens)):
                    if key.fileobj is self._wake_read:
                        return
                    if key.fileobj is self._listener:
                        self._accept()
                    elif (peer := self._peers.get(key.fd)) is not None:
                        self._serve(peer)
                now = time.monotonic()
                for peer in [peer for peer in self._peers.values() if peer.due <= now]:
                    self._end(peer)
        finally:
            for peer in list(self._peers.values()):
                self._end(peer)
            self._selector.close()
            self._wake_read.close()

    def _pause(self, now: float, *, listens: bool) -> float | None:
        """Seconds until there is something to do in any case."""
        due = [peer.due for peer in self._peers.values()]
        if not listens:
            due.append(self._paced - _BURST / RATE)
        return max(0.0, min(due) - now) if due else None

    def _accept(self) -> None:
        now = time.monotonic()
        self._paced = max(self._paced, now) + 1 / RATE
        try:
            tcp, _address = self._listener.accept()
        except BlockingIOError:
            return  # The process that served before, or is to, was quicker.
        except OSError as error:
            self._paced = now + (_BURST / RATE) + _FAILED_SECONDS
            tell(log, BridgeLog.MANAGEMENT_ACCEPT_FAILED, why=error.strerror)
            return
        tcp.setblocking(False)
        if len(self._peers) >= MAX_PEERS:
            self._end(next(iter(self._peers.values())))
        self._peers[tcp.fileno()] = _Peer(tcp, now + SECONDS)
        self._selector.register(tcp, selectors.EVENT_READ)

    def _serve(self, peer: _Peer) -> None:
        """Read or write what is there. A peer that makes that fail has its end."""
        try:
            if peer.answer is None:
                self._read(peer)
            elif peer.answer:
                self._write(peer)
            else:
                # What is unread would have the kernel take back what was sent.
                peer.rest += len(data := peer.tcp.recv(_READ_BYTES))
                if not data or peer.rest > _MAX_REST:
                    self._end(peer)
        except BlockingIOError:
            pass
        except OSError:
            self._end(peer)
        except Exception as error:  # noqa: BLE001 - the others are served on
            tell(log, BridgeLog.MANAGEMENT_ANSWER_FAILED, exc_info=error)
            self._end(peer)

    def _read(self, peer: _Peer) -> None:
        data = peer.tcp.recv(MAX_REQUEST_BYTES + 1 - len(peer.request))
        peer.request += data
        end = _end_of_request(peer.request)
        if end is None and data and len(peer.request) <= MAX_REQUEST_BYTES:
            return
        if end is None and not data:
            self._end(peer)
            return
        request = b"" if end is None else bytes(peer.request[:end])
        exchange = _Exchange(request, self._pages, any_host=self._any_host)
        peer.answer = memoryview(exchange.answer)
        self._selector.modify(peer.tcp, selectors.EVENT_WRITE)
        self._write(peer)

    def _write(self, peer: _Peer) -> None:
        assert peer.answer is not None  # noqa: S101 - it was made before
        peer.answer = peer.answer[peer.tcp.send(peer.answer) :]
        if not peer.answer:
            peer.tcp.shutdown(socket.SHUT_WR)
            self._selector.modify(peer.tcp, selectors.EVENT_READ)

    def _end(self, peer: _Peer) -> None:
        if self._peers.pop(peer.tcp.fileno(), None) is not None:
            self._selector.unregister(peer.tcp)
            peer.tcp.close()


def _end_of_request(data: bytearray) -> int | None:
    """The end of a request's headers; None where it has not come."""
    for end in (b"\r\n\r\n", b"\n\n"):
        if (place := data.find(end)) >= 0:
            return place + len(end)
    return None
