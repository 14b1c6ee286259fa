"""The results of a job: what its container tells, believed no further than it has to be.

The container may be of any image, so an event that makes no sense ends the step, and no event
writes or removes anything but the signature of a file that is to be signed.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import ActionError, Rejected
from .files import ENDING, PROOF_ENDING, shown
from .workflow import fail, say

#: Names of files that are listed where they could not be signed.
LISTED = 20
#: Characters of a signature, at most.
MAX_SIGNATURE = 64 << 10
#: Characters of a proof that the server's log has a signature, at most.
MAX_PROOF = 128 << 10

_BEGIN, _END = "-----BEGIN PGP SIGNATURE-----\n", "\n-----END PGP SIGNATURE-----"
_PROOF_BEGIN = "c2sp.org/tlog-proof@v1\n"
_OBJECT = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
_FINGERPRINT = re.compile(r"[0-9A-F]{40,64}\Z")


class Results:
    """What has become of `files`, which are in `workspace`, or of a tag."""

    def __init__(self, workspace: Path, files: Sequence[Path] = (), *, dry_run: bool) -> None:
        self._workspace = workspace
        self._files = files
        self._dry_run = dry_run
        #: Whether everything but signing is known to be well.
        self.accepted = False
        self.signed: set[int] = set()
        self.kept: set[int] = set()
        #: Of the key that signatures were verified with.
        self.fingerprint = ""
        #: The tag's new object; empty without one.
        self.tag = ""
        self._failed: dict[int, str] = {}

    def hear(self, event: dict[str, Any]) -> None:
        """Take an event. Raises `Rejected`, or `ActionError` for one that makes no sense."""
        try:
            self._hear(event)
        except (KeyError, TypeError, ValueError):
            raise ActionError(
                "the container said what is no event: is its image a client of this release?"
            ) from None

    def _hear(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "log":
            say(f"  {event['text']}")
        elif kind == "accepted":
            self.accepted = True
        elif kind == "rejected":
            raise Rejected(str(event["reason"]))
        elif kind == "attempt":
            say(f"attempt {event['number']} of {event['of']}: {event['reason']}")
        elif kind == "ended":
            fail(str(event["reason"]))
        elif self._dry_run or not self.accepted:
            raise ValueError("nothing is to be signed, or not yet")
        elif kind == "tag":
            self.tag = _matching(_OBJECT, event["new"])
            self.fingerprint = _matching(_FINGERPRINT, event["fingerprint"])
            say(f"the tag is signed and verified: {event['old']} is {self.tag} now")
        else:
            self._hear_of_file(kind, event)

    def _hear_of_file(self, kind: str, event: dict[str, Any]) -> None:
        number = event["file"]
        if type(number) is not int or not 0 <= number < len(self._files):
            raise ValueError("no such file")
        file = self._files[number]
        signature = file.with_name(file.name + ENDING)
        name = shown(file, self._workspace)
        if kind == "failed":
            self._fail(number, str(event["reason"]))
        elif kind == "stale":
            say(f"{name}: its {ENDING} is not a good signature, and is removed")
            try:
                signature.unlink()
                _remove(_proof_of(signature))
            except OSError as error:
                self._fail(number, f"its {ENDING} cannot be removed: {error.strerror}")
        elif kind in ("signed", "kept"):
            self.fingerprint = _matching(_FINGERPRINT, event["fingerprint"])
            if kind == "signed":
                text, proof = _checked(event["signature"]), _checked_proof(event.get("proof", ""))
                try:
                    # Before the signature: where that is there, another run leaves all as it is.
                    if proof:
                        _write(_proof_of(signature), proof)
                    else:
                        _remove(_proof_of(signature))
                    _write(signature, text)
                except OSError as error:
                    self._fail(number, f"its {ENDING} cannot be written: {error.strerror}")
                    return
            (self.signed if kind == "signed" else self.kept).add(number)
            self._failed.pop(number, None)
            say(f"{kind}: {name}")
        else:
            raise ValueError("no such event")

    def _fail(self, number: int, reason: str) -> None:
        self._failed[number] = reason
        say(f"failed: {shown(self._files[number], self._workspace)}: {reason}")

    def check_files(self) -> None:
        """Sum up; raise `ActionError` where files are not signed."""
        for number in list(self._failed)[:LISTED]:
            fail(f"{shown(self._files[number], self._workspace)}: {self._failed[number]}")
        say(
            f"{len(self.signed)} files signed and verified, {len(self.kept)} had a good signature"
            " already"
        )
        missing = len(self._files) - len(self.signed | self.kept)
        if missing:
            raise ActionError(
                f"{missing} of {len(self._files)} files are not signed; another run of the step"
                " signs those alone"
            )


def _matching(pattern: re.Pattern[str], value: object) -> str:
    if not isinstance(value, str) or not pattern.match(value):
        raise ValueError("a value is not of its form")
    return value


def _checked(signature: object) -> str:
    """A signature's text, which is one armoured signature by its ends. Raises ValueError."""
    if (
        not isinstance(signature, str)
        or len(signature) > MAX_SIGNATURE
        or not signature.startswith(_BEGIN)
        or not signature.rstrip("\n").endswith(_END)
    ):
        raise ValueError("no signature")
    signature.encode("ascii")
    return signature


def _checked_proof(proof: object) -> str:
    """A proof's text, which is one by its beginning, or empty. Raises ValueError."""
    if (
        not isinstance(proof, str)
        or len(proof) > MAX_PROOF
        or (proof and not proof.startswith(_PROOF_BEGIN))
    ):
        raise ValueError("no proof")
    proof.encode()
    return proof


def _proof_of(signature: Path) -> Path:
    return signature.with_name(signature.name + PROOF_ENDING)


def _remove(path: Path) -> None:
    """Remove a proof, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _write(path: Path, text: str) -> None:
    """Write a signature or proof, whole or not at all, for everybody to read."""
    descriptor, draft = tempfile.mkstemp(prefix=".sigul-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink()
        raise
