"""`audit verify`, `prove`, `check-proof`, `cosign` and what has to do with keys."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import SigulError, quoted
from ..commands.planning import standard_output_or_path
from ..outcome import print_lines
from ..progress import progress
from ..shared_arguments import Subparsers, argument
from .arguments import (
    CONFIGURATION,
    LOG_KEY_FILE,
    LOGS,
    OF_FILE,
    ONE_LOG,
    WITNESS,
    add_action,
    index_or_digest,
    open_log,
    open_logs,
    refuse_for_root,
)
from .looking import find_one, wanted_leaf

if TYPE_CHECKING:
    from ...evidence.log_reader import LogReader
    from ...formats.signed_note import Checkpoint, Note, PublicKey


def add_actions(actions: Subparsers) -> None:
    """Add the actions."""
    add_action(
        *(actions, "verify", _verify, "verify whole logs or copies with nothing but a public key"),
        LOG_KEY_FILE,
        LOGS,
        CONFIGURATION,
        argument(
            "--checkpoint",
            metavar="FILE",
            type=Path,
            action="append",
            default=[],
            help="also that the log extends this older checkpoint; repeat for more",
        ),
        WITNESS,
    )
    add_action(
        *(actions, "prove", _prove, "write a proof that a leaf is in the log"),
        argument(
            "leaf", metavar="INDEX|DIGEST", type=index_or_digest, nargs="?", help="which leaf"
        ),
        OF_FILE,
        argument(
            "-o",
            "--output",
            metavar="FILE",
            type=standard_output_or_path,
            help="write to FILE (default, and with -: standard output)",
        ),
        argument(
            "--checkpoint",
            metavar="FILE",
            type=Path,
            help="with this checkpoint of the log, which may be cosigned, instead of the last one",
        ),
        ONE_LOG,
        CONFIGURATION,
    )
    add_action(
        *(actions, "check-proof", _check_proof, "check a proof, and which files it is about"),
        argument("proof", metavar="PROOF", type=Path, help="the proof"),
        LOG_KEY_FILE,
        WITNESS,
        argument(
            "--of",
            metavar="FILE",
            type=Path,
            action="append",
            default=[],
            help="a file that its leaf must be about: what was signed, the signature, an output, an"
            " RPM; repeat for more",
        ),
    )
    add_action(
        *(actions, "cosign", _cosign, "sign, as a witness, that a copy extends what it was"),
        argument("copy", metavar="DIR", type=Path, help="the copy"),
        argument(
            "--witness-key",
            metavar="FILE",
            type=Path,
            required=True,
            help="the witness's private key; beside it is remembered what was cosigned",
        ),
        argument(
            "--key",
            metavar="FILE",
            type=Path,
            help="file with the log's public key, which is needed the first time",
        ),
    )
    add_action(
        *(actions, "key", _key, "print the public key that lies beside a log"),
        ONE_LOG,
        CONFIGURATION,
    )


def _verify(options: argparse.Namespace) -> None:
    from ...evidence.given_files import read_keys
    from ...evidence.log_reader import verify_log
    from ...evidence.matching import key_of
    from ...formats.signed_note import LOG_KEY, Checkpoint

    # What auditors have is read before this is the server's user.
    keys = read_keys(options.key, LOG_KEY)
    witnesses = read_witnesses(options.witness)
    older = [(path, read_checkpoint(path)) for path in options.checkpoint]
    readers = open_logs(options)
    origins = {reader.head.origin for reader in readers}
    for path, note in older:
        if Checkpoint.of(note).origin not in origins:
            raise SigulError(
                f"'{path}' is of another log: {quoted(Checkpoint.of(note).origin, 120)}",
                "name that log with --log as well",
            )
    for reader in readers:
        key = key_of(keys, reader.head.origin)
        with progress("Verifying", reader.size, unit="leaves") as advance:
            done = 0

            def tell(count: int) -> None:
                nonlocal done
                advance(count - done)
                done = count

            head = verify_log(reader, key, progress=tell)
        print_lines([f"verified: {head.origin}, {head.size} leaves"])
        for path, note in older:
            if Checkpoint.of(note).origin == head.origin:
                _check_extends(reader, note, key, str(path))
        for witness in witnesses:
            _check_cosigned(reader, key, witness)


def _check_extends(reader: LogReader, note: Note, key: PublicKey, what: str) -> Checkpoint:
    """Check that the log, which is verified, extends the checkpoint `note`. Raises `NotProven`."""
    from ...formats.merkle_tree import NotProven
    from ...formats.signed_note import open_checkpoint

    old = open_checkpoint(note, key)
    if old.size > reader.size:
        raise NotProven(
            f"the log has shrunk: '{what}' is of {old.size} leaves, and the log has {reader.size}",
            "keep both: docs/audit.md tells what this means",
        )
    if reader.root(old.size) != old.root:
        raise NotProven(
            f"the log was forked: its first {old.size} leaves are not those of '{what}'",
            "keep both: docs/audit.md tells what this means",
        )
    print_lines([f"extends: {what}, {old.size} leaves"])
    return old


def _check_cosigned(reader: LogReader, key: PublicKey, witness: PublicKey) -> None:
    """Check that the log extends a checkpoint that `witness` has cosigned. Raises `NotProven`."""
    from ...evidence.cosigning import COSIGNED_FILE
    from ...formats.signed_note import cosignature_time

    path = reader.directory / COSIGNED_FILE
    note = reader.checkpoint
    if note.of(witness) is None and path.exists():
        note = read_checkpoint(path)
    when = cosignature_time(note, witness)
    old = _check_extends(reader, note, key, f"what {witness.name} has cosigned")
    print_lines([f"cosigned: {witness.name} at {_utc(when)}, {old.size} leaves"])


def _utc(when: int) -> str:
    import datetime

    try:
        return f"{datetime.datetime.fromtimestamp(when, datetime.UTC):%FT%TZ}"
    except (ValueError, OverflowError, OSError):
        return f"{when} s after 1970"


def read_witnesses(paths: list[Path]) -> list[PublicKey]:
    """The public keys of witnesses in files. Raises `SigulError`."""
    from ...evidence.given_files import read_keys
    from ...formats.signed_note import WITNESS_KEY

    return [key for path in paths for key in read_keys(path, WITNESS_KEY)]


def read_checkpoint(path: Path) -> Note:
    """The note in a file, unchecked. Raises `SigulError`."""
    from ...evidence.given_files import read_text
    from ...formats.signed_note import MAX_NOTE_BYTES, Note

    return Note.parse(read_text(path, MAX_NOTE_BYTES, "checkpoint"))


def _prove(options: argparse.Namespace) -> None:
    from ...client.output_file import open_output
    from ...formats.merkle_tree import NotProven
    from ...formats.signed_note import Checkpoint, LogProof

    wanted = wanted_leaf(options)
    note = None if options.checkpoint is None else read_checkpoint(options.checkpoint)
    reader = open_log(options)
    index, _leaf = find_one(reader, wanted)
    if note is None:
        proof = reader.proof(index)
    else:
        head = Checkpoint.of(note)
        if head.origin != reader.head.origin or not index < head.size <= reader.size:
            raise NotProven(
                f"the checkpoint of {head.size} leaves is not one of this log's that has leaf"
                f" {index}",
                "name a later one, or none",
            )
        hashes = tuple(reader.inclusion(index, head.size))
        proof = LogProof(reader.entry(index), index, hashes, note)
        if reader.root(head.size) != head.root:
            raise NotProven("the log does not extend that checkpoint: it was forked")
    with open_output(options.output, binary=False) as file:
        file.write(proof.encode().encode())


def _check_proof(options: argparse.Namespace) -> None:
    from ...evidence.given_files import read_keys, read_proof
    from ...evidence.matching import check_holds, digests_of, key_of, open_proof
    from ...formats.signed_note import LOG_KEY, Checkpoint

    proof = read_proof(options.proof)
    key = key_of(read_keys(options.key, LOG_KEY), Checkpoint.of(proof.checkpoint).origin)
    proven = open_proof(proof, key, read_witnesses(options.witness))
    leaf = proven.leaf
    lines = [
        f"in the log: leaf {proven.index} of {proven.checkpoint.origin}, proven at"
        f" {proven.checkpoint.size} leaves",
        *(f"cosigned: {name} at {_utc(when)}" for name, when in proven.cosigned.items()),
        f"it says: {leaf.op} {leaf.result} at {leaf.time}"
        + (f", user {quoted(leaf.user, 80)}" if leaf.user else "")
        + (f", key {quoted(leaf.key.name, 80)}" if leaf.key is not None else ""),
    ]
    for path in options.of:
        lines.append(f"{path}: {check_holds(leaf, digests_of(path), str(path))}")
    print_lines(lines)


def _cosign(options: argparse.Namespace) -> None:
    from ...evidence.cosigning import COSIGNED_FILE, cosign
    from ...evidence.given_files import read_keys
    from ...evidence.log_reader import LogReader
    from ...evidence.matching import key_of
    from ...formats.signed_note import LOG_KEY

    key = None
    if options.key is not None:
        origin = LogReader.open(options.copy).head.origin
        key = key_of(read_keys(options.key, LOG_KEY), origin)
    # Key and copy may be of two users: root has the rights of neither here.
    refuse_for_root(options.copy)
    refuse_for_root(options.witness_key.absolute().parent)
    found = cosign(options.copy, options.witness_key, when=int(time.time()), key=key)
    before = "for the first time" if found.old_size is None else f"{found.old_size} before"
    print_lines(
        [
            f"cosigned: {found.checkpoint.origin}, {found.checkpoint.size} leaves ({before})",
            str(options.copy / COSIGNED_FILE),
        ]
    )


def _key(options: argparse.Namespace) -> None:
    reader = open_log(options)
    key = reader.public_key
    if key is None:
        raise SigulError(f"no public key lies in '{reader.directory}'", "ask the server's operator")
    print_lines([key.encode()])
