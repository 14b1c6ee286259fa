"""`sigul-stack metrics`: the numbers of a running bridge or server, as Prometheus' text.

It asks the daemon at its status socket, which is there for the daemon's user and root alone: for a
person, or a collector that runs a program. Of a bridge's processes the newest is asked.
"""

from __future__ import annotations

import argparse

from ..errors import RemoteProtocolError
from ..transport.status_socket import ask
from .daemon_socket import ANSWER_SECONDS, socket_of
from .outcome import say_text
from .shared_arguments import Subparsers, add_command, argument, config_file


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
    answer = ask(socket_of(options.component, options.config_file), "metrics", ANSWER_SECONDS)
    if not answer:
        raise RemoteProtocolError(
            "the daemon has no metrics to give",
            "where it is older than this program, start it again; else its log says why",
        )
    say_text(answer.decode("utf-8", "replace").removesuffix("\n"))
