"""`sigul-stack metrics`: the numbers of a running bridge or server, as Prometheus' text.

It asks the daemon at its status socket, which is there for the daemon's user and root alone: for a
person, or a collector that runs a program. Of a bridge's processes the newest is asked.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..config import load_bridge, load_server
from ..errors import ConfigurationError, RemoteProtocolError
from ..transport.status_socket import ask
from .outcome import say_text
from .shared_arguments import Subparsers, add_command, argument, config_file

#: A daemon answers at once or not at all, in seconds.
_SECONDS = 5.0


def add_parser(subparsers: Subparsers) -> None:
    """Add the `metrics` command."""
    add_command(
        subparsers,
        "metrics",
        _run,
        argument("component", choices=("bridge", "server"), help="whose metrics"),
        config_file("its configuration file", required=True),
        help="print the metrics of a running bridge or server",
        description="Asks a running bridge or server, at its status socket, for its metrics, and"
        " prints them in Prometheus' text format. Run it as the daemon's user or as root.",
    )


def _run(options: argparse.Namespace) -> None:
    load = load_bridge if options.component == "bridge" else load_server
    path: Path | None = load(options.config_file).settings.status_socket
    if path is None:
        raise ConfigurationError(
            "the daemon has no status socket",
            "set status-socket in [daemon], for example /run/sigul/status.sock, and start it again",
        )
    answer = ask(path, "metrics", _SECONDS)
    if not answer:
        raise RemoteProtocolError(
            "the daemon has no metrics to give",
            "where it is older than this program, start it again; else its log says why",
        )
    say_text(answer.decode("utf-8", "replace").removesuffix("\n"))
