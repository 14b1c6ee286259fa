"""Memory that is never written to swap, where the limit on locked memory allows it.

A process that locks its memory and then meets the limit gets no more memory at all. So everything
is locked where there is no limit (RLIMIT_MEMLOCK), or where the process has the right to pass it
and keeps that (CAP_IPC_LOCK); else nothing. Root takes the limit away; anybody else has what the
service manager or container engine gives.

A forked child has nothing locked, whatever its parent has: it calls `lock_memory` itself, once it
has become the user that it stays. Pages are
locked as they are first used, so what is never used costs nothing. Payloads may be larger than the
machine's memory and are no secrets: they are read through `mapped`, which locks nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
from pathlib import Path
from typing import Final

_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4

_CAP_IPC_LOCK: Final = 14

#: Parameters of mallopt(3), and how much is kept: a few chunks of a payload, in bytes.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 16 << 20

_STATUS: Final = Path("/proc/self/status")
_SWAPS: Final = Path("/proc/swaps")


def lock_memory(*, changes_user: bool = True) -> bool:
    """Lock all that this process has and will have; whether that was possible.

    Who `changes_user` from now on, if only for a moment, loses a right to pass the limit with that.
    """
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(
            resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY and hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        soft = hard
    if soft != resource.RLIM_INFINITY and (changes_user or not _may_pass_the_limit()):
        return False
    with contextlib.suppress(OSError, AttributeError):
        flags = _MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT
        return bool(ctypes.CDLL(None, use_errno=True).mlockall(flags) == 0)
    return False


def _may_pass_the_limit() -> bool:
    with contextlib.suppress(OSError, ValueError, IndexError):
        effective = _STATUS.read_text().split("CapEff:")[1].split()[0]
        return bool(int(effective, 16) >> _CAP_IPC_LOCK & 1)
    return False


def keep_freed_memory() -> None:
    """Have the C library keep memory that is freed, up to `_KEPT_BYTES`, for the next use.

    A few chunks of a payload are more than what it keeps by itself: they would be memory that the
    kernel has to clear anew each time, a tenth of what a large payload costs. Children inherit it.
    Another C library than GNU's, which has no such setting, is left as it is.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def is_swapping() -> bool:
    """Whether this machine has somewhere to write memory to."""
    with contextlib.suppress(OSError):
        return len(_SWAPS.read_text().splitlines()) > 1
    return False


def mapped(descriptor: int) -> memoryview:
    """A file's content, read when it is used, and not locked. Raises ValueError where it is empty.

    Raises OSError.
    """
    import mmap

    view = memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))
    _unlock(view)
    return view


class _Buffer(ctypes.Structure):
    """The buffer structure of the C API, as far as it is the same in each Python."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("rest", ctypes.c_char * 128),
    )


def _unlock(view: memoryview) -> None:
    buffer = _Buffer()
    python = ctypes.pythonapi
    if python.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0) == 0:
        address, length = ctypes.c_void_p(buffer.buf), ctypes.c_size_t(buffer.len)
        ctypes.CDLL(None, use_errno=True).munlock(address, length)
        python.PyBuffer_Release(ctypes.byref(buffer))
