"""Hardening of a process: `harden_process` is the first line of each program's `main`.

A program's memory holds secrets, or comes to hold some. So it leaves no core file, nobody else of
the same user may read it, and it is locked where the limit allows (`system/memory`). Programs that
it starts inherit the limit on core files.
"""

from __future__ import annotations

import contextlib
import resource

from ..system.memory import lock_memory


def harden_process() -> None:
    """Keep what this process holds to itself. Never fails: what the kernel refuses is left."""
    disable_core_dumps()
    forbid_tracing()
    lock_memory()


def disable_core_dumps() -> None:
    """Keep this process and those it starts from leaving core files, which hold secrets.

    The limit is 1, not 0: where the kernel hands core dumps to a program (`core_pattern` begins
    with `|`) it ignores a limit of 0 but gives up at 1, which is too little for a core file too.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def forbid_tracing() -> None:
    """Keep other processes of the same user from reading this one's memory (`prctl(2)`).

    Those that are forked from it inherit that, programs that are started do not. Where the kernel
    refuses, nothing changes; a core dump is prevented by `disable_core_dumps`.
    """
    import ctypes

    pr_set_dumpable = 4
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_dumpable, 0, 0, 0, 0)
