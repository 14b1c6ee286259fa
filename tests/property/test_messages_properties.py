"""Messages survive encoding and decoding, and no changed bit gets past their authentication."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sigul_stack.errors import ProtocolError
from sigul_stack.protocol import messages
from sigul_stack.protocol.codec import Fields
from sigul_stack.protocol.messages import ChainKeys, ReplyKeys, UnknownVersion
from sigul_stack.protocol.versions import LATEST, VERSIONS
from tests.wire import chain_key, field_map, hmac512, parse_whole, sha512, u32

SAFE = st.characters(min_codepoint=0x20, max_codepoint=0x7F)
FIELD_MAPS = st.dictionaries(st.text(SAFE, min_size=1, max_size=30), st.binary(max_size=60))
KEYS = st.binary(min_size=64, max_size=255)
U32 = st.integers(0, 2**32 - 1)
OWN_INNER_FIELDS = {
    "header-auth-sha512",
    "payload-auth-sha512",
    "header-auth-key",
    "payload-auth-key",
}


def one_bit_off(data: bytes, bit: int) -> bytes:
    """`data` with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8 % len(data)] ^= 1 << bit % 8
    return bytes(changed)


@given(fields=FIELD_MAPS)
def test_a_request_header_is_read_as_it_was_written(fields: dict[str, bytes]) -> None:
    data = messages.encode_request_header(fields, LATEST.number)
    assert data == u32(1) + field_map(fields)
    assert parse_whole(messages.read_request_header(VERSIONS), data).fields == fields


@given(version=U32.filter(lambda version: version not in VERSIONS), rest=st.binary(max_size=20))
@example(version=2, rest=b"")
def test_an_unknown_version_is_told_as_soon_as_it_is_read(version: int, rest: bytes) -> None:
    with pytest.raises(UnknownVersion) as caught:
        parse_whole(messages.read_request_header(VERSIONS), u32(version) + rest)
    assert caught.value.number == version


@given(status=U32.filter(lambda status: status != 1), fields=FIELD_MAPS, key=KEYS)
def test_a_reply_header_is_read_as_it_was_written(
    status: int, fields: dict[str, bytes], key: bytes
) -> None:
    data = messages.encode_reply_header(status, fields, key)
    signed = u32(status) + field_map(fields)
    assert data == signed + hmac512(key, signed)
    header = parse_whole(messages.read_reply_header(LATEST), data)
    assert header.status == status
    assert header.fields == fields
    assert header.encode() == data
    header.verify(key)


@settings(max_examples=200)
@given(fields=FIELD_MAPS, key=KEYS, bit=st.integers(0, 10_000))
def test_a_reply_header_with_a_changed_bit_is_refused(
    fields: dict[str, bytes], key: bytes, bit: int
) -> None:
    data = one_bit_off(messages.encode_reply_header(0, fields, key), bit)
    with pytest.raises(ProtocolError):
        parse_whole(messages.read_reply_header(LATEST), data).verify(key)


@given(fields=FIELD_MAPS, key=KEYS, other=KEYS)
def test_a_reply_header_under_another_key_is_refused(
    fields: dict[str, bytes], key: bytes, other: bytes
) -> None:
    header = parse_whole(
        messages.read_reply_header(LATEST), messages.encode_reply_header(0, fields, key)
    )
    # HMAC hashes a key longer than its block of 128 bytes, and pads a shorter one with zeros.
    if key.rstrip(b"\0") != other.rstrip(b"\0"):
        with pytest.raises(ProtocolError, match="authentication code"):
            header.verify(other)


@given(
    header=st.binary(max_size=80),
    payload_hash=st.none() | st.binary(min_size=64, max_size=64),
    keys=st.builds(ReplyKeys, KEYS, KEYS),
    secrets=FIELD_MAPS.map(lambda found: {k: v for k, v in found.items() if "auth" not in k}),
)
def test_inner_fields_are_read_as_they_were_written(
    header: bytes, payload_hash: bytes | None, keys: ReplyKeys, secrets: dict[str, bytes]
) -> None:
    data = messages.encode_inner_fields(header, payload_hash, keys, secrets)
    found = parse_whole(messages.read_inner_fields(), data)
    assert found.header_hash == sha512(header)
    assert found.payload_hash == payload_hash
    assert found.keys == keys
    assert found.secrets == secrets


