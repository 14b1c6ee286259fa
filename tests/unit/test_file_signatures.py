"""IMA file signatures by whatever signs digests: a PEM key, or a backend that is none of ours."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sigul_stack.errors import RequestRefused, Status
from sigul_stack.signing.ima import FileSigner
from sigul_stack.signing.signers.pem import PemSigner

ECC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
#: By OpenPGP's numbers: hashlib's name, cryptography's, and the kernel's number.
ALGORITHMS = {
    8: ("sha256", hashes.SHA256(), 4), 9: ("sha384", hashes.SHA384(), 5),
    10: ("sha512", hashes.SHA512(), 6), 11: ("sha224", hashes.SHA224(), 7),
}  # fmt: skip


@pytest.mark.parametrize("number", ALGORITHMS)
@pytest.mark.parametrize("key", [ECC, RSA], ids=["ecc", "rsa"])
def test_a_pem_key_signs(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, number: int) -> None:
    name, algorithm, kernel = ALGORITHMS[number]
    digest = hashlib.new(name, b"content").digest()
    found = FileSigner(PemSigner(key)).sign(number, digest)
    head, signature = found[:9], found[9:]
    public = key.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        named = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        public.verify(signature, digest, ec.ECDSA(utils.Prehashed(algorithm)))
    else:
        named = public.public_bytes(Encoding.DER, PublicFormat.PKCS1)
        public.verify(signature, digest, padding.PKCS1v15(), utils.Prehashed(algorithm))
    key_id = hashlib.sha1(named, usedforsecurity=False).digest()[-4:]
    assert head == bytes([3, 2, kernel]) + key_id + len(signature).to_bytes(2, "big")


def test_another_backend_is_a_class() -> None:
    class Remote:
        """A key that is elsewhere: it is sent digests, and is asked for nothing else."""

        public_key = RSA.public_key()

        def sign_digest(self, digest: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
            return algorithm.name.encode() + b" " + digest

    found = FileSigner(Remote()).sign(8, bytes(32))
    assert found.endswith(b"\0\x27sha256 " + bytes(32))


@pytest.mark.parametrize(
    ("number", "length", "status"),
    [(1, 16, Status.UNKNOWN_ERROR), (2, 20, Status.UNKNOWN_ERROR), (8, 31, Status.CORRUPT_RPM)],
)
def test_what_is_not_signed(number: int, length: int, status: Status) -> None:
    with pytest.raises(RequestRefused) as refused:
        FileSigner(PemSigner(ECC)).sign(number, bytes(length))
    assert refused.value.status == status
