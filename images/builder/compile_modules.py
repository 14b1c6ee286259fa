"""Runs in a Debian root: compiles those of the system's Python modules that are not yet.

A read-only file system cannot be given compiled modules later. Unchecked ones (PEP 552) stay valid
whatever happens to the sources' times.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from py_compile import PycInvalidationMode, compile

_UNCHECKED = b"\1\0\0\0"


def main() -> None:
    """Compile what has no compiled module, or one that is compared with its source's time."""
    for source in sorted(Path("/usr/lib").glob("python3.*/**/*.py")):
        compiled = Path(importlib.util.cache_from_source(str(source)))
        if not compiled.exists() or compiled.read_bytes()[4:8] != _UNCHECKED:
            mode = PycInvalidationMode.UNCHECKED_HASH
            compile(str(source), doraise=True, invalidation_mode=mode)


if __name__ == "__main__":
    main()
