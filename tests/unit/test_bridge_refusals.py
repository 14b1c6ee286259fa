"""What a bridge says by itself: an error, never a success, and told from the server's word."""

from __future__ import annotations

import hmac

import pytest

from sigul_stack.errors import BridgeRefused, ProtocolError, Status
from sigul_stack.kojihub import NEVRA
from sigul_stack.protocol.codec import Fields, pack_u32
from sigul_stack.protocol.messages import (
    UNAUTHENTICATED_MAC,
    ReplyHeader,
    ReplyKeys,
    SubHeader,
    bridge_refusal,
    bridge_subrefusal,
    encode_reply_header,
    read_reply_header,
    read_sub_header,
)
from sigul_stack.protocol.versions import LATEST
from tests.wire import parse_whole

KEY = bytes(range(64))


def test_a_refusal_is_an_error_of_the_bridges() -> None:
    header, length, code = bridge_refusal("no such hub", LATEST)
    assert (length, code) == (bytes(8), UNAUTHENTICATED_MAC)
    found = parse_whole(read_reply_header(LATEST), header)
    with pytest.raises(BridgeRefused, match=r"^the bridge says: no such hub$"):
        found.check_origin()
    # Without that question it is what it is for any other client: forged.
    with pytest.raises(ProtocolError):
        found.verify(KEY)


def test_a_subrefusal_names_its_rpm() -> None:
    header, length, code = bridge_subrefusal(b"\0\0\0\7", "not there", LATEST)
    assert (length, code) == (bytes(8), UNAUTHENTICATED_MAC)
    found = parse_whole(read_sub_header(), header)
    assert found.fields.blob("id") == b"\0\0\0\7"
    assert str(found.refusal) == "the bridge says: not there"
    with pytest.raises(ProtocolError):
        found.verify(ReplyKeys(KEY, KEY))


def test_success_without_a_code_is_nobodys_word() -> None:
    reply = ReplyHeader(Status.OK, Fields({}), UNAUTHENTICATED_MAC)
    reply.check_origin()
    with pytest.raises(ProtocolError):
        reply.verify(KEY)
    sub = SubHeader(Fields({"id": b"1", "status": pack_u32(Status.OK)}), UNAUTHENTICATED_MAC)
    assert sub.refusal is None
    with pytest.raises(ProtocolError):
        sub.verify(ReplyKeys(KEY, KEY))


def test_an_error_with_a_code_is_the_servers() -> None:
    data = encode_reply_header(Status.UNKNOWN_ERROR, {"message": b"x"}, KEY)
    reply = parse_whole(read_reply_header(LATEST), data)
    reply.check_origin()
    reply.verify(KEY)
    fields = Fields({"id": b"1", "status": pack_u32(9)})
    assert SubHeader(fields, hmac.digest(KEY, b"", "sha512")).refusal is None


def test_a_long_message_is_cut_between_characters() -> None:
    header = parse_whole(read_reply_header(LATEST), bridge_refusal("é" * 200, LATEST)[0])
    assert header.fields["message"] == "é".encode() * 126 + b"..."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a-1-2.noarch", NEVRA("a", None, "1", "2", "noarch")),
        ("a-b-7:1.0~rc1-2.fc40.src", NEVRA("a-b", "7", "1.0~rc1", "2.fc40", "src")),
        ("libstdc++-13.2^git-1.x86_64", NEVRA("libstdc++", None, "13.2^git", "1", "x86_64")),
        ("a-1-2.noarch.rpm", None),
        ("a-1.noarch", None),
        ("a-1-2", None),
        ("a/b-1-2.noarch", None),
        ("../a-1-2.noarch", None),
        ("a-..-2.noarch", None),
        ("a-1-2.no/arch", None),
        ("a b-1-2.noarch", None),
        ("a-x:1-2.noarch", None),
        ("ä-1-2.noarch", None),
        ("a-1-2.noarch\n", None),
        ("", None),
        ("x" * 300 + "-1-2.noarch", None),
    ],
)
def test_names_of_rpms(text: str, expected: NEVRA | None) -> None:
    assert NEVRA.parse(text) == expected
    if expected is not None:
        assert str(expected) == text
