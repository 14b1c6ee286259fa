"""Which session keys of an encrypted OpenPGP message are left for gpg."""

from __future__ import annotations

import base64

import pytest

from sigul_stack.formats.openpgp_message import MAX_SESSION_KEYS, without_passphrases
from sigul_stack.formats.openpgp_packets import MalformedPacket, PacketType, encode_packet

TO_KEY = encode_packet(PacketType.TO_KEY, b"to a key")
TO_OTHER = encode_packet(PacketType.TO_KEY, b"to another key" * 30)
PASSPHRASE = encode_packet(PacketType.SESSION_KEY, b"with a passphrase")
DATA = encode_packet(PacketType.ENCRYPTED, b"\x01" + b"secret" * 2000)
#: In the format of old, as gpg writes session keys, and without a length, as old gpg wrote data.
OLD_PASSPHRASE = b"\x8c\x04four"
OLD_DATA = b"\xa7secret"


@pytest.mark.parametrize(
    ("message", "left"),
    [
        (TO_KEY + DATA, TO_KEY + DATA),
        (PASSPHRASE + TO_KEY + DATA, TO_KEY + DATA),
        (TO_KEY + OLD_PASSPHRASE + TO_OTHER + PASSPHRASE + DATA, TO_KEY + TO_OTHER + DATA),
        (OLD_PASSPHRASE + TO_KEY + OLD_DATA, TO_KEY + OLD_DATA),
        (b"\xca\x03PGP" + PASSPHRASE + TO_KEY + DATA, b"\xca\x03PGP" + TO_KEY + DATA),
        # What follows the data is none of ours: gpg refuses it.
        (TO_KEY + DATA + PASSPHRASE, TO_KEY + DATA + PASSPHRASE),
        (PASSPHRASE * 999 + DATA, DATA),
    ],
)
@pytest.mark.parametrize("armored", [False, True])
def test_those_of_passphrases_are_left_out(message: bytes, left: bytes, armored: bool) -> None:
    if armored:
        lines = base64.encodebytes(message)
        message = b"-----BEGIN PGP MESSAGE-----\n\n" + lines + b"-----END PGP MESSAGE-----\n"
    assert without_passphrases(message) == left


@pytest.mark.parametrize(
    "message",
    [b"", b"text", PASSPHRASE, PASSPHRASE + TO_KEY[:-1], TO_KEY + DATA[:-1],
     PASSPHRASE * MAX_SESSION_KEYS + DATA, b"-----BEGIN PGP MESSAGE-----\n\n!\n"],
)  # fmt: skip
def test_what_is_no_such_message(message: bytes) -> None:
    with pytest.raises(MalformedPacket):
        without_passphrases(message)
