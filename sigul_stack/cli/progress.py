"""A progress bar for a person who waits: on a terminal, and only once it takes more than a second.

tqdm is imported when the second is over: most requests never need it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import printable

#: Seconds before a bar shows.
PATIENCE = 1.0

_USUAL_WIDTH = 80


@contextlib.contextmanager
def progress(what: str, total: int, *, unit: str = "B") -> Iterator[Callable[[int], None]]:
    """A function to call with each number of bytes done of `total`; `what` names the work.

    Where other things than bytes are counted, `unit` names them.
    """
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    start = time.monotonic()
    done = 0
    bar: Any = None  # a tqdm, whose type has a parameter for what it is not used for here

    def advance(count: int) -> None:
        nonlocal bar, done
        done += count
        if bar is not None:
            bar.update(count)
        elif time.monotonic() - start > PATIENCE and done < total:
            from tqdm import tqdm

            bar = tqdm(
                desc=printable(what),
                total=total,
                initial=done,
                unit=unit if unit == "B" else f" {unit}",
                unit_scale=True,
                unit_divisor=1024 if unit == "B" else 1000,
                file=sys.stderr,
                # A terminal that does not know its width would get a bar of no width.
                ncols=os.get_terminal_size(sys.stderr.fileno()).columns or _USUAL_WIDTH,
                leave=False,
            )

    try:
        yield advance
    finally:
        if bar is not None:
            bar.close()
