"""Child processes of the daemons: work that needs NSS, lower privileges or secrets is done in one,
so that the process that forks stays without them.

Invariant: a child never returns into its parent's code, and does not outlive its work.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterable
from typing import Protocol

from .errors import SigulError

log = logging.getLogger(__name__)

#: Longest error text that a child reports, in bytes (one atomic pipe write).
MAX_REPORT = 4096


class Stopper(Protocol):
    """Tells when to stop; see `cli.daemon.Stop`."""

    def fileno(self) -> int:
        """A descriptor that is readable from then on."""
        ...

    def release(self) -> None:
        """In a child: put the former signal handlers back."""
        ...


class Reloader(Protocol):
    """Tells when to read the configuration again; see `cli.daemon.Reload`."""

    def fileno(self) -> int:
        """A descriptor that is readable from then on, until `take`."""
        ...

    def take(self) -> None:
        """Take note of it, so that `fileno()` is no longer readable."""
        ...


def fork(
    work: Callable[[], None],
    *,
    stop: Stopper,
    ignore: Iterable[signal.Signals],
    report: Callable[[str], None] | None = None,
) -> int:
    """Fork a child that does `work` and ends; gives its number. Raises OSError.

    `ignore` are signals for the whole group that are the parent's business. An error of the work
    goes to `report` where there is one, else into the log; the child's exit code is 1 then.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        stop.release()
        for number in ignore:
            signal.signal(number, signal.SIG_IGN)
        work()
        code = 0
    except SigulError as error:
        if report is not None:
            report(str(error))
        else:
            log.error("%s", error)
    except Exception:
        log.exception("A process of this daemon failed in an unforeseen way")
    finally:
        logging.shutdown()
        # Not sys.exit: what the parent had set up to run at its end is the parent's.
        os._exit(code)


def run_in_child(work: Callable[[], None], what: str, *, stop: Stopper) -> None:
    """Do `work` in a child process and wait for it. Raises `SigulError` with the child's error."""
    reader, writer = os.pipe()

    def report(text: str) -> None:
        os.write(writer, as_report(text))

    pid = fork(work, stop=stop, ignore=(signal.SIGHUP,), report=report)
    os.close(writer)
    try:
        text = os.read(reader, MAX_REPORT).decode("utf-8", "replace")
        _pid, status = os.waitpid(pid, 0)
    finally:
        os.close(reader)
    if text:
        raise SigulError(text)
    if status != 0:
        code = os.waitstatus_to_exitcode(status)
        raise SigulError(f"{what} failed (exit code {code}); the log above may say why")


def as_report(text: str) -> bytes:
    """An error's text as it goes through a pipe, in one piece."""
    return text.encode("utf-8", "backslashreplace")[:MAX_REPORT]
