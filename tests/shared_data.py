"""Where the data that tests share with the specification is found."""

from __future__ import annotations

import os
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parent.parent


def shared(*parts: str) -> Path:
    """The file or directory `parts` of the shared data, which must exist.

    The data are in $SIGUL_STACK_SHARED, else in ../shared beside the checkout. They are not to
    be changed: copy them first.
    """
    root = os.environ.get("SIGUL_STACK_SHARED")
    path = (Path(root) if root else _CHECKOUT.parent / "shared").joinpath(*parts)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: the tests need the shared data beside the checkout, or in the "
            "directory that SIGUL_STACK_SHARED names"
        )
    return path
