"""Signing logs for tests: leaves, logs of any size, and what a plain tree of their entries has."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from sigul_stack.evidence.leaf import Content, Leaf, LeafClient, LeafKey, Result
from sigul_stack.evidence.log_reader import LogReader
from sigul_stack.evidence.signing_log import SigningLog, create
from sigul_stack.formats.signed_note import PublicKey

NAME = "server.example.org"


def digest(number: int) -> str:
    """A digest that only leaf `number` has."""
    return hashlib.sha256(b"content %d" % number).hexdigest()


def leaf(number: int) -> Leaf:
    """A leaf as a server writes it."""
    return Leaf(
        op="sign-data",
        result=Result.OK,
        request=f"request-{number}",
        client=LeafClient("ann", digest(-1)),
        user="ann",
        objects={"key": "release"},
        key=LeafKey("release", "gnupg", "AB" * 20),
        input=Content(digest(number), number),
        file=f"file-{number}.tar",
        output=Content(digest(-2 - number), 310),
    )


def leaves(start: int, stop: int) -> list[Leaf]:
    """Those from `start` to `stop`."""
    return [leaf(number) for number in range(start, stop)]


def make_log(directory: Path, size: int) -> PublicKey:
    """A log of `size` leaves; the first is the log's own."""
    create(directory, NAME)
    with SigningLog.open(directory) as log:
        log.append(leaves(1, size))
        return log.public_key


def public_key(directory: Path) -> PublicKey:
    """The key of a log."""
    key = LogReader.open(directory).public_key
    assert key is not None
    return key


def plain_root(entries: Sequence[bytes]) -> bytes:
    """The root by the definition of RFC 6962, 2.1, and nothing else."""
    if len(entries) < 2:
        return hashlib.sha256(b"\0" + entries[0] if entries else b"").digest()
    split = 1
    while split * 2 < len(entries):
        split *= 2
    return hashlib.sha256(
        b"\1" + plain_root(entries[:split]) + plain_root(entries[split:])
    ).digest()
