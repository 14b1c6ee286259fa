"""The number of processors that this process may use, as containers and service managers limit it.

Both can take processors away (affinity), and give a share of time instead (cgroups(7), the kernel's
admin-guide/cgroup-v2 and, for version 1, scheduler/sched-bwc): a container of `docker run --cpus 2`
sees all of its machine's processors.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

_CGROUP: Final = Path("/sys/fs/cgroup")


def usable_processors(cgroup: Path = _CGROUP) -> int:
    """The whole processors that this process gets, at least 1.

    Of a share that is no whole number the next larger one. `cgroup` is where the control group of
    this process is mounted, as it is in a container; elsewhere the root's, which has no limit.
    """
    count = len(os.sched_getaffinity(0))
    share = _share(cgroup)
    return count if share is None else max(1, min(count, share))


def _share(cgroup: Path) -> int | None:
    """The processors that a control group has time for, rounded up; None where none is set."""
    for read in (_version_2, _version_1):
        with contextlib.suppress(OSError, ValueError):
            quota, period = read(cgroup)
            if quota > 0 and period > 0:
                return -(-quota // period)
    return None


def _version_2(cgroup: Path) -> tuple[int, int]:
    quota, period = (cgroup / "cpu.max").read_text("ascii").split()
    return (0 if quota == "max" else int(quota)), int(period)


def _version_1(cgroup: Path) -> tuple[int, int]:
    quota, period = (
        int((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text("ascii"))
        for name in ("quota", "period")
    )
    return quota, period
