"""Authenticode signatures as they stand in a PE image, read as far as checking them needs.

Layout (Microsoft, "Windows Authenticode Portable Executable Signature Format"; RFC 2315):

    WIN_CERTIFICATE    u32 length of all of it, without what pads it to a multiple of 8;
                       u16 revision 0x200, u16 type 2; then a ContentInfo in DER
    ContentInfo        OID signedData, [0] SignedData
    SignedData         version, SET of digest algorithms, content, [0] certificates,
                       SET of SignerInfo
    content            OID SpcIndirectDataContent, [0] SEQUENCE (SEQUENCE what, DigestInfo): the
                       image's digest
    SignerInfo         version, issuer and serial number, digest algorithm, [0] attributes,
                       signature algorithm, OCTET STRING signature

The signature is over the attributes, as a SET; the attribute messageDigest is over the content,
without its own tag and length. Digests are SHA-256.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from ..errors import ProtocolError

_HEAD: Final = struct.Struct("<IHH")
_REVISION_AND_TYPE: Final = (0x200, 2)
_SEQUENCE, _SET, _OCTETS, _CONTEXT_0 = 0x30, 0x31, 0x04, 0xA0
_SHA256: Final = bytes.fromhex("300d06096086480165030402010500")
#: The attribute messageDigest (1.2.840.113549.1.9.4) with a SHA-256, up to that.
_MESSAGE_DIGEST: Final = bytes.fromhex("302f06092a864886f70d01090431220420")


class InvalidSignature(ProtocolError):
    """Bytes that are no Authenticode signature of one signer with SHA-256."""


@dataclass(frozen=True, slots=True)
class Authenticode:
    """One signature: the `image_digest` in it, and the `signature` over the bytes `signed`.

    `length` is that of the WIN_CERTIFICATE, in bytes, without padding.
    """

    length: int
    image_digest: bytes
    signed: bytes
    signature: bytes


def parse_authenticode(table: bytes) -> Authenticode:
    """The one signature in a certificate `table`. Raises `InvalidSignature`."""
    if len(table) < _HEAD.size or _HEAD.unpack_from(table)[1:] != _REVISION_AND_TYPE:
        raise InvalidSignature("its signature is of another kind")
    info, padding = _split(table[_HEAD.size :], _SEQUENCE)
    if len(padding) > 7 or any(padding):
        raise InvalidSignature("something is behind its signature")
    _, wrapped = _next(info)
    signed_data = _only(_only(wrapped, _CONTEXT_0), _SEQUENCE)
    _, rest = _next(signed_data)
    _, rest = _next(rest)
    content, rest = _split(rest, _SEQUENCE)
    while rest and rest[0] != _SET:  # certificates, revocation lists
        _, rest = _next(rest)
    signer = _only(_only(rest, _SET), _SEQUENCE)
    _, indirect = _next(content)
    indirect = _only(_only(indirect, _CONTEXT_0), _SEQUENCE)
    _, digest_info = _next(indirect)
    algorithm, digest = _next(_only(digest_info, _SEQUENCE))
    if algorithm != _SHA256:
        raise InvalidSignature("its signature is not of a SHA-256")
    for _ in range(3):
        _, signer = _next(signer)
    attributes, signer = _split(signer, _CONTEXT_0)
    if _MESSAGE_DIGEST + hashlib.sha256(indirect).digest() not in attributes:
        raise InvalidSignature("its signature is not over the digest in it")
    _, signer = _next(signer)
    signature, _ = _split(signer, _OCTETS)
    return Authenticode(
        length=len(table) - len(padding),
        image_digest=_only(digest, _OCTETS),
        signed=_encode(_SET, attributes),
        signature=signature,
    )


def _next(data: bytes) -> tuple[bytes, bytes]:
    """The first element of `data`, and what follows it."""
    _, rest = _split(data, data[0] if data else 0)
    return data[: len(data) - len(rest)], rest


def _split(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """The content of the first element of `data`, which has that `tag`, and what follows it."""
    if len(data) < 2 or data[0] != tag:
        raise InvalidSignature("its signature is damaged")
    start, length = 2, data[1]
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    if start + length > len(data):
        raise InvalidSignature("its signature is damaged")
    return data[start : start + length], data[start + length :]


def _only(data: bytes, tag: int) -> bytes:
    """The content of the element that is all of `data`."""
    content, rest = _split(data, tag)
    if rest:
        raise InvalidSignature("its signature is damaged")
    return content


def _encode(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    count = (size.bit_length() + 7) // 8
    return bytes((tag, 0x80 | count)) + size.to_bytes(count, "big") + content
