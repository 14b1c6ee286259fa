"""Telling a signing server from a bridge that plays it: by the key in its certificate.

A bridge whose certificate also has the server's name, as where both are `localhost`, could answer
the inner session itself. What it does not have is another key. So the keys are compared, and not
the certificates: of one key there are several once it was renewed.
"""

from __future__ import annotations

from typing import Final

from ..errors import RemoteProtocolError, SigulError, quoted
from .stream import Peer

_VERSION: Final = 0xA0
#: What comes before the key: serial number, algorithm, issuer, validity, subject.
_BEFORE_KEY: Final = 5
_LONG_LENGTH: Final = 0x80
_MAX_LENGTH_OCTETS: Final = 4


def public_key(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a certificate, both in DER (RFC 5280, 4.1).

    For one that TLS has verified. Raises `RemoteProtocolError` where it is not to be found.
    """
    begin, _ = _content(certificate, 0)  # Certificate
    begin, end = _content(certificate, begin)  # TBSCertificate
    place = begin
    if place < end and certificate[place] == _VERSION:
        _, place = _content(certificate, place)
    for _number in range(_BEFORE_KEY):
        _, place = _content(certificate, place)
    _, after = _content(certificate, place)
    return certificate[place:after]


def check_own_key(server: Peer, bridge: Peer) -> None:
    """Raise `SigulError` where the server's key is the bridge's."""
    if public_key(server.certificate) == public_key(bridge.certificate):
        raise SigulError(
            f"the server {quoted(server.common_name)} has shown the bridge's own key: the bridge"
            " may be playing the server. No secret was told",
            "if bridge and server do share a key, give the server one of its own (sigul-stack pki"
            " renew --new-key); else find out who has taken the bridge",
        )


def _content(data: bytes, place: int) -> tuple[int, int]:
    """The places where the content of the element at `place` begins and ends."""
    if place + 2 <= len(data):
        length, begin, octets = data[place + 1], place + 2, 1
        if length >= _LONG_LENGTH:
            octets = length - _LONG_LENGTH
            length = int.from_bytes(data[begin : begin + octets], "big")
            begin += octets
        if 1 <= octets <= _MAX_LENGTH_OCTETS and begin + length <= len(data):
            return begin, begin + length
    raise RemoteProtocolError(
        "a certificate is not in DER, so whose key it has is not known", "have it issued anew"
    )
