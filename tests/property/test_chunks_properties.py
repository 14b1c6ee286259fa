"""The chunk layer gives the same two streams however its input is cut, and reserves no memory."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sigul_stack.errors import PeerClosed, ProtocolError
from sigul_stack.protocol.chunks import (
    END_OF_INNER,
    END_OF_OUTER,
    ChunkDecoder,
    Stream,
    encode_chunk,
    encode_head,
)
from sigul_stack.transport import memory
from sigul_stack.transport.chunked import MAX_KEPT_BYTES, ChunkedStream
from tests.wire import byte_by_byte, chunk, in_pieces, inner, outer, u32

STREAMS = st.sampled_from(Stream)
CUTS = st.lists(st.integers(0, 2000), max_size=20)
#: Chunks in any order, ends left out.
CHUNKS = st.lists(st.tuples(STREAMS, st.binary(min_size=1, max_size=200)), max_size=12)


@st.composite
def chunk_layers(draw: st.DrawFn) -> bytes:
    """Bytes that are chunks, for the most part."""
    parts = draw(
        st.lists(
            st.one_of(
                st.builds(chunk, STREAMS, st.binary(max_size=60)),
                st.binary(min_size=1, max_size=6),
            ),
            max_size=10,
        )
    )
    return b"".join(parts)


INPUTS = st.one_of(chunk_layers(), st.binary(max_size=200))


def decoded(
    pieces: list[bytes], *, whole: bool = False
) -> tuple[list[tuple[Stream, bytes]], bool, bool]:
    """The streams' bytes in order, neighbours joined; whether it failed, and where it ended.

    `whole`: what is a whole chunk is taken as one.
    """
    decoder = ChunkDecoder()
    found: list[tuple[Stream, bytes]] = []
    failed = False
    try:
        for piece in pieces:
            content = decoder.whole(piece) if whole else None
            if content is not None:
                assert encode_chunk(Stream.OUTER, content) == piece
            for stream, data in (
                decoder.feed(piece) if content is None else [(Stream.OUTER, bytes(content))]
            ):
                if data and found and found[-1][0] is stream and found[-1][1]:
                    found[-1] = (stream, found[-1][1] + data)
                else:
                    found.append((stream, data))
    except ProtocolError:
        failed = True
    return found, failed, decoder.between_chunks


@settings(max_examples=200)
@given(data=INPUTS, cuts=CUTS)
def test_any_cut_of_any_input_gives_the_same(data: bytes, cuts: list[int]) -> None:
    whole = decoded([data])
    assert decoded(byte_by_byte(data)) == whole
    assert decoded(in_pieces(data, cuts)) == whole
    assert decoded(in_pieces(data, cuts), whole=True) == whole


@given(chunks=CHUNKS, ends=st.sets(st.integers(0, 12)))
@example(chunks=[(Stream.OUTER, b"abc")] * 4, ends=set())
def test_whole_chunks_are_the_same_fed_or_taken(
    chunks: list[tuple[Stream, bytes]], ends: set[int]
) -> None:
    pieces = [encode_chunk(stream, data) for stream, data in chunks]
    pieces = [END_OF_OUTER if index in ends else piece for index, piece in enumerate(pieces)]
    assert decoded(pieces, whole=True) == decoded(pieces)


def test_a_chunk_that_is_not_all_there_or_has_more_behind_it_is_to_be_fed() -> None:
    decoder = ChunkDecoder()
    chunk_ = encode_chunk(Stream.OUTER, b"abcd")
    for _ in range(2):  # the first two tell whether the writer listens
        assert decoder.whole(chunk_) is None
        assert list(decoder.feed(chunk_)) == [(Stream.OUTER, b"abcd")]
    for other in (chunk_[:-1], chunk_ + b"x", END_OF_OUTER, b"", inner(b"abcd")):
        assert decoder.whole(other) is None
    assert decoder.whole(chunk_) == b"abcd"
    assert list(decoder.feed(chunk_[:5])) == [(Stream.OUTER, b"a")]
    assert decoder.whole(chunk_) is None  # it is the middle of another
    assert list(decoder.feed(b"bcd" + END_OF_OUTER)) == [
        (Stream.OUTER, b"bcd"),
        (Stream.OUTER, b""),
    ]
    assert decoder.whole(chunk_) is None


@given(chunks=CHUNKS, cuts=CUTS)
def test_decoding_undoes_encoding(chunks: list[tuple[Stream, bytes]], cuts: list[int]) -> None:
    data = b"".join(encode_chunk(stream, piece) for stream, piece in chunks)
    assert data == b"".join(chunk(stream, piece) for stream, piece in chunks)
    data += END_OF_INNER + END_OF_OUTER
    decoder = ChunkDecoder()
    out = {Stream.INNER: b"", Stream.OUTER: b""}
    ends = []
    for part in in_pieces(data, cuts):
        for stream, piece in decoder.feed(part):
            out[stream] += piece
            if not piece:
                ends.append(stream)
    for stream in Stream:
        assert out[stream] == b"".join(piece for found, piece in chunks if found is stream)
        assert decoder.ended(stream)
    assert ends == [Stream.INNER, Stream.OUTER]
    assert decoder.between_chunks


@given(chunks=CHUNKS)
def test_between_chunks_only_at_their_boundaries(chunks: list[tuple[Stream, bytes]]) -> None:
    boundaries = {0}
    data = b""
    for stream, piece in chunks:
        data += chunk(stream, piece)
        boundaries.add(len(data))
    decoder = ChunkDecoder()
    for offset, byte in enumerate(byte_by_byte(data)):
        assert decoder.between_chunks == (offset in boundaries)
        list(decoder.feed(byte))
    assert decoder.between_chunks


@given(behind=st.binary(max_size=40), more=st.binary(min_size=1, max_size=40))
def test_nothing_may_follow_the_outer_end(behind: bytes, more: bytes) -> None:
    decoder = ChunkDecoder()
    assert list(decoder.feed(END_OF_OUTER)) == [(Stream.OUTER, b"")]
    with pytest.raises(ProtocolError, match="outer"):
        list(decoder.feed(chunk(Stream.OUTER, behind)))
    with pytest.raises(ProtocolError, match="outer"):
        list(decoder.feed(more))


@given(
    late=st.lists(st.binary(max_size=60), max_size=4),
    rest=st.lists(st.binary(min_size=1, max_size=60), max_size=4),
    cuts=CUTS,
)
def test_what_follows_the_inner_end_is_ignored(
    late: list[bytes], rest: list[bytes], cuts: list[int]
) -> None:
    data = END_OF_INNER
    for index, piece in enumerate(late):
        data += inner(piece) + outer(*rest[index : index + 1])
    data += outer(*rest[len(late) :])
    found, failed, complete = decoded(in_pieces(data, cuts))
    assert not failed
    assert complete
    assert [piece for stream, piece in found if stream is Stream.INNER] == [b""]
    assert b"".join(piece for stream, piece in found if stream is Stream.OUTER) == b"".join(rest)


@given(length=st.integers(-5, 2**33), stream=STREAMS)
@example(length=2**31 - 1, stream=Stream.INNER)
@example(length=2**31, stream=Stream.OUTER)
@example(length=-1, stream=Stream.OUTER)
def test_a_head_holds_31_bits_of_length(length: int, stream: Stream) -> None:
    if 0 <= length < 2**31:
        bit = 2**31 if stream is Stream.INNER else 0
        assert encode_head(stream, length) == u32(bit | length)
    else:
        with pytest.raises(ProtocolError):
            encode_head(stream, length)


@settings(max_examples=30)
@given(length=st.integers(2**20, 2**31 - 1), arrived=st.binary(max_size=200), stream=STREAMS)
@example(length=2**31 - 1, arrived=b"x", stream=Stream.INNER)
def test_an_announced_length_is_not_allocated(length: int, arrived: bytes, stream: Stream) -> None:
    tracemalloc.start()
    try:
        decoder = ChunkDecoder()
        found = list(decoder.feed(encode_head(stream, length) + arrived))
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == ([(stream, arrived)] if arrived else [])
    assert not decoder.between_chunks
    assert peak < 64 * 1024


# -------------------------------------------------------------------------------- `ChunkedStream`


@given(chunks=CHUNKS, split=st.integers(1, 300), sizes=st.lists(st.integers(1, 90), min_size=1))
def test_a_chunked_stream_reads_the_outer_and_keeps_the_inner(
    chunks: list[tuple[Stream, bytes]], split: int, sizes: list[int]
) -> None:
    near, far = memory.pair()
    near.split = split
    for stream, piece in chunks:
        far.write(chunk(stream, piece), 1)
    far.write(END_OF_INNER + END_OF_OUTER, 1)
    chunked = ChunkedStream(near, 1)
    out = b""
    turn = 0
    while piece := chunked.read(sizes[turn % len(sizes)]):
        assert 1 <= len(piece) <= sizes[turn % len(sizes)]
        out += piece
        turn += 1
    assert out == b"".join(piece for stream, piece in chunks if stream is Stream.OUTER)
    kept = b"".join(iter(chunked.take_inner, b""))
    assert kept == b"".join(piece for stream, piece in chunks if stream is Stream.INNER)
    assert chunked.inner_ended
    with pytest.raises(PeerClosed, match="ended its outer stream"):
        chunked.read_exactly(1)


@given(
    chunks=CHUNKS,
    split=st.integers(1, 300),
    before=st.integers(0, 100),
    cuts=CUTS,
)
def test_a_forwarder_that_takes_a_stream_over_misses_nothing(
    chunks: list[tuple[Stream, bytes]], split: int, before: int, cuts: list[int]
) -> None:
    expected = {
        stream: b"".join(piece for found, piece in chunks if found is stream) for stream in Stream
    }
    near, far = memory.pair()
    near.split = split
    data = b"".join(chunk(stream, piece) for stream, piece in chunks) + END_OF_OUTER + END_OF_INNER
    far.write(data, 1)
    far.end_writing()
    chunked = ChunkedStream(near, 1)
    before = min(before, len(expected[Stream.OUTER]))
    head = chunked.read_exactly(before)
    pieces, decoder = chunked.hand_over()
    while data := near.read(1000, 1):
        for part in in_pieces(data, cuts):
            pieces += decoder.feed(part)
    for stream in Stream:
        of_stream = [piece for found, piece in pieces if found is stream]
        assert of_stream.index(b"") == len(of_stream) - 1
        beginning = head if stream is Stream.OUTER else b""
        assert beginning + b"".join(of_stream) == expected[stream]


@given(data=INPUTS, split=st.integers(1, 50), limit=st.integers(1, 50))
def test_any_bytes_give_data_or_a_foreseen_error(data: bytes, split: int, limit: int) -> None:
    near, far = memory.pair()
    near.split = split
    far.write(data, 1)
    far.end_writing()
    chunked = ChunkedStream(near, 1)
    try:
        while chunked.read(limit):
            pass
    except (ProtocolError, PeerClosed):
        return


@settings(max_examples=20)
@given(kept=st.sampled_from(Stream), size=st.integers(2**14, 2**18))
def test_what_comes_before_its_turn_is_kept_up_to_a_limit(kept: Stream, size: int) -> None:
    near, far = memory.pair()
    chunked = ChunkedStream(near, 1)
    sent = 0
    with pytest.raises(ProtocolError, match="before the other's end"):
        while sent <= 2 * MAX_KEPT_BYTES:
            far.write(chunk(kept, bytes(size)), 1)
            sent += size
            while near.has_input():
                chunked.receive()
    assert MAX_KEPT_BYTES < sent <= MAX_KEPT_BYTES + size


@given(data=st.binary(max_size=2000), split=st.integers(1, 700))
def test_what_one_chunked_stream_writes_another_reads(data: bytes, split: int) -> None:
    near, far = memory.pair()
    near.split = split
    writer, reader = ChunkedStream(far, 1), ChunkedStream(near, 1)
    writer.write_inner(b"hidden")
    writer.write(data)
    writer.end()
    assert reader.read_exactly(len(data)) == data
    assert reader.read(1) == b""
    assert b"".join(iter(reader.take_inner, b"")) == b"hidden"
