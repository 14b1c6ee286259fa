"""How a program that runs in front of a person ends: its exit code, and the line that says why.

0 on success; else 1 and one line `Error: TEXT` on standard error.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from ..errors import SigulError
from ..protocol.codec import printable

log = logging.getLogger(__name__)


class AlreadyTold(SigulError):
    """A program fails, and has said why in lines of its own."""


def report(run: Callable[[], None]) -> int:
    """Call `run` and give the exit code; whatever it raises is said in one line.

    The text of an error that nobody foresaw may hold anything, a secret too: only its kind is told,
    and a traceback at `-v -v`.
    """
    try:
        run()
        return 0
    except AlreadyTold:
        return 1
    except SigulError as error:
        log.debug("where it failed:", exc_info=True)
        return failed(str(error))
    except KeyboardInterrupt:
        return failed("interrupted")
    except Exception as error:
        log.debug("where it failed:", exc_info=True)
        return failed(f"unexpected failure ({type(error).__name__}); -v -v tells more")


def occupy_standard_descriptors() -> None:
    """Have descriptors 0, 1 and 2 taken, each failing at its use where the caller closed it.

    Else the next file or connection would get the number, and what is meant for standard output.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor else os.O_WRONLY)


def failed(text: str) -> int:
    """Say the error `text` in one line; gives the exit code."""
    print(f"Error: {printable(text)}", file=sys.stderr)
    return 1
