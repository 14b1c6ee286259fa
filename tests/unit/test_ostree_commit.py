"""Which objects are taken for OSTree commits.

Real ones are in tests/integration/test_sign_ostree.py.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.errors import ProtocolError
from sigul_stack.formats.ostree_commit import check_commit


def make_commit(
    *, parent: bytes = b"", subject: bytes = b"s\0", body: bytes = b"\0", checksum: int = 32
) -> bytes:
    """A commit without metadata, as GVariant has it."""
    data, ends = parent, [0, len(parent), len(parent)]
    for text in (subject, body):
        data += text
        ends.append(len(data))
    data += bytes(-len(data) % 8) + bytes(8) + bytes(checksum)
    ends.append(len(data))
    data += b"\1" * 32
    return data + bytes(reversed(ends))


@pytest.mark.parametrize("parent", [b"", b"\2" * 32])
def test_commits(parent: bytes) -> None:
    check_commit(make_commit(parent=parent))
    check_commit(memoryview(make_commit(parent=parent, body=b"mehr\0")))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too short"),
        (b"hello", "too short"),
        (b"hello, this is a text\n" * 3, "do not follow"),
        (bytes(200), "do not follow"),
        (make_commit(subject=b"s"), "no text"),
        (make_commit(subject=b"s\0t\0"), "no text"),
        (make_commit(body=b""), "no text"),
        (make_commit(parent=b"\2" * 31), "parent"),
        (make_commit(checksum=31), "checksums"),
        (make_commit()[:-1], "it"),
        (make_commit() + b"\0", "it"),
    ],
)
def test_others(data: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=f"this is no OSTree commit: .*{reason}"):
        check_commit(data)


@given(st.binary(max_size=200))
def test_whatever_comes_is_taken_or_refused(data: bytes) -> None:
    try:
        check_commit(data)
    except ProtocolError as error:
        assert "this is no OSTree commit" in str(error)
