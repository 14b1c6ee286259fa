"""Any signer as a private key that `cryptography` makes certificates with.

`CertificateBuilder` asks a key of its own types to sign what it has encoded. The types here hash
that and hand the digest to a `Signer`, wherever its key is. They do nothing else of what a private
key can do: what is asked for besides raises `NotImplementedError`, and so does another padding.
"""

from __future__ import annotations

from typing import Any, NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from ..errors import KeystoreError
from .signer import Signer


def private_key(signer: Signer) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """The key of `signer`, to sign certificates with. Raises `KeystoreError` for other kinds."""
    match signer.public_key:
        case rsa.RSAPublicKey() as public:
            return _RSAKey(signer, public)
        case ec.EllipticCurvePublicKey() as public:
            return _ECKey(signer, public)
        case _:
            raise KeystoreError(
                "certificates are signed by RSA and ECC keys alone", "name a key of these kinds"
            )


def _sign(signer: Signer, data: bytes, algorithm: object) -> bytes:
    if not isinstance(algorithm, hashes.HashAlgorithm):
        _no()
    state = hashes.Hash(algorithm)
    state.update(data)
    return signer.sign_digest(state.finalize(), algorithm)


def _no(*_: object) -> NoReturn:
    raise NotImplementedError("this key signs certificates, and does nothing else")


class _RSAKey(rsa.RSAPrivateKey):
    def __init__(self, signer: Signer, public: rsa.RSAPublicKey) -> None:
        self._signer = signer
        self._public = public

    def sign(
        self,
        data: Any,
        padding: padding.AsymmetricPadding,
        algorithm: hashes.HashAlgorithm | Prehashed | Any,
    ) -> bytes:
        if not isinstance(padding, _PKCS1v15):
            _no()
        return _sign(self._signer, data, algorithm)

    def public_key(self) -> rsa.RSAPublicKey:
        return self._public

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def decrypt(self, ciphertext: bytes, padding: padding.AsymmetricPadding) -> bytes:
        _no(ciphertext, padding)

    def private_numbers(self) -> rsa.RSAPrivateNumbers:
        _no()

    def private_bytes(self, *_: Any, **__: Any) -> bytes:
        _no()

    def __copy__(self) -> _RSAKey:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> _RSAKey:
        return self


class _ECKey(ec.EllipticCurvePrivateKey):
    def __init__(self, signer: Signer, public: ec.EllipticCurvePublicKey) -> None:
        self._signer = signer
        self._public = public

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        if not isinstance(signature_algorithm, ec.ECDSA):
            _no()
        return _sign(self._signer, data, signature_algorithm.algorithm)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    @property
    def key_size(self) -> int:
        return self._public.key_size

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        _no(algorithm, peer_public_key)

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        _no()

    def private_bytes(self, *_: Any, **__: Any) -> bytes:
        _no()

    def __copy__(self) -> _ECKey:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> _ECKey:
        return self


#: The padding has the name of an argument that `cryptography` names.
_PKCS1v15 = padding.PKCS1v15
