"""Answers of gpg-agent: canonical S-expressions."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.formats.s_expression import MalformedExpression, numbers_in


def test_signatures() -> None:
    assert numbers_in(b"(7:sig-val(3:rsa(1:s3:\x00\x01\x02)))") == {"s": 0x102}
    found = numbers_in(b"(7:sig-val(5:eddsa(1:r2:))(1:s1:\xff)))".replace(b"2:)", b"2:)("))
    assert found == {"r": int.from_bytes(b")(", "big"), "s": 255}


@pytest.mark.parametrize(
    "data",
    [b"", b"(", b")", b"1:a", b"(1:a", b"(5:ab)", b"(x)", b"(1:a))", b"(1:a)x", b"(" * 20,
     b"(999999:a)", b"(-1:a)"],
)  # fmt: skip
def test_nonsense(data: bytes) -> None:
    with pytest.raises(MalformedExpression):
        numbers_in(data)


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    with contextlib.suppress(MalformedExpression):
        numbers_in(data)


@given(st.binary(max_size=40), st.integers(0, 60))
def test_cut_short(value: bytes, cut: int) -> None:
    whole = b"(7:sig-val(3:rsa(1:s%d:%s)))" % (len(value), value)
    assert numbers_in(whole) == {"s": int.from_bytes(value, "big")}
    if cut < len(whole):
        with pytest.raises(MalformedExpression):
            numbers_in(whole[:cut])
