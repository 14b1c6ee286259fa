"""Proofs from the server's signing log: checked beside a signature, and written beside one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..shared_arguments import argument
from .planning import Arguments

#: Options of `verify`.
CHECK: Final = (
    argument(
        "--log",
        metavar="PROOF",
        type=Path,
        help="also check this proof that the signature is in the server's signing log",
    ),
    argument(
        "--log-key",
        metavar="FILE",
        type=Path,
        help="with --log: file with the log's public key",
    ),
    argument(
        "--log-witness",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="with --log: file with the public key of a witness that must have cosigned; repeat"
        " for more",
    ),
)

#: Checks the proof with a file, its detached signature if any, and its key's fingerprint; a line
#: that says what it has shown. Raises `SigulError`.
Check = Callable[[Path, Path | None, str], str]


def misuse(arguments: Arguments) -> str | None:
    """Why the options of `CHECK` do not fit together."""
    if (arguments.log is None) != (arguments.log_key is None):
        return "--log and --log-key need each other"
    if arguments.log is None and arguments.log_witness:
        return "--log-witness needs --log"
    return None


def plan_check(arguments: Arguments) -> Check | None:
    """Read the proof and keys that are named, and check all but the files. Raises `SigulError`."""
    if arguments.log is None:
        return None
    from ...evidence.matching import (
        check_signed,
        key_of,
        open_proof,
        read_keys,
        read_proof,
        sha256_of,
    )
    from ...formats.signed_note import LOG_KEY, WITNESS_KEY, Checkpoint

    proof = read_proof(arguments.log)
    key = key_of(read_keys(arguments.log_key, LOG_KEY), Checkpoint.of(proof.checkpoint).origin)
    witnesses = [key for path in arguments.log_witness for key in read_keys(path, WITNESS_KEY)]
    proven = open_proof(proof, key, witnesses)

    def check(file: Path, signature: Path | None, fingerprint: str) -> str:
        check_signed(
            proven.leaf,
            sha256_of(file),
            None if signature is None else sha256_of(signature),
            fingerprint,
        )
        seen = "".join(f", cosigned by {name}" for name in proven.cosigned)
        return (
            f"In the log {key.name}: leaf {proven.index} of {proven.leaf.time}, proven at"
            f" {proven.checkpoint.size} leaves{seen}"
        )

    return check
