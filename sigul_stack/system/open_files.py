"""The limit on open files of this process (RLIMIT_NOFILE), which its children inherit."""

from __future__ import annotations

import contextlib
import errno
import resource
from typing import Final

#: What a process, its libraries and its logs have open besides what its work needs.
USUAL: Final = 64
#: What to do about a limit that is too low.
CURE: Final = (
    "raise the limit: LimitNOFILE= of a service, --ulimit nofile= of a container, ulimit -n"
)

#: How the kernel says that a process, or the machine, may open no more.
_NONE_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE})


def raise_limit(wanted: int) -> int:
    """Have the soft limit at `wanted` at least, where the hard one allows it; what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else soft
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        return limit
    return soft


def none_left(error: OSError) -> bool:
    """Whether `error` says that no more files may be opened."""
    return error.errno in _NONE_LEFT
