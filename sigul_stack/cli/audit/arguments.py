"""Parts that several actions have: arguments, and the logs that they are about."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...config.identity import other_owner
from ...errors import SigulError
from ..server_tools import become_the_server, load_configuration, run_tool
from ..shared_arguments import (
    SERVER_FILE,
    Argument,
    Subparsers,
    add_command,
    argument,
    config_file,
    verbose,
)

if TYPE_CHECKING:
    from ...config.server import ServerSettings
    from ...evidence.log_reader import LogReader

_DIGEST: Final = re.compile("[0-9a-f]{64}")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,3})?)?)?")


def add_action(
    actions: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], None],
    text: str,
    *arguments: Argument,
) -> None:
    """Add an action; `text` is its help."""
    add_command(
        *(actions, name, partial(run_tool, run)),
        *arguments,
        verbose(),
        help=text,
        description=text[0].upper() + text[1:] + ".",
    )


def whole_number(text: str) -> int:
    """A number of leaves, or an index."""
    if not re.fullmatch("[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def digest(text: str) -> str:
    """A SHA-256 in hexadecimal."""
    if not _DIGEST.fullmatch(text.lower()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a SHA-256 of 64 hexadecimal digits")
    return text.lower()


def moment(text: str) -> str:
    """A time of UTC, or its beginning: a day, or a minute of it."""
    import datetime

    written = text.removesuffix("Z")
    if _TIME.fullmatch(written):
        with contextlib.suppress(ValueError):
            datetime.datetime.fromisoformat(written.partition(".")[0])
            return written
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a time of the form YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS, of UTC"
    )


def index_or_digest(text: str) -> int | str:
    """An index of a leaf, or a SHA-256 that it has."""
    if _DIGEST.fullmatch(text.lower()):
        return text.lower()
    try:
        return whole_number(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither the index of a leaf nor a SHA-256 of 64 hexadecimal digits"
        ) from None


CONFIGURATION: Final = config_file(SERVER_FILE)
ONE_LOG: Final = argument(
    "--log",
    metavar="DIR",
    type=Path,
    help="the log, or a copy of it (default: the log of the server's configuration)",
)
LOGS: Final = argument(
    "--log",
    metavar="DIR",
    type=Path,
    action="append",
    help="a log, or a copy of one; repeat for more (default: the log of the server's"
    " configuration)",
)
OF_FILE: Final = argument(
    "--of", metavar="FILE", type=Path, help="by the SHA-256 of this file, signed or signature"
)
LOG_KEY_FILE: Final = argument(
    "--key",
    metavar="FILE",
    type=Path,
    required=True,
    help="file with the log's public key, a line each where there are several",
)
WITNESS: Final = argument(
    "--witness",
    metavar="FILE",
    type=Path,
    action="append",
    default=[],
    help="file with the public key of a witness that must have cosigned; repeat for more",
)


def log_name(settings: ServerSettings | None) -> str:
    """The server's name in that of a new log."""
    import socket

    named = None if settings is None else settings.signing_log_name
    return named or socket.gethostname()


def own_log(options: argparse.Namespace) -> tuple[ServerSettings | None, Path]:
    """The log that is written to, and the server's settings where `--log` did not name it alone.

    As the server's user from here on. Raises `SigulError` where root would make files there that
    the server's user cannot write.
    """
    if options.log is not None and options.config_file is None:
        refuse_for_root(options.log)
        return None, options.log
    settings = load_configuration(options.config_file).settings
    become_the_server(settings)
    return settings, options.log or settings.signing_log_directory


def refuse_for_root(directory: Path) -> None:
    """Raise `SigulError` where this is root, and others can change the directory.

    What root makes there would be root's, and a name in it whatever they make of it meanwhile.
    """
    if os.geteuid() == 0 and other_owner(directory) is not None:
        raise SigulError(
            f"'{directory}' is another user's, and this is root",
            "name the server's configuration with -c, or run it as that user",
        )


def open_logs(options: argparse.Namespace) -> list[LogReader]:
    """The logs that `--log` names, or the server's own, as the server's user then."""
    from ...evidence.log_reader import LogReader

    named = options.log if isinstance(options.log, list) else [options.log] if options.log else []
    if not named:
        settings = load_configuration(options.config_file).settings
        become_the_server(settings)
        named = [settings.signing_log_directory]
    return [LogReader.open(path) for path in named]


def open_log(options: argparse.Namespace) -> LogReader:
    """The one log."""
    return open_logs(options)[0]
