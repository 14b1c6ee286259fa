"""Many files signed by `sign-data`, each in a request of its own, a few of them at a time.

The protocol has one request a connection, so what is shared is the passphrase alone. A file that
fails costs that file; a refusal that every file would get ends the rest, so that a mistyped
passphrase is tried a few times and not once a file.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import LogComplaint, RequestRefused, SigulError, Status
from ..secret import Secret
from .api import Client
from .output_file import open_output

if TYPE_CHECKING:
    from ..formats.signed_note import LogProof

#: Requests at a time: as many as keep a server's workers busy while the next ones connect.
AT_ONCE: Final = 4

#: Refusals that are the same for every file: wrong key, passphrase or user.
_FOR_ALL: Final = frozenset({Status.AUTHENTICATION_FAILED, Status.UNSUPPORTED_KEYTYPE})


@dataclass(frozen=True, slots=True)
class SigningJob:
    """A file to sign, and the file that its signature goes to."""

    source: Path
    target: Path


Done = Callable[[SigningJob, SigulError | None], None]


def sign_files(
    client: Client,
    key: str,
    passphrase: Secret,
    jobs: Sequence[SigningJob],
    *,
    armor: bool,
    done: Done,
    at_once: int = AT_ONCE,
    proved: Callable[[SigningJob, LogProof], None] = lambda _job, _proof: None,
) -> None:
    """Make a detached signature of each file; `client` is called from several threads.

    `done` is called for each job, in any order and from any thread, but never twice at once: with
    None once its target is there, else with the reason why it is not. Just before, `proved` is
    called with the proof that the server's log has it, where there is such a log. Raises
    `RequestRefused` where the user may not sign with the key at all, and a `LogComplaint`; the jobs
    that are left are not told of then.
    """
    lock = threading.Lock()
    # A bridge that is away keeps nobody waiting once a file.
    client = client.retrying_together()
    #: Errors that end the rest; of several, the first counts.
    fatal: list[Exception] = []

    def tell(job: SigningJob, error: SigulError | None, proofs: Sequence[LogProof] = ()) -> None:
        with lock:
            for proof in proofs:
                proved(job, proof)
            done(job, error)

    def sign(job: SigningJob) -> None:
        """Sign one file, unless no more are to be; never raises."""
        if fatal:
            return
        proofs: list[LogProof] = []
        try:
            _sign_file(client.proving(proofs.append), key, passphrase, job, armor=armor)
        except SigulError as error:
            if isinstance(error, LogComplaint) or (
                isinstance(error, RequestRefused) and error.status in _FOR_ALL
            ):
                fatal.append(error)
            else:
                tell(job, error)
        except Exception as error:  # noqa: BLE001 - raised by the thread that waits for all
            fatal.append(error)
        else:
            tell(job, None, proofs)

    with ThreadPoolExecutor(at_once, "sign-data") as pool:
        for job in jobs:
            pool.submit(contextvars.copy_context().run, sign, job)
    if fatal:
        raise fatal[0]


def _sign_file(
    client: Client, key: str, passphrase: Secret, job: SigningJob, *, armor: bool
) -> None:
    try:
        with job.source.open("rb") as data, open_output(job.target, binary=True) as output:
            client.sign_data(key, passphrase, data, output, armor=armor)
    except OSError as error:
        raise SigulError(f"it cannot be read: {error.strerror or error}") from error
