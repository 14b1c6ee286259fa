"""Throw-away copies of this checkout, as somebody who has just cloned it has it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

TOP = Path(__file__).parent.parent
#: What making leaves behind, and what is of no use to who makes.
_LEFT_OUT = (
    ".git",
    ".venv",
    ".cache",
    ".site",
    ".demo",
    "tests",
    "docs",
    "*.egg-info",
    "__pycache__",
)
#: What tells scripts whom to serve would make a copy another's.
_OF_A_SITE = (
    *("SIGUL_PORT", "SIGUL_ADDRESS", "SIGUL_IMAGE_PREFIX", "SIGUL_MOLECULE_PREFIX"),
    *("SITE", "KEY", "FORCE"),
)


def copy_checkout(directory: Path) -> Path:
    """Copy the checkout without anything that was made in it; gives the copy."""
    shutil.copytree(TOP, directory, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    return directory


def run_in(
    checkout: Path, *command: str | Path, prefix: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command there, after `prefix` if there is one, and with these variables."""
    rest = {name: value for name, value in os.environ.items() if name not in _OF_A_SITE}
    return subprocess.run(
        [*prefix, *command],
        cwd=checkout,
        env={**rest, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def without(*namespaces: str) -> tuple[str, ...]:
    """What begins a command line that has these namespaces of its own, such as `--net`."""
    # Root needs no user namespace, and may not have the right to make one.
    mapped = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return ("unshare", *mapped, *namespaces)
