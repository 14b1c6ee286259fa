"""Describes the machine of a run: without it the figures say nothing."""

from __future__ import annotations

import datetime
import os
import platform
import ssl
import subprocess
from pathlib import Path

_TOP = Path(__file__).parents[2]


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=_TOP)
    return done.stdout.strip().partition("\n")[0]


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "unknown"


def cores() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def describe() -> dict[str, str]:
    """CPU, cores, memory, versions, load, date and commit, each as text."""
    from nss import nss  # type: ignore[import-untyped,unused-ignore]

    return {
        "CPU": _field("/proc/cpuinfo", "model name"),
        "cores": str(cores()),
        "memory": f"{int(_field('/proc/meminfo', 'MemTotal').split()[0]) / 1024**2:.1f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "NSS": nss.nss_get_version(),
        "GnuPG": _said("gpg", "--version").rpartition(" ")[2],
        "OpenSSL": ssl.OPENSSL_VERSION,
        "load": f"{os.getloadavg()[0]:.2f} at the start (1 minute)",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _said("git", "describe", "--always", "--dirty"),
    }
