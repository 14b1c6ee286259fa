"""Outputs for a reply's payload: a file that appears whole or not at all, or an open stream.

A payload is authenticated only after its last byte. So a new file has no name until then, a file
that exists keeps its content, and a pipe, terminal or device is given nothing; after an error, or
a kill at any moment, everything is as before.

* A file that is new gets the permissions that the umask gives; one that exists keeps its own, and
  its owner, group and extended attributes (access control lists are such) where the process may do
  that. A symbolic link is followed, not replaced. A
  further hard link to an RPM that is signed in its place keeps what it was, and that is told.
* `/dev/stdout` and its like mean the open stream itself, not the file behind it.
* Where a file may be written but its directory may not, it is overwritten in place; but not a file
  that is the input as well, which a kill would leave in pieces.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import SigulError
from ..logevents import tell
from ..system.files import opened
from .log_events import ClientLog

log = logging.getLogger(__name__)

#: Bytes of a payload on its way to a stream that are kept in memory; the rest goes to disk.
SPOOL_IN_MEMORY = 1 << 20
_COPY_BYTES = 1 << 20
_MAX_LINKS = 40

#: The extended attribute with a file's access control list.
_ACCESS_LIST = "system.posix_acl_access"
#: Those that are about the content or the very file, and would be wrong for another one.
_OF_THE_CONTENT = ("security.ima", "security.evm", "security.capability")

_STREAM = re.compile(r"/dev/(?P<name>stdin|stdout|stderr)|/(dev|proc/self)/fd/(?P<number>\d{1,9})")
_STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}


class OutputError(SigulError):
    """An output cannot be written where it should go."""


@contextlib.contextmanager
def open_output(path: Path | None, *, binary: bool) -> Iterator[BinaryIO]:
    """A file to write a payload to; `path` None means standard output.

    What was written appears at its place when the block ends, and never does if it ends with an
    exception. With `binary` a terminal is refused. Raises `OutputError`.
    """
    name = "standard output" if path is None else str(path)
    with _errors(name), _opened(path, name, binary) as file:
        yield file


@contextlib.contextmanager
def open_successor(source: Path, path: Path | None, *, read: os.stat_result) -> Iterator[BinaryIO]:
    """A file to write the new form of the file `source` to: at `path`, or in the place of `source`.

    It takes that place, when the block ends without an exception, where `path` is None or `source`
    itself by any name; a hard link to it is replaced as well. `read` is the state of `source` when
    it was read: what has changed since is not replaced. Raises `OutputError`.
    """
    if path is not None and not overwrites(path, source):
        with open_output(path, binary=True) as file:
            yield file
            if _was_changed(source, read):
                raise OutputError(f"'{source}' was changed while it was being read", "try again")
        return
    place = source if path is None else path
    others = read.st_nlink - (2 if _follow(place) != _follow(source) else 1)
    with _errors(str(place)), _in_place(place, read) as file:
        yield file
    _give_to_other_name(_follow(place), _follow(source))
    if others > 0:
        tell(log, ClientLog.OUTPUT_HAS_LINKS, path=str(place), count=others)


def _was_changed(source: Path, read: os.stat_result) -> bool:
    """Whether a plain file is another than it was when it was `read`; not where it is gone."""
    with contextlib.suppress(OSError):
        return stat.S_ISREG(read.st_mode) and _state(source.stat()) != _state(read)
    return False


def identity(path: Path | None) -> tuple[int, ...] | None:
    """The identity of the file that an output to `path` would replace, whatever its name is there.

    `path` None means standard output. None where there is no such file: a new one, a pipe, a
    terminal.
    """
    try:
        return identity_of(os.fstat(1) if path is None else path.stat())
    except OSError:
        return None


def identity_of(found: os.stat_result) -> tuple[int, ...] | None:
    """The same as `identity`, of a file whose state is known."""
    if stat.S_ISBLK(found.st_mode):
        return (found.st_rdev,)
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def overwrites(path: Path | None, file: Path) -> bool:
    """Tell whether an output to `path` (None: standard output) would replace what `file` holds."""
    found = identity(path)
    return found is not None and found == identity(file)


@contextlib.contextmanager
def _errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"'{name}' cannot be written: {error.strerror or error}",
            "nothing was changed: choose another place, or make room there",
        ) from error


def _opened(
    path: Path | None, name: str, binary: bool
) -> contextlib.AbstractContextManager[BinaryIO]:
    if path is None:
        sys.stdout.flush()
        return _spooled(1, name, binary=binary)
    target = _follow(path)
    if match := _stream(target):
        number = _STREAMS[match["name"]] if match["name"] else int(match["number"])
        return _spooled(number, name, binary=binary)
    if _is_regular_or_new(target):
        return _replaced(target)
    return _in_device(target, name, binary)


@contextlib.contextmanager
def _in_device(target: Path, name: str, binary: bool) -> Iterator[BinaryIO]:
    with (
        opened(target, os.O_WRONLY | os.O_NOCTTY) as descriptor,
        _spooled(descriptor, name, binary=binary) as file,
    ):
        yield file


def _follow(path: Path) -> Path:
    """`path` with symbolic links followed, up to a stream's name or one below /proc."""
    followed = path
    for _ in range(_MAX_LINKS):
        if _stream(followed) or followed.parts[:2] == ("/", "proc") or not followed.is_symlink():
            return followed
        followed = followed.parent / followed.readlink()
    raise OutputError(f"'{path}' is a symbolic link that leads nowhere", "name another file")


