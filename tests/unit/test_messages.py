"""Requests and replies by example, and the status codes of docs/protocol.md, "Status codes"."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sigul_stack.errors import ProtocolError, Status, status_text
from sigul_stack.protocol import messages
from sigul_stack.protocol.codec import Fields
from sigul_stack.protocol.messages import ChainKeys, ReplyKeys, UnknownVersion
from sigul_stack.protocol.versions import LATEST, VERSIONS
from tests.wire import KEYS, LIST_USERS, chain_key, field_map, hmac512, parse_whole, u32

PROTOCOL_PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


def test_the_status_codes_are_those_of_the_specification() -> None:
    section = PROTOCOL_PAGE.split("## Status codes")[1].split("##")[0]
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \| (.+?) \|$", section, re.MULTILINE)
    assert len(rows) == 17
    assert {(int(code), name) for code, name, _text in rows} == {
        (status.value, status.name) for status in Status
    }
    for code, _name, text in rows:
        assert status_text(int(code)) == text


def test_an_unknown_status_is_shown_by_number() -> None:
    assert status_text(17) == "Error 17"
    assert status_text(2**32 - 1) == "Error 4294967295"


def test_a_request_header_starts_with_the_version() -> None:
    assert messages.encode_request_header(LIST_USERS.fields, 1) == LIST_USERS.header
    assert messages.encode_request_header({}, 7) == b"\0\0\0\7\0"


@pytest.mark.parametrize("version", [2, 2**32 - 1])
def test_an_unknown_version_needs_nothing_behind_it(version: int) -> None:
    parser = messages.read_request_header(VERSIONS)
    assert next(parser) == 4
    with pytest.raises(UnknownVersion, match=f"version {version} is unknown"):
        parser.send(u32(version))


def test_the_inner_fields_of_a_request() -> None:
    found = parse_whole(messages.read_inner_fields(), LIST_USERS.inner)
    assert dict(found.secrets) == {"password": b"secret"}
    assert found.keys == KEYS
    written = messages.encode_inner_fields(
        LIST_USERS.header, found.payload_hash, KEYS, {"password": b"secret"}
    )
    assert parse_whole(messages.read_inner_fields(), written) == found


def test_a_reply_of_a_server_that_does_not_know_the_version_is_four_bytes() -> None:
    parser = messages.read_reply_header(LATEST)
    next(parser)
    with pytest.raises(UnknownVersion):
        parser.send(u32(1))


def test_a_forged_header_says_so_and_what_it_may_mean() -> None:
    data = messages.encode_reply_header(0, {"admin": b"\1"}, KEYS.header)
    header = parse_whole(messages.read_reply_header(LATEST), data[:-1] + b"\0")
    with pytest.raises(ProtocolError, match="the reply's header does not match its authentication"):
        header.verify(KEYS.header)


def test_the_keys_of_a_batch_are_new_for_each_request() -> None:
    asked = []

    def random(count: int) -> bytes:
        asked.append(count)
        return bytes([len(asked)]) * count

    secrets = messages.new_chain_secrets(random)
    assert asked == [64] * 4
    assert set(secrets) == {
        "subrequest-header-auth-key",
        "subrequest-payload-auth-key",
        "subreply-header-auth-key",
        "subreply-payload-auth-key",
    }
    assert len(set(secrets.values())) == 4
    fields = Fields(secrets)
    assert ChainKeys.of_subrequests(fields) == ChainKeys(
        secrets["subrequest-header-auth-key"], secrets["subrequest-payload-auth-key"]
    )
    assert ChainKeys.of_subreplies(fields) == ChainKeys(
        secrets["subreply-header-auth-key"], secrets["subreply-payload-auth-key"]
    )


def test_a_sub_header_by_the_formula() -> None:
    chain = ChainKeys(b"1" * 64, b"2" * 64)
    sent = {"id": b"\0\0\0\7", "status": b"\0\0\0\x0b", "message": b"\xc3\xbc"}
    data = messages.encode_sub_header(sent, chain.numbered(3))
    fields = field_map(sent)
    assert data == fields + hmac512(chain_key(b"1" * 64, 3), fields)


def test_keys_show_nothing_of_themselves() -> None:
    shown = repr(ReplyKeys(b"hunter2", b"hunter2")) + repr(ChainKeys(b"hunter2", b"hunter2"))
    shown += repr(parse_whole(messages.read_inner_fields(), LIST_USERS.inner))
    assert "hunter2" not in shown
    assert "secret" not in shown.replace("secrets", "")
