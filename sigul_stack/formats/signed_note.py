"""Signed notes, and what a transparency log says in them: checkpoints, cosignatures and proofs.

Source of the formats: c2sp.org/signed-note, c2sp.org/tlog-checkpoint, c2sp.org/tlog-cosignature
(its Ed25519 type) and c2sp.org/tlog-proof:

    note           text, each line ended; an empty line; signature lines
    signature      — NAME BASE64(key ID, 4 bytes ‖ signature)
    checkpoint     text of a note: ORIGIN, SIZE, BASE64(root), further lines
    cosignature    u64 time ‖ Ed25519 over the lines "cosignature/v1", "time TIME", and the text
    key ID         SHA-256(NAME ‖ 0A ‖ type ‖ public key)[:4]; type 01 a log's key, 04 a witness's
    public key     NAME+HEX(key ID)+BASE64(type ‖ public key)
    private key    PRIVATE+KEY+NAME+HEX(key ID)+BASE64(type ‖ seed), as golang.org/x/mod has it
    proof          "c2sp.org/tlog-proof@v1", extra BASE64, index N, hashes, "", checkpoint

Here `extra` is the leaf's content, and a reader believes it only as far as its hash is proven.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ..errors import quoted
from ..records import dataclass
from ..secret import Secret
from . import ed25519
from .merkle_tree import (
    HASH_BYTES,
    MAX_PROOF_HASHES,
    NotProven,
    hash_leaf,
    verify_inclusion,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: Types of keys: a log's, which signs notes, and a witness's, which cosigns checkpoints.
LOG_KEY: Final = 1
WITNESS_KEY: Final = 4

#: Largest note and most signature lines that are read, in bytes and lines.
MAX_NOTE_BYTES: Final = 16 * 1024
_MAX_SIGNATURES: Final = 64
#: Largest proof that is read, in bytes: the largest leaf in base64, hashes and a note.
MAX_PROOF_BYTES: Final = 128 * 1024
_MAX_SIZE: Final = 1 << 63
_PROOF_HEAD: Final = "c2sp.org/tlog-proof@v1"
_PRIVATE: Final = "PRIVATE+KEY+"
_SIGNATURE_MARK: Final = "\u2014 "
_NAME: Final = re.compile(r"[^\s+\x00-\x20\x7f]{1,200}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")


def check_name(name: str) -> str:
    """The name of a log or witness, as it was given. Raises `NotProven` where it may be none."""
    if not _NAME.fullmatch(name):
        raise NotProven(
            f"{quoted(name, 60)} is no name of a log or witness: it has up to 200 characters, none"
            " of them a blank or a plus sign"
        )
    return name


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The public key of a log or witness, with the name under which it signs."""

    name: str
    type: int
    key: bytes

    @property
    def id(self) -> bytes:
        """The key's ID, 4 bytes: it finds a signature, and proves nothing."""
        return _key_id(self.name, self.type, self.key)

    def encode(self) -> str:
        """The key as one line of text, without a line end."""
        content = base64.b64encode(bytes([self.type]) + self.key).decode()
        return f"{self.name}+{self.id.hex()}+{content}"

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """The key that a line of text has. Raises `NotProven`."""
        name, identity, kind, content = _key_parts(text.strip(), "public key")
        if kind not in (LOG_KEY, WITNESS_KEY):
            raise NotProven(
                f"the public key of {quoted(name, 60)} is of a type that is unknown here"
            )
        key = cls(name, kind, content)
        if identity != key.id:
            raise NotProven(
                f"the public key of {quoted(name, 60)} does not have the ID that it names"
            )
        return key

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Tell whether an Ed25519 signature of 64 bytes is this key's over `message`."""
        if not _checks_many:
            return ed25519.verify(self.key, message, signature)
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """The private key of a log or witness; `secret` has the 32 bytes of its seed."""

    name: str
    type: int
    secret: Secret

    @classmethod
    def new(cls, name: str, kind: int) -> PrivateKey:
        """A new random key for a log (`LOG_KEY`) or witness (`WITNESS_KEY`)."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        seed = Ed25519PrivateKey.generate().private_bytes_raw()
        return cls(check_name(name), kind, Secret(seed))

    def encode(self) -> Secret:
        """The key as one line of text, without a line end."""
        content = base64.b64encode(bytes([self.type]) + self.secret.reveal()).decode()
        return Secret(f"{_PRIVATE}{self.name}+{self.public.id.hex()}+{content}")

    @classmethod
    def parse(cls, text: Secret) -> PrivateKey:
        """The key that a line of text has. Raises `NotProven`, which tells nothing of the key."""
        try:
            line = text.reveal().decode("utf-8").strip()
        except UnicodeDecodeError:
            line = ""
        if not line.startswith(_PRIVATE):
            raise NotProven("this is no private key of a log or witness")
        name, identity, kind, seed = _key_parts(line.removeprefix(_PRIVATE), "private key")
        key = cls(name, kind, Secret(seed))
        if kind not in (LOG_KEY, WITNESS_KEY) or key.public.id != identity:
            raise NotProven(f"the private key of {quoted(name, 60)} is damaged")
        return key

    @property
    def public(self) -> PublicKey:
        """The public half."""
        return PublicKey(self.name, self.type, self._key().public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature, 64 bytes, over `message`."""
        return self._key().sign(message)

    def _key(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.secret.reveal())


