"""The status socket: a Unix stream socket that gives each connection one document and closes.

Invariant: no peer can hold its daemon up. A document is smaller than what the kernel keeps for a
connection, so it is sent without waiting, and what is not taken at once is not sent. Only the
daemon's own user (and root) may connect. That user may own the socket's directory: a daemon that
stays root works there with `rights_for` him.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ..config.identity import Identity, rights_for
from ..errors import ConfigurationError, RemoteProtocolError, TransportError
from .stream import Deadline, readable

log = logging.getLogger(__name__)

#: Connections that may queue in the kernel.
_BACKLOG: Final = 64
#: Largest document that is read, in bytes.
_MAX_DOCUMENT: Final = 1024**2
_READ_BYTES: Final = 64 * 1024
#: Pause before another attempt where the queue is full, in seconds.
_RETRY_SECONDS: Final = 0.02


class StatusSocket:
    """A listening status socket at `path`. `document` makes what each connection is given.

    A daemon that waits in `poll` watches `fileno` and calls `answer`; one with threads calls
    `serve`.
    """

    def __init__(
        self, path: Path, document: Callable[[], bytes], owner: Identity | None = None
    ) -> None:
        """Listen at `path`, in place of a socket that a former daemon left there.

        `owner` is whom the socket is given to, where this process is not that user itself. Raises
        `ConfigurationError`.
        """
        self._path = path
        self._owner = owner
        self._document = document
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # The socket file gets the mode of its descriptor, which is this process's own.
            os.fchmod(listener.fileno(), 0o600)
            with rights_for(owner, path.parent):
                self._inode = _bind(listener, path, owner)
        except OSError as error:
            listener.close()
            raise ConfigurationError(
                f"[daemon] status-socket: '{path}' cannot be made: {error.strerror or error}",
                "name a path in a directory that the daemon's user may write to",
            ) from error
        except BaseException:
            listener.close()
            raise
        listener.setblocking(False)
        self._listener = listener
        self._wake_read, self._wake_write = socket.socketpair()
        self._thread: threading.Thread | None = None

    def fileno(self) -> int:
        """A descriptor that is readable when somebody has connected."""
        return self._listener.fileno()

    def answer(self) -> None:
        """Give the document to one that has connected, if there is one. Never waits or raises."""
        try:
            peer, _address = self._listener.accept()
        except OSError:
            return  # gone again, or no descriptors are left: nothing that a daemon ends for
        with peer, contextlib.suppress(OSError):
            peer.setblocking(False)
            data = self._document()
            if peer.send(data) < len(data):
                log.warning("The status of %d bytes was cut off: too long", len(data))

    def serve(self) -> None:
        """Answer in a thread of its own, until `close`."""
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        wake = self._wake_read.fileno()
        while wake not in readable((self.fileno(), wake)):
            self.answer()

    def close(self) -> None:
        """End it, and remove the socket's name unless another daemon has taken it over."""
        self._wake_write.close()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(OSError), rights_for(self._owner, self._path.parent):
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()
        self.forget()

    def forget(self) -> None:
        """Close what this process holds, and leave the socket to another: for a forked child."""
        self._listener.close()
        self._wake_read.close()
        self._wake_write.close()


def _bind(listener: socket.socket, path: Path, owner: Identity | None) -> int:
    """Have `listener` listen at `path`, for `owner` alone; gives the socket file's inode.

    Raises OSError, and `ConfigurationError` where something else than a socket is there.
    """
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise ConfigurationError(
            f"[daemon] status-socket: '{path}' is there and no socket", "name another path"
        )
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    # Nobody can connect before it listens, and nobody finds it before it is renamed.
    listener.bind(str(new))
    inode = new.lstat().st_ino
    if owner is not None and os.geteuid() == 0:
        os.chown(new, owner.uid, owner.gid, follow_symlinks=False)
    listener.listen(_BACKLOG)
    new.rename(path)
    return inode


@contextlib.contextmanager
def status_socket(
    path: Path | None, document: Callable[[], bytes], owner: Identity | None = None
) -> Iterator[StatusSocket | None]:
    """A `StatusSocket` while the block lasts; None where no path is configured."""
    if path is None:
        yield None
        return
    with contextlib.closing(StatusSocket(path, document, owner)) as status:
        yield status


def read_status(path: Path, timeout: float) -> bytes:
    """The document that the daemon at `path` gives, within `timeout` seconds.

    Raises `TransportError`, of which `DeadlineExceeded` is a kind, or `ProtocolError`.
    """
    deadline = Deadline(timeout, f"reading the status from '{path}'")
    parts = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        try:
            _connect(peer, path, deadline)
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
