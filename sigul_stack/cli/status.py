"""`sigul-stack status`: what a running bridge or server has to tell of itself, in a terminal.

A bridge tells the same as on its page (`observe.page`). It is asked at its status socket, which is
there for the daemon's user and root alone. With `--watch` it goes on until it is interrupted, and a
daemon that goes away is asked again: each wait has a limit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigurationError, SigulError
from ..observe.view import BridgeView, decode_view
from ..protocol.status import ServerStatus, decode_status
from ..transport.status_socket import ask
from .daemon_socket import ANSWER_SECONDS, CONFIGURATION, daemon_socket, sockets_there
from .outcome import print_lines, say_text
from .shared_arguments import Subparsers, add_command, argument

#: Seconds between two looks, where `--watch` says nothing else, and what it may say.
_EVERY = 2.0
_LEAST, _MOST = 0.5, 3600.0


def add_parser(subparsers: Subparsers) -> None:
    """Add the `status` command."""
    add_command(
        subparsers,
        "status",
        _status,
        CONFIGURATION,
        argument(
            "--watch",
            metavar="SECONDS",
            nargs="?",
            type=_seconds,
            const=_EVERY,
            help=f"go on, and look again every so many seconds (default: {_EVERY:.0f}), until"
            " interrupted",
        ),
        argument(
            "--json",
            action="store_true",
            help="give the document as it is; with --watch one a line",
        ),
        help="show how a running bridge or server is",
        description="Asks a running bridge or server, at its status socket, how it is: what to see"
        " to, requests, how long they took, who waits, certificates, signing logs. A bridge's page"
        " ([management] listen) shows the same. Run it as the daemon's user or as root.",
    )


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not _LEAST <= number <= _MOST:
        raise argparse.ArgumentTypeError(f"seconds are {_LEAST:g} to {_MOST:g}")
    return number


@dataclass(frozen=True, slots=True)
class Daemon:
    """A bridge or server that is asked, at the socket `path`."""

    component: str
    path: Path

    def document(self) -> bytes:
        """What it tells of itself. Raises `SigulError`."""
        request = "view" if self.component == "bridge" else "status"
        return ask(self.path, request, ANSWER_SECONDS)

    def decoded(self, data: bytes) -> BridgeView | ServerStatus:
        """The same, understood. Raises `SigulError`."""
        if self.component == "bridge":
            return decode_view(data)
        status = decode_status(data)
        if isinstance(status, ServerStatus):
            return status
        raise ConfigurationError(
            f"a bridge answers at '{self.path}'", "name the configuration file of that bridge"
        )

    def others(self) -> int:
        """Its former processes, which end with the requests that they have."""
        return len(sockets_there(self.path)) - 1


def _status(options: argparse.Namespace) -> int:
    daemon = Daemon(*daemon_socket(options.config_file))
    every: float | None = options.watch
    if every is None:
        _json(daemon, indent=2) if options.json else _once(daemon)
        return 0
    with contextlib.suppress(KeyboardInterrupt):  # the way in which it ends
        _watch_json(daemon, every) if options.json else _watch(daemon, every)
    return 0


def _once(daemon: Daemon) -> None:
    # rich costs a start a good part of a second: only who looks pays it.
    from .status_screen import show

    show(daemon.decoded(daemon.document()), daemon.others())


def _json(daemon: Daemon, indent: int | None = None) -> None:
    data = daemon.document()
    daemon.decoded(data)
    # Escaped by JSON: nothing in it is more than ASCII.
    say_text(json.dumps(json.loads(data), indent=indent), flush=True)


def _watch_json(daemon: Daemon, every: float) -> None:
    while True:
        try:
            _json(daemon)
        except SigulError as error:
            print_lines([json.dumps({"error": str(error)})])
        time.sleep(every)


def _watch(daemon: Daemon, every: float) -> None:
    from .status_screen import Screen

    with Screen(every) as screen:
        while True:
            try:
                screen.show(daemon.decoded(daemon.document()), daemon.others())
            except SigulError as error:
                screen.lost(error)
            time.sleep(every)
