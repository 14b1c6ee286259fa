"""`sigul-stack health`: does a component work? For people, monitoring and containers."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..config.identity import rights_of_owner
from ..config.reading import read_small
from ..config.values import strip_one_end
from ..errors import ConfigurationError, SigulError
from ..secret import Secret
from .outcome import end_output, say, say_text
from .secret_input import MAX_SECRET_LENGTH, read_until_nul
from .shared_arguments import Argument, Subparsers, add_arguments, argument, config_file

if TYPE_CHECKING:
    from ..checks import Report
    from ..health.steps import CheckOptions, Measured

#: The exit code where it is not known what was found.
_UNKNOWN = 3

_EPILOG = """\
exit codes:
  0  all is well                      2  failed: it does not work, or not for much longer
  1  warning: it works, see to it     3  unknown: it could not be looked at
With --docker: 0 for well and warning, 1 for failed and unknown.

The first line of the output is what Nagios and its kin read. Looking never disturbs a request.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the `health` command."""
    components = subparsers.add_parser(
        "health",
        help="tell whether a bridge, server or client works",
        description="Tells whether a component works, by a finished and authenticated TLS handshake"
        " at least. Run it where the component runs, with its configuration and as its user.",
    ).add_subparsers(title="components", metavar="COMPONENT", required=True)
    _add_component(
        components,
        "bridge",
        "Looks at the bridge's certificate, makes a handshake with its client port, connects to"
        " its server port, and asks the bridge which servers wait (status-socket). What is behind"
        " the inner session cannot be seen from a bridge: see `health client --deep`.",
    )
    _add_component(
        components,
        "server",
        "Asks the server's supervisor for the workers that have made a handshake with the bridge"
        " and wait there (status-socket), and looks at the server's certificate.",
        argument(
            "--deep",
            action="store_true",
            help="look at database and key stores, too: of the right schema, and in agreement",
        ),
        _limit(
            "--warn-push",
            "DAYS",
            _days,
            2.0,
            "warn where the signing log was last pushed longer ago; 0: never",
        ),
    )
    _add_component(
        components,
        "client",
        "Resolves the bridge's name, makes a handshake with it, and looks at the client's"
        " certificate.",
        argument(
            "--deep",
            action="store_true",
            help="send a harmless request through both layers, too: list-users with an"
            " administrator's password, or with --key that key's public part with its passphrase;"
            " the secret is read from standard input, ended by a NUL byte as for `sigul --batch`",
        ),
        argument("--key", metavar="KEY", help="with --deep: a key that the user may use"),
        argument(
            "--password-file", metavar="FILE", type=Path, help="with --deep: a file with the secret"
        ),
        argument("-u", "--user-name", metavar="USER", help="if not the configured user"),
    )


def _add_component(components: Subparsers, name: str, text: str, *arguments: Argument) -> None:
    parser = components.add_parser(
        name,
        help=f"look at a {name}",
        description=textwrap.fill(text, 79),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(
        parser,
        config_file(f"configuration file, read after /etc/sigul/{name}.conf"),
        argument("--json", action="store_true", help="write one JSON document instead"),
        argument(
            "--metrics-file",
            metavar="FILE",
            type=_metrics_file,
            help="write what was found there, too, for node_exporter's textfile collector",
        ),
        *(
            [
                argument(
                    "--metrics-names",
                    action="store_true",
                    help="with --metrics-file: one value for each key, with its name",
                )
            ]
            if name == "server"
            else []
        ),
        argument(
            "--docker",
            action="store_true",
            help="exit codes for a container's health check"
            + "; no server attached is a warning then: the bridge starts first"
            * (name == "bridge"),
        ),
        *arguments,
        _limit(
            "--warn-handshake", "SECONDS", _seconds, 1.0, "warn of a handshake that takes longer"
        ),
        _limit("--fail-handshake", "SECONDS", _seconds, 5.0, "fail where one takes longer"),
        _limit("--warn-days", "DAYS", int, 30, "warn of a certificate with fewer days left"),
        _limit("--fail-days", "DAYS", int, 7, "fail where one has fewer"),
        _limit("--timeout", "SECONDS", _seconds, 10.0, "be over by then, whatever happens"),
    )
    parser.set_defaults(func=partial(_run, name, parser.error))


def _limit(
    option: str, metavar: str, kind: Callable[[str], float], default: float, help: str
) -> Argument:
    return argument(
        option, metavar=metavar, type=kind, default=default, help=f"{help} ({default:g})"
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600 seconds")
    return value


def _days(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 3650:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3650 days")
    return value


def _metrics_file(text: str) -> Path:
    if not text.endswith(".prom"):
        raise argparse.ArgumentTypeError(
            f"{text!r} does not end in .prom: node_exporter's textfile collector passes it over"
        )
    return Path(text).absolute()


def _run(component: str, refuse: Callable[[str], NoReturn], options: argparse.Namespace) -> int:
    from ..health.examination import check_health
    from ..health.report_text import as_json, exit_code, health_text
    from ..health.steps import CheckOptions, Limits

    limits = Limits(
        warn_handshake_seconds=options.warn_handshake,
        fail_handshake_seconds=options.fail_handshake,
        warn_days=options.warn_days,
        fail_days=options.fail_days,
        warn_push_days=getattr(options, "warn_push", 0.0),
        timeout_seconds=options.timeout,
    )
    if component == "client":
        wanted = _client_options(options, refuse)
    else:
        wanted = CheckOptions(deep="deep" in options and options.deep, alone=options.docker)
    measured: list[Measured] | None = None if options.metrics_file is None else []
    wanted = replace(wanted, measured=measured)
    report = check_health(component, options.config_file, limits, wanted)
    say_text(as_json(report) if options.json else health_text(report, limits), flush=True)
    code = exit_code(report, docker=options.docker)
    if measured is not None and not _written(options, report, measured) and not options.docker:
        code = code or _UNKNOWN
    # Who reads the first line does not know what was found where that is lost.
    code = end_output(code, lost=code if options.docker else _UNKNOWN)
    # Not sys.exit: a look that was left behind may still wait for something.
    os._exit(code)


def _written(options: argparse.Namespace, report: Report, measured: Sequence[Measured]) -> bool:
    """Write the metrics' file; False, and says why, where that fails."""
    from ..health.metrics import samples_of
    from ..observe.text_file import write_text_file

    # A look that was left behind may still add to it.
    found = tuple(measured)
    names = "metrics_names" in options and options.metrics_names
    path: Path = options.metrics_file
    try:
        with rights_of_owner(path.parent):
            write_text_file(path, samples_of(report, found, names=names))
    except SigulError as error:
        say(f"Error: {error}", error=True)
        return False
    return True


def _client_options(options: argparse.Namespace, refuse: Callable[[str], NoReturn]) -> CheckOptions:
    """The options of a client's checks; `refuse` tells of those that do not go together."""
    from ..health.steps import CheckOptions

    if not options.deep:
        if options.key or options.password_file:
            refuse("--key and --password-file are for --deep; give it as well")
        return CheckOptions(user_name=options.user_name)
    what = "passphrase" if options.key else "password"

    def read_secret(_prompt: str) -> Secret:
        if options.password_file is None:
            return read_until_nul(0, f"The {what}")
        return _from_file(options.password_file, what)

    return CheckOptions(options.user_name, read_secret=read_secret, key=options.key)


def _from_file(path: Path, what: str) -> Secret:
    """The secret in a file, without one line end. Raises `ConfigurationError`."""
    try:
        secret = Secret(strip_one_end(read_small(path, MAX_SECRET_LENGTH + 2)))
    except OSError as error:
        raise ConfigurationError(
            f"'{path}' cannot be read: {error.strerror}", f"name a file that holds the {what}"
        ) from error
    if not secret:
        raise ConfigurationError(f"'{path}' is empty", f"name a file that holds the {what}")
    return secret
