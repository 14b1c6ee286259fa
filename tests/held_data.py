"""Where the data that tests read is found: `tests/data`, whose READMEs say what each is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_DATA: Final = Path(__file__).resolve().parent / "data"


def held(*parts: str) -> Path:
    """The file or directory `parts` of `tests/data`, which must exist. Copy it to change it."""
    path = _DATA.joinpath(*parts)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: is the checkout whole? (git status)")
    return path
