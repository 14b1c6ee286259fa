"""One attempt at a job, in a process of its own: it opens NSS, signs, verifies, and ends.

A process, because it can be ended whatever it waits for. It tells its parent of each thing as it
is done, in events that are small enough for a pipe; signatures and the public key are files in the
job's directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from ...client.api import Client
from ...client.git_tag import Tag, read_tag
from ...client.many import SigningJob, sign_files
from ...client.verify import BadSignature, verify
from ...config.client import ClientSettings
from ...errors import (
    ConfigurationError,
    LogComplaint,
    NSSError,
    RequestRefused,
    SigulError,
    Status,
)
from ...system.pipes import send_event
from ...transport import nss
from .events import reason_of, request_member
from .request import SignJob

if TYPE_CHECKING:
    from ...formats.signed_note import LogProof

#: Largest signature that is looked at, in bytes; an armoured one of RSA-4096 has 833.
MAX_SIGNATURE_BYTES: Final = 64 << 10
#: Refusals that no later attempt will not get: wrong key, passphrase or user.
_FOR_GOOD: Final = frozenset(
    {Status.AUTHENTICATION_FAILED, Status.UNSUPPORTED_KEYTYPE, Status.KEY_NOT_FOUND}
)
#: The code of all events of an attempt; the body is JSON.
CODE: Final = b"j"


@dataclass(frozen=True, slots=True)
class Attempt:
    """The work of one attempt. `pending` are numbers of the job's files.

    Where `keep` is true, files that have a good signature already are not signed again.
    """

    job: SignJob
    settings: ClientSettings
    directory: Path
    pending: Sequence[int]
    keep: bool
    events: int

    def work(self) -> None:
        """Do it; to be called in a forked child. Never raises a `SigulError`."""
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            nss.open_database(self.settings.nss, ask=refuse_password)
            client = Client(self.settings)
            public_key = self._public_key(client)
            if self.job.repository is None:
                self._sign_files(client, public_key)
            else:
                self._sign_tag(client, public_key, self.job.repository)
        except (ConfigurationError, NSSError) as error:
            self._tell("ended", reason=reason_of(error), for_good=True, **request_member(error))
        except SigulError as error:
            refused = isinstance(error, RequestRefused) and error.status in _FOR_GOOD
            # A complaint about the server's log stays until a person has ended it.
            for_good = refused or isinstance(error, LogComplaint)
            self._tell("ended", reason=reason_of(error), for_good=for_good, **request_member(error))

    def _tell(self, kind: str, **fields: str | int | bool) -> None:
        text = json.dumps({"kind": kind, **fields}, ensure_ascii=False)
        send_event(self.events, CODE, text.encode())

    def _public_key(self, client: Client) -> bytes:
        """The key to verify with: the job's own, else the server's, asked for once a job."""
        if self.job.public_key:
            return self.job.public_key
        path = self.directory / "public-key"
        if not path.exists():
            # Whole or not there: the attempt may be ended at any moment.
            draft = path.with_suffix(".draft")
            draft.write_bytes(client.get_public_key(self.job.key, passphrase=self.job.passphrase))
            draft.rename(path)
        return path.read_bytes()

    # ------------------------------------------------------------------------------------- files

    def _sign_files(self, client: Client, public_key: bytes) -> None:
        left = [
            number
            for number in self.pending
            if not (self.keep and self._has_good_signature(number, public_key))
        ]
        numbers = {signature_of(self.directory, number): number for number in left}
        jobs = [SigningJob(self.job.files[number], target) for target, number in numbers.items()]

        def done(job: SigningJob, error: SigulError | None) -> None:
            number = numbers[job.target]
            try:
                if error is not None:
                    raise error
                good = verify(public_key, job.source, job.target)
            except SigulError as failed:
                reason = reason_of(failed)
                self._tell("failed", file=number, reason=reason, **request_member(failed))
            else:
                told = request_member()
                self._tell("signed", file=number, fingerprint=good.fingerprint, **told)

        def proved(job: SigningJob, proof: LogProof) -> None:
            # Told of with the signature, which follows at once.
            place = proof_of(self.directory, numbers[job.target])
            place.write_text(proof.encode(), "utf-8")

        sign_files(
            client, self.job.key, self.job.passphrase, jobs, armor=True, done=done, proved=proved
        )

    def _has_good_signature(self, number: int, public_key: bytes) -> bool:
        """True where the file has a signature that verifies; tells of it, or of a bad one."""
        file = self.job.files[number]
        there = file.with_name(f"{file.name}.asc")
        try:
            found = there.lstat()
        except OSError:
            return False
        with contextlib.suppress(BadSignature):
            if stat.S_ISREG(found.st_mode) and found.st_size <= MAX_SIGNATURE_BYTES:
                good = verify(public_key, file, there)
                self._tell("kept", file=number, fingerprint=good.fingerprint)
                return True
        self._tell("stale", file=number)
        return False

    # --------------------------------------------------------------------------------------- tag

    def _sign_tag(self, client: Client, public_key: bytes, repository: Path) -> None:
        tag = read_tag(repository, self.job.tag)
        signature = client.sign_git_tag(self.job.key, self.job.passphrase, tag.content)
        fingerprint = self._verify_tag(tag, signature, public_key)
        new = tag.replace(signature)
        told = request_member()
        self._tell("tag", old=tag.object_id, new=new, fingerprint=fingerprint, **told)

    def _verify_tag(self, tag: Tag, signature: bytes, public_key: bytes) -> str:
        content, detached = self.directory / "tag", self.directory / "tag.asc"
        content.write_bytes(tag.content)
        detached.write_bytes(signature)
        return verify(public_key, content, detached).fingerprint


def signature_of(directory: Path, number: int) -> Path:
    """The place of the signature of the job's file `number`, in the job's directory."""
    return directory / f"{number}.asc"


def proof_of(directory: Path, number: int) -> Path:
    """The place of the log's proof of that signature, which is there where the server has a log."""
    return directory / f"{number}.asc.tlog-proof"


def refuse_password() -> NoReturn:
    """Raise `ConfigurationError`: nobody is there to be asked for the NSS database's password."""
    raise ConfigurationError(
        "the NSS database has a password, and no nss-password is configured",
        "put nss-password into [nss] of the client.conf in the bundle",
    )
