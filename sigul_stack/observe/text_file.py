"""A file of metrics for node_exporter's textfile collector, which reads `*.prom` in a directory.

It is there whole or not at all, and everybody may read it: there are no names in it that were not
asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..errors import SigulError
from ..system.files import write_whole
from .exposition import Samples, text

#: The end of the names that node_exporter reads.
SUFFIX: Final = ".prom"


def write_text_file(path: Path, samples: Samples) -> None:
    """Write `samples` to `path`, in place of what was there. Raises `SigulError`.

    Whoever calls this as root sees to it that it has the rights of the directory's owner.
    """
    content = text(samples)
    try:
        write_whole(path, content, replace=True, mode=0o644)
    except OSError as error:
        raise SigulError(
            f"the metrics' file '{path}' cannot be written: {error.strerror or error}",
            "name one in a directory that is there and that this process's user may write to",
        ) from error
