"""OSTree's commit objects, as far as it takes to tell one from anything else.

A commit is a GVariant of type `(a{sv}aya(say)sstayay)`: metadata, the parent's checksum (or
nothing), related objects, subject, body, time, and the checksums of its tree's contents and
metadata (libostree, "ostree-core.h"). In a GVariant tuple the members follow each other, aligned
(the time to 8 bytes); the ends of those of variable length but the last stand behind them, the
first one last ("GVariant Specification 1.0").
"""

from __future__ import annotations

from typing import Final

from ..errors import ProtocolError
from .commitmeta import offset_size

#: The largest metadata object that ostree takes, in bytes.
MAX_COMMIT: Final = 128 << 20
_OFFSETS: Final = 6
_CHECKSUM: Final = 32
_TIME: Final = 8


def check_commit(commit: bytes | memoryview) -> None:
    """Raise `ProtocolError` where `commit` is no OSTree commit object."""
    if len(commit) > MAX_COMMIT:
        raise _no_commit(f"it has more than {MAX_COMMIT >> 20} MiB")
    size = offset_size(len(commit))
    table = len(commit) - _OFFSETS * size
    if table < 0:
        raise _no_commit("it is too short")
    ends = [
        int.from_bytes(commit[at : at + size], "little")
        for at in range(len(commit) - size, table - 1, -size)
    ]
    metadata, parent, related, subject, body, contents = ends
    # The time is between the body and the tree's contents.
    after_time = body + -body % _TIME + _TIME
    if not metadata <= parent <= related <= subject <= body < after_time <= contents <= table:
        raise _no_commit("its members do not follow each other")
    for start, end in ((related, subject), (subject, body)):
        if end == start or bytes(commit[start:end]).find(b"\0") != end - start - 1:
            raise _no_commit("its subject or body is no text")
    if parent - metadata not in (0, _CHECKSUM):
        raise _no_commit("its parent is no checksum")
    if (contents - after_time, table - contents) != (_CHECKSUM, _CHECKSUM):
        raise _no_commit("its tree has no checksums")


def _no_commit(why: str) -> ProtocolError:
    return ProtocolError(
        f"this is no OSTree commit: {why}",
        "give the object of the repository, objects/XX/….commit",
    )
