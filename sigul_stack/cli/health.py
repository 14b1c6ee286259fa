"""`sigul-stack health`: whether a component works, for people, monitoring and containers."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import load_bridge, load_client, load_server
from ..config.client import own_file
from ..config.values import strip_one_end
from ..errors import ConfigurationError, SigulError
from ..secret import Secret
from .secret_input import MAX_SECRET_LENGTH, disable_core_dumps, read_until_nul

if TYPE_CHECKING:
    from ..config.server import ServerSettings
    from ..health.layers import Step
    from ..health.limits import Limits
    from ..health.report import Check, Report

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_EPILOG = """\
exit codes:
  0  all is well                      2  failed: it does not work, or not for much longer
  1  warning: it works, see to it     3  unknown: it could not be looked at
With --docker: 0 for well and warning, 1 for failed and unknown.

The first line of the output is what Nagios and its kin read. Looking never disturbs a request.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the `health` command."""
    parser = subparsers.add_parser(
        "health",
        help="tell whether a bridge, server or client works",
        description="Tells whether a component works, by a finished and authenticated TLS handshake"
        " at least. Run it where the component runs, with its configuration and as its user.",
    )
    components = parser.add_subparsers(title="components", metavar="COMPONENT", required=True)
    bridge = _component(
        components,
        "bridge",
        _bridge_steps,
        "Looks at the bridge's certificate, makes a handshake with its client port, connects to"
        " its server port, and asks the bridge which servers wait (status-socket). What is behind"
        " the inner session cannot be seen from a bridge: see `health client --deep`.",
    )
    server = _component(
        components,
        "server",
        _server_steps,
        "Asks the server's supervisor for the workers that have made a handshake with the bridge"
        " and wait there (status-socket), and looks at the server's certificate.",
    )
    client = _component(
        components,
        "client",
        _client_steps,
        "Resolves the bridge's name, makes a handshake with it, and looks at the client's"
        " certificate.",
    )
    server.add_argument(
        "--deep",
        action="store_true",
        help="look at database and key stores, too: of the right schema, and in agreement",
    )
    client.add_argument(
        "--deep",
        action="store_true",
        help="send a harmless request through both layers, too: list-users with an administrator's"
        " password, or with --key that key's public part with its passphrase; the secret is read"
        " from standard input, ended by a NUL byte as for `sigul --batch`",
    )
    client.add_argument("--key", metavar="KEY", help="with --deep: a key that the user may use")
    client.add_argument(
        "--password-file", metavar="FILE", type=Path, help="with --deep: a file with the secret"
    )
    client.add_argument("-u", "--user-name", metavar="USER", help="if not the configured user")
    for each in (bridge, server, client):
        _limits_arguments(each)


def _component(
    components: Subparsers,
    name: str,
    steps: Callable[[argparse.Namespace, Limits], Sequence[Step]],
    text: str,
) -> argparse.ArgumentParser:
    parser = components.add_parser(
        name,
        help=f"look at a {name}",
        description=textwrap.fill(text, 79),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-c",
        "--config-file",
        metavar="FILE",
        type=Path,
        help=f"configuration file, read after /etc/sigul/{name}.conf",
    )
    parser.add_argument("--json", action="store_true", help="write one JSON document instead")
    parser.add_argument(
        "--docker",
        action="store_true",
        help="exit codes for a container's health check"
        + ("; no server attached is a warning then: the bridge starts first" * (name == "bridge")),
    )
    parser.set_defaults(func=partial(_run, name, steps))
    return parser


def _limits_arguments(parser: argparse.ArgumentParser) -> None:
    for option, kind, default, metavar, text in (
        ("--warn-handshake", _seconds, 1.0, "SECONDS", "warn of a handshake that takes longer"),
        ("--fail-handshake", _seconds, 5.0, "SECONDS", "fail where one takes longer"),
        ("--warn-days", int, 30, "DAYS", "warn of a certificate with fewer days left"),
        ("--fail-days", int, 7, "DAYS", "fail where one has fewer"),
        ("--timeout", _seconds, 10.0, "SECONDS", "be over by then, whatever happens"),
    ):
        parser.add_argument(
            option, type=kind, default=default, metavar=metavar, help=f"{text} ({default:g})"
        )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600 seconds")
    return value


def _run(
    component: str,
    steps: Callable[[argparse.Namespace, Limits], Sequence[Step]],
    options: argparse.Namespace,
) -> int:
    from ..health.limits import Limits
    from ..health.output import as_json, as_text, exit_code

    disable_core_dumps()
    limits = Limits(
        warn_handshake_seconds=options.warn_handshake,
        fail_handshake_seconds=options.fail_handshake,
        warn_days=options.warn_days,
        fail_days=options.fail_days,
        timeout_seconds=options.timeout,
    )
    report = _report(component, partial(steps, options, limits), limits)
    print(as_json(report) if options.json else as_text(report, limits), flush=True)
    code = exit_code(report, docker=options.docker)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    # Not sys.exit: a look that was left behind may still wait for something.
    os._exit(code)


def _report(component: str, steps: Callable[[], Sequence[Step]], limits: Limits) -> Report:
    from ..health.layers import Layer, from_text
    from ..health.limits import walk_within
    from ..health.report import Report, State

    try:
        ready = steps()
    except SigulError as error:
        return Report(component, (from_text(Layer.CONFIGURATION, State.FAILED, str(error)),))
    return walk_within(limits.timeout_seconds, component, ready)


def _bridge_steps(options: argparse.Namespace, limits: Limits) -> Sequence[Step]:
    from ..health.bridge import bridge_steps

    return bridge_steps(load_bridge(options.config_file).settings, limits, alone=options.docker)


def _server_steps(options: argparse.Namespace, limits: Limits) -> Sequence[Step]:
    from ..health.server import server_steps

    settings = load_server(options.config_file).settings
    return server_steps(settings, limits, _server_deep(settings) if options.deep else ())


def _client_steps(options: argparse.Namespace, limits: Limits) -> Sequence[Step]:
    from ..health.client import Deep, client_steps

    config = options.config_file
    if config is None:
        config = own_file()
    settings = load_client(config, user_name=options.user_name).settings
    if not options.deep:
        if options.key or options.password_file:
            raise ConfigurationError("--key and --password-file are for --deep; give it as well")
        return client_steps(settings, limits)
    read = partial(_secret, options.password_file, "passphrase" if options.key else "password")
    return client_steps(settings, limits, Deep(read, options.key))


def _secret(path: Path | None, what: str) -> Secret:
    """The secret for `--deep`, from its file or standard input. Raises `SigulError`."""
    if path is None:
        return read_until_nul(0, f"The {what}")
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_SECRET_LENGTH + 3)
    except OSError as error:
        raise ConfigurationError(
            f"'{path}' cannot be read: {error.strerror}; name a file that holds the {what}"
        ) from error
    return Secret(strip_one_end(data))


def _server_deep(settings: ServerSettings) -> tuple[Step, ...]:
    from ..health.layers import Layer, Step

    return (
        Step(Layer.SERVER_DATABASE, partial(_server_database, settings)),
        Step(Layer.KEY_STORE, partial(_key_store, settings), (Layer.SERVER_DATABASE,)),
    )


def _server_database(settings: ServerSettings) -> Iterator[Check]:
    from ..database import SchemaState, schema_state
    from ..health.layers import Layer, failed, ok, warning
    from ..server.services import database_url

    state = schema_state(database_url(settings))
    if state is SchemaState.CURRENT:
        yield ok(Layer.SERVER_DATABASE, "the database can be read and has the current schema")
    elif state in (SchemaState.LEGACY, SchemaState.LEGACY_NO_KEYTYPE):
        yield warning(
            Layer.SERVER_DATABASE,
            f"the database has an old schema ({state.value})",
            "start the server, or: sigul-stack database migrate",
        )
    else:
        yield failed(
            Layer.SERVER_DATABASE,
            f"there is no usable database (it is {state.value})",
            "correct database-path, restore it from a backup, or make it: sigul_server_create_db",
        )


def _key_store(settings: ServerSettings) -> Iterator[Check]:
    from ..database import Database
    from ..health.layers import Layer, ok, warning
    from ..server.services import database_url, make_keystore

    with (
        contextlib.closing(Database(database_url(settings))) as database,
        database.read() as reader,
    ):
        keys = reader.keys()
    findings = make_keystore(settings).check_consistency(keys)
    for finding in findings:
        what, _, cure = finding.text.partition(": ")
        yield warning(Layer.KEY_STORE, what, cure)
    if not findings:
        yield ok(Layer.KEY_STORE, f"the key stores hold the {len(keys)} keys of the database")
