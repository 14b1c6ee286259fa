"""A request's id is found in any ClientHello, however it is cut, and in nothing else."""

from __future__ import annotations

import contextlib
import ssl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sigul_stack.logcontext import LogContext, about, current
from sigul_stack.protocol.hello import HelloWatch, is_request_id
from sigul_stack.transport.request_id import RequestWatch

#: Cuts of a stream: the lengths of its pieces, of which each may be empty.
CUTS = st.lists(st.integers(0, 40), max_size=40)


def hello_of(version: ssl.TLSVersion) -> bytes:
    """The first flight of OpenSSL's client, as it would be sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent).do_handshake()
    return sent.read()


HELLOS = [hello_of(ssl.TLSVersion.TLSv1_2), hello_of(ssl.TLSVersion.TLSv1_3)]


def fed(data: bytes, cuts: list[int]) -> list[str | None]:
    """What a watch says to each piece."""
    watch, told = HelloWatch(), []
    for length in [*cuts, len(data)]:
        piece, data = data[:length], data[length:]
        told.append(watch.feed(piece))
    return told


@given(st.sampled_from(HELLOS), CUTS, st.binary(max_size=50))
@example(HELLOS[0], [], b"")
@example(HELLOS[1], [1] * 40, b"")
def test_the_first_bytes_of_the_random_however_it_is_cut(
    hello: bytes, cuts: list[int], behind: bytes
) -> None:
    found = [item for item in fed(hello + behind, cuts) if item is not None]
    assert found == [hello[11:19].hex()]
    assert is_request_id(found[0])


@given(st.binary(max_size=200), CUTS)
@example(HELLOS[0][:18], [])
def test_other_bytes_are_passed_over(data: bytes, cuts: list[int]) -> None:
    """Whatever they are: at most one id, the same for each way to cut them."""
    found = [item for item in fed(data, cuts) if item is not None]
    assert found == [item for item in fed(data, []) if item is not None]
    assert len(found) <= 1
    if data[:1] != b"\x16" or data[5:6] != b"\x01" or len(data) < 19:
        assert found == []


@pytest.mark.parametrize(
    "change",
    [
        {0: 23},  # another record
        {5: 2},  # another message
        {3: 0, 4: 13},  # a record that ends before the id does
    ],
    ids=str,
)
def test_what_is_no_hello_has_none(change: dict[int, int]) -> None:
    data = bytearray(HELLOS[0])
    for place, value in change.items():
        data[place] = value
    assert fed(bytes(data), []) == [None]
    assert fed(HELLOS[0][:18], []) == [None]


@given(CUTS)
def test_a_context_has_the_first_id_alone(cuts: list[int]) -> None:
    first, second = HELLOS
    with about(LogContext("c1")) as context:
        watch = RequestWatch()
        data = first + second
        for length in [*cuts, len(data)]:
            watch.feed(data[:length])
            data = data[length:]
        other = RequestWatch()
        other.feed(second)
        assert context is not None
        assert str(context) == context.request == first[11:19].hex()
    assert current() is None
    RequestWatch().feed(first)
