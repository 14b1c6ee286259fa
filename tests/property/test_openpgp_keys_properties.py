"""Whatever bytes are taken for an OpenPGP key: keys come out, or a `MalformedPacket`."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.formats.file_kinds import kind_of
from sigul_stack.formats.key_remarks import remarks_for_rpm, remarks_on_state
from sigul_stack.formats.openpgp_keys import MAX_PACKETS, dearmored, read_keys
from sigul_stack.formats.openpgp_packets import MalformedPacket, PacketType, encode_packet
from sigul_stack.keystore.gnupg.refused_files import reason, refuse_before

BEGIN, END = b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n", b"-----END PGP PRIVATE KEY BLOCK-----\n"
PACKETS = st.lists(
    st.tuples(st.sampled_from(PacketType), st.binary(max_size=60).map(lambda b: b"\4" + b)),
    max_size=8,
).map(lambda listed: b"".join(encode_packet(kind, body) for kind, body in listed))


@given(data=st.one_of(st.binary(max_size=400), PACKETS), armoured=st.booleans())
def test_any_bytes_are_keys_or_malformed(data: bytes, armoured: bool) -> None:
    if armoured:
        data = BEGIN + b"\n" + base64.encodebytes(data) + END
    try:
        for key in read_keys(data):
            for remark in (*remarks_for_rpm(key), *remarks_on_state(key, 0)):
                assert str(remark)
    except MalformedPacket:
        pass
    # A file that GnuPG takes nothing from is always refused with a text that fits and a cure.
    refused = reason(data)
    assert refused.message is not None
    assert "; " in refused.message
    assert len(refused.message.encode()) <= 255
    kind_of(data)
    try:
        refuse_before(data, 2**40)
    except MalformedPacket:
        raise
    except Exception as error:
        assert type(error) is type(refused)


def test_armour_is_read_once_however_often_it_begins() -> None:
    """A megabyte of beginnings is read in one go: each is not looked through to the end."""
    data = BEGIN * (2**20 // len(BEGIN))
    assert dearmored(data) == b""
    assert dearmored(data + b"\n" + base64.encodebytes(b"x") + END) == b"x"


def test_packets_without_end_are_given_up() -> None:
    packet = encode_packet(PacketType.USER_ID, b"")
    for count in (MAX_PACKETS, MAX_PACKETS + 1):
        try:
            assert read_keys(packet * count) == []
        except MalformedPacket:
            assert count > MAX_PACKETS
