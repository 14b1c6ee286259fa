"""Ed25519 (RFC 8032, 5.1.7): the check of a signature, and nothing else.

    signature   R, 32 bytes ‖ S, 32 bytes, little-endian, below L
    point       y, 255 bits, little-endian ‖ lowest bit of x
    good where  S·B - SHA-512(R ‖ key ‖ message)·A encodes to R

Of `cryptography`, which does the same, a client would load all of OpenSSL for its one check a
request: 7 MB of memory, and twice the time. Keys, signatures and messages are public, so nothing
here has to take the same time for each. Whatever makes or holds a private key must not use this.

Invariant: what this takes, `cryptography` takes. It also refuses a key that is no canonical point,
as the RFC says.
"""

from __future__ import annotations

import hashlib
from typing import Final, TypeAlias

#: Bytes of a public key, and of a signature.
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_P: Final = 2**255 - 19
#: The order of the base point.
_L: Final = 2**252 + 27742317777372353535851937790883648493
_D: Final = -121665 * pow(121666, -1, _P) % _P
_ROOT_OF_MINUS_ONE: Final = pow(2, (_P - 1) // 4, _P)

#: Extended coordinates: x = X/Z, y = Y/Z, x·y = T/Z.
_Point: TypeAlias = tuple[int, int, int, int]

_ZERO: Final[_Point] = (0, 1, 1, 0)
_BASE_Y: Final = 4 * pow(5, -1, _P) % _P


def verify(key: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether `signature` is that of `message` under the public key `key`."""
    if len(key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    point = _decode(key)
    number = int.from_bytes(signature[32:], "little")
    if point is None or number >= _L:
        return False
    commitment = signature[:32]
    digest = hashlib.sha512(commitment + key + message).digest()
    factor = int.from_bytes(digest, "little") % _L
    x, y, z, t = point
    base = _decode(_BASE_Y.to_bytes(32, "little"))
    assert base is not None  # noqa: S101 - a constant
    return _encode(_sum_of_products(number, base, factor, (-x % _P, y, z, -t % _P))) == commitment


def _decode(data: bytes) -> _Point | None:
    """The point that 32 bytes encode; None where they encode none."""
    y = int.from_bytes(data, "little")
    is_odd, y = y >> 255, y & ((1 << 255) - 1)
    if y >= _P:
        return None
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    # The square root of u/v, if it has one (RFC 8032, 5.1.3).
    x = u * v**3 * pow(u * v**7, (_P - 5) // 8, _P) % _P
    square = v * x * x % _P
    if square != u:
        if square != -u % _P:
            return None
        x = x * _ROOT_OF_MINUS_ONE % _P
    if x == 0 and is_odd:
        return None
    if x & 1 != is_odd:
        x = _P - x
    return x, y, 1, x * y % _P


def _encode(point: _Point) -> bytes:
    x, y, z, _ = point
    inverse = pow(z, -1, _P)
    return ((y * inverse % _P) | (x * inverse % _P & 1) << 255).to_bytes(32, "little")


def _sum(one: _Point, other: _Point) -> _Point:
    (x1, y1, z1, t1), (x2, y2, z2, t2) = one, other
    a, b = (y1 - x1) * (y2 - x2) % _P, (y1 + x1) * (y2 + x2) % _P
    c, d = 2 * t1 * t2 * _D % _P, 2 * z1 * z2 % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _double(point: _Point) -> _Point:
    x, y, z, _ = point
    a, b = x * x % _P, y * y % _P
    h, g = a + b, a - b
    e, f = h - (x + y) * (x + y), 2 * z * z + g
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _sum_of_products(m: int, one: _Point, n: int, other: _Point) -> _Point:
    """m·one + n·other, two bits of both numbers at a time."""
    row = [_ZERO, one, _double(one), _sum(_double(one), one)]
    table = [row]
    for _ in range(3):
        table.append([_sum(point, other) for point in table[-1]])
    found = _ZERO
    for shift in range(254, -2, -2):
        found = _double(_double(found))
        i, j = m >> shift & 3, n >> shift & 3
        if i or j:
            found = _sum(found, table[j][i])
    return found
