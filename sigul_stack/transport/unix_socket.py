"""Listening Unix sockets of daemons, whose directories may belong to others than root.

Invariant: a socket takes its name in one step, with its owner and mode, and takes the place of a
socket only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Final

from ..config.identity import Identity, rights_for
from ..errors import ConfigurationError, SigulError

#: Connections that may queue in the kernel.
BACKLOG: Final = 64


class UnixListener:
    """A Unix socket that listens at `path`, open to its owner and a group. See `close`."""

    def __init__(self, path: Path, option: str, owner: Identity | None, group: int | None) -> None:
        """Listen at `path`, in place of a socket that a former daemon left there.

        `owner` is whom the socket is given to, where this process is not that user itself, and
        `group` (a number) who may connect besides, else the owner's group. `option` says in errors
        what named the path. Raises `ConfigurationError`.
        """
        self.path = path
        self._owner = owner
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(self.socket.fileno(), 0o600)
            require_socket(path, option)
            self._inode = bind(self.socket, path, owner, group=group, mode=0o660)
        except OSError as error:
            self.socket.close()
            raise ConfigurationError(
                f"{option}: '{path}' cannot be made: {error.strerror or error}",
                "name a path in a directory that the daemon's user may write to, and a group that"
                " this user is in",
            ) from error
        except BaseException:
            self.socket.close()
            raise
        self.socket.setblocking(False)

    def close(self) -> None:
        """End it, and remove its name unless another daemon has taken that over."""
        with contextlib.suppress(OSError, SigulError), rights_for(self._owner, self.path.parent):
            if self.path.lstat().st_ino == self._inode:
                self.path.unlink()
        self.socket.close()


def require_socket(path: Path, option: str) -> None:
    """Raise `ConfigurationError` where something else than a socket is there."""
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise ConfigurationError(f"{option}: '{path}' is there and no socket", "name another path")


def bind(
    listener: socket.socket,
    path: Path,
    owner: Identity | None,
    *,
    group: int | None = None,
    mode: int | None = None,
) -> int:
    """Have `listener` listen at `path`, for `owner`, and a `group`; gives the socket file's inode.

    Without a `mode` the file has that of the descriptor. Raises OSError.
    """
    with rights_for(owner, path.parent):
        return _bind(listener, path, owner, group, mode)


def _bind(
    listener: socket.socket, path: Path, owner: Identity | None, group: int | None, mode: int | None
) -> int:
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    # Nobody can connect before it listens, and nobody finds it before it is renamed.
    listener.bind(str(new))
    inode = new.lstat().st_ino
    if owner is not None and os.geteuid() == 0:
        os.chown(new, owner.uid, owner.gid, follow_symlinks=False)
    if group is not None:
        os.chown(new, -1, group, follow_symlinks=False)
    if mode is not None:
        # What bind made of the descriptor's mode depends on the umask. A link in its place would
        # be the doing of whoever has the rights that this process has here.
        new.chmod(mode)
    listener.listen(BACKLOG)
    new.rename(path)
    return inode
