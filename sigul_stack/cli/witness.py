"""`sigul-stack witness`: what bridge and clients know of servers' signing logs, and complain of.

What is shown and accepted is in the file of a bridge's or client's witness; run it as its user.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from ..config import load_bridge, load_client
from ..config.identity import rights_of_owner
from ..errors import ConfigurationError, SigulError, as_word, quoted
from ..evidence.given_files import make_witness_key
from ..evidence.witness import Witness
from ..evidence.witness_state import Complaint, KnownLog
from ..formats.signed_note import Note
from .outcome import print_lines
from .shared_arguments import Argument, Subparsers, add_command, argument, config_file

_STATE: Argument = argument(
    "--state",
    metavar="FILE",
    type=Path,
    help="the witness's file, as signing-log-state names it (default: that of the configuration)",
)
_CONFIGURATION: Argument = config_file(
    "configuration file of the bridge or client whose witness it is (default: this user's client)"
)
_ORIGIN: Argument = argument("origin", metavar="ORIGIN", help="the log's name, as `show` has it")


def add_parser(subparsers: Subparsers) -> None:
    """Add the `witness` command."""
    commands = subparsers.add_parser(
        "witness",
        help="show what is known of servers' signing logs, and accept what is complained of",
        description="Bridge and clients remember the signing log of each server, and complain where"
        " it is not what it was: nothing is signed any more until a person has accepted that. Run"
        " it as the user of the bridge or client.",
    ).add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_command(
        commands, "show", _show, _STATE, _CONFIGURATION,
        help="show the logs that are known, and the complaints",
        description="Shows the logs that are known and their last checkpoints, and each complaint"
        " with both checkpoints, which the site's security people will want. Exit code 1 where"
        " there is a complaint.",
    )  # fmt: skip
    add_command(
        commands, "accept", _accept, _ORIGIN, _STATE, _CONFIGURATION,
        help="accept a log that is complained of",
        description="Ends the complaint about a log: where another log or an older one was shown,"
        " it is the known one from now on. Only for who knows why it is another: else it hides that"
        " somebody has tampered with what was signed.",
    )  # fmt: skip
    add_command(
        commands, "forget", _forget, _ORIGIN, _STATE, _CONFIGURATION,
        help="forget the log of a server that is gone",
        description="Forgets a log that is known: the next one that a server of its name shows is"
        " taken.",
    )  # fmt: skip
    add_command(
        commands, "key", _key,
        argument("file", metavar="FILE", type=Path, help="file to make; FILE.pub is made as well"),
        argument("--name", metavar="NAME", required=True, help="the witness's name"),
        help="make a key with which a witness cosigns checkpoints",
        description="Makes a key for signing-log-witness-key in bridge.conf, or for"
        " `sigul-stack audit cosign`. Its public half, in FILE.pub, is for whoever checks"
        " cosignatures.",
    )  # fmt: skip


def _witness(options: argparse.Namespace) -> Witness:
    """The witness whose file the options name. Raises `SigulError`."""
    path: Path | None = options.state
    if path is None:
        path = _configured(options.config_file)
    if not path.parent.is_dir():
        raise SigulError(
            f"'{path.parent}' is not there, so nothing is known", "name the file with --state"
        )
    if path.exists() and path.parent.stat().st_uid != os.geteuid():
        raise SigulError(
            f"'{path.parent}' belongs to user {path.parent.stat().st_uid}, and this is user"
            f" {os.geteuid()}",
            "run it as that user",
        )
    return Witness(path)


def _configured(file: Path | None) -> Path:
    # Imported here: only this command, doctor and requests guess.
    from ..health.configuration_checks import guess_component

    if file is None or guess_component(file) == "client":
        return load_client(file).settings.log_state
    if guess_component(file) != "bridge":
        raise ConfigurationError(f"'{file}' is not the configuration of a bridge or client")
    path = load_bridge(file).settings.signing_log_state
    if path is None:
        raise ConfigurationError(
            "the bridge keeps what it knows of signing logs in its memory alone",
            "set signing-log-state in [bridge]; until then SIGHUP makes it forget",
        )
    return path


def _show(options: argparse.Namespace) -> int:
    witness = _witness(options)
    complaints = witness.complaints()
    print_lines(
        line
        for lines in (*map(_known, witness.logs()), *map(_complained, complaints))
        for line in lines
    )
    return 1 if complaints else 0


def _known(item: KnownLog) -> Iterator[str]:
    yield f"log {as_word(item.key.name)} of {quoted(item.server)}: {item.floor.size} leaves"
    yield f"  key: {item.key.encode()}"
    yield f"  known since {_time(item.first_seen)}, last seen {_time(item.last_seen)}"
    yield from _note("last checkpoint", item.cosigned or item.note)


def _complained(item: Complaint) -> Iterator[str]:
    yield f"COMPLAINT ({item.kind}) of {_time(item.when)} about {quoted(item.server)}"
    yield f"  {item.problem}"
    yield from _note("known before", item.known)
    yield from _note("shown", item.shown)
    yield f"  whoever knows the reason ends this with: witness accept {as_word(item.origin)}"


def _note(what: str, note: Note | None) -> Iterator[str]:
    if note is None:
        yield f"  {what}: nothing"
        return
    yield f"  {what}:"
    yield from (f"    {line}" for line in note.encode().rstrip("\n").split("\n"))


def _time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%F %T} UTC"


def _accept(options: argparse.Namespace) -> None:
    for item in _witness(options).accept(options.origin):
        print_lines([f"accepted for {quoted(item.server)}: {as_word(item.origin)} ({item.kind})"])


def _forget(options: argparse.Namespace) -> None:
    _witness(options).forget(options.origin)


def _key(options: argparse.Namespace) -> None:
    with rights_of_owner(options.file.absolute().parent):
        key = make_witness_key(options.file, options.name)
    print_lines([key.encode()])
