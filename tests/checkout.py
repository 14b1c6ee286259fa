"""The checkout and the files that are its own: cloned by git, or unpacked from an sdist."""

from __future__ import annotations

import os
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

TOP: Final = Path(__file__).resolve().parent.parent


def own_files() -> list[Path]:
    """Its files, sorted: tracked and new ones, and nothing that .gitignore names."""
    if (TOP / ".git").exists():
        # With root's rights in somebody else's checkout, git wants to be told.
        listed = subprocess.run(
            ["git", "-c", f"safe.directory={TOP}", "-C", str(TOP), "ls-files", "-z",
             "--cached", "--others", "--exclude-standard", "--deduplicate"],
            check=True, capture_output=True, text=True, timeout=60,
        ).stdout  # fmt: skip
        names = [Path(name) for name in listed.split("\0") if name]
        return sorted(path for name in names if (path := TOP / name).is_file())
    ignored = _ignored_directories()
    found: list[Path] = []
    for directory, below, names_here in os.walk(TOP):
        above = Path(directory).relative_to(TOP)
        below[:] = [name for name in below if not _matches(above / name, ignored)]
        found += [TOP / above / name for name in names_here]
    # What the sdist's builder has added.
    return sorted(path for path in found if path != TOP / "PKG-INFO")


def _ignored_directories() -> list[str]:
    """The patterns of .gitignore, which are of directories only."""
    lines = (TOP / ".gitignore").read_text("utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert all(pattern.endswith("/") for pattern in patterns), "teach this what else is ignored"
    return patterns


def _matches(directory: Path, patterns: list[str]) -> bool:
    return any(
        fnmatchcase(f"/{directory}/" if pattern.startswith("/") else f"{directory.name}/", pattern)
        for pattern in patterns
    )
