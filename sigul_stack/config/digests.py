"""Digests of the files that a daemon reads when it starts and on SIGHUP.

A daemon tells those of what it has loaded in its status; health computes them again from what is
there, and so sees what was changed and never loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .fields import Loaded
from .shared import NSS_FILES

#: Largest file that is read, in bytes: far more than any database of certificates has.
_MAX_BYTES: Final = 64 * 1024**2


def digests(loaded: Loaded[Any]) -> Mapping[str, str]:
    """SHA-256 in hex by the files' paths: of the configuration as it was read, and of the NSS
    database as it is now. What this user may not read is left out.
    """
    found = {str(path): digest for path, digest in loaded.files.digests.items()}
    for name in NSS_FILES:
        path = loaded.settings.nss.path.absolute() / name
        with contextlib.suppress(OSError):
            found[str(path)] = _digest(path)
    return found


def _digest(path: Path) -> str:
    """The digest of a regular file. Raises `OSError`."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise OSError(f"{path} is no file of a database")
        return hashlib.file_digest(file, "sha256").hexdigest()
