"""Running a program as a daemon: in the background or not, with a PID file, until told to end.

`run` forks, if at all, before anything of the daemon's own work happens, so that NSS, threads and
open files all begin in the process that goes on (fault 7). In the background the parent waits
until the daemon says that it is ready, so that whoever started it knows; a daemon that cannot
start tells its parent why, who prints it and exits 1.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ..config.identity import Identity
from ..errors import ConfigurationError, SigulError
from ..logevents import tell
from ..system.pipes import FAILED, BadEvent, Event, EventReader, send_event
from ..system.processes import kill_and_reap, reap
from ..system.signals import SignalPipe
from . import pidfile
from .log_events import ProgramLog
from .outcome import failed, repeat_known_line
from .standard_streams import detach_standard_descriptors

log = logging.getLogger(__name__)

#: Seconds until a daemon in the background has to be ready.
START_TIMEOUT = 120.0
#: Seconds that a daemon which is not ready by then has to end once it is told to.
GIVE_UP_TIMEOUT = 10.0
#: Seconds between looks whether a daemon that has not reported has ended.
_LOOK_SECONDS = 0.05

#: Event of a daemon in the background for whoever started it: it is ready.
_READY = b"R"
#: Stands for what no daemon says.
_NONSENSE = b"?"


@dataclass(frozen=True, slots=True)
class Control:
    """A daemon's signals, and a function that its work calls when it is ready."""

    #: SIGTERM, SIGQUIT or, from a terminal, SIGINT: end.
    stop: SignalPipe
    #: SIGHUP: read configuration and certificates again.
    reload: SignalPipe
    #: To be called once everything that can go wrong at start has gone right; further calls do
    #: nothing. Connections to peers are not part of the start.
    ready: Callable[[], None]
    #: Where its PID file is, if it has one.
    pid_directory: Path | None = None


@dataclass(frozen=True, slots=True)
class Daemon:
    """A way to run a daemon. `name` is the program's, as in its PID file: `sigul_bridge`.

    In the foreground there is a PID file only where `pid_directory` is given; in the background
    always (`default_pid_directory`). `identity` is what the work will change to, if it will.
    `set_up_logs` is called in the process that works, with the stream for its messages: standard
    error, or None in the background. `logs_on_stderr`: whether in the foreground its log is there,
    so that an error which ends the daemon has to be told there by nobody else.
    """

    name: str
    background: bool
    pid_directory: Path | None
    set_up_logs: Callable[[TextIO | None], None]
    identity: Identity | None = None
    start_timeout: float = START_TIMEOUT
    logs_on_stderr: bool = True

    def run(self, work: Callable[[Control], None]) -> int:
        """Do `work` as a daemon, and return the exit code of the process that was started.

        `work` returns once it has been told to end and has ended. Any `SigulError` from it is
        logged and makes the exit code 1; in the background, before it was ready, it is also
        printed by the parent.
        """
        if not self.background:
            return self._serve(work, sys.stderr, self.pid_directory, None)
        try:
            directory = self.pid_directory or default_pid_directory()
        except SigulError as error:
            return failed(str(error))
        return self._in_background(work, directory.absolute())

    def _serve(
        self,
        work: Callable[[Control], None],
        stream: TextIO | None,
        pid_directory: Path | None,
        starter: int | None,
    ) -> int:
        try:
            self.set_up_logs(stream)
        except SigulError as error:
            _tell(starter, FAILED, str(error))
            if stream is not None:
                failed(str(error))
            return 1
        try:
            with contextlib.ExitStack() as stack:
                stop = SignalPipe(signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)
                stack.callback(stop.release)
                reload = SignalPipe(signal.SIGHUP)
                stack.callback(reload.release)
                if pid_directory is not None:
                    path = pid_directory / f"{self.name}.pid"
                    stack.enter_context(pidfile.held(path, self.identity))
                tell(log, ProgramLog.DAEMON_STARTS, name=self.name)
                work(Control(stop, reload, lambda: _tell(starter, _READY), pid_directory))
                tell(log, ProgramLog.DAEMON_ENDS, name=self.name)
            return 0
        except SigulError as error:
            tell(log, ProgramLog.DAEMON_FAILED, why=str(error))
            _tell(starter, FAILED, str(error))
            if stream is not None and self.logs_on_stderr:
                repeat_known_line(str(error))
            elif stream is not None:
                failed(str(error))
        except Exception as error:  # noqa: BLE001 - it is logged
            tell(log, ProgramLog.DAEMON_CRASHED, exc_info=True, name=self.name)
            what = type(error).__name__  # its text may hold anything
            _tell(starter, FAILED, f"{self.name} failed unexpectedly ({what}); its log says more")
        return 1

    def _in_background(self, work: Callable[[Control], None], pid_directory: Path) -> int:
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child:
            os.close(writer)
            try:
                return _await_report(child, reader, self)
            finally:
                os.close(reader)
        code = 1
        try:
            os.close(reader)
            os.setsid()
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.chdir("/")
            detach_standard_descriptors()
            code = self._serve(work, None, pid_directory, writer)
            logging.shutdown()
        finally:
            # Not sys.exit: what the parent had set up to run at its end is the parent's.
            os._exit(code)


def _tell(starter: int | None, code: bytes, text: str = "") -> None:
    """Send whoever started the daemon an event, which it hears if it is the first."""
    if starter is not None:
        send_event(starter, code, text.encode("utf-8", "backslashreplace"))


def _await_report(child: int, reader: int, daemon: Daemon) -> int:
    """Wait until `child` reports through `reader` or ends; the parent's exit code."""
    try:
        report = _first_event(child, reader, daemon.start_timeout)
    except BaseException:
        _end(child, patience=0)
        raise
    if report is None:
        failed(
            f"{daemon.name} was not ready after {daemon.start_timeout:g} s and is ended; its log"
            " may say what it waited for"
        )
        _end(child, patience=0)
        return 1
    code, text = report
    if code == _READY:
        return 0
    failed(
        text.decode("utf-8", "replace")
        or f"{daemon.name} ended while it started; its log may say why"
    )
    _end(child, patience=GIVE_UP_TIMEOUT if code == FAILED else 0)
    return 1


def _first_event(child: int, reader: int, timeout: float) -> Event | None:
    """The first event of `child`; an empty failure if it ends without one, None after `timeout`.

    What no daemon says is `_NONSENSE`, or whatever else it is.
    """
    events = EventReader(reader)
    deadline = time.monotonic() + timeout
    ended = False
    while time.monotonic() < deadline:
        try:
            event = events.first(_LOOK_SECONDS)
        except TimeoutError:
            if ended:
                return FAILED, b""
        except BadEvent as error:
            return _NONSENSE, f"the daemon broke the rules of its pipe: {error}".encode()
        else:
            return event or (FAILED, b"")
        # Looked at as well, because a grandchild may keep the pipe open. What the child wrote
        # just before its end is still there to be read.
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return None


def _end(child: int, *, patience: float) -> None:
    """Wait `patience` seconds for `child` to end by itself, then end it."""
    if reap(child, patience) is None:
        os.kill(child, signal.SIGTERM)
        kill_and_reap(child, GIVE_UP_TIMEOUT)


def default_pid_directory() -> Path:
    """The directory of a daemon's PID file in the background: root's, or the user's own.

    Raises `ConfigurationError` where there is neither.
    """
    if os.geteuid() == 0:
        return Path("/run")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime)
    raise ConfigurationError(
        "there is no directory for the PID file: XDG_RUNTIME_DIR is not set",
        "give --internal-pid-dir=DIR, or run in the foreground",
    )
