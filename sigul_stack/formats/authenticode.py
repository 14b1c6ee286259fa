"""Authenticode signatures as they stand in a PE image: made, and read as far as checking needs.

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
without its own tag and length. Digests are SHA-256. What is made has the attributes that
osslsigncode writes: content type, time, that one person or firm signs, and messageDigest.
"""

from __future__ import annotations

import datetime
import enum
import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import ProtocolError

_HEAD: Final = struct.Struct("<IHH")
_REVISION_AND_TYPE: Final = (0x200, 2)
_SEQUENCE, _SET, _OCTETS, _CONTEXT_0 = 0x30, 0x31, 0x04, 0xA0
_INTEGER, _UTC_TIME, _GENERALIZED_TIME = 0x02, 0x17, 0x18
_SHA256: Final = bytes.fromhex("300d06096086480165030402010500")
#: Object identifiers in DER: of PKCS#7 and PKCS#9 (RFC 2315, RFC 2985), and Microsoft's.
_SIGNED_DATA: Final = bytes.fromhex("06092a864886f70d010702")
_CONTENT_TYPE: Final = bytes.fromhex("06092a864886f70d010903")
_SIGNING_TIME: Final = bytes.fromhex("06092a864886f70d010905")
_INDIRECT_DATA: Final = bytes.fromhex("060a2b060104018237020104")
_STATEMENT_TYPE: Final = bytes.fromhex("060a2b06010401823702010b")
_INDIVIDUAL: Final = bytes.fromhex("060a2b060104018237020115")
#: What is signed, a PE image (SpcPeImageData), whose flags and link to a file mean nothing now.
_PE_IMAGE: Final = bytes.fromhex(
    "3034060a2b06010401823702010f302603020780a020a21e801c"
) + "<<<Obsolete>>>".encode("utf-16-be")
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


class SignatureAlgorithm(enum.Enum):
    """The ways to sign attributes, each an AlgorithmIdentifier in DER."""

    RSA = bytes.fromhex("300d06092a864886f70d0101010500")
    ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")


def signed_attributes(image_digest: bytes, moment: datetime.datetime) -> bytes:
    """The bytes to sign for an image with that SHA-256, at that `moment` (UTC)."""
    # RFC 5280, 4.1.2.5: which of the two types a year has.
    tag, form = (_UTC_TIME, "%y") if moment.year < 2050 else (_GENERALIZED_TIME, "%Y")
    time = _encode(tag, moment.strftime(f"{form}%m%d%H%M%SZ").encode("ascii"))
    return _set_of(
        [
            _attribute(_CONTENT_TYPE, _INDIRECT_DATA),
            _attribute(_SIGNING_TIME, time),
            _attribute(_STATEMENT_TYPE, _encode(_SEQUENCE, _INDIVIDUAL)),
            _MESSAGE_DIGEST + hashlib.sha256(_indirect_data(image_digest)).digest(),
        ]
    )


def encode_authenticode(
    image_digest: bytes,
    attributes: bytes,
    signature: bytes,
    algorithm: SignatureAlgorithm,
    certificates: Sequence[bytes],
    issuer: bytes,
    serial: int,
) -> bytes:
    """The WIN_CERTIFICATE with the `signature` over `attributes`, without padding.

    `certificates` (DER) are the signer's and those of its issuers; `issuer` (a Name in DER) and
    `serial` are what names the signer's.
    """
    signer = _sequence(
        _integer(1),
        _sequence(issuer, _integer(serial)),
        _SHA256,
        # The signature is over a SET; here the same has a tag of its place.
        bytes((_CONTEXT_0,)) + attributes[1:],
        algorithm.value,
        _encode(_OCTETS, signature),
    )
    content = _encode(_CONTEXT_0, _encode(_SEQUENCE, _indirect_data(image_digest)))
    signed_data = _sequence(
        _integer(1),
        _encode(_SET, _SHA256),
        _sequence(_INDIRECT_DATA, content),
        bytes((_CONTEXT_0,)) + _set_of(certificates)[1:],
        _encode(_SET, signer),
    )
    info = _sequence(_SIGNED_DATA, _encode(_CONTEXT_0, signed_data))
    return _HEAD.pack(_HEAD.size + len(info), *_REVISION_AND_TYPE) + info


def _indirect_data(image_digest: bytes) -> bytes:
    """The content of the SpcIndirectDataContent, without its own tag and length."""
    return _PE_IMAGE + _sequence(_SHA256, _encode(_OCTETS, image_digest))


def _attribute(kind: bytes, value: bytes) -> bytes:
    return _sequence(kind, _encode(_SET, value))


def _integer(value: int) -> bytes:
    return _encode(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _sequence(*elements: bytes) -> bytes:
    return _encode(_SEQUENCE, b"".join(elements))


def _set_of(elements: Iterable[bytes]) -> bytes:
    """A SET OF in DER, whose elements are in the order of their bytes (X.690, 11.6)."""
    return _encode(_SET, b"".join(sorted(elements)))


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