def _stream(target: Path) -> re.Match[str] | None:
    return _STREAM.fullmatch(str(target))


def _is_regular_or_new(target: Path) -> bool:
    try:
        return stat.S_ISREG(target.stat().st_mode)
    except FileNotFoundError:
        return True


@contextlib.contextmanager
def _spooled(descriptor: int, name: str, *, binary: bool) -> Iterator[BinaryIO]:
    """Keep what is written until the end of the block, then write it to `descriptor`."""
    if binary and os.isatty(descriptor):
        raise OutputError(
            "refusing to write binary data to a terminal", "give -o FILE, or redirect the output"
        )
    import tempfile

    with tempfile.SpooledTemporaryFile(SPOOL_IN_MEMORY) as spool:
        yield cast(BinaryIO, spool)
        spool.seek(0)
        try:
            while piece := spool.read(_COPY_BYTES):
                write_all(descriptor, piece)
        except OSError as error:
            raise OutputError(
                f"'{name}' did not take all of the output: {error.strerror}; what was written is"
                " not complete"
            ) from error


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, however little the descriptor takes at once. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@contextlib.contextmanager
def _in_place(place: Path, read: os.stat_result) -> Iterator[BinaryIO]:
    """A new file that takes the place of one that still is what was read."""
    target = _follow(place)
    if _stream(target) or not stat.S_ISREG(read.st_mode):
        raise OutputError(
            f"'{place}' is a stream or device, which nothing can replace", "give -o FILE"
        )
    with _replaced(target, whole=True) as file:
        yield file
        if _state(target.stat()) != _state(read):
            raise OutputError(f"'{place}' has changed meanwhile and is left as it is", "try again")


