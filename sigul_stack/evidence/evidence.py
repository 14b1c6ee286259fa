"""Evidence: what a server's reply carries of its signing log, in numbered fields.

    u8   1, the version        u64  index      u16 length, leaf      u8 number, hashes of 32 bytes
    u16  length, checkpoint    u64  old size   u8 number, hashes of 32 bytes
    u8   length, public key    u16  length, first leaf         u8 number, hashes of 32 bytes

It lies in the fields `log-1`, `log-2` and so on, each of at most 255 bytes (docs/protocol.md, "The
signing log"). Index, leaf and the first hashes prove that the leaf is in the log at the checkpoint;
the old size, which is one that the client or bridge has named, and the last hashes that this log
extends the one of that size. A reply about the checkpoint alone has an empty leaf. The public key
is the log's, 32 bytes, for whoever meets it for the first time. The log's first leaf and its proof
go to one that knows other logs and not this one: it may name the checkpoint that is known of those.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from ..formats.merkle_tree import HASH_BYTES, MAX_PROOF_HASHES, NotProven
from ..formats.signed_note import LOG_KEY, LogProof, Note, PublicKey, check_name
from ..records import dataclass

_VERSION: Final = 1
_FIELD: Final = "log-{}"
_FIELD_BYTES: Final = 255
_KEY_BYTES: Final = 32
#: Most fields of one reply: what is over 20 KiB is left out, with the log's own word for it.
MAX_FIELDS: Final = 80


@dataclass(frozen=True, slots=True)
class Evidence:
    """A checkpoint, the proof of one leaf, and that the log extends what it was at `old_size`.

    `entry` is empty where it is about the checkpoint alone. `old_size` 0 proves nothing older.
    `key` has the bytes of the log's public key, or none. `first` is the log's first leaf, or empty.
    """

    entry: bytes
    index: int
    inclusion: tuple[bytes, ...]
    checkpoint: Note
    old_size: int = 0
    consistency: tuple[bytes, ...] = ()
    key: bytes = b""
    first: bytes = b""
    first_inclusion: tuple[bytes, ...] = ()

    @property
    def public_key(self) -> PublicKey | None:
        """The key that the log says is its own. Raises `NotProven` where there can be none such."""
        if not self.key:
            return None
        if len(self.key) != _KEY_BYTES:
            raise NotProven(f"the log's public key has {len(self.key)} bytes, not {_KEY_BYTES}")
        origin = self.checkpoint.text.partition("\n")[0]
        return PublicKey(check_name(origin), LOG_KEY, self.key)

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
                bytes([len(self.key)]),
                self.key,
                struct.pack("!H", len(self.first)),
                self.first,
                bytes([len(self.first_inclusion)]),
                *self.first_inclusion,
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
        key = reader.take(reader.number(1))
        first = reader.take(reader.number(2))
        first_inclusion = reader.hashes()
        reader.end()
        return cls(
            entry, index, inclusion, note, old_size, consistency, key, first, first_inclusion
        )

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
