"""`audit push`, `receive`, `complete` and `new-origin`: copies of logs, and what they are for."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from ...config.identity import rights_of_owner
from ...errors import SigulError
from ..outcome import print_lines, say
from ..progress import progress
from ..shared_arguments import Subparsers, argument
from .arguments import (
    CONFIGURATION,
    ONE_LOG,
    add_action,
    log_name,
    own_log,
    refuse_for_root,
    whole_number,
)


def add_actions(actions: Subparsers) -> None:
    """Add the actions."""
    add_action(
        *(actions, "push", _push, "copy a log to a directory, or as a tar stream"),
        argument(
            "copy", metavar="DIR", type=Path, nargs="?", help="the copy, which is made or extended"
        ),
        argument(
            "--tar",
            action="store_true",
            help="write to standard output what `audit receive` takes on another machine",
        ),
        argument(
            "--from",
            dest="start",
            metavar="SIZE",
            type=whole_number,
            default=0,
            help="with --tar: what a copy of SIZE leaves lacks (`audit receive --size` tells it)",
        ),
        ONE_LOG,
        CONFIGURATION,
    )
    add_action(
        *(actions, "receive", _receive, "take what `audit push --tar` gives into a copy, checked"),
        argument("copy", metavar="DIR", type=Path, help="the copy, which is made or extended"),
        argument(
            "--key",
            metavar="FILE",
            type=Path,
            help="file with the log's public key (default: what came with the first stream)",
        ),
        argument("--size", action="store_true", help="print how many leaves the copy has, and end"),
    )
    add_action(
        *(actions, "complete", _complete, "complete a log that was put back, from a copy"),
        argument("--from", dest="copy", metavar="DIR", type=Path, required=True, help="the copy"),
        ONE_LOG,
        CONFIGURATION,
    )
    add_action(
        *(actions, "new-origin", _new_origin, "begin a new log that names the last checkpoint"),
        argument(
            "--previous",
            metavar="FILE",
            type=Path,
            help="the last checkpoint that is known, of a copy for example (default: that of the"
            " log which is there)",
        ),
        argument("--name", metavar="NAME", help="the server's name in the log's"),
        ONE_LOG,
        CONFIGURATION,
    )


def _push(options: argparse.Namespace) -> None:
    from ...evidence.log_reader import LogReader
    from ...evidence.log_stream import send
    from ...evidence.pushed import note_push
    from ...evidence.tile_copy import copy_log

    if (options.copy is None) != options.tar:
        raise SigulError("a log is pushed to one place", "name DIR, or give --tar")
    if options.tar and sys.stdout.isatty():
        raise SigulError("a log is not for a terminal", "direct it to `audit receive`")
    _settings, directory = own_log(options)
    reader = LogReader.open(directory)
    if options.tar:
        key = reader.public_key
        if key is None:
            raise SigulError(f"no public key lies in '{directory}'", "put it back from a backup")
        try:
            with os.fdopen(1, "wb", closefd=False) as output:
                send(reader, key, output, options.start)
        except OSError as error:
            raise SigulError(
                f"the stream broke off: {error.strerror or error}", "see why its reader has ended"
            ) from error
        to = "a stream"
    else:
        refuse_for_root(options.copy)
        copy_log(reader, options.copy)
        to = str(options.copy)
    try:
        note_push(directory, reader.size, to, datetime.now(UTC))
    except OSError as error:
        raise SigulError(
            f"the log was pushed, but that cannot be noted in '{directory}': {error.strerror}",
            "run it as the server's user",
        ) from error
    say(f"pushed {reader.size} leaves of {reader.head.origin} to {to}", error=options.tar)


def _receive(options: argparse.Namespace) -> None:
    from ...evidence.given_files import read_keys
    from ...evidence.log_stream import copy_size, receive
    from ...formats.signed_note import LOG_KEY

    if options.size:
        print_lines([str(copy_size(options.copy))])
        return
    key = None
    if options.key is not None:
        keys = read_keys(options.key, LOG_KEY)
        if len(keys) != 1:
            raise SigulError(f"'{options.key}' has several keys", "name a file with the one")
        [key] = keys
    with rights_of_owner(options.copy):
        found = receive(sys.stdin.buffer, options.copy, key)
    if found.on_trust:
        say(
            f"warning: the log's key was taken on trust: compare {found.key.encode()} with what its"
            " operator says, or give --key",
            error=True,
        )
    print_lines(
        [f"received {found.key.name}: {found.size} leaves, {found.size - found.old_size} new"]
    )


def _complete(options: argparse.Namespace) -> None:
    from ...evidence.log_reader import LogReader
    from ...evidence.restoring import complete

    _settings, directory = own_log(options)
    with progress("Completing", 2 * LogReader.open(options.copy).size, unit="leaves") as advance:
        done = complete(directory, options.copy, on_progress=advance)
    print_lines(
        [
            f"completed: the log had {done.old_size} leaves, and has {done.size}; the last one says"
            " that it was restored"
        ]
    )


def _new_origin(options: argparse.Namespace) -> None:
    from ...evidence.restoring import new_origin
    from ...formats.signed_note import Checkpoint
    from .proving import read_checkpoint

    previous = None if options.previous is None else read_checkpoint(options.previous)
    settings, directory = own_log(options)
    made = new_origin(
        directory,
        options.name or log_name(settings),
        now=datetime.now(UTC),
        previous=previous,
    )
    if made.aside is not None:
        print_lines([f"the old log: {made.aside}"])
    print_lines(
        [
            f"the new log: {Checkpoint.of(made.checkpoint).origin}",
            "bridge and clients complain of it until each has accepted it with"
            " `sigul-stack witness accept`",
        ]
    )
