"""`sigul-stack doctor`: what is wrong with a client, a bridge or a server, and what to do about it.

The exit code is the report's state, as monitoring wants it: 0 ok, 1 warning, 2 failed, 3 not known.
What is looked at is in `sigul_stack.health`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..protocol.codec import printable
from .secret_input import NSS_PASSWORD, SecretReader, disable_core_dumps

if TYPE_CHECKING:
    from ..health.doctor import Wishes
    from ..health.report import Report

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

COMPONENTS = ("client", "bridge", "server")


def add_parser(subparsers: Subparsers) -> None:
    """Add the `doctor` command."""
    parser = subparsers.add_parser(
        "doctor",
        help="find out why a client, a bridge or a server does not work",
        description="Walks the layers of a component, from its configuration to the rights of a"
        " user, and names the first that fails and its cure. Changes nothing.",
        epilog="Exit code: 0 all is well, 1 warnings, 2 something failed, 3 something could not be"
        " looked at.",
    )
    parser.add_argument(
        "component",
        nargs="?",
        choices=COMPONENTS,
        help="whose configuration it is (without: told by the file's name or sections)",
    )
    parser.add_argument(
        "-c", "--config-file", metavar="FILE", type=Path, help="its configuration file"
    )
    parser.add_argument("-u", "--user-name", metavar="USER", help="client: the user's name")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that peers call the component (can be repeated): its certificate must have it",
    )
    parser.add_argument(
        "--deep",
        action="store_true",
        help="client: ask for the administrator's password and look at the user's rights",
    )
    parser.add_argument(
        "--key",
        metavar="KEY",
        help="client: ask for the passphrase of KEY instead, and look at the rights on it",
    )
    parser.add_argument(
        "--batch",
        action="store_true",
        help="as --deep; secrets come on standard input, each ended by NUL",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=15.0,
        help="limit of each look at the network (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Examine one component and print what was found; the exit code."""
    from ..health.checks_configuration import guess_component
    from ..health.doctor import examine

    disable_core_dumps()
    component, path = options.component, options.config_file
    if component is None:
        component = "client" if path is None else guess_component(path)
    report = examine(component, path or _default(component), _wishes(options))
    print(json.dumps(report.as_json(), indent=2) if options.json else as_text(report))
    return int(report.state)


def as_text(report: Report) -> str:
    """The report for people: a line a check, then the first failure and its cure."""
    width = max(len(check.layer) for check in report.checks)
    lines = [f"{report.component}: {report.state.word}", ""]
    for check in report.checks:
        lines.append(f"{check.state.word:<8} {check.layer:<{width}}  {printable(check.finding)}")
        if check.cure and check.state.word == "warning":
            lines.append(f"{'':<8} {'':<{width}}  cure: {printable(check.cure)}")
    if (first := report.first_failure) is not None:
        lines += [
            "",
            f"First failure: {first.layer}: {printable(first.finding)}",
            f"Cure: {printable(first.cure)}",
        ]
    return "\n".join(lines)


def _wishes(options: argparse.Namespace) -> Wishes:
    from ..health.doctor import Wishes

    reader = SecretReader(batch=options.batch)
    deep = options.batch or options.deep or options.key is not None
    return Wishes(
        user_name=options.user_name,
        names=tuple(options.name),
        ask_nss_password=lambda: reader.read(NSS_PASSWORD),
        read_secret=reader.read if deep else None,
        key=options.key,
        seconds=options.timeout,
    )


def _default(component: str) -> Path | None:
    """The file that the program itself would take besides the system's."""
    if component != "client":
        return None
    from ..config.client import own_file

    return own_file()


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 600:
        raise argparse.ArgumentTypeError("give a number of seconds, more than 0, up to 600")
    return value