@given(sizes=st.fixed_dictionaries(dict.fromkeys(sorted(OWN_INNER_FIELDS), st.integers(0, 255))))
@example(sizes=dict.fromkeys(OWN_INNER_FIELDS, 64))
@example(sizes={**dict.fromkeys(OWN_INNER_FIELDS, 64), "header-auth-key": 63})
@example(sizes={**dict.fromkeys(OWN_INNER_FIELDS, 64), "payload-auth-key": 63})
@example(sizes={**dict.fromkeys(OWN_INNER_FIELDS, 64), "payload-auth-key": 255})
@example(sizes={**dict.fromkeys(OWN_INNER_FIELDS, 64), "header-auth-sha512": 65})
@example(sizes={**dict.fromkeys(OWN_INNER_FIELDS, 64), "payload-auth-sha512": 0})
def test_hashes_have_64_bytes_and_keys_at_least_64(sizes: dict[str, int]) -> None:
    right = all(size >= 64 if name.endswith("key") else size == 64 for name, size in sizes.items())
    data = field_map({name: bytes(size) for name, size in sizes.items()})
    if right:
        parse_whole(messages.read_inner_fields(), data)
    else:
        with pytest.raises(ProtocolError, match="bytes"):
            parse_whole(messages.read_inner_fields(), data)


@given(names=st.sets(st.sampled_from(sorted(OWN_INNER_FIELDS))))
def test_hashes_and_keys_are_required_except_the_payloads_hash(names: set[str]) -> None:
    data = field_map(dict.fromkeys(sorted(names), bytes(64)))
    missing = OWN_INNER_FIELDS - names - {"payload-auth-sha512"}
    if missing:
        with pytest.raises(ProtocolError, match="missing"):
            parse_whole(messages.read_inner_fields(), data)
    else:
        parse_whole(messages.read_inner_fields(), data)


@given(index=U32, header=KEYS, payload=KEYS)
@example(index=0, header=bytes(64), payload=bytes(64))
@example(index=2**32 - 1, header=bytes(64), payload=bytes(64))
def test_numbered_keys_are_derived_as_specified(index: int, header: bytes, payload: bytes) -> None:
    keys = ChainKeys(header, payload).numbered(index)
    assert keys == ReplyKeys(chain_key(header, index), chain_key(payload, index))


@given(
    fields=FIELD_MAPS,
    keys=st.builds(ChainKeys, KEYS, KEYS),
    index=st.integers(0, 1000),
    other=st.integers(0, 1000),
    bit=st.integers(0, 10_000),
)
def test_a_sub_header_holds_only_under_its_own_number(
    fields: dict[str, bytes], keys: ChainKeys, index: int, other: int, bit: int
) -> None:
    data = messages.encode_sub_header(fields, keys.numbered(index))
    assert data == field_map(fields) + hmac512(chain_key(keys.header, index), field_map(fields))
    header = parse_whole(messages.read_sub_header(), data)
    assert header.fields == fields
    assert header.encode() == data
    header.verify(keys.numbered(index))
    if other != index:
        with pytest.raises(ProtocolError, match="authentication code"):
            header.verify(keys.numbered(other))
    with pytest.raises(ProtocolError):
        parse_whole(messages.read_sub_header(), one_bit_off(data, bit)).verify(keys.numbered(index))


@given(sizes=st.tuples(st.integers(0, 255), st.integers(0, 255)))
@example(sizes=(64, 64))
@example(sizes=(64, 63))
@example(sizes=(63, 64))
def test_base_keys_have_at_least_64_bytes(sizes: tuple[int, int]) -> None:
    made: list[tuple[str, Callable[[Fields], ChainKeys]]] = [
        ("subrequest", ChainKeys.of_subrequests),
        ("subreply", ChainKeys.of_subreplies),
    ]
    for direction, of in made:
        fields = Fields(
            {
                f"{direction}-header-auth-key": b"h" * sizes[0],
                f"{direction}-payload-auth-key": b"p" * sizes[1],
            }
        )
        if min(sizes) >= 64:
            assert of(fields) == ChainKeys(b"h" * sizes[0], b"p" * sizes[1])
        else:
            with pytest.raises(ProtocolError, match="at least 64"):
                of(fields)


@given(expected=st.binary(max_size=70), received=st.binary(max_size=70))
def test_digests_are_equal_or_refused(expected: bytes, received: bytes) -> None:
    if expected == received:
        messages.check_digest(expected, received, "this")
    else:
        with pytest.raises(ProtocolError, match=r"^this "):
            messages.check_digest(expected, received, "this")
