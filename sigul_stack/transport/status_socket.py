"""The status socket: a Unix stream socket that gives each connection one answer and closes.

    request:  one line of at most MAX_REQUEST_BYTES, or its end, or silence for SILENCE_SECONDS
              (who asked former versions said nothing): "status", or a command and its argument
    answer:   one document

Invariant: no peer can hold its daemon up. Nothing is waited for but by the loop that waits for
everything; an answer is smaller than what the kernel keeps for a connection, so it is sent at once,
and what is not taken at once is not sent. Only the daemon's own user (and root) may connect. That
user may own the socket's directory: a daemon that stays root works there with `rights_for` him.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ..config.identity import Identity, rights_for
from ..errors import ConfigurationError, RemoteProtocolError, TransportError
from .stream import Deadline, readable
from .unix_socket import bind, require_socket

log = logging.getLogger(__name__)

#: What names the path of such a socket.
_OPTION: Final = "[daemon] status-socket"
#: Connections that may be about to say what they want.
_MAX_PEERS: Final = 64
#: Longest request, in bytes without its end of line.
MAX_REQUEST_BYTES: Final = 512
#: The time after which who says nothing is given the status, in seconds.
SILENCE_SECONDS: Final = 0.2
#: Largest document that is read, in bytes.
_MAX_DOCUMENT: Final = 1024**2
_READ_BYTES: Final = 64 * 1024
#: Pause before another attempt where the queue is full, in seconds.
_RETRY_SECONDS: Final = 0.02

#: What makes the answer to a command, given its argument.
Command = Callable[[str], bytes]
#: What stands for a request that was begun and not ended: no request has a line's end in it.
_UNFINISHED: Final = b"\n"
_NO_COMMANDS: Final[Mapping[str, Command]] = MappingProxyType({})


@dataclass(slots=True)
class _Asking:
    """One that has connected: what it said so far, and when its silence is taken for an answer."""

    due: float
    said: bytearray = field(default_factory=bytearray)


class StatusSocket:
    """A listening status socket at `path`. `document` makes what who asks for the status is given.

    A daemon that waits in `poll` watches `fileno`, waits no longer than `due`, and calls `answer`;
    one with threads calls `serve`.
    """

    def __init__(
        self,
        path: Path,
        document: Callable[[], bytes],
        owner: Identity | None = None,
        *,
        commands: Mapping[str, Command] = _NO_COMMANDS,
        shared: bool = False,
    ) -> None:
        """Listen at `path`, in place of a socket that a former daemon left there.

        `owner` is whom the socket is given to, where this process is not that user itself. Where it
        is `shared`, several processes of a daemon have one each, with its number behind the name,
        and `path` is a link to the newest (`sockets_of`). Raises `ConfigurationError`.
        """
        self._path = path
        self._own = path.with_name(f"{path.name}.{os.getpid()}") if shared else path
        self._owner = owner
        self._document = document
        self._commands = commands
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # The socket file gets the mode of its descriptor, which is this process's own.
            os.fchmod(listener.fileno(), 0o600)
            with rights_for(owner, path.parent):
                require_socket(path, _OPTION)
                self._inode = bind(listener, self._own, owner)
                if shared:
                    _link(path, self._own)
        except OSError as error:
            listener.close()
            raise ConfigurationError(
                f"{_OPTION}: '{path}' cannot be made: {error.strerror or error}",
                "name a path in a directory that the daemon's user may write to",
            ) from error
        except BaseException:
            listener.close()
            raise
        listener.setblocking(False)
        self._listener = listener
        self._peers: dict[socket.socket, _Asking] = {}
        self._poll = select.epoll()
        self._poll.register(listener, select.EPOLLIN)
        self._wake_read, self._wake_write = socket.socketpair()
        self._thread: threading.Thread | None = None

    def fileno(self) -> int:
        """A descriptor that is readable when somebody has connected, or says something."""
        return self._poll.fileno()

    def due(self) -> float | None:
        """Seconds until `answer` should be called in any case; None where nobody is silent."""
        if not self._peers:
            return None
        return max(0.0, min(asking.due for asking in self._peers.values()) - time.monotonic())

    def answer(self) -> None:
        """Answer those that have said what they want. Never waits or raises."""
        # Gone again, or no descriptors are left: nothing that a daemon ends for.
        with contextlib.suppress(OSError):
            while len(self._peers) < _MAX_PEERS:
                peer, _address = self._listener.accept()
                peer.setblocking(False)
                self._peers[peer] = _Asking(time.monotonic() + SILENCE_SECONDS)
                self._poll.register(peer, select.EPOLLIN)
        for peer, asking in list(self._peers.items()):
            request = self._request(peer, asking)
            if request is not None:
                del self._peers[peer]
                with peer, contextlib.suppress(OSError):
                    self._poll.unregister(peer)
                    data = self._answer_to(request)
                    if peer.send(data) < len(data):
                        log.warning("An answer of %d bytes was cut off: too long", len(data))

    @staticmethod
    def _request(peer: socket.socket, asking: _Asking) -> bytes | None:
        """The request of a peer; None where more of it may come."""
        try:
            data = peer.recv(MAX_REQUEST_BYTES + 1)
        except BlockingIOError:
            if time.monotonic() < asking.due:
                return None
            return _UNFINISHED if asking.said else b""
        except OSError:
            return b""
        asking.said += data
        line, end, _more = asking.said.partition(b"\n")
        complete = end or not data or len(asking.said) > MAX_REQUEST_BYTES
        return bytes(line) if complete else None

    def _answer_to(self, request: bytes) -> bytes:
        verb, _, argument = request.decode("utf-8", "replace").partition(" ")
        if verb in ("", "status"):
            return self._document()
        command = self._commands.get(verb)
        if command is None or len(request) > MAX_REQUEST_BYTES:
            log.warning("Somebody asks the status socket for what it does not have")
            return b""
        return command(argument)

    def serve(self) -> None:
        """Answer in a thread of its own, until `close`."""
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        wake = self._wake_read.fileno()
        while wake not in readable((self.fileno(), wake), self.due()):
            self.answer()

    def close(self) -> None:
        """End it, and remove the socket's name unless another daemon has taken it over."""
        self._wake_write.close()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(OSError), rights_for(self._owner, self._path.parent):
            if self._path.is_symlink() and self._path.readlink() == Path(self._own.name):
                self._path.unlink()
            if self._own.lstat().st_ino == self._inode:
                self._own.unlink()
        self.forget()

    def forget(self) -> None:
        """Close what this process holds, and leave the socket to another: for a forked child."""
        self._poll.close()
        for peer in self._peers:
            peer.close()
        self._listener.close()
        self._wake_read.close()
        self._wake_write.close()


