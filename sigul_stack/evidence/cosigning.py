"""A witness who looks at copies of a log now and then, and signs what it has seen.

    KEY                  the witness's private key, one line, 0600
    KEY.pub              its public key
    KEY.seen/HEX         the last checkpoint that it cosigned of each log, by the SHA-256 of origin
    COPY/checkpoint.cosigned    what the world gets

A cosignature says: this log extends everything that I have cosigned of it. So the checkpoint is
remembered, durably, before the cosigned one leaves; with a copy of KEY elsewhere there are two
witnesses of one name that know nothing of each other, which is what must not be.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import SigulError
from ..formats.merkle_tree import verify_consistency
from ..formats.signed_note import (
    MAX_NOTE_BYTES,
    Checkpoint,
    Note,
    PrivateKey,
    PublicKey,
    cosigned,
    open_checkpoint,
)
from ..system.files import locked, write_whole
from .given_files import read_text, read_witness_key
from .log_reader import LogReader

#: The cosigned checkpoint, in the copy's directory.
COSIGNED_FILE: Final = "checkpoint.cosigned"
_SEEN_ENDING: Final = ".seen"
_MAX_KEY: Final = 1024
#: Seconds to wait for another process of this witness.
_LOCK_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A checkpoint that was cosigned, and the size of the one before; None: it is the first."""

    checkpoint: Checkpoint
    old_size: int | None
    note: Note


def cosign(copy: Path, witness_key: Path, *, when: int, key: PublicKey | None = None) -> Cosigned:
    """Cosign the checkpoint of a copy at the time `when` (s since 1970), and write it beside it.

    The first time the log's public `key` is needed. Raises `SigulError`; `NotProven` where the copy
    does not extend what this witness has cosigned.
    """
    private = read_witness_key(witness_key)
    seen = witness_key.with_name(witness_key.name + _SEEN_ENDING)
    try:
        seen.mkdir(mode=0o700, exist_ok=True)
        busy = SigulError(f"another process cosigns with '{witness_key}'", "wait for its end")
        with locked(seen, _LOCK_SECONDS, busy):
            return _cosign(copy, private, seen, when, key)
    except OSError as error:
        raise SigulError(
            f"the cosigned checkpoint cannot be written: {error.strerror or error}",
            f"let this user write to '{copy}' and '{seen}'",
        ) from error


def _cosign(
    copy: Path, private: PrivateKey, seen: Path, when: int, key: PublicKey | None
) -> Cosigned:
    reader = LogReader.open(copy)
    origin = Checkpoint.of(reader.checkpoint).origin
    memory = seen / hashlib.sha256(origin.encode()).hexdigest()
    old_note: Note | None = None
    if memory.exists():
        line, _, rest = read_text(memory, MAX_NOTE_BYTES + _MAX_KEY, "memory").partition("\n")
        known, old_note = PublicKey.parse(line), Note.parse(rest)
        if key is not None and key != known:
            raise SigulError(
                f"this witness knows the log '{origin}' with another key than the one given",
                "find out which is the log's",
            )
        key = known
    if key is None:
        raise SigulError(
            f"this witness has cosigned nothing of the log '{origin}' yet",
            "give its public key with --key, from a source that you trust",
        )
    found = open_checkpoint(reader.checkpoint, key)
    old = None if old_note is None else open_checkpoint(old_note, key)
    if old is not None:
        proof = reader.consistency(old.size) if old.size <= found.size else []
        verify_consistency(old.size, old.root, found.size, found.root, proof)
    note = cosigned(reader.checkpoint, private, when)
    remembered = f"{key.encode()}\n{Note(note.text, reader.checkpoint.signatures).encode()}"
    write_whole(memory, remembered.encode(), replace=True)
    write_whole(copy / COSIGNED_FILE, note.encode().encode(), replace=True, mode=0o644)
    return Cosigned(found, None if old is None else old.size, note)
