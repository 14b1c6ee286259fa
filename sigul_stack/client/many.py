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
from typing import Final

from ..errors import RequestRefused, SigulError, Status
from ..secret import Secret
from .api import Client
from .output import open_output

#: Requests at a time: as many as keep a server's workers busy while the next ones connect.
AT_ONCE: Final = 4

#: What says nothing about a file: the key, the passphrase or the user is the wrong one.
_FOR_ALL: Final = frozenset({Status.AUTHENTICATION_FAILED, Status.UNSUPPORTED_KEYTYPE})


@dataclass(frozen=True, slots=True)
class Job:
    """A file to sign, and the file that its signature goes to."""

    source: Path
    target: Path


Done = Callable[[Job, SigulError | None], None]


def sign_files(
    client: Client,
    key: str,
    passphrase: Secret,
    jobs: Sequence[Job],
    *,
    armor: bool,
    done: Done,
    at_once: int = AT_ONCE,
) -> None:
    """Make a detached signature of each file; `client` is called from several threads.

    `done` is called for each job, in any order and from any thread, but never twice at once: with
    None once its target is there, else with the reason why it is not. Raises `RequestRefused`
    where the user may not sign with the key at all; the jobs that are left are not told of then.
    """
    batch = _Batch(client, key, passphrase, armor, done)
    with ThreadPoolExecutor(at_once, "sign-data") as pool:
        for job in jobs:
            pool.submit(contextvars.copy_context().run, batch.sign, job)
    if batch.unforeseen is not None:
        raise batch.unforeseen
    if batch.refused is not None:
        raise batch.refused


class _Batch:
    """What the threads share."""

    def __init__(
        self, client: Client, key: str, passphrase: Secret, armor: bool, done: Done
    ) -> None:
        self._client = client
        self._key = key
        self._passphrase = passphrase
        self._armor = armor
        self._done = done
        self._lock = threading.Lock()
        self.refused: RequestRefused | None = None
        self.unforeseen: Exception | None = None

    def sign(self, job: Job) -> None:
        """Sign one file, unless no more are to be; never raises."""
        if self.refused is not None or self.unforeseen is not None:
            return
        try:
            self._sign(job)
        except RequestRefused as error:
            if error.status in _FOR_ALL:
                self.refused = error
                return
            self._tell(job, error)
        except SigulError as error:
            self._tell(job, error)
        except Exception as error:  # noqa: BLE001 - raised by the thread that waits for all
            self.unforeseen = error
        else:
            self._tell(job, None)

    def _sign(self, job: Job) -> None:
        try:
            with job.source.open("rb") as data, open_output(job.target, binary=True) as output:
                self._client.sign_data(self._key, self._passphrase, data, output, armor=self._armor)
        except OSError as error:
            raise SigulError(f"it cannot be read: {error.strerror or error}") from error

    def _tell(self, job: Job, error: SigulError | None) -> None:
        with self._lock:
            self._done(job, error)
