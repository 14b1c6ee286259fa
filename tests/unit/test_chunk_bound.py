"""No chunk of more than 1 MiB goes to anybody (docs/protocol.md, "Habits of peers").

Running peers are in tests/faults (`test_siguldry`, `test_knowing`).
"""

from __future__ import annotations

import pytest

from sigul_stack.bridge.streams import ReplyFilter, RequestFilter
from sigul_stack.errors import LocalProtocolError
from sigul_stack.protocol.chunks import MAX_CHUNK, MAX_WRITTEN_CHUNK, Stream, encode_chunk
from sigul_stack.protocol.operations import OPERATIONS
from sigul_stack.transport import memory
from sigul_stack.transport.chunked import ChunkedStream
from tests.wire import (
    SUBREPLY_KEYS,
    SUBREQUEST_KEYS,
    reply,
    reply_filter,
    request_filter,
    sub_parts,
    u32,
)

LARGE = bytes(5 * MAX_CHUNK + 7)


@pytest.mark.parametrize("stream", Stream)
def test_nobody_can_write_a_larger_one(stream: Stream) -> None:
    assert MAX_WRITTEN_CHUNK <= MAX_CHUNK == 1024**2
    assert len(encode_chunk(stream, bytes(MAX_CHUNK))) == MAX_CHUNK + 4
    with pytest.raises(LocalProtocolError, match="of 1048577 bytes is not sent"):
        encode_chunk(stream, bytes(MAX_CHUNK + 1))
    near, far = memory.pair()
    with pytest.raises(LocalProtocolError):
        ChunkedStream(near, 30.0).write(LARGE)
    assert not far.has_input()


def sizes(filter_: RequestFilter | ReplyFilter, data: bytes) -> list[int]:
    """The lengths of the chunks that a bridge's filter makes of `data`, which comes at once."""
    found = filter_.feed(data)
    assert all(isinstance(piece, bytes) for piece in found)
    return [len(piece) for piece in found if isinstance(piece, bytes)]


def test_a_bridge_cuts_whatever_comes_at_once() -> None:
    """Payloads of requests, subrequests, replies and subreplies."""
    sign_data, sign_rpms = OPERATIONS["sign-data"], OPERATIONS["sign-rpms"]
    identified = {"id": u32(0)}
    subrequest = b"".join(sub_parts(0, identified, LARGE, SUBREQUEST_KEYS))
    subreply = b"".join(sub_parts(0, {**identified, "status": u32(0)}, LARGE, SUBREPLY_KEYS))
    for filter_, data in (
        (request_filter(sign_data, len(LARGE), 0), LARGE),
        (request_filter(sign_rpms, 0, 2**40), subrequest),
        (reply_filter(sign_data), reply(payload=LARGE)),
        (reply_filter(sign_rpms), reply() + subreply),
    ):
        found = sizes(filter_, data)
        assert sum(found) == len(data)
        assert max(found) == MAX_WRITTEN_CHUNK