#: Whether this process is one that checks many signatures.
_checks_many = False


def load_library() -> None:
    """Load what checks a signature in 0.15 ms, and not in 1.5: for processes that check many.

    It takes 5 ms and 7 MB of memory, ten times that of all that a client checks in one request.
    """
    global _checks_many
    from cryptography.hazmat.primitives.asymmetric import ed25519 as _library  # noqa: F401

    _checks_many = True


def _key_parts(text: str, what: str) -> tuple[str, bytes, int, bytes]:
    """Name, ID, type and 32 bytes of a key."""
    name, _, rest = text.partition("+")
    identity, _, content = rest.partition("+")
    data = _bytes_of(content)
    if not re.fullmatch("[0-9a-f]{8}", identity) or data is None or len(data) != 33:
        raise NotProven(f"this is no {what} of a log or witness: it is NAME+ID+KEY, in one line")
    return check_name(name), bytes.fromhex(identity), data[0], data[1:]


def _key_id(name: str, kind: int, key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + key).digest()[:4]


def _bytes_of(text: str) -> bytes | None:
    """The bytes of canonical base64; None where it is not."""
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    return data if base64.b64encode(data).decode() == text else None


# ------------------------------------------------------------------------------------------ notes


@dataclass(frozen=True, slots=True)
class Note:
    """A text, which ends with a line end, and the signatures on it by name and key ID."""

    text: str
    signatures: tuple[tuple[str, bytes, bytes], ...] = ()

    def encode(self) -> str:
        """The note, whole."""
        lines = (
            f"{_SIGNATURE_MARK}{name} {base64.b64encode(identity + content).decode()}\n"
            for name, identity, content in self.signatures
        )
        return f"{self.text}\n{''.join(lines)}"

    @classmethod
    def parse(cls, data: str) -> Note:
        """The note that `data` is. Raises `NotProven`; no signature is checked."""
        text, found, lines = data.rpartition("\n\n")
        rows = lines.removesuffix("\n").split("\n")
        if (
            not found
            or len(data.encode("utf-8", "replace")) > MAX_NOTE_BYTES
            or not 0 < len(rows) <= _MAX_SIGNATURES
            or not data.endswith("\n")
            or any(ord(char) < 0x20 and char != "\n" for char in data)
        ):
            raise NotProven("this is no signed note")
        signatures = []
        for row in rows:
            name, _, encoded = row.removeprefix(_SIGNATURE_MARK).partition(" ")
            content = _bytes_of(encoded)
            if not row.startswith(_SIGNATURE_MARK) or content is None or len(content) < 5:
                raise NotProven("a signature line of the note is none")
            signatures.append((check_name(name), content[:4], content[4:]))
        return cls(text + "\n", tuple(signatures))

    def of(self, key: PublicKey) -> bytes | None:
        """The content of the signature line of `key`, unchecked; None where there is none.

        Raises `NotProven` where there are two.
        """
        found = [
            content
            for name, identity, content in self.signatures
            if (name, identity) == (key.name, key.id)
        ]
        if len(found) > 1:
            raise NotProven(f"{quoted(key.name, 60)} has signed the note twice")
        return found[0] if found else None

    def with_signature(self, key: PublicKey, content: bytes) -> Note:
        """This note with a signature more, in the place of one of the same key."""
        others = (row for row in self.signatures if row[:2] != (key.name, key.id))
        return Note(self.text, (*others, (key.name, key.id, content)))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a log: its origin, the number of its leaves and the hash over all of them."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The text of its note."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def of(cls, note: Note) -> Checkpoint:
        """The checkpoint that a note's text tells. Raises `NotProven`; no signature is checked."""
        lines = note.text.split("\n")
        root = _bytes_of(lines[2]) if len(lines) > 3 else None
        if (
            root is None
            or len(root) != HASH_BYTES
            or not lines[0]
            or not _NUMBER.fullmatch(lines[1])
            or int(lines[1]) >= _MAX_SIZE
        ):
            raise NotProven("the note is no checkpoint of a log")
        return cls(check_name(lines[0]), int(lines[1]), root)

    def signed(self, key: PrivateKey) -> Note:
        """The note of the log that has `key` and says this."""
        text = self.text()
        return Note(text).with_signature(key.public, key.sign(text.encode()))


