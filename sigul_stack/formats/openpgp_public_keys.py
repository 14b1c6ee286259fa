"""OpenPGP's public keys as `cryptography` has them, and the signatures that they check.

A key packet ends with the numbers of its algorithm, a signature packet with those of the signature
(RFC 9580, 5.5.5 and 5.2.3).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa, utils

from .keygrip import SigningKey
from .openpgp_hashes import SELF_SIGNATURE_HASHES
from .openpgp_keys import CURVES, DSA, ECDSA, EDDSA
from .openpgp_packets import RSA, MalformedPacket

#: Ed25519 with key and signature as they are, and no MPIs (RFC 9580, 5.2.3.4).
ED25519: Final = 27

#: Curves as `cryptography` has them, by OpenPGP's names.
_ECDSA_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "nistp256": ec.SECP256R1,
    "nistp384": ec.SECP384R1,
    "nistp521": ec.SECP521R1,
    "secp256k1": ec.SECP256K1,
    "brainpoolP256r1": ec.BrainpoolP256R1,
    "brainpoolP384r1": ec.BrainpoolP384R1,
    "brainpoolP512r1": ec.BrainpoolP512R1,
}
_BY_NAME: Final = MappingProxyType({known.name: known for known in SELF_SIGNATURE_HASHES.values()})


def read_public(algorithm: int, data: bytes) -> tuple[SigningKey | None, str]:
    """The key in `data`, an algorithm's numbers, and its curve's OpenPGP name (else empty).

    None for one that makes no signatures, or is unknown. Raises `MalformedPacket`, ValueError and
    UnsupportedAlgorithm for what is no key.
    """
    if algorithm in RSA:
        modulus, exponent = _mpis(data, 2)
        return rsa.RSAPublicNumbers(exponent, modulus).public_key(), ""
    if algorithm == DSA:
        p, q, g, y = _mpis(data, 4)
        return dsa.DSAPublicNumbers(y, dsa.DSAParameterNumbers(p, q, g)).public_key(), ""
    if algorithm == ED25519 and len(data) == 32:
        return ed25519.Ed25519PublicKey.from_public_bytes(data), "ed25519"
    if algorithm not in (ECDSA, EDDSA) or not data:
        return None, ""
    curve = CURVES.get(data[1 : 1 + data[0]], "")
    (point,) = _mpis(data[1 + data[0] :], 1)
    encoded = point.to_bytes(-(-point.bit_length() // 8), "big")
    if algorithm == ECDSA and (named := _ECDSA_CURVES.get(curve)) is not None:
        return ec.EllipticCurvePublicKey.from_encoded_point(named(), encoded), curve
    if algorithm == EDDSA and curve == "ed25519" and encoded[:1] == b"\x40":
        return ed25519.Ed25519PublicKey.from_public_bytes(encoded[1:]), curve
    return None, ""


def _mpis(data: bytes, count: int) -> list[int]:
    """The `count` numbers that `data` is. Raises `MalformedPacket` where it is not just that."""
    numbers = []
    at = 0
    for _ in range(count):
        end = at + 2 + (int.from_bytes(data[at : at + 2], "big") + 7) // 8
        if len(data) < max(end, at + 2):
            raise MalformedPacket("a number of it is cut short")
        numbers.append(int.from_bytes(data[at + 2 : end], "big"))
        at = end
    if at != len(data):
        raise MalformedPacket("something is behind its numbers")
    return numbers


def verify_numbers(key: SigningKey, name: str, digest: bytes, numbers: bytes) -> None:
    """Verify a signature whose `numbers` are as they stand at the end of its packet.

    Raises `MalformedPacket`, ValueError and OverflowError besides what `verify` does.
    """
    if isinstance(key, rsa.RSAPublicKey):
        (number,) = _mpis(numbers, 1)
        signature = number.to_bytes(-(-key.key_size // 8), "big")
    elif not isinstance(key, ed25519.Ed25519PublicKey):
        signature = utils.encode_dss_signature(*_mpis(numbers, 2))
    elif len(numbers) == 64:  # of algorithm 27; two MPIs of 64 bytes in all are as rare as can be
        signature = numbers
    else:
        first, second = _mpis(numbers, 2)
        signature = first.to_bytes(32, "big") + second.to_bytes(32, "big")
    verify(key, name, digest, signature)


def verify(key: SigningKey, hash_name: str, digest: bytes, signature: bytes) -> None:
    """Verify a signature over a digest, in the form of `signing.signer`.

    Raises InvalidSignature, and UnsupportedAlgorithm where the hash is not known here.
    """
    algorithm = _BY_NAME.get(hash_name)
    if algorithm is None:
        raise UnsupportedAlgorithm(hash_name)
    prehashed = utils.Prehashed(algorithm)
    match key:
        case ed25519.Ed25519PublicKey():
            key.verify(signature, digest)
        case rsa.RSAPublicKey():
            key.verify(signature, digest, padding.PKCS1v15(), prehashed)
        case dsa.DSAPublicKey():
            key.verify(signature, digest, prehashed)
        case ec.EllipticCurvePublicKey():
            key.verify(signature, digest, ec.ECDSA(prehashed))
