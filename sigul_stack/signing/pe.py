"""Authenticode signatures in PE images, made in process with a `Signer`.

An image is copied with its signature behind it; a signature that it has is replaced. It passes
through memory once, piece by piece: for the digest, for the checksum in its header, and into the
copy. What is made is checked as firmware does, and goes to nobody else: the image's digest is in
the signature, and the signature is good with the certificate's key.

Keys on tokens sign by a program (`osslsigncode`), whose result is held to the same.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

from cryptography import x509
from cryptography.exceptions import InvalidSignature as WrongSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from ..errors import KeystoreError, ProtocolError, RequestRefused
from ..formats.authenticode import (
    Authenticode,
    InvalidSignature,
    SignatureAlgorithm,
    encode_authenticode,
    parse_authenticode,
    signed_attributes,
)
from ..formats.pe_head import ImageLayout, InvalidImage, check_headers
from .signer import Signer
from .x509 import load_certificate

#: How much larger than the image its signature and certificates may make the output, in bytes.
MAX_SIGNATURE_BYTES = 1 << 20

_NO_IMAGE = "this is no PE image that can be signed: "
_PIECE_BYTES = 1 << 20
_U32 = struct.Struct("<I")
#: Place and size of the signatures, in the header.
_DIRECTORY = struct.Struct("<II")
_ALIGNMENT = 8


def sign_image(
    key: Signer,
    certificates: bytes,
    image: BinaryIO,
    signed: BinaryIO,
    *,
    now: datetime.datetime,
    before_use: Callable[[], None] = lambda: None,
) -> None:
    """Write `image` with a signature by `key` to `signed`, an empty file, which is at its start.

    The first of the `certificates` (PEM) is the key's, the others go with it; the signature says
    that it was made `now` (UTC). `before_use` is called before the key is used, and raises where it
    is not to be any more. Raises `RequestRefused` for what is no whole PE image, `KeystoreError`.
    """
    check_image(image)
    layout = layout_of(image)
    digest, words = _copy(image, signed, layout)
    attributes = signed_attributes(digest, now)
    before_use()
    made = key.sign_digest(hashlib.sha256(attributes).digest(), hashes.SHA256())
    chain = x509.load_pem_x509_certificates(certificates)
    table = encode_authenticode(
        digest,
        attributes,
        made,
        SignatureAlgorithm.ECDSA_SHA256
        if isinstance(key.public_key, ec.EllipticCurvePublicKey)
        else SignatureAlgorithm.RSA,
        [one.public_bytes(Encoding.DER) for one in chain],
        chain[0].issuer.public_bytes(),
        chain[0].serial_number,
    )
    table += bytes(-len(table) % _ALIGNMENT)
    place = layout.end + -layout.end % _ALIGNMENT
    entry = _DIRECTORY.pack(place, len(table))
    words += _words(layout.directory, entry) + _words(place, table)
    # The sum of all 16-bit words, with carries added again, and the file's size.
    checksum = (words - 1) % 0xFFFF + 1 + place + len(table)
    for at, data in (
        (place, table),
        (layout.directory, entry),
        (layout.checksum, _U32.pack(checksum)),
    ):
        signed.seek(at)
        _write(signed, data)
    check_signed(signed, certificates, digest)


def check_image(image: BinaryIO) -> None:
    """Raise `RequestRefused` unless `image` is a whole PE image whose signatures will hold."""
    try:
        layout_of(image)
    except InvalidImage as error:
        raise RequestRefused.because(error, before=_NO_IMAGE) from None
    image.seek(0)


def layout_of(image: BinaryIO) -> ImageLayout:
    """The places in an image that no hash covers. Raises `InvalidImage`."""

    def read_at(offset: int, size: int) -> bytes:
        image.seek(offset)
        return image.read(size)

    length = image.seek(0, os.SEEK_END)
    layout = check_headers(length, read_at)
    if length > 0xFFFFFFFF - MAX_SIGNATURE_BYTES:
        raise InvalidImage("a signature behind it would be beyond 4 GiB, which no image can say")
    return layout


def check_signed(image: BinaryIO, certificates: bytes, digest: bytes | None = None) -> Authenticode:
    """Check a signed image as its consumers do, with the first of the `certificates` (PEM).

    `digest` is the image's SHA-256 where it was just made of the same bytes. Returns the
    signature, with the image at its start. Raises `RequestRefused` where it does not hold.
    """
    try:
        layout = layout_of(image)
        image.seek(layout.end)
        signature = parse_authenticode(image.read(MAX_SIGNATURE_BYTES))
        if layout.end % _ALIGNMENT or signature.image_digest != (digest or _digest(image, layout)):
            raise InvalidImage("its signature is not of the digest that firmware makes of it")
        _verify(load_certificate(certificates), signature)
    except ProtocolError as error:
        raise RequestRefused.because(
            error, before="the signed image would not be accepted and is not sent: "
        ) from None
    image.seek(0)
    return signature


def signed_digest(image: BinaryIO) -> bytes:
    """The digest that the signature of a signed image is over (SHA-256), as `check_signed` saw it.

    `image` is at its start afterwards.
    """
    image.seek(layout_of(image).end)
    digest = parse_authenticode(image.read(MAX_SIGNATURE_BYTES)).image_digest
    image.seek(0)
    return digest


def _verify(certificate: x509.Certificate, authenticode: Authenticode) -> None:
    signature, signed, digest = authenticode.signature, authenticode.signed, hashes.SHA256()
    try:
        match certificate.public_key():
            case ec.EllipticCurvePublicKey() as key:
                key.verify(signature, signed, ec.ECDSA(digest))
            case rsa.RSAPublicKey() as key:
                key.verify(signature, signed, padding.PKCS1v15(), digest)
            case _:
                raise WrongSignature
    except WrongSignature:
        raise InvalidSignature("its signature is not by the certificate's key") from None


def _copy(image: BinaryIO, target: BinaryIO, layout: ImageLayout) -> tuple[bytes, int]:
    """Copy an image without its signatures, with zeros in what no hash covers and at the end.

    Returns the digest of the copy, padded as one with a signature is, and the sum of its words.
    """
    state, words = hashlib.sha256(), 0
    for at, piece in _hashed(image, layout):
        state.update(piece)
        words = (words + _words(at, piece)) % 0xFFFF
        target.seek(at)
        _write(target, piece)
    state.update(bytes(-layout.end % _ALIGNMENT))
    return state.digest(), words


def _digest(image: BinaryIO, layout: ImageLayout) -> bytes:
    """The digest of an image that has a signature."""
    state = hashlib.sha256()
    for _, piece in _hashed(image, layout):
        state.update(piece)
    return state.digest()


def _hashed(image: BinaryIO, layout: ImageLayout) -> Iterator[tuple[int, bytes]]:
    """All bytes but checksum, place of the signatures, and signatures; and where each piece is."""
    at = 0
    for end, left_out in (
        (layout.checksum, _U32.size),
        (layout.directory, _DIRECTORY.size),
        (layout.end, 0),
    ):
        image.seek(at)
        while at < end:
            piece = image.read(min(_PIECE_BYTES, end - at))
            if not piece:
                raise InvalidImage("it became shorter while it was read")
            yield at, piece
            at += len(piece)
        at += left_out


def _words(at: int, data: bytes) -> int:
    """The sum of the 16-bit words that `data` makes at an offset, but for multiples of 0xFFFF.

    2^16 leaves 1 there, so that it is what is left of all of it as one number: which is no loop in
    Python.
    """
    return (int.from_bytes(data, "little") << 8 * (at % 2)) % 0xFFFF


def _write(target: BinaryIO, data: bytes) -> None:
    """Write all of it. Raises `KeystoreError`, with the reason where there is no room."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[target.write(rest) :]
    except OSError as error:
        raise KeystoreError(
            f"the signed image cannot be written ({error.strerror})", "look for room in the spool"
        ) from error
