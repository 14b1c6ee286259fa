"""Reasons why a file is not taken for an OpenPGP secret key, in words that lead to the right one.

gpg says of most of them that there is no valid OpenPGP data, or that a user ID is missing.
"""

from __future__ import annotations

import re
from typing import Final

from ...errors import RequestRefused, SigulError, Status
from ...formats.file_kinds import LOOKED_AT, kind_of
from ...formats.key_remarks import bound_by_md5, moment
from ...formats.openpgp_keys import ListedKey, dearmored, packets, read_keys
from ...formats.openpgp_packets import MalformedPacket, PacketType

_EXPORT: Final = "gpg --armor --export-secret-keys KEY makes the right file"
_PEM: Final = "import it with --key-type ECC or RSA, as it is none for gnupg"
_SSH: Final = "ssh-keygen -p -m PEM -f FILE makes PEM of one for --key-type ECC or RSA"
_DOWNGRADE: Final = "make a key of version 4, as gpg does by itself (sq: --profile rfc4880)"
#: Beginnings of GnuPG's own files, which gpg does not import.
_KEY_FILE: Final = re.compile(
    rb"(Created: |Key: \(|\(\d+:(protected-|shadowed-)?private-key|\(private-key)"
)
#: The version that GnuPG reads, and the algorithms of its public keys (RFC 9580, 9.1).
_VERSION: Final = 4
_ALGORITHMS: Final = frozenset({1, 2, 3, 16, 17, 18, 19, 20, 22})
#: In place of a secret: GnuPG's own S2K (doc/DETAILS), 1 for nothing, 2 for a card's number.
_STUB: Final = re.compile(rb"\xff.\x65.GNU([\x01\x02])", re.DOTALL)
_ON_CARD: Final = b"\x02"
#: First bytes of a secret key, in the format of today and in that of old (RFC 9580, 4.2).
_SECRET_KEY: Final = frozenset({0xC5, *range(0x94, 0x98)})
_ARMOURED_KEY: Final = re.compile(rb"-----BEGIN PGP (PRIVATE|PUBLIC) KEY BLOCK")
#: Packets that a file begins with that holds something else, and what that is.
_OTHERS: Final = {
    1: "a message encrypted to a key",
    PacketType.SIGNATURE: "a signature or a revocation certificate",
    PacketType.SESSION_KEY: "a message encrypted with a passphrase",
    4: "a signed message",
    PacketType.SECRET_SUBKEY: "a subkey without its primary key",
    PacketType.COMPRESSED: "compressed OpenPGP data",
    9: "an encrypted message",
    PacketType.LITERAL: "an OpenPGP message",
    PacketType.PUBLIC_SUBKEY: "a public subkey alone",
    PacketType.ENCRYPTED: "an encrypted message",
    20: "an encrypted message",
}


def invalid(problem: str, cure: str = _EXPORT) -> RequestRefused:
    """The refusal of a file to import."""
    return RequestRefused.because(SigulError(problem, cure), Status.INVALID_IMPORT)


def refuse_before(data: bytes, now: float) -> None:
    """Raise `RequestRefused` for a key that GnuPG may take and that would sign nothing, or badly.

    `now` in seconds since 1970. Newer versions import such keys without a word.
    """
    try:
        keys = read_keys(data)
    except MalformedPacket:
        return
    for key in keys:
        if key.primary.version == 4 and key.primary.created > now:
            raise _of_the_future(key, now)
        if key.primary.version == 4 and bound_by_md5(key):
            raise invalid(
                f"key {key.primary.key_id} is signed by itself with MD5 alone, which GnuPG rejects",
                "sign it anew where it is from: gpg --allow-weak-digest-algos --cert-digest-algo"
                " SHA512 --quick-set-expire FPR 0",
            )


def _of_the_future(key: ListedKey, now: float) -> RequestRefused:
    return invalid(
        f"key {key.primary.key_id} was made on {moment(key.primary.created)}, and this server's"
        f" clock says {moment(now)}: it is not valid yet",
        "set the clock that is wrong; where the key's was, make it again, or wait until then",
    )


def reason(data: bytes) -> RequestRefused:
    """The reason why GnuPG found no key in `data`."""
    start = data[:LOOKED_AT].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start:
        return invalid("the file is empty")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) and b"-\0" in start[:8]:
        return invalid("the file is text in UTF-16", "save it as ASCII")
    if data.startswith(b"\xef\xbb\xbf") and start.startswith(b"-----BEGIN PGP"):
        return invalid("the file begins with a byte order mark", "save it without one, as ASCII")
    if _KEY_FILE.match(start):
        return invalid(
            "it is a file of GnuPG's own, from private-keys-v1.d, without its public key"
        )
    kind = kind_of(start) or kind_of(data)
    if kind is not None and "OpenPGP" not in kind:
        cure = _EXPORT
        if ("private" in kind and "PEM" in kind) or "DER" in kind:
            cure = _PEM
        elif "SSH private" in kind:
            cure = _SSH
        return invalid(f"it holds no OpenPGP key: it is {kind}", cure)
    # What begins as a key and has none that GnuPG finds is damaged.
    begins = _ARMOURED_KEY.search(data) is not None or data[0] in _SECRET_KEY
    damaged = invalid("the key is damaged or incomplete", "export it again")
    try:
        return _by_packets(data) or (damaged if begins else invalid("it holds no OpenPGP key"))
    except MalformedPacket:
        return damaged if begins else invalid("it holds no OpenPGP key")


def no_secret(data: bytes) -> RequestRefused:
    """The reason why GnuPG found a key in `data`, and no secret part of it."""
    try:
        stubs = {
            found[1]
            for kind, body in packets(dearmored(data))
            if kind in (PacketType.SECRET_KEY, PacketType.SECRET_SUBKEY)
            and (found := _STUB.search(body))
        }
    except MalformedPacket:
        stubs = set()
    if _ON_CARD in stubs:
        return invalid(
            "the key's secret is on a smartcard or token, and the file only says on which",
            "import a copy from before it was moved there; a card gives none out",
        )
    if stubs:
        return invalid(
            "the file has the key's form without its secret",
            "export it with gpg --export-secret-keys where its secret is",
        )
    return invalid("it holds a public key only", "use gpg --export-secret-keys")


def _by_packets(data: bytes) -> RequestRefused | None:
    if data.lstrip().startswith(b"-----BEGIN PGP ") and not _ARMOURED_KEY.search(data):
        return invalid(f"it holds no OpenPGP key: it is {kind_of(data.lstrip())}")
    kind, body = next(packets(dearmored(data)), (None, b""))
    if kind in _OTHERS:
        return invalid(f"it holds no OpenPGP key: it is {_OTHERS[kind]}")
    if kind == PacketType.PUBLIC_KEY:
        return no_secret(data)
    if kind != PacketType.SECRET_KEY:
        return None
    version = body[0] if body else 0
    if version not in range(2, 7):
        return None
    if version != _VERSION:
        return invalid(
            f"it is an OpenPGP key of version {version}, which this server's GnuPG does not read",
            _DOWNGRADE,
        )
    key = read_keys(data)[0]
    if (algorithm := key.primary.algorithm) not in _ALGORITHMS:
        what = key.primary.curve or "an unknown one"
        return invalid(
            f"it is an OpenPGP key of algorithm {algorithm} ({what}), which this server's GnuPG"
            " does not read",
            _DOWNGRADE,
        )
    if not key.user_ids:
        return invalid("the key has no user ID", "add one (gpg --quick-add-uid), and export again")
    if not key.primary.hashes:
        return invalid("no user ID of the key is signed by the key itself", "export it again")
    return None
