"""A signer as a private key that makes certificates, and nothing else."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sigul_stack.errors import KeystoreError
from sigul_stack.formats.keygrip import SigningKey
from sigul_stack.signing.issuing_key import private_key
from sigul_stack.signing.signers.pem import PemSigner

RSA = rsa.generate_private_key(65537, 2048)
CURVE = ec.generate_private_key(ec.SECP521R1())
NAME = x509.Name.from_rfc4514_string("CN=Test")
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Counted(PemSigner):
    """A signer that tells what it was given."""

    def __init__(self, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
        super().__init__(key)
        self.signed: list[tuple[int, str]] = []

    def sign_digest(self, digest: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
        self.signed.append((len(digest), algorithm.name))
        return super().sign_digest(digest, algorithm)


@pytest.mark.parametrize("key", [RSA, CURVE, ec.generate_private_key(ec.BrainpoolP256R1())])
@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA512()])
def test_certificates_are_signed_by_digest(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, algorithm: hashes.SHA256 | hashes.SHA512
) -> None:
    signer = Counted(key)
    made = (
        x509.CertificateBuilder(NAME, NAME, key.public_key(), 1)
        .not_valid_before(START)
        .not_valid_after(START + datetime.timedelta(days=1))
        .sign(private_key(signer), algorithm)
    )
    made.verify_directly_issued_by(made)
    assert signer.signed == [(algorithm.digest_size, algorithm.name)]


REFUSED: list[Callable[[], object]] = [
    lambda: rsa_key().sign(b"", padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256()),
    lambda: rsa_key().decrypt(b"", padding.PKCS1v15()),
    lambda: rsa_key().private_numbers(),
    lambda: rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    lambda: ec_key().exchange(ec.ECDH(), CURVE.public_key()),
    lambda: ec_key().private_numbers(),
    lambda: ec_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
]


def rsa_key() -> rsa.RSAPrivateKey:
    """The adaptor of an RSA key."""
    key = private_key(PemSigner(RSA))
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def ec_key() -> ec.EllipticCurvePrivateKey:
    """The adaptor of a key of a curve."""
    key = private_key(PemSigner(CURVE))
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


@pytest.mark.parametrize("use", REFUSED)
def test_nothing_else_is_done_with_the_key(use: Callable[[], object]) -> None:
    with pytest.raises(NotImplementedError, match="signs certificates"):
        use()


def test_the_public_part_is_the_signers() -> None:
    assert rsa_key().public_key() == RSA.public_key()
    assert (rsa_key().key_size, ec_key().key_size) == (2048, 521)
    assert (ec_key().public_key(), ec_key().curve.name) == (CURVE.public_key(), "secp521r1")
    key = rsa_key()
    assert copy.copy(key) is copy.deepcopy(key) is key


@pytest.mark.parametrize(
    "public",
    [
        ed25519.Ed25519PrivateKey.generate().public_key(),
        dsa.generate_private_key(2048).public_key(),
    ],
)
def test_other_kinds_of_keys_sign_no_certificates(public: SigningKey) -> None:
    class Other:
        public_key = public

        def sign_digest(self, digest: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
            raise AssertionError

    with pytest.raises(KeystoreError, match="RSA and ECC keys alone"):
        private_key(Other())
