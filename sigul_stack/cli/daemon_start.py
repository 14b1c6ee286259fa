"""Command-line options that both daemons have, and how a daemon starts from them."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TextIO, TypeVar

from ..config.digests import digests
from ..config.identity import identity
from ..config.values import relative_to
from ..errors import ConfigurationError, SigulError
from ..logevents import tell
from ..system.memory import is_swapping, keep_freed_memory, lock_memory
from .daemon import Control, Daemon
from .log_events import ProgramLog
from .logs import set_up_daemon
from .outcome import failed
from .secret_input import SecretReader, with_nss_password
from .shared_arguments import VERSION, argument, config_file, program_parser, verbose
from .standard_streams import close_inherited_descriptors

if TYPE_CHECKING:
    from ..config.bridge import BridgeSettings
    from ..config.fields import Loaded
    from ..config.server import ServerSettings

log = logging.getLogger(__name__)

#: Where the log's file is where no option says.
_LOG_DIRECTORY: Final = Path("/var/log")

Settings = TypeVar("Settings", "BridgeSettings", "ServerSettings")


class DaemonConfiguration(Generic[Settings]):
    """A daemon's configuration: as it was at start, and as it is when it is read again.

    A password that was typed at start stays here, for there may be nobody to type it again.
    """

    def __init__(self, load: Callable[[], Loaded[Settings]]) -> None:
        """Read it, and ask for what it lacks. Raises `ConfigurationError`."""
        # A daemon in the background changes to another directory.
        self._directory = _current_directory()
        self._load: Callable[[], Loaded[Settings]] = load
        self._loaded: Loaded[Settings] = load()
        reader = SecretReader(batch=False)
        self._password = with_nss_password(self._loaded.settings.nss, reader).password
        #: The settings at start.
        self.settings: Settings = self._completed(self._loaded)
        #: Digests of the files that were last read, before NSS is opened by anybody: what changes
        #: in between is taken for not loaded.
        self.digests: Mapping[str, str] = digests(self._loaded)
        #: The user that the daemon becomes.
        self.identity = identity(self.settings.unix_user, self.settings.unix_group)

    def check(self) -> None:
        """Log what is odd about it, and look for its directories. Raises `ConfigurationError`."""
        _check(self._loaded)

    def read_again(self) -> Settings:
        """The settings as they are now; relative paths start where they did at first.

        Raises `ConfigurationError`.
        """
        with relative_to(self._directory):
            loaded = self._load()
        _check(loaded)
        self.digests = digests(loaded)
        return self._completed(loaded)

    def _completed(self, loaded: Loaded[Settings]) -> Settings:
        nss = loaded.settings.nss
        if nss.password is None:
            nss = dataclasses.replace(nss, password=self._password)
        return dataclasses.replace(loaded.settings, nss=nss)


def _current_directory() -> Path:
    """The directory that the program was started in; the root where that directory is no more."""
    try:
        return Path.cwd()
    except OSError:
        return Path("/")


def _check(loaded: Loaded[Settings]) -> None:
    for warning in loaded.warnings:
        tell(log, ProgramLog.DAEMON_CONFIGURATION_WARNING, why=str(warning))
    loaded.check_paths()


def _lock_memory(*, changes_user: bool) -> None:
    """Lock the memory of the process that works; tell once where that cannot be."""
    if not lock_memory(changes_user=changes_user):
        tell(log, ProgramLog.MEMORY_SWAPS if is_swapping() else ProgramLog.MEMORY_NOT_LOCKED)


def run_daemon(
    program: str,
    what: str,
    configuration: str,
    load: Callable[[Path | None], Loaded[Settings]],
    work: Callable[[DaemonConfiguration[Settings], Control], None],
    argv: Sequence[str] | None,
) -> int:
    """Run `work` as the daemon that the arguments ask for; returns the exit code.

    `what` the program does, and the name of its system file `configuration`, are for its help.
    """
    options = program_parser(
        program,
        what,
        VERSION,
        config_file(f"configuration file, read after /etc/sigul/{configuration}"),
        verbose("log more; twice for debugging"),
        argument("-d", "--daemonize", action="store_true", help="run in the background"),
        argument("--internal-log-dir", type=Path, help=argparse.SUPPRESS),
        argument("--internal-pid-dir", type=Path, help=argparse.SUPPRESS),
        epilog="In the foreground it logs to standard error, one event a line, unless the"
        " configuration's [logging] names other places. SIGTERM ends it:"
        " requests under way finish first, up to shutdown-timeout. SIGHUP has it read configuration"
        " and certificates again; no request is lost.",
    ).parse_args(argv)
    # A daemon in the background changes to another directory.
    path = options.config_file.absolute() if options.config_file else None
    given_directory = options.internal_log_dir.absolute() if options.internal_log_dir else None
    try:
        # Asked before the daemon may leave its terminal, used once it has.
        source = DaemonConfiguration(lambda: load(path))
    except SigulError as error:
        return failed(str(error))
    except KeyboardInterrupt:
        return failed("interrupted")
    # Not before: `-c <(command)` names one of them.
    close_inherited_descriptors()

    def start(control: Control) -> None:
        _lock_memory(changes_user=source.identity is not None)
        keep_freed_memory()
        source.check()
        work(source, control)

    logs = source.settings.log_to or _usual_logs(options.daemonize, given_directory)

    def set_up_logs(stream: TextIO | None) -> None:
        if stream is None and "stderr" in logs:
            raise ConfigurationError(
                "[logging] log-to has stderr, and a daemon in the background has none",
                "run it in the foreground, or name file, journald or syslog instead",
            )
        set_up_daemon(
            program,
            options.verbose,
            stream=stream if "stderr" in logs else None,
            directory=(given_directory or _LOG_DIRECTORY) if "file" in logs else None,
            owner=source.identity,
            json=source.settings.log_format == "json",
            sockets=[what for what in logs if what not in ("file", "stderr")],
        )

    return Daemon(
        name=program,
        background=options.daemonize,
        pid_directory=options.internal_pid_dir,
        set_up_logs=set_up_logs,
        identity=source.identity,
        logs_on_stderr="stderr" in logs,
    ).run(start)


def _usual_logs(background: bool, directory: Path | None) -> tuple[str, ...]:
    """The places of the log if `log-to` names none: a person in front of it sees it."""
    file = ("file",) if background or directory is not None else ()
    return file if background else ("stderr", *file)
