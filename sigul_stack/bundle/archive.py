"""The tar archive in a bundle: plain files and directories, few, small and with plain names."""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

from ..errors import quoted
from .contents import BundleError, Members

#: Most members; most bytes of a file, and of all of them.
MAX_MEMBERS: Final = 256
MAX_FILE: Final = 16 << 20
MAX_FILES: Final = 32 << 20
#: Most components of a path; most bytes of one, and of all.
MAX_DEPTH: Final = 16
MAX_NAME: Final = 255
MAX_PATH: Final = 1024

_PLAIN: Final = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE})
_CURE: Final = "make it with: tar -cJf sigul.tar.xz .sigul"


def read_tar(data: bytes) -> Members:
    """The members of an archive. Owners, modes and times do not count. Raises `BundleError`."""
    members: Members = {}
    total = count = 0
    try:
        with tarfile.open(
            fileobj=io.BytesIO(data), mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as tar:
            # Not `for`: what follows the last member that can be read is looked at, too.
            while (info := tar.next()) is not None:
                count += 1
                if count > MAX_MEMBERS:
                    raise BundleError(f"the bundle has more than {MAX_MEMBERS} files", _CURE)
                if info.type not in _PLAIN or info.sparse is not None:
                    raise BundleError(
                        f"the bundle's {quoted(info.name, 100)} is neither a plain file nor a"
                        " directory",
                        "put files themselves into it, no links",
                    )
                name = _checked_name(info.name, is_directory=info.isdir())
                if name is None:
                    continue
                if not 0 <= info.size <= MAX_FILE or (info.isdir() and info.size):
                    raise BundleError(
                        f"the bundle's {quoted(name, 100)} has more than {MAX_FILE >> 20} MiB",
                        _CURE,
                    )
                total += info.size
                if total > MAX_FILES:
                    raise BundleError(
                        f"the bundle's files have more than {MAX_FILES >> 20} MiB", _CURE
                    )
                if name in members:
                    raise BundleError(f"the bundle has {quoted(name, 100)} twice", _CURE)
                members[name] = None if info.isdir() else _content(tar, info)
            if any(data[tar.offset :]):
                raise BundleError("the bundle's archive is damaged", "make it again")
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError) as error:
        raise BundleError(
            f"the bundle holds no tar archive, or not all of one ({type(error).__name__})", _CURE
        ) from None
    for name in members:
        for parent in PurePosixPath(name).parents:
            if members.get(str(parent)) is not None:
                raise BundleError(f"the bundle's {quoted(name, 100)} is inside a file", _CURE)
    return members


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(info)
    content = b"" if stream is None else stream.read()
    if len(content) != info.size:
        raise BundleError("the bundle's archive is cut short", "make it again")
    return content


def _checked_name(written: str, *, is_directory: bool) -> str | None:
    """A member's path without dots for "here"; None for the top. Raises `BundleError`."""
    path = PurePosixPath(written)
    problem = ""
    if not written.isprintable():
        problem = "has characters that cannot be printed"
    elif "\\" in written:
        problem = "has a backslash"
    elif path.is_absolute() or written.startswith("/"):
        problem = "is absolute"
    elif ".." in path.parts:
        problem = "leads out of its directory"
    elif len(path.parts) > MAX_DEPTH:
        problem = f"has more than {MAX_DEPTH} parts"
    elif len(written.encode()) > MAX_PATH or any(
        len(part.encode()) > MAX_NAME for part in path.parts
    ):
        problem = f"is longer than {MAX_PATH} bytes, or a part of it than {MAX_NAME}"
    elif not path.parts and not is_directory:
        problem = "is no name"
    if problem:
        raise BundleError(f"a path in the bundle {problem}: {quoted(written, 100)}", _CURE)
    return str(path) if path.parts else None


def make_tar(members: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    """An archive of these files with their directories, and the same in xz."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as tar:
        made: set[str] = set()
        for name, content in sorted(members.items()):
            for parent in reversed(PurePosixPath(name).parents):
                if str(parent) != "." and str(parent) not in made:
                    made.add(str(parent))
                    directory = tarfile.TarInfo(str(parent))
                    directory.type, directory.mode = tarfile.DIRTYPE, 0o700
                    tar.addfile(directory)
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o600
            tar.addfile(info, io.BytesIO(content))
    archive = output.getvalue()
    return archive, lzma.compress(archive, preset=6)
