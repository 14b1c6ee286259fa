"""Proofs from the server's signing log: checked beside a signature, and written beside one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from ...errors import SigulError
from ..shared_arguments import argument
from .arguments import named_place
from .planning import Arguments

if TYPE_CHECKING:
    from ...formats.signed_note import LogProof

#: What a proof's name has beyond that of the output which it is of.
ENDING: Final = ".tlog-proof"

#: Option of commands that sign one thing, and of those that sign many.
WRITE: Final = argument(
    "--log-proof",
    metavar="FILE",
    type=named_place,
    help="write to FILE the proof that the server's signing log has the signature",
)
WRITE_MANY: Final = argument(
    "--log-proofs",
    metavar="DIR",
    type=named_place,
    help="write to DIR, which is made if need be, the proofs that the server's signing log has the"
    f" signatures, each as OUTPUT{ENDING}; the directory of the outputs will do",
)

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
    """The reason why the options of `CHECK` do not fit together, or None."""
    if (arguments.log is None) != (arguments.log_key is None):
        return "--log and --log-key need each other"
    if arguments.log is None and arguments.log_witness:
        return "--log-witness needs --log"
    return None


def plan_check(arguments: Arguments) -> Check | None:
    """Read the proof and keys that are named, and check all but the files. Raises `SigulError`."""
    if arguments.log is None:
        return None
    from ...evidence.given_files import read_keys, read_proof
    from ...evidence.matching import check_signed, key_of, open_proof, sha256_of
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


class ProofOutput:
    """The output for the proof of one signature."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._proofs: list[LogProof] = []

    def keep(self, proof: LogProof) -> None:
        """Keep a reply's proof."""
        self._proofs.append(proof)

    def check(self) -> None:
        """Raise `SigulError` where none has come, so that no output is put in its place."""
        if not self._proofs:
            raise no_proof()

    def write(self) -> None:
        """Write the proof. Raises `SigulError` where none has come."""
        self.check()
        self._output.write(self._proofs[-1].encode().encode())


def no_proof() -> SigulError:
    """The error for a reply that has no proof."""
    return SigulError(
        "the server shows no signing log, so there is no proof",
        "have the server's sigul-stack brought up to date, or do without the proof",
    )


class ProofDirectory:
    """Proofs of many signatures, each written as it comes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        #: Outputs whose proof has come, with why it could not be written.
        self._came: dict[Path, SigulError | None] = {}

    def write(self, target: Path, proof: LogProof) -> None:
        """Write the proof for the output `target`. What goes wrong is told by `error_of`."""
        from ...client.output_file import open_output

        try:
            with open_output(self._directory / f"{target.name}{ENDING}", binary=False) as output:
                output.write(proof.encode().encode())
        except SigulError as error:
            self._came[target] = error
        else:
            self._came[target] = None

    def has(self, target: Path) -> bool:
        """Tell whether a proof for the output `target` is there."""
        return (self._directory / f"{target.name}{ENDING}").is_file()

    def error_of(self, target: Path) -> SigulError | None:
        """The reason why there is no proof of the output `target`; None where there is one."""
        return self._came.get(target, no_proof())


def plan_many(arguments: Arguments) -> ProofDirectory | None:
    """The directory for proofs that is named, made if need be. Raises `SigulError`."""
    if arguments.log_proofs is None:
        return None
    from .many_files import make_directory

    make_directory(arguments.log_proofs)
    return ProofDirectory(arguments.log_proofs)