def open_checkpoint(note: Note, key: PublicKey) -> Checkpoint:
    """The checkpoint of the log that has `key`. Raises `NotProven` where it is not that log's."""
    found = Checkpoint.of(note)
    if found.origin != key.name or key.type != LOG_KEY:
        raise NotProven(
            f"the checkpoint is of the log {quoted(found.origin, 120)}, not of"
            f" {quoted(key.name, 120)}"
        )
    signature = note.of(key)
    if signature is None or not key.verify(note.text.encode(), signature):
        raise NotProven(f"the checkpoint is not signed by the log {quoted(key.name, 120)}")
    return found


def cosigned(note: Note, key: PrivateKey, when: int) -> Note:
    """The note of a checkpoint with the cosignature of a witness at the time `when` (s, 1970)."""
    content = when.to_bytes(8, "big") + key.sign(_cosigned_message(note, when))
    return note.with_signature(key.public, content)


def cosignature_time(note: Note, key: PublicKey) -> int:
    """The time (s since 1970) at which the witness that has `key` cosigned a checkpoint.

    Raises `NotProven` where it has not.
    """
    content = note.of(key)
    if content is None or len(content) != 72 or key.type != WITNESS_KEY:
        raise NotProven(f"the checkpoint is not cosigned by {quoted(key.name, 120)}")
    when = int.from_bytes(content[:8], "big")
    if not key.verify(_cosigned_message(note, when), content[8:]):
        raise NotProven(f"the cosignature of {quoted(key.name, 120)} on the checkpoint is wrong")
    return when


def _cosigned_message(note: Note, when: int) -> bytes:
    return f"cosignature/v1\ntime {when}\n{note.text}".encode()


# ----------------------------------------------------------------------------------------- proofs


@dataclass(frozen=True, slots=True)
class LogProof:
    """A proof that a log has a leaf, with nothing else needed but the log's public key."""

    entry: bytes
    index: int
    hashes: tuple[bytes, ...]
    checkpoint: Note

    def verify(self, key: PublicKey) -> Checkpoint:
        """The checkpoint that is proven to include the entry. Raises `NotProven`."""
        found = open_checkpoint(self.checkpoint, key)
        verify_inclusion(hash_leaf(self.entry), self.index, found.size, self.hashes, found.root)
        return found

    def encode(self) -> str:
        """The proof as a text."""
        rows = [
            _PROOF_HEAD,
            f"extra {base64.b64encode(self.entry).decode()}",
            f"index {self.index}",
            *encode_hashes(self.hashes),
        ]
        return "\n".join(rows) + "\n\n" + self.checkpoint.encode()

    @classmethod
    def parse(cls, data: str) -> LogProof:
        """The proof that `data` is, without judging it. Raises `NotProven` where it is none."""
        head, found, note = data.partition("\n\n")
        rows = head.split("\n")
        if (
            not found
            or len(data) > MAX_PROOF_BYTES
            or len(rows) < 3
            or rows[0] != _PROOF_HEAD
            or not rows[1].startswith("extra ")
            or not rows[2].startswith("index ")
        ):
            raise NotProven("this is no proof of this project's: it lacks its head, leaf or index")
        entry, number = _bytes_of(rows[1].removeprefix("extra ")), rows[2].removeprefix("index ")
        if entry is None or not _NUMBER.fullmatch(number):
            raise NotProven("the proof's leaf or index is damaged")
        return cls(entry, int(number), decode_hashes(rows[3:]), Note.parse(note))


def encode_hashes(hashes: Sequence[bytes]) -> list[str]:
    """Hashes as lines of a proof."""
    return [base64.b64encode(item).decode() for item in hashes]


def decode_hashes(rows: Sequence[str]) -> tuple[bytes, ...]:
    """The hashes of a proof's lines. Raises `NotProven`."""
    found = [_bytes_of(row) for row in rows[:MAX_PROOF_HASHES]]
    hashes = tuple(item for item in found if item is not None and len(item) == HASH_BYTES)
    if len(hashes) != len(rows):
        raise NotProven("a line of the proof is no hash, or it has too many of them")
    return hashes