def _state(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _give_to_other_name(target: Path, other: Path) -> None:
    """Have `other`, a hard link to the file that `target` was, be one to what it is now."""
    if _stream(other):
        return
    try:
        if target.samefile(other):
            return
        temporary = other.with_name(_new_name())
        temporary.hardlink_to(target)
        try:
            temporary.replace(other)
        except BaseException:
            temporary.unlink()
            raise
    except OSError as error:
        raise OutputError(
            f"'{target}' is replaced, but its other name '{other}' cannot be: {error.strerror}",
            "copy it there",
        ) from error


@contextlib.contextmanager
def _replaced(target: Path, *, whole: bool = False) -> Iterator[BinaryIO]:
    """A new file that takes `target`'s place at the end of the block.

    With `whole` never by writing to it in place.
    """
    try:
        old: os.stat_result | None = target.stat()
    except FileNotFoundError:
        old = None
    # Until a file that exists has been told its own permissions, nobody else may read the new one.
    mode = 0o666 if old is None else 0o600
    try:
        draft = _Draft(target.parent, mode)
    except PermissionError as error:
        if whole:
            raise OutputError(
                f"'{target}' cannot be replaced: {error.strerror}: no file can be made beside it in"
                f" '{target.parent}'",
                "give -o FILE to write elsewhere",
            ) from error
        if old is None:
            raise
        # The directory is not ours to make files in, but the file may be ours to write.
        with (
            opened(target, os.O_WRONLY | os.O_NOCTTY) as descriptor,
            _spooled(descriptor, str(target), binary=False) as file,
        ):
            yield file
            os.ftruncate(descriptor, 0)
        return
    with draft:
        yield draft.file
        if old is not None:
            draft.resemble(target, old)
        draft.publish(target.name, replace=True)


def _attributes(file: Path | int) -> dict[str, bytes]:
    """The extended attributes of a file, as far as it can have some and they can be read."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listxattr(file):
            if name not in _OF_THE_CONTENT:
                found[name] = os.getxattr(file, name)
    return found


def _new_name() -> str:
    """A name for what has to have one before it takes its place."""
    return f".sigul-{os.urandom(8).hex()}.tmp"


class _Draft(contextlib.AbstractContextManager["_Draft"]):
    """A file without a name, or, where the file system has none such, with a temporary one."""

    def __init__(self, directory: Path, mode: int) -> None:
        self._name: str | None = None
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.file = cast(BinaryIO, os.fdopen(self._open(mode), "w+b"))
        except BaseException:
            os.close(self._directory)
            raise

    def _open(self, mode: int) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        if Path("/proc/self/fd").exists():  # the way to give such a file a name later
            try:
                return os.open(".", flags | os.O_TMPFILE, mode, dir_fd=self._directory)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                    raise
        self._name = _new_name()
        return os.open(self._name, flags | os.O_CREAT | os.O_EXCL, mode, dir_fd=self._directory)

    def resemble(self, target: Path, old: os.stat_result) -> None:
        """Take over what `target`, whose state is `old`, has beside its content.

        That is permissions and, where the process may, owner and extended attributes.
        """
        descriptor = self.file.fileno()
        new = os.fstat(descriptor)
        # Who may not give it to its owner may often give it to its group.
        for owner in (old.st_uid, -1):
            if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, owner, old.st_gid)
                    break
        wanted = _attributes(target)
        access_list = wanted.pop(_ACCESS_LIST, None)
        # What the directory gives to new files goes: a list of it would let others in.
        for name in _attributes(descriptor).keys() - wanted.keys():
            with contextlib.suppress(OSError):
                os.removexattr(descriptor, name)
        for name, value in wanted.items():
            with contextlib.suppress(OSError):
                os.setxattr(descriptor, name, value)
        permissions = stat.S_IMODE(old.st_mode)
        os.fchmod(descriptor, permissions)
        if access_list is not None:
            try:
                os.setxattr(descriptor, _ACCESS_LIST, access_list)
            except OSError:
                # The bits of the group were the list's limit, and not the group's own.
                os.fchmod(descriptor, permissions & ~stat.S_IRWXG)

    def publish(self, name: str, *, replace: bool) -> None:
        """Give the file its `name` in the directory, once all of it is on disk.

        A file that has that name is replaced, or raises FileExistsError.
        """
        self.file.flush()
        os.fsync(self.file.fileno())
        if not replace:
            self._link(name)
        else:
            if self._name is None:
                temporary = _new_name()
                self._link(temporary)
                self._name = temporary
            here = self._directory
            os.replace(self._name, name, src_dir_fd=here, dst_dir_fd=here)
            self._name = None
        with contextlib.suppress(OSError):  # not every file system can do this for a directory
            os.fsync(self._directory)

    def _link(self, name: str) -> None:
        here = self._directory
        source = self._name or f"/proc/self/fd/{self.file.fileno()}"
        # Only with a directory's descriptor does Python call linkat(2), which can follow links.
        os.link(source, name, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=True)

    def __exit__(self, *_: object) -> None:
        if self._name is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._name, dir_fd=self._directory)
        os.close(self._directory)
        with contextlib.suppress(OSError):  # what could not be written at the end is not wanted
            self.file.close()


def write_new_file(path: Path, content: bytes) -> None:
    """Make the new file `path`, readable for its owner only, with `content`, whole or not at all.

    Raises `OutputError`, also where there is such a file already.
    """
    with _errors(str(path)), _Draft(path.parent, 0o600) as draft:
        draft.file.write(content)
        try:
            draft.publish(path.name, replace=False)
        except FileExistsError:
            raise OutputError(f"'{path}' exists already", "name a new file, or remove it") from None
