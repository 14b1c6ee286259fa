"""Options, configuration and owner for the programs that prepare a server's data."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.identity import drop_privileges, drop_privileges_unless_roots, identity
from .logs import set_up_client
from .outcome import occupy_standard_descriptors
from .secret_input import disable_core_dumps
from .shared_arguments import SERVER_FILE, add_config_file, add_verbose, add_version

if TYPE_CHECKING:
    from ..config.fields import Loaded
    from ..config.server import ServerSettings

log = logging.getLogger(__name__)


def tool_parser(program: str, what: str) -> argparse.ArgumentParser:
    """The parser of such a program, with the options that all of them have."""
    parser = argparse.ArgumentParser(prog=program, description=what)
    add_config_file(parser, SERVER_FILE)
    add_verbose(parser)
    add_version(parser)
    return parser


def begin(verbosity: int) -> None:
    """Set up the process: no core files, log lines on standard error."""
    occupy_standard_descriptors()
    disable_core_dumps()
    set_up_client(verbosity, sys.stderr)


def load_configuration(path: Path | None) -> Loaded[ServerSettings]:
    """The server's configuration; what is odd about it is logged. Raises `ConfigurationError`."""
    from ..config import load_server

    loaded = load_server(path)
    for warning in loaded.warnings:
        log.warning("%s", warning)
    return loaded


def become_the_server_for_nss(settings: ServerSettings) -> None:
    """Do as `become_the_server` does, before NSS is opened, where not only root can change that.

    Raises `ConfigurationError`.
    """
    if os.geteuid() == 0:
        who = identity(settings.unix_user, settings.unix_group)
        drop_privileges_unless_roots(who, settings.nss.path)


def become_the_server(settings: ServerSettings) -> None:
    """Go on as the server's `unix-user` where this is root, so that what is made belongs to it.

    Anybody else stays who he is. Raises `ConfigurationError`.
    """
    if os.geteuid() == 0:
        drop_privileges(identity(settings.unix_user, settings.unix_group))
