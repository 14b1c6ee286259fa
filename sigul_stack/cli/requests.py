"""`sigul-stack requests`: what is under way at a bridge or server, and its end before its time.

It asks the daemon at its status socket, which is there for the daemon's user and root alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import (
    ConfigurationError,
    DeadlineExceeded,
    TransportError,
    as_word,
    quoted,
)
from ..protocol.status import RequestUnderWay, decode_ended, decode_status
from ..transport.status_socket import MAX_REQUEST_BYTES, ask
from .daemon_socket import ANSWER_SECONDS, CONFIGURATION, daemon_socket, sockets_there
from .outcome import print_lines
from .shared_arguments import Subparsers, add_command, argument


def add_parser(subparsers: Subparsers) -> None:
    """Add the `requests` command."""
    commands = subparsers.add_parser(
        "requests",
        help="list the requests under way at a bridge or server, or end somebody's",
        description="Asks a running bridge or server, at its status socket, what is under way"
        " there. Run it as the daemon's user or as root.",
    ).add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_command(
        commands,
        "list",
        _list,
        CONFIGURATION,
        help="list the requests under way",
        description="Lists the requests under way: for how long, the operation, the user, the name"
        " in the client's certificate, and the request's ID once it has one. At most 100 for each"
        " process.",
    )
    add_command(
        commands,
        "end",
        _end,
        argument("name", metavar="NAME", help="a certificate's name; at a server also a user"),
        CONFIGURATION,
        help="end the requests under way of a certificate's name",
        description="Ends all requests under way of a certificate's name, wherever they are: the"
        " client is told so where no reply has begun, else it is cut off. Says how many they were."
        " It keeps nobody from coming again: for that, distrust the certificate or revoke the"
        " access.",
    )


def _list(options: argparse.Namespace) -> None:
    found: list[RequestUnderWay] = []
    for data in _ask(options.config_file, "status"):
        found += decode_status(data).requests
    print_lines(
        f"{item.seconds:.0f} s: {_what(item)}"
        for item in sorted(found, key=lambda item: -item.seconds)
    )


def _what(item: RequestUnderWay) -> str:
    what = f"{as_word(item.op)} of {quoted(item.user)}" if item.op else "no request yet,"
    request = f", request {as_word(item.request)}" if item.request else ""
    return f"{what} with the certificate of {quoted(item.common_name)}{request}"


def _end(options: argparse.Namespace) -> None:
    name: str = options.name
    if "\n" in name or len(f"end {name}".encode()) > MAX_REQUEST_BYTES:
        raise ConfigurationError("that is no name of a certificate or user")
    count = sum(decode_ended(data) for data in _ask(options.config_file, f"end {name}"))
    print_lines([f"{count} requests of {quoted(name)} were ended"])


def _ask(file: Path, request: str) -> list[bytes]:
    """The answers of all processes of the daemon. Raises `SigulError`."""
    _component, path = daemon_socket(file)
    answers: list[bytes] = []
    gone: TransportError | None = None
    for item in sockets_there(path):
        try:
            answers.append(ask(item, request, ANSWER_SECONDS))
        except DeadlineExceeded:
            raise  # it hangs: what is under way there goes on
        except TransportError as error:  # a process may just have ended
            gone = error
    if not answers and gone is not None:
        raise gone
    return answers
