"""The signing log's leaves: one for each decision on a request, before its answer leaves.

A `Decision` gathers what becomes known of a request, in the order in which it does. Invariant: no
member of it is a secret, nor a digest of a plaintext that `decrypt` gives, and whatever a peer has
said in it has a limit.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Final, cast

from ..database import Key
from ..errors import RequestRefused, SigulError, printable, shortened
from ..evidence.leaf import Content, Leaf, LeafClient, LeafKey, Result
from ..evidence.writer import LOG_SECONDS, LogClient
from ..logcontext import current
from ..logevents import tell
from ..protocol.codec import Fields
from ..protocol.operations import Operation
from ..records import replace
from .log_events import ServerLog

log = logging.getLogger(__name__)

#: Longest reason in a leaf, in bytes.
MAX_REASON_BYTES: Final = 1000
#: Longest name of a client, user or thing in a leaf, in bytes: what a field may have, and marks.
MAX_NAME_BYTES: Final = 300
#: Seconds that a refusal waits for its leaf: it is said without one, too.
REFUSAL_SECONDS: Final = 10.0
#: The same where the log has just failed: it may be well again, and else says so at once.
UNLOGGED_SECONDS: Final = 2.0
#: Operations whose output nobody but their client may know anything of.
_SECRET_OUTPUT: Final = frozenset({"decrypt"})


class NotLogged(SigulError):
    """A decision is not known to be in the signing log."""


def content_of(payload: bytes | BinaryIO) -> Content:
    """Digest and size of bytes, or of a seekable file, which is at its start afterwards."""
    if isinstance(payload, bytes):
        return Content(hashlib.sha256(payload).hexdigest(), len(payload))
    size = payload.seek(0, os.SEEK_END)
    payload.seek(0)
    digest = hashlib.file_digest(cast(io.BufferedReader, payload), "sha256")
    payload.seek(0)
    return Content(digest.hexdigest(), size)


@dataclass(slots=True)
class Made:
    """Digests of what was signed and made, where they are not just the payload's and output's."""

    signed: str = ""
    signatures: tuple[str, ...] = ()
    file: str = ""


@dataclass(slots=True)
class Decision:
    """The facts about a request, and their way into the log (None: there is none)."""

    client: LogClient | None = None
    leaf: Leaf = field(default_factory=lambda: Leaf(op="", result=Result.REFUSED))
    #: The sizes of logs that the client has seen, by the IDs of their keys.
    seen: Mapping[bytes, int] = field(default_factory=dict)
    wants_evidence: bool = False
    made: Made = field(default_factory=Made)
    #: Fields of evidence, once the request is in the log.
    evidence: dict[str, bytes] | None = None

    @property
    def is_known(self) -> bool:
        """Whether it is known whose request it is: nothing is logged of anybody's noise."""
        return self.leaf.client is not None

    # -------------------------------------------------------------------------- as it becomes known

    def header(self, fields: Fields, operation: Operation | None) -> None:
        """The outer fields, which may be none that are allowed."""
        things = () if operation is None else operation.objects
        self.leaf = replace(
            self.leaf,
            op=_shown(fields, "op"),
            user=_shown(fields, "user"),
            objects={
                item.field: _shown(fields, item.field) for item in things if item.field in fields
            },
        )

    def came_from(self, name: str, fingerprint: str) -> None:
        """The client, as the inner session's certificate names it; its hello had the id."""
        client = LeafClient(_limited(name), fingerprint)
        self.leaf = replace(self.leaf, request=str(current() or ""), client=client)

    def payload(self, content: Content) -> None:
        """The payload, as it came."""
        self.leaf = replace(self.leaf, input=content)

    def inner(self, seen: Mapping[bytes, int], file_name: str, *, wants_evidence: bool) -> None:
        """The client's own words beside its secrets."""
        self.seen, self.wants_evidence = seen, wants_evidence
        self.leaf = replace(self.leaf, file=file_name)

    def key(self, key: Key) -> None:
        """The key that is used, made or changed."""
        used = LeafKey(_limited(key.name), _limited(key.keytype), _limited(key.fingerprint))
        self.leaf = replace(self.leaf, key=used)

    # --------------------------------------------------------------------------------- into the log

    def done(self, output: bytes | BinaryIO, signer: str = "") -> dict[str, bytes]:
        """Log that the request is done, with this output; returns the fields that prove it.

        To be called before anything of the answer leaves, or can be had otherwise. `signer` is the
        part of an OpenPGP key that signed. A second call does nothing. Raises `NotLogged`.
        """
        if self.evidence is None:
            if self.client is None:
                self.evidence = {}
                return {}
            shown = bool(output) and self.leaf.op not in _SECRET_OUTPUT
            key = self.leaf.key
            leaf = replace(
                self.leaf,
                result=Result.OK,
                key=key and replace(key, signer=_limited(signer)),
                signed=self.made.signed,
                signatures=self.made.signatures,
                file=_limited(self.made.file) or self.leaf.file,
                output=content_of(output) if shown else None,
            )
            self.evidence = self._append(leaf)
        return self.evidence

    def refused(
        self, refused: RequestRefused, error: Exception, seconds: float = REFUSAL_SECONDS
    ) -> None:
        """Log that the request is refused, or failed because of `error`. Never raises.

        What cannot be logged is refused all the same.
        """
        if not self.is_known:
            return
        if isinstance(error, NotLogged):
            seconds = UNLOGGED_SECONDS
        leaf = replace(
            self.leaf, result=result_of(error), status=refused.status, reason=reason_of(error)
        )
        self._record(leaf, seconds)

    def invalid(self, error: SigulError) -> None:
        """Log a request that is not what its client sent, and not answered. Never raises."""
        if self.is_known:
            leaf = replace(self.leaf, result=Result.REFUSED, reason=reason_of(error))
            self._record(leaf, REFUSAL_SECONDS)

    def part(self, content: Content | None, file: str) -> Decision:
        """The decision on one RPM of the request."""
        leaf = replace(self.leaf, input=content, file=_limited(file))
        return Decision(self.client, leaf, self.seen, self.wants_evidence)

    def _append(self, leaf: Leaf) -> dict[str, bytes]:
        assert self.client is not None  # noqa: S101 - the callers have looked
        try:
            if self.wants_evidence:
                return self.client.append(leaf, self.seen, LOG_SECONDS).fields()
            self.client.record(leaf, LOG_SECONDS)
        except SigulError as error:
            raise NotLogged(
                f"the server cannot write its signing log: {error.problem}", error.cure
            ) from error
        return {}

    def _record(self, leaf: Leaf, seconds: float) -> None:
        if self.client is None:
            return
        try:
            self.client.record(leaf, seconds)
        except SigulError as error:
            tell(log, ServerLog.REFUSAL_NOT_LOGGED, why=str(error))


def result_of(error: Exception) -> Result:
    """Whether a request was refused, or failed, by what ended it."""
    return Result.REFUSED if isinstance(error, RequestRefused) else Result.FAILED


def reason_of(error: Exception) -> str:
    """The reason for the log, which is told more than the client."""
    match error:
        case RequestRefused():
            text = error.reason or str(error)
        case SigulError():
            text = str(error)
        case OSError():
            text = error.strerror or str(error)
        case _:
            # Its text may be anything.
            text = f"unforeseen: {type(error).__name__}"
    return shortened(printable(text), MAX_REASON_BYTES)


def _shown(fields: Fields, name: str) -> str:
    """A field's text as a line, whatever it has."""
    return _limited(fields.get(name, b"").decode("utf-8", "backslashreplace"))


def _limited(text: str) -> str:
    return shortened(printable(text), MAX_NAME_BYTES)
