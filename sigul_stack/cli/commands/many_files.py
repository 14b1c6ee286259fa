"""`sign-data --output-dir`: many files, each signed in a request of its own, a few at a time."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...client.many import SigningJob, sign_files
from ...client.output_file import identity
from ...errors import SigulError
from ..outcome import Failures
from ..progress import progress
from .log_proofs import plan_many
from .planning import Arguments, Call, Run, open_input

if TYPE_CHECKING:
    from ...client.core import ProgressFactory
    from ...formats.signed_note import LogProof


def plan(arguments: Arguments, *, armor: bool) -> Run:
    """Check all files, and that no signature takes another file's place; make the directory."""
    files: Sequence[str] = arguments.file
    directory: Path = arguments.output_dir
    make_directory(directory)
    proofs = plan_many(arguments)
    ending = ".asc" if armor else ".sig"
    jobs = [
        SigningJob(Path(name), directory / (Path(name).name + ending))
        for name in dict.fromkeys(files)
    ]
    size = _check(jobs)

    def run(call: Call) -> None:
        failures = Failures()

        def done(job: SigningJob, error: SigulError | None) -> None:
            if error is None and proofs is not None:
                error = proofs.error_of(job.target)
            failures.tell(job.source, error)

        def proved(job: SigningJob, proof: LogProof) -> None:
            if proofs is not None:
                proofs.write(job.target, proof)

        with progress("Signing", size) as advance:
            sign_files(
                call.client.telling(_together(advance)),
                call.arguments.key,
                call.secrets["passphrase"],
                jobs,
                armor=armor,
                done=done,
                proved=proved,
            )
        failures.end("not all files were signed", "files", len(jobs))

    return run


def make_directory(path: Path) -> None:
    """Make the directory `path` unless it is there. Raises `SigulError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SigulError(
            f"'{path}' cannot be made: {error.strerror}", "name another directory"
        ) from error


def _check(jobs: Sequence[SigningJob]) -> int:
    """Check what can be found wrong before anything is asked for; the files' size in bytes."""
    size = 0
    names: dict[str, SigningJob] = {}
    sources = set()
    for job in jobs:
        with open_input(job.source) as file:
            found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise SigulError(f"'{job.source}' is no plain file", "sign it by itself, with -o")
        other = names.setdefault(job.target.name, job)
        if other is not job:
            raise SigulError(
                f"the signatures of '{other.source}' and '{job.source}' would be the same file"
                f" '{job.target}'",
                "sign them into two directories",
            )
        size += found.st_size
        sources.add((found.st_dev, found.st_ino))
    for job in jobs:
        if identity(job.target) in sources:
            raise SigulError(
                f"the signature of '{job.source}' would take the place of '{job.target}', which"
                " is to be signed",
                "name another directory",
            )
    return size


def _together(advance: Callable[[int], None]) -> ProgressFactory:
    """One bar for what all requests together send."""
    lock = threading.Lock()

    def step(count: int) -> None:
        with lock:
            advance(count)

    @contextlib.contextmanager
    def factory(what: str, _total: int) -> Iterator[Callable[[int], None]]:
        yield step if what == "Sending" else (lambda _count: None)

    return factory
