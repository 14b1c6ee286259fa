"""`sigul-stack canary`: can the site sign, now, from end to end? For a timer, and monitoring."""

from __future__ import annotations

import argparse
import dataclasses
import os
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import SigulError
from ..secret import Secret
from .outcome import end_output, say_text
from .secret_input import read_secret_file, read_until_nul
from .shared_arguments import Subparsers, add_arguments, argument, config_file

if TYPE_CHECKING:
    from ..checks import Report
    from ..health.canary_result import CanaryResult

#: The exit code where it is not known what was found.
_UNKNOWN: Final = 3
_MAX_SECONDS: Final = 3600.0

_TEXT: Final = (
    "Signs something random with a key of the canary's own through the whole path, and verifies the"
    " signature, and its leaf in the server's signing log, with the public keys that are given."
    " The key's passphrase is read from standard input, ended by a NUL byte, or from a file."
)
_EPILOG: Final = """\
exit codes:
  0  signed, verified, and in the log      2  failed: the first line says where
  1  so it is, and the result was not kept 3  unknown: what was found could not be told

The first line of the output is what Nagios and its kin read.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the `canary` command."""
    parser = subparsers.add_parser(
        "canary",
        help="sign something, and verify the signature and its leaf in the signing log",
        description=textwrap.fill(_TEXT, 79),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(
        parser,
        config_file("the client's configuration file, read after /etc/sigul/client.conf"),
        argument("--key", metavar="KEY", required=True, help="the key, which nobody should trust"),
        argument(
            "--public-key",
            metavar="FILE",
            type=Path,
            required=True,
            help="file with its armoured public part, from another source than this site's server",
        ),
        argument("--passphrase-file", metavar="FILE", type=Path, help="file with its passphrase"),
        argument(
            "--log-key",
            metavar="FILE",
            type=Path,
            help="file with the signing log's public key (default: signing-log-keys of the"
            " configuration file); the first log that is shown is never taken",
        ),
        argument("--no-log", action="store_true", help="the server has no signing log"),
        argument("-u", "--user-name", metavar="USER", help="if not the configured user"),
        argument(
            "--timeout",
            metavar="SECONDS",
            type=_seconds,
            default=60.0,
            help="be over by then, whatever happens (60)",
        ),
        argument(
            "--state-file",
            metavar="FILE",
            type=Path,
            help="keep the result there, for `sigul-stack health client --canary FILE`",
        ),
        argument(
            "--metrics-file",
            metavar="FILE",
            type=Path,
            help="with --state-file: write the metrics there, for node_exporter (FILE.prom)",
        ),
        argument("--json", action="store_true", help="write one JSON document instead"),
    )
    parser.set_defaults(func=partial(_run, parser))


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value <= _MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {_MAX_SECONDS:g} seconds")
    return value


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from ..health.canary import CanaryOptions, try_canary
    from ..health.report_text import as_json, exit_code, health_text
    from ..health.steps import Limits

    if options.metrics_file is not None and options.state_file is None:
        parser.error("--metrics-file needs --state-file, which keeps when it last succeeded")
    if options.no_log and options.log_key is not None:
        parser.error("--log-key and --no-log exclude each other")

    def read_secret() -> Secret:
        what = f"The passphrase of key '{options.key}'"
        if options.passphrase_file is None:
            return read_until_nul(0, what)
        return read_secret_file(options.passphrase_file, what)

    report, result = try_canary(
        options.config_file,
        CanaryOptions(
            options.key,
            options.public_key,
            read_secret,
            log_key=options.log_key,
            with_log=not options.no_log,
            user_name=options.user_name,
            seconds=options.timeout,
        ),
    )
    report = _kept(options, report, result)
    say_text(as_json(report) if options.json else health_text(report, Limits()), flush=True)
    code = end_output(exit_code(report, docker=False), lost=_UNKNOWN)
    # Not sys.exit: a try that was left behind may still wait for something.
    os._exit(code)


def _kept(options: argparse.Namespace, report: Report, result: CanaryResult) -> Report:
    """The report, with a warning where the result could not be kept: then its age tells."""
    from ..checks import warning
    from ..health.canary_result import keep
    from ..health.steps import Layer

    if options.state_file is None:
        return report
    try:
        keep(result, options.state_file, options.metrics_file)
    except SigulError as error:
        told = warning(Layer.RESULT, error.problem, error.cure)
        return dataclasses.replace(report, checks=(*report.checks, told))
    return report
