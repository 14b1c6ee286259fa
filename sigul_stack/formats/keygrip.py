"""Keygrips: the names that gpg-agent has for secret keys, made of the public part.

    keygrip = SHA-1 of n, for RSA
            | SHA-1 of "(1:NAME LENGTH:" NUMBER ")" for each number in turn, without the blank:
              p, q, g, y for DSA; p, a, b, g, n, q for curves, where g and q are points

(Libgcrypt's manual, "gcry_pk_get_keygrip"; the forms were compared with what gpg lists.) Numbers
are big-endian; those of RSA and DSA have a zero byte in front of a highest bit, those of curves
have none in front. The point of an Ed25519 key is the 32 bytes of the key itself, of others X and Y
behind 4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

#: p, a, b, g and n of each curve in hexadecimal, by OpenPGP's names of them (SEC 2, RFC 5639,
#: RFC 8032; a and b of Ed25519 without their signs).
_CURVES: Final[Mapping[str, tuple[str, str, str, str, str]]] = MappingProxyType(
    {
        "nistp256": (
            "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff",
            "ffffffff00000001000000000000000000000000fffffffffffffffffffffffc",
            "5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b",
            "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a"
            "7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
            "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
        ),
        "nistp384": (
            "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff000000"
            "0000000000ffffffff",
            "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff000000"
            "0000000000fffffffc",
            "b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed1"
            "9d2a85c8edd3ec2aef",
            "04aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55"
            "296c3a545e3872760ab73617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5"
            "f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f",
            "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a7"
            "7aecec196accc52973",
        ),
        "nistp521": (
            "01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
            "ffffffffffffffffffffffffffffffffffffffffffffffffffffff",
            "01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
            "fffffffffffffffffffffffffffffffffffffffffffffffffffffc",
            "51953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e156193951ec7e"
            "937b1652c0bd3bb1bf073573df883d2c34f1ef451fd46b503f00",
            "0400c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d3dbaa14b5e77"
            "efe75928fe1dc127a2ffa8de3348b3c1856a429bf97e7e31c2e5bd66011839296a789a3bc0045c"
            "8a5fb42c7d1bd998f54449579b446817afbd17273e662c97ee72995ef42640c550b9013fad0761"
            "353c7086a272c24088be94769fd16650",
            "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf"
            "2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
        ),
        "secp256k1": (
            "fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f",
            "",
            "07",
            "0479be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798483ada7726a3"
            "c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8",
            "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
        ),
        "brainpoolP256r1": (
            "a9fb57dba1eea9bc3e660a909d838d726e3bf623d52620282013481d1f6e5377",
            "7d5a0975fc2c3057eef67530417affe7fb8055c126dc5c6ce94a4b44f330b5d9",
            "26dc5c6ce94a4b44f330b5d9bbd77cbf958416295cf7e1ce6bccdc18ff8c07b6",
            "048bd2aeb9cb7e57cb2c4b482ffc81b7afb9de27e1e3bd23c23a4453bd9ace3262547ef835c3da"
            "c4fd97f8461a14611dc9c27745132ded8e545c1d54c72f046997",
            "a9fb57dba1eea9bc3e660a909d838d718c397aa3b561a6f7901e0e82974856a7",
        ),
        "brainpoolP384r1": (
            "8cb91e82a3386d280f5d6f7e50e641df152f7109ed5456b412b1da197fb71123acd3a729901d1a"
            "71874700133107ec53",
            "7bc382c63d8c150c3c72080ace05afa0c2bea28e4fb22787139165efba91f90f8aa5814a503ad4"
            "eb04a8c7dd22ce2826",
            "04a8c7dd22ce28268b39b55416f0447c2fb77de107dcd2a62e880ea53eeb62d57cb4390295dbc9"
            "943ab78696fa504c11",
            "041d1c64f068cf45ffa2a63a81b7c13f6b8847a3e77ef14fe3db7fcafe0cbd10e8e826e03436d6"
            "46aaef87b2e247d4af1e8abe1d7520f9c2a45cb1eb8e95cfd55262b70b29feec5864e19c054ff9"
            "9129280e4646217791811142820341263c5315",
            "8cb91e82a3386d280f5d6f7e50e641df152f7109ed5456b31f166e6cac0425a7cf3ab6af6b7fc3"
            "103b883202e9046565",
        ),
        "brainpoolP512r1": (
            "aadd9db8dbe9c48b3fd4e6ae33c9fc07cb308db3b3c9d20ed6639cca703308717d4d9b009bc668"
            "42aecda12ae6a380e62881ff2f2d82c68528aa6056583a48f3",
            "7830a3318b603b89e2327145ac234cc594cbdd8d3df91610a83441caea9863bc2ded5d5aa8253a"
            "a10a2ef1c98b9ac8b57f1117a72bf2c7b9e7c1ac4d77fc94ca",
            "3df91610a83441caea9863bc2ded5d5aa8253aa10a2ef1c98b9ac8b57f1117a72bf2c7b9e7c1ac"
            "4d77fc94cadc083e67984050b75ebae5dd2809bd638016f723",
            "0481aee4bdd82ed9645a21322e9c4c6a9385ed9f70b5d916c1b43b62eef4d0098eff3b1f78e2d0"
            "d48d50d1687b93b97d5f7c6d5047406a5e688b352209bcb9f8227dde385d566332ecc0eabfa9cf"
            "7822fdf209f70024a57b1aa000c55b881f8111b2dcde494a5f485e5bca4bd88a2763aed1ca2b2f"
            "a8f0540678cd1e0f3ad80892",
            "aadd9db8dbe9c48b3fd4e6ae33c9fc07cb308db3b3c9d20ed6639cca70330870553e5c414ca926"
            "19418661197fac10471db1d381085ddaddb58796829ca90069",
        ),
        "ed25519": (
            "7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffed",
            "01",
            "2dfc9311d490018c7338bf8688861767ff8ff5b2bebe27548a14b235eca6874a",
            "04216936d3cd6e53fec0a4e231fdd6dc5c692cc7609525a7b2c9562d608f25d51a666666666666"
            "6666666666666666666666666666666666666666666666666658",
            "1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed",
        ),
    }
)

#: Keys that sign, of `cryptography`.
SigningKey = (
    rsa.RSAPublicKey | dsa.DSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
)


def keygrip(key: SigningKey, curve: str = "") -> bytes:
    """The keygrip of a public key, 20 bytes; `curve` is OpenPGP's name of a key's curve.

    Raises KeyError for a curve that is not known here.
    """
    match key:
        case rsa.RSAPublicKey():
            return _sha1(_signed(key.public_numbers().n))
        case dsa.DSAPublicKey():
            numbers = key.public_numbers()
            domain = numbers.parameter_numbers
            values = map(_signed, (domain.p, domain.q, domain.g, numbers.y))
            return _sha1(_listed("pqgy", values))
        case ed25519.Ed25519PublicKey():
            point = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        case _:
            point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return _sha1(_listed("pabgnq", [*map(bytes.fromhex, _CURVES[curve]), point]))


def _listed(names: str, values: Iterable[bytes]) -> bytes:
    return b"".join(
        b"(1:%c%d:%s)" % (name, len(value), value)
        for name, value in zip(names.encode(), values, strict=True)
    )


def _signed(number: int) -> bytes:
    """A number with room for a sign."""
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()
