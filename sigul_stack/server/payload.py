"""A request's payload, as handlers get it: its length, digests of all of it, and, where its
operation's handler is declared to need them (`Intake`), its bytes.

Invariant: what is here came completely, and is what the client sent: the hash that came through the
inner session matched. The one exception is a payload whose hash was left out (`sign-rpm`); of that
there is no `state`, so that no signature can be made from it, and who uses its `file` has to see to
what it is (`Request.payload_authenticated`).

What is not kept costs neither memory nor disk, however large it is, and counts in no account.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from ..evidence.leaf import Content

if TYPE_CHECKING:
    from hashlib import _Hash

    from .spool import Spool


@dataclass(frozen=True, slots=True)
class Intake:
    """The parts of payloads that handlers need; they come before it is known whose they are.

    `bytes_of` are the operations whose handlers need the bytes. `hashes` are names, as `hashlib`
    has them, of further hashes to make on the way: each costs time for each byte. SHA-512 and
    SHA-256 are always made.
    """

    bytes_of: Container[str] = frozenset()
    hashes: tuple[str, ...] = ()


#: The handlers' needs where nothing is said of them.
ONLY_HASHED: Final = Intake()


class Payload:
    """All of a request's payload."""

    def __init__(
        self,
        length: int,
        content: Content,
        states: Mapping[str, _Hash],
        file: BinaryIO | None = None,
    ) -> None:
        #: In bytes.
        self.length = length
        #: Its SHA-256 and size, for the signing log.
        self.content = content
        self._states = dict(states)
        self._file = file

    @classmethod
    def received(cls, spool: Spool, *, authenticated: bool) -> Self:
        """The payload that `spool` has taken completely, and whose file is this object's now.

        Not `authenticated`: nothing but the signer that reads the file can say what it is.
        """
        content = spool.content
        states = spool.states if authenticated else {}
        return cls(content.bytes, content, states, spool.file if spool.is_kept else None)

    def state(self, name: str = "sha512") -> _Hash:
        """A copy of the `hashlib` state over all of it, to go on with; `name` as `hashlib` has it.

        Raises `LookupError` where that hash was not made on the way, or nothing authenticates it.
        """
        return self._states[name].copy()

    @property
    def file(self) -> BinaryIO:
        """The bytes, as a seekable file; at its start where nobody has used it.

        Raises `LookupError` where the operation's handler is not declared to need them.
        """
        if self._file is None:
            raise LookupError("this payload was not kept: its handler is to be in NEEDS_BYTES")
        return self._file

    def close(self) -> None:
        """Let go of the bytes."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self.close()
