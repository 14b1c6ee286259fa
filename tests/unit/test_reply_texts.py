"""What a server says fits into a reply: by the words it is made of, and nothing is cut unseen."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.errors import (
    MAX_CURE_BYTES,
    MAX_MESSAGE_BYTES,
    KeystoreError,
    LocalProtocolError,
    RequestRefused,
    Status,
    shortened,
)
from sigul_stack.protocol.codec import MAX_FIELD_BYTES
from sigul_stack.protocol.versions import LATEST
from sigul_stack.server.request import Answer, Refused, send_answer
from sigul_stack.transport import memory
from sigul_stack.transport.chunked import ChunkedStream
from tests.wire import KEYS

PACKAGE = Path(__file__).parents[2] / "sigul_stack"
#: Where the errors that become replies are made.
ROOMS = ("server", "signing", "keystore", "database", "protocol", "formats")
#: Errors made with problem and cure, which `RequestRefused.because` tells to clients.
TOLD = {
    "CannotBind", "MethodFailed", "KeystoreError", "WrongPassphrase", "ToolMissing", "CorruptRPM",
    "InvalidImage", "ProtocolError", "RemoteProtocolError",
}  # fmt: skip
#: What messages quote that is short by itself, in bytes: numbers, digests, our own names and words.
SHORT = {
    **dict.fromkeys(("length", "limit", "count", "years", "len(keys)", "key.key_size"), 20),
    **dict.fromkeys(("part.bits", "self._settings.min_bits"), 20),
    **dict.fromkeys(("fingerprint", "key.fingerprint", "digest", "commit_id"), 64),
    **dict.fromkeys(("field_name", "setting"), 40),
    "issuer.not_valid_after_utc": 10, "issuer.not_valid_before_utc": 19, "now": 19,
    "keytype": 5, "key.keytype": 5, "_NO_IMAGE": 50,
    **dict.fromkeys(("seconds", "bits", "least"), 20),
}  # fmt: skip


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Each call by a plain name: where it stands, the name, the call."""
    for room in ROOMS:
        for path in sorted((PACKAGE / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node.func.id, node


def longest(node: ast.expr) -> int:
    """The most bytes of a text; far too many where it quotes what may have any length."""
    match node:
        case ast.Constant(value=str(text)):
            return len(text.encode())
        case ast.JoinedStr(values=parts):
            return sum(map(longest, parts))
        case ast.FormattedValue(value=value):
            return longest(value)
        case ast.Call(func=ast.Name(id="shortened"), args=[_, ast.Constant(value=int(limit))]):
            return limit
        case ast.Call(func=ast.Name(id="quoted"), args=[_, ast.Constant(value=int(limit))]):
            return limit + len("''")
        case ast.Call(func=ast.Name(id="quoted"), args=[name]):
            return longest(name) + len("''")
        case ast.IfExp(body=body, orelse=orelse):
            return max(longest(body), longest(orelse))
    return SHORT.get(ast.unparse(node), 10_000)


def own_words(node: ast.expr) -> int:
    """How many bytes of a text are the code's own."""
    match node:
        case ast.Constant(value=str(text)):
            return len(text.encode())
        case ast.JoinedStr(values=parts):
            return sum(map(own_words, parts))
    return 0


def test_every_message_fits() -> None:
    messages = {
        place: call.args[-1]
        for place, name, call in calls()
        if (name == "RequestRefused" and len(call.args) == 2) or name == "_refused"
    }
    assert len(messages) > 30
    long = {
        place: ast.unparse(node)
        for place, node in messages.items()
        if longest(node) > MAX_MESSAGE_BYTES and ast.unparse(node) not in ("message", "reason")
    }
    assert not long, "quote less of others' words, with shortened()"


def test_every_cure_fits() -> None:
    cures = {
        place: call.args[1] for place, name, call in calls() if name in TOLD and len(call.args) > 1
    }
    assert len(cures) > 60
    assert {place for place, node in cures.items() if own_words(node) > MAX_CURE_BYTES} == set()


@given(st.text(max_size=400), st.integers(3, 300))
def test_a_text_is_whole_or_says_that_it_is_not(text: str, limit: int) -> None:
    found = shortened(text, limit)
    assert len(found.encode()) <= limit
    assert found == text or found.endswith("...")
    assert text.startswith(found.removesuffix("..."))


def test_what_is_no_character_is_shown_as_its_code() -> None:
    assert shortened("a\udcff") == r"a\udcff"


@given(st.text(max_size=400), st.text(max_size=MAX_CURE_BYTES // 4))
def test_a_long_problem_leaves_its_cure_whole(problem: str, cure: str) -> None:
    message = RequestRefused.because(KeystoreError(problem, cure)).message
    assert message is not None
    assert len(message.encode()) <= MAX_MESSAGE_BYTES == MAX_FIELD_BYTES
    assert message.endswith(f"; {cure}" if cure else "")


def test_a_long_cure_leaves_room_for_its_problem() -> None:
    refused = RequestRefused.because(KeystoreError("why " * 100, "do that " * 100), Status.OK)
    assert refused.status == Status.OK
    assert refused.message is not None
    assert refused.message.startswith("why why")
    assert refused.message.endswith("do that do th...")


def test_a_field_that_is_too_long_is_not_sent() -> None:
    near, far = memory.pair()
    with pytest.raises(LocalProtocolError, match="field 'name' has 256 bytes"):
        send_answer(
            ChunkedStream(near, 1),
            Refused(LATEST, "any", KEYS, RequestRefused(Status.UNKNOWN_OP)),
            Answer({"name": "x" * 256}),
        )
    assert not far.has_input()
