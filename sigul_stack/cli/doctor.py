"""`sigul-stack doctor`: what is wrong with a client, a bridge or a server, and what to do about it.

The exit code is the report's state, as monitoring wants it: 0 ok, 1 warning, 2 failed, 3 not known.
What is looked at is in `sigul_stack.health`.
"""

from __future__ import annotations

import argparse

from .outcome import say_text
from .secret_input import NSS_PASSWORD, SecretReader
from .shared_arguments import Subparsers, add_command, argument, config_file

COMPONENTS = ("client", "bridge", "server")


def add_parser(subparsers: Subparsers) -> None:
    """Add the `doctor` command."""
    add_command(
        subparsers,
        "doctor",
        run,
        argument(
            "component",
            nargs="?",
            choices=COMPONENTS,
            help="whose configuration it is (without: told by the file's name or sections)",
        ),
        config_file("its configuration file"),
        argument("-u", "--user-name", metavar="USER", help="client: the user's name"),
        argument(
            "--name",
            action="append",
            default=[],
            metavar="NAME",
            help="a name that peers call the component (can be repeated): its certificate must have"
            " it",
        ),
        argument(
            "--deep",
            action="store_true",
            help="client: ask for the administrator's password and look at the user's rights",
        ),
        argument(
            "--key",
            metavar="KEY",
            help="client: ask for the passphrase of KEY instead, and look at the rights on it",
        ),
        argument(
            "--batch",
            action="store_true",
            help="as --deep; secrets come on standard input, each ended by NUL",
        ),
        argument(
            "--timeout",
            metavar="SECONDS",
            type=_seconds,
            default=15.0,
            help="limit of each look at the network (default: %(default)g)",
        ),
        argument("--json", action="store_true", help="print the report as JSON"),
        help="find out why a client, a bridge or a server does not work",
        description="Walks the layers of a component, from its configuration to the rights of a"
        " user, and names the first that fails and its cure. Changes nothing.",
        epilog="Exit code: 0 all is well, 1 warnings, 2 something failed, 3 something could not be"
        " looked at.",
    )


def run(options: argparse.Namespace) -> int:
    """Examine one component and print what was found; the exit code."""
    from ..health.configuration_checks import guess_component
    from ..health.examination import examine
    from ..health.report_text import as_json, doctor_text
    from ..health.steps import CheckOptions

    component, path = options.component, options.config_file
    if component is None:
        component = "client" if path is None else guess_component(path)
    reader = SecretReader(batch=options.batch)
    deep = options.batch or options.deep or options.key is not None
    wanted = CheckOptions(
        user_name=options.user_name,
        names=tuple(options.name),
        ask_nss_password=lambda: reader.read(NSS_PASSWORD),
        read_secret=reader.read if deep else None,
        key=options.key,
    )
    report = examine(component, path, wanted, options.timeout)
    say_text(as_json(report) if options.json else doctor_text(report))
    return int(report.state)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 600:
        raise argparse.ArgumentTypeError("give a number of seconds, more than 0, up to 600")
    return value
