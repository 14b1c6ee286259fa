"""Work that needs NSS, lower privileges or secrets, done in a child so that the supervisor stays
without them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from ..errors import SigulError

log = logging.getLogger(__name__)

#: Longest error text that a child reports, in bytes (one atomic pipe write).
_MAX_REPORT = 4096


def run_in_child(work: Callable[[], None], what: str) -> None:
    """Do `work` in a child process and wait for it. Raises `SigulError` with the child's error."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            work()
            code = 0
        except SigulError as error:
            os.write(writer, str(error).encode("utf-8", "backslashreplace")[:_MAX_REPORT])
        except Exception:
            log.exception("%s failed in an unforeseen way", what)
        finally:
            logging.shutdown()
            # Not sys.exit: what the parent had set up to run at its end is the parent's.
            os._exit(code)
    os.close(writer)
    try:
        report = os.read(reader, _MAX_REPORT).decode("utf-8", "replace")
        _pid, status = os.waitpid(pid, 0)
    finally:
        os.close(reader)
    if report:
        raise SigulError(report)
    if status != 0:
        code = os.waitstatus_to_exitcode(status)
        raise SigulError(f"{what} failed (exit code {code}); the log above may say why")
