"""OSTree's detached metadata, read and written: checked against bytes that GLib made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.errors import ProtocolError
from sigul_stack.formats.commitmeta import MAX_BYTES, signatures_in, with_signatures
from sigul_stack.formats.openpgp_issuer import issuer_key_id
from sigul_stack.formats.openpgp_packets import PacketType, encode_packet

#: {'ostree.gpgsigs': <[b'ab', b'cde']>}, as g_variant_get_data has it.
ONE_ENTRY = b"ostree.gpgsigs\0\0" + b"abcde\x02\x05\0aay" + b"\x0f" + b"\x1c"
#: {'other': <uint32 7>, 'ostree.gpgsigs': <[b'ab', b'cde']>}
TWO_ENTRIES = b"other\0\0\0\x07\0\0\0\0u\x06" + bytes(1) + ONE_ENTRY[:-1] + bytes((0x0F, 0x2C))


def test_as_glib_writes_it() -> None:
    assert with_signatures(b"", [b"ab", b"cde"]) == ONE_ENTRY


def test_other_entries_and_signatures_are_kept() -> None:
    assert signatures_in(TWO_ENTRIES) == [b"ab", b"cde"]
    assert with_signatures(TWO_ENTRIES, []) == TWO_ENTRIES
    both = with_signatures(TWO_ENTRIES, [b"f"])
    assert signatures_in(both) == [b"ab", b"cde", b"f"]
    assert both.startswith(TWO_ENTRIES[:15])
    # One that is there already is not there twice.
    assert with_signatures(TWO_ENTRIES, [b"cde"]) == TWO_ENTRIES


def signature(by: bytes, text: bytes, *, hashed: bool = True, version: int = 4) -> bytes:
    """A signature packet that says in a subpacket who made it: a fingerprint or a key ID."""
    subpacket = bytes((33, 4)) + by if len(by) == 20 else bytes((16,)) + by
    said = bytes((len(subpacket),)) + subpacket
    both = [said, b""] if hashed else [b"", said]
    areas = b"".join(len(area).to_bytes(2, "big") + area for area in both)
    return encode_packet(PacketType.SIGNATURE, bytes((version, 0, 1, 10)) + areas + text)


def test_there_is_one_signature_of_a_key() -> None:
    """The new one; whether it is named by fingerprint or by key ID."""
    mine, others = bytes(range(20)), bytes(range(1, 21))
    old = [signature(mine, b"a"), signature(others, b"b"), b"unknown"]
    metadata = with_signatures(b"", old)
    for new in (
        signature(mine, b"c"),
        signature(mine[-8:], b"d"),
        signature(mine[-8:], b"e", hashed=False),
        signature(mine, b"f", hashed=False),
    ):
        metadata = with_signatures(metadata, [new])
        assert signatures_in(metadata) == [*old[1:], new]
    # What says nothing of its maker, or in a way that is not known, takes nobody's place.
    for new in (b"more", signature(mine, b"g", version=3), signature(mine, b"h")[:-1]):
        metadata = with_signatures(metadata, [new])
        assert signatures_in(metadata)[-1] == new
    assert len(signatures_in(metadata)) == 6


@given(st.binary(max_size=60))
def test_whatever_a_signature_is_it_has_a_maker_or_none(data: bytes) -> None:
    for body in (data, b"\4\0\1\x0a" + data):
        found = issuer_key_id(encode_packet(PacketType.SIGNATURE, body))
        assert found is None or isinstance(found, bytes)
        issuer_key_id(body)


@given(st.lists(st.binary(min_size=1, max_size=70_000), max_size=4, unique=True))
def test_what_is_written_is_read(signatures: list[bytes]) -> None:
    first, rest = signatures[:1], signatures[1:]
    assert signatures_in(with_signatures(with_signatures(b"", first), rest)) == signatures


@given(st.binary(max_size=80))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    try:
        found = signatures_in(data)
    except ProtocolError:
        return
    both = signatures_in(with_signatures(data, [b"f"]))
    assert both == (found if b"f" in found else [*found, b"f"])


@given(st.integers(0, len(TWO_ENTRIES) - 1), st.integers(0, 255))
def test_damage_is_seen_or_harmless(at: int, value: int) -> None:
    damaged = TWO_ENTRIES[:at] + bytes((value,)) + TWO_ENTRIES[at + 1 :]
    try:
        both = with_signatures(damaged, [b"f"])
    except ProtocolError as error:
        assert "give the commit's .commitmeta" in str(error)
        return
    try:
        found = signatures_in(damaged)
    except ProtocolError:
        found = []  # the damage has made another entry of them
    assert signatures_in(both) == (found if b"f" in found else [*found, b"f"])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes(MAX_BYTES + 1), "more than"),
        (ONE_ENTRY[:-1], "damaged"),
        (ONE_ENTRY + b"\x01", "damaged"),
        (ONE_ENTRY.replace(b"aay", b"as\0"), "damaged|another type"),
        (b"not metadata", "damaged"),
    ],
)
def test_what_is_no_metadata(data: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        with_signatures(data, [])
    with pytest.raises(ProtocolError):
        signatures_in(data)


def test_metadata_without_signatures() -> None:
    assert with_signatures(b"", [b"f"]) != b""
    with pytest.raises(ProtocolError, match="no signature"):
        signatures_in(b"")
