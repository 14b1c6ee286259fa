"""A witness: what a client or bridge remembers of servers' logs, and holds the next reply against.

    first log of a server's name ─▶ known ─▶ each next checkpoint extends it ─▶ known
                                      ╰─ another log or key, a smaller or forked one, a leaf of
                                         something else, nothing ─▶ complaint, until it is accepted

What a reply is held against, and how, is an `Observation`; where it is remembered, a `MemoryFile`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import LogComplaint, SigulError, printable, quoted
from ..formats.signed_note import LogProof, Note, PrivateKey, PublicKey, cosigned
from .evidence import Evidence
from .observation import Judge, Observation
from .witness_state import Complaint, KnownLog, Memory, MemoryFile


class Witness:
    """One witness, for all threads of a process; several processes may share its file.

    `path` is its file, None: it remembers as long as the process. Where there are `trusted` keys,
    no other log is ever taken. `clock` gives seconds since 1970; `is_usual` is as for `MemoryFile`.
    With a `cosigner` it cosigns each checkpoint that it has checked.
    """

    def __init__(
        self,
        path: Path | None,
        trusted: Sequence[PublicKey] = (),
        clock: Callable[[], float] = time.time,
        *,
        cosigner: PrivateKey | None = None,
        is_usual: bool = False,
    ) -> None:
        self.file = MemoryFile(path, is_usual=is_usual)
        self.trusted = tuple(trusted)
        self._clock = clock
        self._cosigner = cosigner

    def seen(self, server: str | None = None) -> Mapping[bytes, int]:
        """The sizes of the logs that are known, of this server's name or of all, by key ID."""
        memory = self.file.read()
        logs = memory.logs if server is None else memory.of(server)
        return {item.key.id: item.checkpoint.size for item in logs.values()}

    def begin(self, server: str, *, required: bool = False) -> Observation:
        """An observation, which the replies to a request to this server's name are held against.

        Raises the `LogComplaint` that there is about it. `required`: it must show a log.
        """
        memory = self.file.read()
        complaint = memory.complaints.get(server)
        if complaint is not None:
            raise self._error(complaint)
        return Observation(self, server, memory.of(server), required=required)

    def check(
        self, server: str, evidence: Evidence | None, about: Judge | None = None
    ) -> LogProof | None:
        """Hold one reply against what is known, and remember what it shows (`Observation`)."""
        observation = self.begin(server)
        proof = observation.check(evidence, about)
        observation.keep()
        return proof

    def complaints(self) -> Sequence[Complaint]:
        """The complaints that nobody has accepted yet."""
        return list(self.file.read().complaints.values())

    def logs(self) -> Sequence[KnownLog]:
        """The logs that are known."""
        return list(self.file.read().logs.values())

    def accept(self, origin: str) -> Sequence[Complaint]:
        """Accept, as a person has decided, what is complained of the log `origin`; which that was.

        Raises `SigulError` where there is no such complaint.
        """
        found: list[Complaint] = []

        def change(memory: Memory) -> Memory:
            found[:] = [item for item in memory.complaints.values() if item.origin == origin]
            for item in found:
                memory = memory.accepted(item, self.now())
            return memory

        self.file.change(change)
        if not found:
            raise SigulError(
                f"nothing is complained of the log {quoted(origin)}",
                "`sigul-stack witness show` lists the complaints, each with its log's name",
            )
        return found

    def forget(self, origin: str) -> None:
        """Forget a log of a server that is gone. Raises `SigulError` where it is not known."""

        def change(memory: Memory) -> Memory:
            if origin not in memory.logs:
                raise SigulError(
                    f"no log {quoted(origin)} is known", "`sigul-stack witness show` lists them"
                )
            return memory.forgotten(origin)

        self.file.change(change)

    def now(self) -> int:
        """The time, in seconds since 1970."""
        return int(self._clock())

    def cosigned(self, note: Note) -> Note | None:
        """A checkpoint's note with this witness's cosignature; None where it has no key."""
        return None if self._cosigner is None else cosigned(note, self._cosigner, self.now())

    def complain(self, complaint: Complaint) -> LogComplaint:
        """Remember a complaint, and give the error that says it."""
        kept = self.file.change(lambda memory: memory.with_complaint(complaint))
        return self._error(kept.complaints.get(complaint.server, complaint))

    def _error(self, complaint: Complaint) -> LogComplaint:
        where = "" if self.file.path is None else f" --state {self.file.path}"
        return LogComplaint(
            f"the signing log of {quoted(complaint.server)} is not to be trusted:"
            f" {complaint.problem}",
            "the reply is refused; tell the site's security people, who see both"
            f" checkpoints with `sigul-stack witness show{where}`; only where they know the reason,"
            f" `sigul-stack witness accept{where} {printable(complaint.origin)}` ends this",
        )
