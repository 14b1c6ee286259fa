"""Command-line options that both daemons have, and how a daemon starts from them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .. import __version__
from ..config.identity import identity
from .daemon import Control, Daemon
from .logs import set_up_daemon
from .secret_input import disable_core_dumps, forbid_tracing

if TYPE_CHECKING:
    from ..config import BridgeSettings, Loaded, ServerSettings

log = logging.getLogger(__name__)

Settings = TypeVar("Settings", "BridgeSettings", "ServerSettings")


def daemon_parser(program: str, what: str, configuration: str) -> argparse.ArgumentParser:
    """The parser of a daemon's options; `configuration` is the name of its system file."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=what,
        epilog="In the foreground it logs to standard error, one event a line. SIGTERM ends it:"
        " requests under way finish first, up to shutdown-timeout.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "-c",
        "--config-file",
        metavar="FILE",
        type=Path,
        help=f"configuration file, read after /etc/sigul/{configuration}",
    )
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="log more; twice for debugging"
    )
    parser.add_argument("-d", "--daemonize", action="store_true", help="run in the background")
    parser.add_argument("--internal-log-dir", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--internal-pid-dir", type=Path, help=argparse.SUPPRESS)
    return parser


def run_daemon(
    program: str,
    options: argparse.Namespace,
    loaded: Loaded[Settings],
    work: Callable[[Control], None],
) -> int:
    """Run `work` as the daemon that `options` ask for; returns the exit code."""
    disable_core_dumps()
    forbid_tracing()
    who = identity(loaded.settings.unix_user, loaded.settings.unix_group)

    def start(control: Control) -> None:
        for warning in loaded.warnings:
            log.warning("%s", warning)
        loaded.check_paths()
        work(control)

    return Daemon(
        name=program,
        background=options.daemonize,
        pid_directory=options.internal_pid_dir,
        set_up_logs=lambda stream: set_up_daemon(
            program,
            options.verbose,
            stream=stream,
            directory=options.internal_log_dir or _default_log_directory(options.daemonize),
            owner=who,
        ),
        identity=who,
    ).run(start)


def _default_log_directory(background: bool) -> Path | None:
    """Where a daemon in the background logs; in the foreground, standard error is enough."""
    return Path("/var/log") if background else None
