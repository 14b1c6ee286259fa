"""Commands that sign or decrypt a file."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...client.output import identity
from ...errors import SigulError
from ...formats import commitmeta
from ...protocol.codec import printable
from ..outcome import AlreadyTold
from ..progress import progress
from .execution import Invocation, open_payload
from .model import Arguments
from .printing import print_lines

if TYPE_CHECKING:
    from ...client.core import ProgressFactory
    from ...client.many import Job


def sign_text(call: Invocation) -> None:
    """`sigul sign-text KEY FILE`."""
    call.client.sign_text(call.arguments.key, call.secrets["passphrase"], call.payload, call.output)


def check_data(arguments: Arguments) -> None:
    """What can be found wrong with many files to sign before anything is asked for."""
    if arguments.output_dir is None:
        return
    try:
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SigulError(
            f"'{arguments.output_dir}' cannot be made: {error.strerror}; name another directory"
        ) from error
    names: dict[str, Job] = {}
    jobs = _jobs(arguments)
    for job in jobs:
        with open_payload(job.source) as file:
            found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise SigulError(f"'{job.source}' is no plain file; sign it by itself, with -o")
        other = names.setdefault(job.target.name, job)
        if other is not job:
            raise SigulError(
                f"the signatures of '{other.source}' and '{job.source}' would be the same file"
                f" '{job.target}'; sign them into two directories"
            )
    sources = {identity(job.source) for job in jobs}
    for job in jobs:
        if (there := identity(job.target)) is not None and there in sources:
            raise SigulError(
                f"the signature of '{job.source}' would take the place of '{job.target}', which"
                " is to be signed; name another directory"
            )


def _jobs(arguments: Arguments) -> list[Job]:
    from ...client.many import Job

    ending = ".asc" if arguments.armor else ".sig"
    return [
        Job(Path(name), arguments.output_dir / (Path(name).name + ending))
        for name in dict.fromkeys(arguments.file)
    ]


def _sign_many(call: Invocation) -> None:
    """A line on standard error for each file that failed."""
    from ...client.many import sign_files

    failed = False

    def done(job: Job, error: SigulError | None) -> None:
        nonlocal failed
        if error is not None:
            failed = True
            print(printable(f"Error signing {job.source}: {error}"), file=sys.stderr, flush=True)

    jobs = _jobs(call.arguments)
    with progress("Signing", sum(job.source.stat().st_size for job in jobs)) as advance:
        sign_files(
            call.client.telling(_together(advance)),
            call.arguments.key,
            call.secrets["passphrase"],
            jobs,
            armor=call.arguments.armor,
            done=done,
        )
    if failed:
        raise AlreadyTold("not all files were signed")


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


def check_signed(arguments: Arguments) -> None:
    """What can be found wrong with the files of `verify` before anything is asked for."""
    for name in filter(None, (arguments.file, arguments.signature)):
        open_payload(Path(name)).close()


def verify(call: Invocation) -> None:
    """`sigul verify KEY FILE [SIGNATURE]`: tells who signed, or fails."""
    import datetime

    from ...client.verify import verify as check

    public = call.client.get_public_key(
        call.arguments.key,
        passphrase=call.secrets.get("passphrase"),
        password=call.secrets.get("password"),
    )
    signature = call.arguments.signature
    good = check(public, Path(call.arguments.file), None if signature is None else Path(signature))
    made = datetime.datetime.fromtimestamp(good.made_at, datetime.UTC)
    who = f"key '{call.arguments.key}' ({good.fingerprint})"
    print_lines([f"Good signature by {who}, made {made:%F %T} UTC"])


def sign_data(call: Invocation) -> None:
    """`sigul sign-data KEY FILE`, or `--output-dir DIR KEY FILE…`."""
    if call.arguments.output_dir is not None:
        _sign_many(call)
        return
    call.client.sign_data(
        call.arguments.key,
        call.secrets["passphrase"],
        call.payload,
        call.output,
        armor=call.arguments.armor,
    )


def decrypt(call: Invocation) -> None:
    """`sigul decrypt KEY FILE`."""
    call.client.decrypt(call.arguments.key, call.secrets["passphrase"], call.payload, call.output)


def sign_container(call: Invocation) -> None:
    """`sigul sign-container KEY MANIFEST REFERENCE`."""
    call.client.sign_container(
        call.arguments.key,
        call.secrets["passphrase"],
        call.payload,
        call.arguments.reference,
        call.output,
    )


def read_commitmeta(arguments: Arguments) -> bytes:
    """The detached metadata that the commit has, as far as the command line names them."""
    if arguments.commitmeta is None:
        return b""
    with open_payload(arguments.commitmeta) as file:
        # A byte more than may be there, so that a longer file is refused and not cut off.
        metadata = file.read(commitmeta.MAX_BYTES + 1)
    try:
        commitmeta.with_signatures(metadata, [])
    except SigulError as error:
        raise SigulError(f"'{arguments.commitmeta}': {error}") from None
    return metadata


def sign_ostree(call: Invocation) -> None:
    """`sigul sign-ostree KEY HASH FILE`."""
    call.output.write(
        call.client.sign_ostree(
            call.arguments.key,
            call.secrets["passphrase"],
            call.arguments.hash,
            call.payload,
            metadata=call.prepared,
        )
    )


def sign_pe(call: Invocation) -> None:
    """`sigul sign-pe KEY CERT-NAME FILE`."""
    call.client.sign_pe(
        call.arguments.key,
        call.secrets["passphrase"],
        call.arguments.cert_name,
        call.payload,
        call.output,
    )
