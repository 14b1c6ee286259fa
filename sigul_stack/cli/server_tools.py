"""Options, configuration and owner for the programs that prepare a server's data."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.identity import drop_privileges, drop_privileges_unless_roots, identity
from ..errors import ConfigurationError
from ..logevents import tell
from .log_events import ProgramLog
from .logs import set_up_client
from .outcome import report
from .shared_arguments import (
    SERVER_FILE,
    VERSION,
    Argument,
    config_file,
    program_parser,
    verbose,
)
from .standard_streams import occupy_standard_descriptors

if TYPE_CHECKING:
    from ..config.fields import Loaded
    from ..config.server import ServerSettings

log = logging.getLogger(__name__)


def tool_parser(program: str, what: str, *arguments: Argument) -> argparse.ArgumentParser:
    """The parser of such a program, with the options that all of them have before `arguments`."""
    return program_parser(program, what, config_file(SERVER_FILE), verbose(), VERSION, *arguments)


def run_tool(work: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> int:
    """Do `work`, with log lines on standard error; the exit code."""
    occupy_standard_descriptors()
    set_up_client(options.verbose, sys.stderr)
    return report(lambda: work(options))


def checked_name(name: str, problem: str) -> str:
    """A name of a user or key. Raises `ConfigurationError` for a `problem` where it can be none."""
    from ..protocol.codec import is_safe_text

    if not name.strip() or not is_safe_text(name) or len(name) > 255:
        raise ConfigurationError(
            problem,
            "write 1 to 255 printable ASCII characters, not blanks alone: the protocol has no more",
        )
    return name


def load_configuration(path: Path | None) -> Loaded[ServerSettings]:
    """The server's configuration; what is odd about it is logged. Raises `ConfigurationError`."""
    from ..config import load_server

    loaded = load_server(path)
    for warning in loaded.warnings:
        if not warning.of_daemon:
            tell(log, ProgramLog.TOOL_CONFIGURATION_WARNING, why=str(warning))
    return loaded


def become_the_server_for_nss(settings: ServerSettings) -> None:
    """Do as `become_the_server` does, before NSS is opened, where not only root can change that.

    Raises `ConfigurationError`.
    """
    if os.geteuid() == 0:
        drop_privileges_unless_roots(
            identity(settings.unix_user, settings.unix_group), settings.nss.path
        )


def become_the_server(settings: ServerSettings) -> None:
    """Go on as the server's `unix-user` where this is root, so that what is made belongs to it.

    Anybody else stays who he is. Raises `ConfigurationError`.
    """
    if os.geteuid() == 0:
        drop_privileges(identity(settings.unix_user, settings.unix_group))