def _link(path: Path, own: Path) -> None:
    """Turn `path` to `own`, and remove sockets beside it whose process was killed. Raises OSError.

    It was killed where nobody listens: its number may be another's by now.
    """
    new = path.with_name(f"{path.name}.link")
    new.unlink(missing_ok=True)
    new.symlink_to(own.name)
    new.rename(path)
    for other in sockets_of(path):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(other))
            except ConnectionRefusedError:
                other.unlink(missing_ok=True)
            except OSError:
                pass  # it lives, and many are asking just now


def sockets_of(path: Path) -> list[Path]:
    """The sockets of all processes of the daemon whose status socket is at `path`."""
    own = re.compile(re.escape(path.name) + r"\.[0-9]+")
    found = [item for item in path.parent.iterdir() if own.fullmatch(item.name)]
    return sorted(found) or [path]


@contextlib.contextmanager
def status_socket(
    path: Path | None,
    document: Callable[[], bytes],
    owner: Identity | None = None,
    *,
    commands: Mapping[str, Command] = _NO_COMMANDS,
    shared: bool = False,
) -> Iterator[StatusSocket | None]:
    """A `StatusSocket` while the block lasts; None where no path is configured."""
    if path is None:
        yield None
        return
    made = StatusSocket(path, document, owner, commands=commands, shared=shared)
    with contextlib.closing(made) as status:
        yield status


def read_status(path: Path, timeout: float) -> bytes:
    """The document that the daemon at `path` gives, within `timeout` seconds.

    Raises `TransportError`, of which `DeadlineExceeded` is a kind, or `ProtocolError`.
    """
    return ask(path, "status", timeout)


def ask(path: Path, request: str, timeout: float) -> bytes:
    """The answer of the daemon at `path` to a request, within `timeout` seconds.

    Raises as `read_status` does.
    """
    deadline = Deadline(timeout, f"reading the status from '{path}'")
    parts = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        try:
            _connect(peer, path, deadline)
            # A daemon of a former version may have answered and closed already.
            with contextlib.suppress(ConnectionError):
                peer.sendall(request.encode() + b"\n")
            while data := peer.recv(_READ_BYTES):
                parts += data
                if len(parts) > _MAX_DOCUMENT:
                    raise RemoteProtocolError(f"'{path}' gives more than {_MAX_DOCUMENT} bytes")
                peer.settimeout(deadline.remaining())
        except TimeoutError:
            raise deadline.exceeded() from None
        except OSError as error:
            raise TransportError(
                f"no daemon answers at '{path}' ({error.strerror or error})",
                "is it running, with this configuration, and is this the same user?",
            ) from None
    return bytes(parts)


def _connect(peer: socket.socket, path: Path, deadline: Deadline) -> None:
    while True:
        peer.settimeout(deadline.remaining())
        try:
            peer.connect(str(path))
            return
        except BlockingIOError:  # many are asking just now
            time.sleep(_RETRY_SECONDS)
