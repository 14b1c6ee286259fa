"""Filters of system calls, as programs for the kernel: a list of what is refused, the rest is let.

A list of what is let would be shorter, and wrong with the next version of a library. Each filter is
classic BPF over `struct seccomp_data`. Numbers are those of Linux's include/uapi: seccomp.h,
filter.h, audit.h, and the tables of system calls of the two processors.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from typing import Final

#: Processor → its name for seccomp (AUDIT_ARCH), and the place of its numbers below.
PROCESSORS: Final = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

#: Refused to every program (x86_64, aarch64; -1: it has none).
_NEVER: Final = {
    # Other processes.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    # What walls are made of, and other ways around them.
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "setns": (308, 268), "unshare": (272, 97),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # Large parts of the kernel that no tool has a use for.
    "bpf": (321, 280), "userfaultfd": (323, 282), "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "fanotify_init": (300, 262), "modify_ldt": (154, -1), "lookup_dcookie": (212, 18),
    # The machine's.
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "iopl": (172, -1), "ioperm": (173, -1), "syslog": (103, 116),
}  # fmt: skip
_KEYRINGS: Final = {"add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219)}
_SIGNALLING: Final = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
}  # fmt: skip
_SOCKET, _CLONE, _CLONE3, _PRLIMIT = (41, 198), (56, 220), (435, 435), (302, 261)
#: CLONE_NEW…: new namespaces of every kind that `clone` makes.
_NAMESPACES = 0x7E020000
#: From here on x86_64's numbers are another interface's, x32.
_X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
#: Offsets in `struct seccomp_data`: the call's number, the processor, the first argument's low
#: half (both processors are little-endian).
_NUMBER, _PROCESSOR, _ARGUMENT = 0, 4, 16


@dataclass(frozen=True, slots=True)
class Refused:
    """Calls that are refused besides what no program may: the kernel's keyrings; signals; limits
    of other processes; sockets, except local ones unless those are, too.
    """

    keyrings: bool
    signals: bool
    other_limits: bool
    sockets: bool
    local_sockets: bool


def program(refused: Refused, machine: str) -> bytes:
    """The filter for the processor `machine`, one of `PROCESSORS`, as BPF: 8 bytes a step.

    Each check is followed by the answer to what it finds.
    """
    name, column = PROCESSORS[machine]
    calls = dict(_NEVER)
    if refused.keyrings:
        calls |= _KEYRINGS
    if refused.signals:
        calls |= _SIGNALLING
    code = [_step(_LOAD, _PROCESSOR), _step(_EQUAL, name, yes=1), _fail(errno.EPERM)]
    code += [_step(_LOAD, _NUMBER)]
    if column == 0:
        code += [_step(_AT_LEAST, _X32, no=1), _fail(errno.EPERM)]
    for numbers in calls.values():
        if numbers[column] >= 0:
            code += [_step(_EQUAL, numbers[column], no=1), _fail(errno.EPERM)]
    # Its flags are in memory, where a filter cannot look; the C library then uses clone.
    code += [_step(_EQUAL, _CLONE3[column], no=1), _fail(errno.ENOSYS)]
    checks = [(_CLONE, _step(_ANY_BIT, _NAMESPACES, no=1), errno.EPERM)]
    if refused.other_limits:  # the first argument 0 is the process itself
        checks.append((_PRLIMIT, _step(_EQUAL, 0, yes=1), errno.EPERM))
    if refused.local_sockets:
        code += [_step(_EQUAL, _SOCKET[column], no=1), _fail(errno.EACCES)]
    elif refused.sockets:
        checks.append((_SOCKET, _step(_EQUAL, socket.AF_UNIX, yes=1), errno.EACCES))
    for numbers, check, error in checks:
        code += [_step(_EQUAL, numbers[column], no=4), _step(_LOAD, _ARGUMENT), check]
        code += [_fail(error), _step(_RETURN, _ALLOW)]
    return b"".join([*code, _step(_RETURN, _ALLOW)])


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _fail(error: int) -> bytes:
    return _step(_RETURN, _FAIL | error)
