"""Inner fields about the signing log: whatever a peer says in them, it is read or passed over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.protocol import messages
from sigul_stack.protocol.log_fields import (
    encode_file_name,
    encode_seen,
    read_file_name,
    read_seen,
)
from tests.wire import LIST_USERS, field_map, parse_whole

A, B = bytes.fromhex("0a0b0c0d"), bytes.fromhex("ffffffff")


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (b"", {}),
        (b"0a0b0c0d 7", {A: 7}),
        (b"0a0b0c0d 7,ffffffff 0", {A: 7, B: 0}),
        (b"0a0b0c0d 7,,nonsense,0A0B0C0D 8,0a0b0c0d -1,0a0b0c0d 07,ffffffff 9223372036854775807",
         {A: 7, B: 2**63 - 1}),
        (b"0a0b0c0d 99999999999999999999", {}),
        (b"\xff\x00", {}),
    ],
)  # fmt: skip
def test_what_was_seen(value: bytes, seen: dict[bytes, int]) -> None:
    assert read_seen({"log-seen": value}) == seen
    assert read_seen({}) == {}


@given(st.dictionaries(st.binary(min_size=4, max_size=4), st.integers(0, 2**63 - 1)))
def test_as_many_as_fit_are_said(seen: dict[bytes, int]) -> None:
    value = encode_seen(seen)
    assert len(value) <= 255
    found = read_seen({"log-seen": value})
    assert found == dict(list(seen.items())[: len(found)])
    assert len(found) >= min(len(seen), 8)


@given(st.binary(max_size=255))
def test_any_value_is_read(value: bytes) -> None:
    fields = {"log-seen": value, "file-name": value}
    for identity, size in read_seen(fields).items():
        assert len(identity) == 4
        assert 0 <= size < 10**19
    name = read_file_name(fields)
    assert name.isprintable()
    assert "/" not in name
    assert len(name.encode()) <= 255


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("a.tar", "a.tar"),
        ("/home/ann/a.tar", "a.tar"),
        ("Grüße", "Grüße"),
        ("a\nb\x1b[31m\u202e", "a\\nb\\x1b[31m\\u202e"),
        ("x" * 300, "x" * 252 + "..."),
        ("dir/", ""),
    ],
)
def test_the_name_of_a_file(said: str, name: str) -> None:
    assert encode_file_name(said).decode() == name
    assert read_file_name({"file-name": encode_file_name(said)}) == name
    assert read_file_name({"file-name": said.encode()[:255]}).startswith(name[:200])
    assert read_file_name({}) == ""


def test_they_are_no_secrets_of_the_operations() -> None:
    inner = {"log-seen": b"0a0b0c0d 7", "file-name": b"a.tar"}
    found = parse_whole(
        messages.read_inner_fields(), field_map({**LIST_USERS.inner_fields(), **inner})
    )
    assert (dict(found.seen), found.file_name) == ({A: 7}, "a.tar")
    assert dict(found.secrets) == {"password": b"secret"}
