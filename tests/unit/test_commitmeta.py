"""OSTree's detached metadata, read and written: checked against bytes that GLib made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.errors import ProtocolError
from sigul_stack.formats.commitmeta import MAX_BYTES, signatures_in, with_signatures

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
