"""Layers as tar archives: what a root holds, what it adds to another, always in the same bytes.

Entries are sorted by name; times are never later than the epoch; owners are numbers; no entry is
set-user-ID or set-group-ID, none is a device, and extended attributes (file capabilities among
them) are left out.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

#: Contents of these belong to the engine, to the building, or to nobody.
_EMPTIED: Final = (
    *("dev/", "proc/", "sys/", "tmp/", "var/tmp/", "var/cache/", "var/log/", "var/lib/apt/"),
    *("usr/share/doc-base/", "usr/share/info/", "usr/share/lintian/", "usr/share/man/"),
    *("usr/share/locale/", "usr/share/bug/", "usr/share/bash-completion/"),
    *("usr/share/zsh/", "etc/cron.daily/", "etc/apt/"),
    "etc/dpkg/dpkg.cfg.d/",
)
_DROPPED: Final = frozenset(
    {".dockerenv", "etc/.pwd.lock", "etc/hostname", "etc/hosts", "etc/machine-id"}
    | {"etc/resolv.conf", "var/lib/dpkg/lock", "var/lib/dpkg/lock-frontend"}
    | {"etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-"}
)
_DOCUMENTS: Final = "usr/share/doc/"
_COPY: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A member of an archive; `content` where it is a regular file."""

    info: tarfile.TarInfo
    content: bytes | None = None

    @property
    def name(self) -> str:
        """Its path from the root, without a slash at either end."""
        return self.info.name

    def same_as(self, other: Entry) -> bool:
        """Whether both are the same but for their times."""
        mine, theirs = self.info, other.info
        return (
            mine.type == theirs.type
            and mine.mode == theirs.mode
            and (mine.uid, mine.gid) == (theirs.uid, theirs.gid)
            and mine.linkname == theirs.linkname
            and self.content == other.content
        )


Root = dict[str, Entry]


def wanted(name: str) -> bool:
    """Whether a layer is to hold what has this name."""
    if name in _DROPPED or (name.startswith("var/lib/dpkg/") and name.endswith("-old")):
        return False
    if name.startswith(_DOCUMENTS):
        parts = name.removeprefix(_DOCUMENTS).split("/")
        return len(parts) == 1 or parts[1:] == ["copyright"]
    if name.startswith("run/"):
        return name == "run/sigul"
    return not name.startswith(_EMPTIED)


def read(archive: IO[bytes], *, clean: bool = True) -> Root:
    """What a root file system's archive holds; `clean`, without what no layer is to hold."""
    found: Root = {}
    with tarfile.open(fileobj=archive, mode="r|") as tar:
        for info in tar:
            info.name = info.name.removeprefix("./").strip("/")
            if info.name in ("", ".") or (clean and not wanted(info.name)):
                continue
            if info.ischr() or info.isblk() or info.isfifo():
                continue
            if clean:
                info.mode &= 0o1777
            info.linkname = info.linkname.removeprefix("./") if info.islnk() else info.linkname
            content = None
            if info.islnk() and info.linkname in found:
                # As a file of its own: its other name may be in another layer.
                original = found[info.linkname]
                info.type, info.linkname = original.info.type, original.info.linkname
                content = original.content
                info.size = len(content or b"")
            elif info.isfile():
                stream = tar.extractfile(info)
                content = b"" if stream is None else stream.read()
            found[info.name] = Entry(info, content)
    return found


def added(root: Root, below: Root) -> Iterator[Entry]:
    """What `root` has that `below` has not, or has otherwise. What it lacks stays."""
    for name, entry in root.items():
        other = below.get(name)
        if other is None or not entry.same_as(other):
            yield entry


def file(name: str, content: bytes, mode: int = 0o644) -> Entry:
    """A regular file of root's."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    return Entry(info, content)


def link(name: str, target: str) -> Entry:
    """A symbolic link."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
    return Entry(info)


def directory(name: str) -> Entry:
    """A directory of root's."""
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return Entry(info)


def with_parents(entries: Iterable[Entry], top: str) -> Iterator[Entry]:
    """The entries, and the directories from `top` down that they lie in."""
    seen: set[str] = set()
    for entry in entries:
        for parent in reversed(Path(entry.name).parents):
            name = str(parent)
            if name not in seen and (name == top or name.startswith(f"{top}/")):
                seen.add(name)
                yield directory(name)
        yield entry


def write(entries: Iterable[Entry], archive: IO[bytes], epoch: int) -> None:
    """Write an archive whose bytes depend on the entries and the epoch alone."""
    with tarfile.open(fileobj=archive, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        for entry in sorted(entries, key=lambda entry: entry.name):
            info = tarfile.TarInfo(entry.name)
            source = entry.info
            info.type, info.linkname, info.mode = source.type, source.linkname, source.mode
            info.uid, info.gid = source.uid, source.gid
            info.mtime = min(int(source.mtime), epoch)
            info.size = len(entry.content or b"")
            tar.addfile(info, None if entry.content is None else io.BytesIO(entry.content))
