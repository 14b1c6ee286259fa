"""Match a proof from the signing log with files that are at hand.

A proof shows that a leaf is in the log; that the leaf is about this file is its digests' doing. So
a file is hashed here, and for an RPM also the parts that its signature is over and the signatures
in it (`digests_of`), and these are compared with the leaf's (`where_in`). Nothing here judges the
signature itself: who verifies that does both.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import SigulError, quoted
from ..formats.merkle_tree import NotProven
from ..formats.rpm_head import CorruptRPM, parse_head
from ..formats.rpm_tags import SignatureTag
from ..formats.signed_note import (
    Checkpoint,
    LogProof,
    PublicKey,
    cosignature_time,
)
from .given_files import unreadable
from .leaf import Leaf, Result

#: An RPM's beginning, and the tags of the signatures that a server puts in.
RPM_MAGIC: Final = bytes.fromhex("edabeedb")
_RPM_SIGNATURES: Final = (
    SignatureTag.DSA_HEADER,
    SignatureTag.RSA_HEADER,
    SignatureTag.PGP,
    SignatureTag.GPG,
)


@dataclass(frozen=True, slots=True)
class Proven:
    """A leaf that was proven: where it is, in which log, and who saw that when.

    `cosigned` has the time (s since 1970) of each witness's cosignature, by the witness's name.
    """

    leaf: Leaf
    index: int
    checkpoint: Checkpoint
    cosigned: Mapping[str, int]


def open_proof(proof: LogProof, key: PublicKey, witnesses: Sequence[PublicKey] = ()) -> Proven:
    """Check `proof` with the log's public key; each of `witnesses` has to have cosigned it.

    Raises `NotProven`.
    """
    checkpoint = proof.verify(key)
    cosigned = {item.name: cosignature_time(proof.checkpoint, item) for item in witnesses}
    return Proven(Leaf.parse(proof.entry), proof.index, checkpoint, cosigned)


def where_in(leaf: Leaf, sha256: str) -> str:
    """The part of `leaf` with this SHA-256: input, signed, output or signature; empty: none."""
    if leaf.input is not None and leaf.input.sha256 == sha256:
        return "input"
    if leaf.output is not None and leaf.output.sha256 == sha256:
        return "output"
    if sha256 in leaf.signatures:
        return "signature"
    return "signed" if leaf.signed == sha256 else ""


def check_signed(leaf: Leaf, file: str, signature: str | None, fingerprint: str = "") -> None:
    """Raise `NotProven` unless `leaf` is of a detached signature of a file, by their SHA-256.

    Where `signature` is None, `file` is the output itself, as a clear-signed text is. `fingerprint`
    is that of the key which the signature was verified with, compared where the leaf tells one.
    """
    _check_result(leaf)
    if signature is None:
        if where_in(leaf, file) != "output":
            raise NotProven("the proof's leaf is of another output: its SHA-256 differs")
    else:
        if where_in(leaf, file) not in ("input", "signed"):
            raise NotProven("the proof's leaf is of another file: its SHA-256 differs")
        if where_in(leaf, signature) not in ("output", "signature"):
            raise NotProven("the proof's leaf is of another signature: its SHA-256 differs")
    told = "" if leaf.key is None else leaf.key.fingerprint
    if fingerprint and told and told.lower() != fingerprint.lower():
        raise NotProven(
            f"the proof's leaf is of the key {quoted(told, 80)}, and the signature of {fingerprint}"
        )


def check_holds(leaf: Leaf, digests: Mapping[str, str], what: str) -> str:
    """The part of `leaf` that is a file's, by the file's `digests`; `what` names the file.

    In a few words. Raises `NotProven` where nothing is.
    """
    _check_result(leaf)
    found = {where: part for part, sha256 in digests.items() if (where := where_in(leaf, sha256))}
    for where in ("output", "input", "signature", "signed"):
        if where in found:
            return f"{found[where]} is the leaf's {where}"
    raise NotProven(f"the proof's leaf is not about '{what}': it has none of its digests")


def _check_result(leaf: Leaf) -> None:
    if leaf.result is not Result.OK:
        raise NotProven(f"the proof's leaf is of a request that was not done ({leaf.result})")


# ------------------------------------------------------------------------------------------ files


def sha256_of(path: Path) -> str:
    """The SHA-256 of a plain file, in hexadecimal. Raises `SigulError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SigulError(f"'{path}' is no plain file", "name one")
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def digests_of(path: Path) -> dict[str, str]:
    """The SHA-256 of a file, and of an RPM those of what signatures are over and of these.

    By a few words each, which tell what it is of. Raises `SigulError`.
    """
    found = {"its SHA-256": sha256_of(path)}
    try:
        with path.open("rb") as file:
            if file.read(len(RPM_MAGIC)) != RPM_MAGIC:
                return found
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                found |= _rpm_digests(data)
    except OSError as error:
        raise unreadable(path, error) from error
    return found


def _rpm_digests(data: mmap.mmap) -> dict[str, str]:
    """The digests of an RPM's parts; none where it is damaged, and so just a file."""
    try:
        head = parse_head(memoryview(data))
    except CorruptRPM:
        return {}
    signatures = {tag: head.signature.blob(tag) for tag in _RPM_SIGNATURES}
    found = {
        f"the SHA-256 of its signature with tag {tag}": hashlib.sha256(blob).hexdigest()
        for tag, blob in signatures.items()
        if blob is not None
    }
    return found | {"the SHA-256 of its header": hashlib.sha256(head.main.raw).hexdigest()}


def key_of(keys: Sequence[PublicKey], origin: str) -> PublicKey:
    """The one of `keys` whose name is the log's. Raises `NotProven` where there is none."""
    for key in keys:
        if key.name == origin:
            return key
    names = ", ".join(quoted(key.name, 120) for key in keys)
    raise NotProven(
        f"this is of the log {quoted(origin, 120)}, and the key that was given is of {names}",
        "give the public key of that log, from a source that you trust",
    )
