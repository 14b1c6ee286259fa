"""What several actions have: their arguments, and the logs that they are about."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

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
_TIME: Final = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)(T(?P<minute>\d\d:\d\d)(:(?P<second>\d\d)(\.(?P<rest>\d{1,3}))?)?)?Z?"
)


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
    """A time of UTC, as leaves have it: a day is its beginning."""
    import datetime

    found = _TIME.fullmatch(text)
    if found is not None:
        minute, second = found["minute"] or "00:00", found["second"] or "00"
        written = f"{found['day']}T{minute}:{second}.{(found['rest'] or ''):0<3}Z"
        try:
            datetime.datetime.fromisoformat(written.removesuffix("Z"))
        except ValueError:
            pass
        else:
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


def log_of(settings: ServerSettings) -> Path:
    """The directory of the server's log."""
    return settings.signing_log or settings.database_path.with_name("signing-log")


def own_log(options: argparse.Namespace) -> tuple[ServerSettings, Path]:
    """The server's settings and its log, as the server's user from here on."""
    settings = load_configuration(options.config_file).settings
    become_the_server(settings)
    return settings, options.log or log_of(settings)


def open_logs(options: argparse.Namespace) -> list[LogReader]:
    """The logs that `--log` names, or the server's own, as the server's user then."""
    from ...evidence.log_reader import LogReader

    named = options.log if isinstance(options.log, list) else [options.log] if options.log else []
    if named and options.config_file is not None:
        raise SigulError("--log and -c name two logs", "give one of them")
    return [LogReader.open(path) for path in named or [own_log(options)[1]]]


def open_log(options: argparse.Namespace) -> LogReader:
    """The one log."""
    return open_logs(options)[0]
