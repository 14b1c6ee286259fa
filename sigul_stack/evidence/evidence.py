"""Evidence: what a server's reply carries of its signing log, in numbered fields.

    u8   1, the version        u64  index      u16 length, leaf      u8 number, hashes of 32 bytes
    u16  length, checkpoint    u64  old size   u8 number, hashes of 32 bytes

It lies in the fields `log-1`, `log-2` and so on, each of at most 255 bytes (docs/protocol.md, "The
signing log"). Index, leaf and the first hashes prove that the leaf is in the log at the checkpoint;
the old size, which is one that the client or bridge has named, and the last hashes that this log
extends the one of that size. A reply about the checkpoint alone has an empty leaf.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..formats.merkle_tree import HASH_BYTES, MAX_PROOF_HASHES, NotProven
from ..formats.signed_note import LogProof, Note

_VERSION: Final = 1
_FIELD: Final = "log-{}"
_FIELD_BYTES: Final = 255
#: Most fields of one reply: what is over 20 KiB is left out, with the log's own word for it.
MAX_FIELDS: Final = 80


@dataclass(frozen=True, slots=True)
class Evidence:
    """A checkpoint, the proof of one leaf, and that the log extends what it was at `old_size`.

    `entry` is empty where it is about the checkpoint alone. `old_size` 0 proves nothing older.
    """

    entry: bytes
    index: int
    inclusion: tuple[bytes, ...]
    checkpoint: Note
    old_size: int = 0
    consistency: tuple[bytes, ...] = ()

    @property
    def proof(self) -> LogProof:
        """The proof that the leaf is in the log, for whoever has the log's public key."""
        return LogProof(self.entry, self.index, self.inclusion, self.checkpoint)

    def encode(self) -> bytes:
        """The evidence as bytes."""
        note = self.checkpoint.encode().encode()
        return b"".join(
            (
                struct.pack("!BQH", _VERSION, self.index, len(self.entry)),
                self.entry,
                bytes([len(self.inclusion)]),
                *self.inclusion,
                struct.pack("!H", len(note)),
                note,
                struct.pack("!QB", self.old_size, len(self.consistency)),
                *self.consistency,
            )
        )

    @classmethod
    def parse(cls, data: bytes) -> Evidence:
        """The evidence in `data`. Raises `NotProven` where it is damaged; proves nothing itself."""
        reader = _Reader(data)
        if reader.number(1) != _VERSION:
            raise NotProven("what the reply tells of the signing log is of another version")
        index = reader.number(8)
        entry = reader.take(reader.number(2))
        inclusion = reader.hashes()
        try:
            note = Note.parse(reader.take(reader.number(2)).decode())
        except UnicodeDecodeError:
            raise NotProven("the reply's checkpoint is no text") from None
        old_size = reader.number(8)
        consistency = reader.hashes()
        reader.end()
        return cls(entry, index, inclusion, note, old_size, consistency)

    def fields(self) -> dict[str, bytes]:
        """The fields of a reply. Empty where they would be more than `MAX_FIELDS`."""
        data = self.encode()
        parts = [data[start : start + _FIELD_BYTES] for start in range(0, len(data), _FIELD_BYTES)]
        if len(parts) > MAX_FIELDS:
            return {}
        return {_FIELD.format(number): part for number, part in enumerate(parts, 1)}

    @classmethod
    def of(cls, fields: Mapping[str, bytes]) -> Evidence | None:
        """The evidence in a reply's fields; None where it has none. Raises `NotProven`."""
        parts: list[bytes] = []
        while (part := fields.get(_FIELD.format(len(parts) + 1))) is not None:
            parts.append(part)
            if len(parts) > MAX_FIELDS:
                raise NotProven("the reply tells more of the signing log than it may")
        return cls.parse(b"".join(parts)) if parts else None


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) != count:
            raise NotProven("what the reply tells of the signing log is cut off")
        self._at += count
        return found

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def hashes(self) -> tuple[bytes, ...]:
        count = self.number(1)
        if count > MAX_PROOF_HASHES:
            raise NotProven("a proof in the reply has more hashes than any has")
        return tuple(self.take(HASH_BYTES) for _ in range(count))

    def end(self) -> None:
        if self._at != len(self._data):
            raise NotProven("what the reply tells of the signing log has something behind it")
