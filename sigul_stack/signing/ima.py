"""IMA file signatures (`formats.ima_signature`), by an ECC or RSA key."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ..errors import RequestRefused, Status
from ..formats.ima_signature import encode_file_signature, key_id
from ..formats.openpgp_hashes import HASHES
from .signer import Signer


class FileSigner:
    """Signs files, by their digests."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        public = signer.public_key
        self._key_id = key_id(
            public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            if isinstance(public, ec.EllipticCurvePublicKey)
            else public.public_bytes(Encoding.DER, PublicFormat.PKCS1)
        )

    def sign(self, algorithm: int, digest: bytes) -> bytes:
        """The IMA signature of a file with that `digest`; `algorithm` is its OpenPGP number.

        Raises `RequestRefused` where the algorithm is none that IMA signatures are made for.
        """
        known = HASHES.get(algorithm)
        if known is None:
            raise RequestRefused(
                Status.UNKNOWN_ERROR,
                "the RPM names its files by MD5, SHA-1 or an unknown digest, which file signatures"
                " are not made of; build it with SHA-256",
            )
        if len(digest) != known.digest_size:
            raise RequestRefused(Status.CORRUPT_RPM, "a file's digest has the wrong length")
        return encode_file_signature(
            known.name, self._key_id, self._signer.sign_digest(digest, known)
        )
