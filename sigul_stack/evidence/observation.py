"""An observation: a server's log as it was known when a request went out, and the replies to that.

Invariant: a checkpoint takes the place of a known one only where it is proven to extend it. A reply
that was overtaken by another process's is held against what was known when its request went out.
Must not judge what is not authentic: who calls has checked the reply's HMAC.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..errors import LogComplaint, SigulError, printable, quoted
from ..formats.merkle_tree import NotProven, hash_leaf, verify_consistency, verify_inclusion
from ..formats.signed_note import (
    LOG_KEY,
    Checkpoint,
    LogProof,
    Note,
    PublicKey,
    open_checkpoint,
)
from ..logevents import tell
from ..records import replace
from .evidence import Evidence
from .leaf import LOG_RESTORED, LOG_START, Leaf
from .log_events import EvidenceLog
from .witness_state import Complaint, Kind, KnownLog, Memory, kept_note

if TYPE_CHECKING:
    from .witness import Witness

log = logging.getLogger(__name__)

#: Says what of a leaf is not about the request that it came with; empty where all of it is.
Judge = Callable[[Leaf], str]


class _Doubt(Exception):
    """Something is wrong with what a reply tells of the log."""

    def __init__(self, kind: Kind, problem: str, key: PublicKey | None = None) -> None:
        super().__init__(problem)
        self.kind, self.problem, self.key = kind, problem, key


class Observation:
    """The things known of a server's log when a request went out; for one request, and one thread.

    Each checkpoint has to extend one of those that were known, or that its own replies have shown
    before.
    """

    def __init__(
        self, witness: Witness, server: str, logs: Mapping[str, KnownLog], *, required: bool = False
    ) -> None:
        self._witness = witness
        self._server = server
        self._logs = dict(logs)
        self._required = required
        #: By origin, the checkpoints that a later one may be proven to extend, by their sizes.
        self._bases = {
            origin: {item.checkpoint.size: item.checkpoint} for origin, item in logs.items()
        }
        #: The last checkpoint that was found good, with its log's key.
        self._found: tuple[PublicKey, Note] | None = None
        self._indexes: set[tuple[str, int]] = set()

    @property
    def expects(self) -> bool:
        """Tell whether a reply without evidence would be refused."""
        return self._required or bool(self._logs)

    @property
    def shown(self) -> bool:
        """Tell whether a reply has shown a log already."""
        return self._found is not None

    @property
    def seen(self) -> Mapping[bytes, int]:
        """The sizes at which this server's logs are known, by the IDs of their keys."""
        return {item.key.id: item.checkpoint.size for item in self._logs.values()}

    def check_fields(self, fields: Mapping[str, bytes], about: Judge | None) -> LogProof | None:
        """The same as `check`, of the evidence in the fields of an authentic reply."""
        try:
            evidence = Evidence.of(fields)
        except NotProven as error:
            raise self._complaint(_Doubt(Kind.DAMAGED, error.problem), None) from None
        return self.check(evidence, about)

    def check(self, evidence: Evidence | None, about: Judge | None = None) -> LogProof | None:
        """Hold what a reply shows of the log against what is known; the proof of its leaf.

        `about` judges the leaf, where there has to be one. Returns None where the server shows no
        log and need not, or only a checkpoint. Raises `LogComplaint`, which is remembered.
        """
        if evidence is None:
            if not self.expects:
                return None
            if not self._logs:
                # Nothing is known that it could contradict: nothing to remember.
                raise LogComplaint(
                    f"the server {quoted(self._server)} shows no signing log, and"
                    " require-signing-log wants one",
                    "have the server's sigul-stack brought up to date; no output was put in its"
                    " place",
                )
            raise self._complaint(
                _Doubt(
                    Kind.MISSING,
                    "its reply shows nothing of the log, as an older sigul-stack does, or one whose"
                    " log was taken away",
                ),
                None,
            )
        try:
            return self._check(evidence, about)
        except _Doubt as doubt:
            raise self._complaint(doubt, evidence) from None
        except NotProven as error:
            raise self._complaint(_Doubt(Kind.DAMAGED, error.problem), evidence) from None

    def keep(self) -> None:
        """Remember the last checkpoint that was found good. Raises `SigulError`, `LogComplaint`."""
        if self._found is None:
            return
        key, note = self._found
        doubts: list[_Doubt] = []

        def change(memory: Memory) -> Memory:
            doubts.clear()
            try:
                return self._kept(memory, key, note)
            except _Doubt as doubt:
                doubts.append(doubt)
                return memory

        self._witness.file.change(change)
        if doubts:
            raise self._complaint(doubts[0], Evidence(b"", 0, (), note))

    # --------------------------------------------------------------------------------- judging

    def _check(self, evidence: Evidence, about: Judge | None) -> LogProof | None:
        note = evidence.checkpoint
        origin = Checkpoint.of(note).origin
        known = self._logs.get(origin)
        key = self._key(origin, evidence, known)
        found = open_checkpoint(note, key)
        if kept_note(note, [key]) is None:
            raise _Doubt(Kind.DAMAGED, "its checkpoint is larger than any is")
        floor = 0
        if known is not None:
            floor = known.floor.size
            self._check_extends(found, evidence, known, key)
        proof = self._leaf(evidence, found, floor, about, key)
        self._bases.setdefault(origin, {})[found.size] = found
        if self._found is None or found.size >= Checkpoint.of(self._found[1]).size:
            self._found = key, note
        return proof

    def _key(self, origin: str, evidence: Evidence, known: KnownLog | None) -> PublicKey:
        """The key by which the checkpoint is to be judged."""
        own = evidence.public_key
        if self._witness.trusted:
            for key in self._witness.trusted:
                if key.name == origin and key.type == LOG_KEY and own in (key, None):
                    return key
            raise self._stranger(
                evidence, own, "it is a log whose key signing-log-keys does not name"
            )
        if known is not None:
            if own not in (known.key, None):
                raise self._stranger(
                    evidence, own, "it has the known log's name, and another key", Kind.OTHER_KEY
                )
            return known.key
        if self._logs:
            was = ", ".join(
                f"{quoted(item.key.name)} with {item.checkpoint.size} leaves"
                for item in self._logs.values()
            )
            names = self._names_known(evidence, own)
            raise self._stranger(
                evidence, own, f"it is another log than the known one, {was}; {names}"
            )
        if own is None:
            raise _Doubt(Kind.DAMAGED, "the log does not say what its key is")
        return own

    def _stranger(
        self, evidence: Evidence, own: PublicKey | None, what: str, kind: Kind = Kind.OTHER_LOG
    ) -> _Doubt:
        """The doubt about a log that is not the known one, which may be accepted if it is whole."""
        try:
            if own is not None:
                open_checkpoint(evidence.checkpoint, own)
        except NotProven:
            own = None
        return _Doubt(kind, what, own)

    def _names_known(self, evidence: Evidence, own: PublicKey | None) -> str:
        """Whether the new log's first leaf names a checkpoint that is known, in words."""
        try:
            found = Checkpoint.of(evidence.checkpoint)
            if own is not None and evidence.first:
                open_checkpoint(evidence.checkpoint, own)
                leaf_hash = hash_leaf(evidence.first)
                verify_inclusion(leaf_hash, 0, found.size, evidence.first_inclusion, found.root)
                leaf = Leaf.parse(evidence.first)
                named = Checkpoint.of(Note.parse(leaf.previous)) if leaf.previous else None
                if leaf.op in (LOG_START, LOG_RESTORED) and named in [
                    item.checkpoint for item in self._logs.values()
                ]:
                    return "its first leaf names the very checkpoint that is known"
                if named is not None:
                    return (
                        f"its first leaf names another checkpoint, of {named.size} leaves of"
                        f" {quoted(named.origin)}"
                    )
        except NotProven:
            pass
        return "its first leaf does not name a log before it"

    def _check_extends(
        self, found: Checkpoint, evidence: Evidence, known: KnownLog, key: PublicKey
    ) -> None:
        floor, bases = known.floor, self._bases[key.name]
        if found.size < floor.size:
            raise _Doubt(
                Kind.CONTRADICTION,
                f"it has {found.size} leaves and had {floor.size}: leaves were taken away, as by"
                " putting back an older copy",
                key,
            )
        base = floor if found.size == floor.size else bases.get(found.size)
        try:
            if base is not None:
                verify_consistency(base.size, base.root, found.size, found.root, ())
                return
            base = bases.get(evidence.old_size)
            if base is None:
                raise NotProven("the reply does not prove that it extends what is known")
            verify_consistency(base.size, base.root, found.size, found.root, evidence.consistency)
        except NotProven as error:
            raise _Doubt(
                Kind.CONTRADICTION,
                f"its {found.size} leaves do not begin with the {floor.size} that were known:"
                f" {error.problem}",
                key,
            ) from None

    def _leaf(
        self,
        evidence: Evidence,
        found: Checkpoint,
        floor: int,
        about: Judge | None,
        key: PublicKey,
    ) -> LogProof | None:
        """The proof of the leaf, where there is one and it is about what was asked."""
        if not evidence.entry:
            if about is not None:
                raise _Doubt(Kind.WRONG_LEAF, "the reply shows no leaf for this request", key)
            return None
        proof = evidence.proof
        leaf_hash = hash_leaf(proof.entry)
        try:
            verify_inclusion(leaf_hash, proof.index, found.size, proof.hashes, found.root)
        except NotProven as error:
            raise _Doubt(Kind.WRONG_LEAF, error.problem, key) from None
        place = (key.name, proof.index)
        if proof.index < floor or place in self._indexes:
            raise _Doubt(
                Kind.WRONG_LEAF,
                f"leaf {proof.index}, which the reply shows, was there before the request",
                key,
            )
        self._indexes.add(place)
        wrong = "" if about is None else about(_parsed(proof.entry))
        if wrong:
            raise _Doubt(
                Kind.WRONG_LEAF, f"leaf {proof.index}, which the reply shows, {wrong}", key
            )
        return proof

    # -------------------------------------------------------------------------------- remembering

    def _kept(self, memory: Memory, key: PublicKey, note: Note) -> Memory:
        """The memory with the checkpoint in it, as far as that is proven to follow."""
        now, origin = self._witness.now(), key.name
        kept = kept_note(note, [key])
        assert kept is not None  # noqa: S101 - looked at before
        current = memory.logs.get(origin)
        if current is None:
            if origin in self._logs:
                return memory  # a person has decided otherwise meanwhile
            others = memory.of(self._server)
            if others and not self._witness.trusted:
                raise _Doubt(Kind.OTHER_LOG, "it shows two logs to requests at the same time", key)
            tell(
                log,
                EvidenceLog.SIGNING_LOG_ADOPTED,
                server=self._server,
                origin=origin,
                key=key.encode(),
            )
            signed = self._witness.cosigned(kept)
            return memory.with_log(KnownLog(self._server, key, kept, now, now, cosigned=signed))
        if current.key != key or current.server != self._server:
            raise _Doubt(Kind.OTHER_KEY, "two keys or servers have a log of the same name", key)
        found, held = Checkpoint.of(note), current.checkpoint
        for other in (held, current.floor):
            if found.size == other.size and found.root != other.root:
                raise _Doubt(
                    Kind.CONTRADICTION,
                    f"it has shown two different logs of {found.size} leaves",
                    key,
                )
        if found.size < held.size:
            return memory
        if self._bases[origin].get(held.size) == held:
            floor = current.floor.size
            return memory.with_log(
                replace(
                    current,
                    note=kept,
                    last_seen=now,
                    largest=current.largest if floor > found.size else None,
                    cosigned=self._witness.cosigned(kept),
                )
            )
        if found.size > current.floor.size:
            return memory.with_log(replace(current, largest=kept, last_seen=now))
        return memory

    def _complaint(self, doubt: _Doubt, evidence: Evidence | None) -> LogComplaint:
        shown = None if evidence is None else evidence.checkpoint
        origin = "" if shown is None else printable(shown.text.partition("\n")[0])[:200]
        known = self._logs.get(origin) or next(iter(self._logs.values()), None)
        if known is not None and (doubt.kind is Kind.MISSING or not origin):
            origin = known.key.name
        keys = [doubt.key] if doubt.key is not None else []
        return self._witness.complain(
            Complaint(
                self._server,
                origin or "unknown",
                doubt.kind,
                doubt.problem,
                self._witness.now(),
                known=None if known is None else known.largest or known.note,
                shown=None if shown is None else kept_note(shown, keys),
                key=doubt.key,
            )
        )


def _parsed(entry: bytes) -> Leaf:
    """The leaf of an entry. One of a later schema is no complaint: nothing is wrong with it."""
    try:
        return Leaf.parse(entry)
    except NotProven as error:
        if error.cure:
            raise SigulError(error.problem, error.cure) from None
        raise
