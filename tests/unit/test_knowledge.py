"""Words by which peers know each other, trailers, and what hostile ones of them come to."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.client.site_knowledge import SiteKnowledge
from sigul_stack.errors import LocalProtocolError, ProtocolError
from sigul_stack.protocol import knowledge, messages
from sigul_stack.protocol.codec import Fields, run_parser
from sigul_stack.protocol.knowledge import encode_words, read_trailer, words_in
from sigul_stack.transport import memory
from sigul_stack.transport.chunked import ChunkedStream
from tests.wire import LIST_USERS, OUTER_END, field_map, outer, parse_whole

LONG = 30.0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"", set()),
        (b"notes", {"notes"}),
        (b"b,a,b", {"a", "b"}),
        (b",,a,", {"a"}),
        (b"a b,NOTES,\xff\xfe,x\0,proofs-2", {"proofs-2"}),
        (b"a" * 255, {"a" * 255}),
    ],
)
def test_words_of_a_field(value: bytes, words: set[str]) -> None:
    assert words_in({"knows": value}) == words
    assert words_in({"known": value}) is None


@given(st.binary(max_size=255))
def test_any_value_is_words(value: bytes) -> None:
    found = words_in({"knows": value})
    assert found is not None
    assert words_in({"knows": encode_words(found)}) == found


def test_words_that_do_not_fit_are_not_sent() -> None:
    assert len(encode_words([f"{number:03}" for number in range(64)])) == 255
    with pytest.raises(LocalProtocolError, match="259 bytes do not fit"):
        encode_words([f"{number:03}" for number in range(65)])


def test_what_a_client_knows_is_no_secret_of_the_operations() -> None:
    for inner, words in (({}, None), ({"knows": b"x,notes"}, {"x", "notes"})):
        found = parse_whole(
            messages.read_inner_fields(), field_map({**LIST_USERS.inner_fields(), **inner})
        )
        assert found.knows == words
        assert dict(found.secrets) == {"password": b"secret"}


@pytest.mark.parametrize(("count", "last"), [(15, 250), (15, 251), (254, 251)])
def test_a_trailer_is_bounded(count: int, last: int) -> None:
    # 256 bytes each, with the name, which has three, and both lengths.
    fields = {f"{number:03}": bytes(251) for number in range(count)} | {"end": bytes(last)}
    data = field_map(fields)
    source = io.BytesIO(data + bytes(10))
    if len(data) == 4096:
        assert run_parser(read_trailer(), source.read) == fields
        return
    with pytest.raises(ProtocolError, match="more than 4096 bytes"):
        run_parser(read_trailer(), source.read)
    assert source.tell() <= 4096


def heard(said: bytes, *, ends: bool = True, trailer: bool = True) -> SiteKnowledge:
    """What is known after a reply with `knows`, behind which the bridge says this."""
    near, far = memory.pair()
    if said:
        far.write(said, LONG)
    if ends:
        far.end_writing()
    found = SiteKnowledge()
    found.learn(ChunkedStream(near, LONG), Fields({"knows": b"a,b"}), trailer=trailer)
    return found


def test_a_bridges_trailer_is_read() -> None:
    found = heard(outer(knowledge.encode_trailer()) + OUTER_END)
    assert (found.server, found.bridge) == ({"a", "b"}, knowledge.BRIDGE_WORDS)
    both = heard(outer(field_map({"knows": b"b,c", "later": b"x"})) + OUTER_END)
    assert [word for word in "abcd" if both.have(word)] == ["b"]


@pytest.mark.parametrize(
    "said",
    [
        OUTER_END,
        b"",
        outer(b"\1"),
        outer(b"\1\5knows"),
        outer(b"\1\0\0"),
        outer(b"\2\5knows\1a\5knows\1b") + OUTER_END,
        outer(field_map({f"{number:03}": bytes(255) for number in range(200)})),
        outer(field_map({})) + OUTER_END,
        outer(field_map({"knows": b"\xff"})) + OUTER_END,
        b"\x80\0\0\1" * 3,
    ],
)
def test_no_trailer_makes_a_reply_fail(said: bytes) -> None:
    found = heard(said)
    assert (found.server, found.bridge) == ({"a", "b"}, frozenset())


def test_a_bridge_that_says_nothing_is_waited_for_once() -> None:
    found = heard(b"", ends=False)
    assert found.bridge == frozenset()
    silent, _far = memory.pair()
    silent.read = pytest.fail  # type: ignore[method-assign]
    found.learn(ChunkedStream(silent, LONG), Fields({"knows": b"c"}), trailer=True)
    assert (found.server, found.bridge) == ({"c"}, frozenset())


@pytest.mark.parametrize(("fields", "trailer"), [({}, True), ({"knows": b"a"}, False)])
def test_who_is_not_to_say_more_is_not_listened_to(fields: dict[str, bytes], trailer: bool) -> None:
    silent, _far = memory.pair()
    silent.read = pytest.fail  # type: ignore[method-assign]
    found = SiteKnowledge()
    found.learn(ChunkedStream(silent, LONG), Fields(fields), trailer=trailer)
    assert found.bridge is None
    assert found.server == (None if not fields else {"a"})
