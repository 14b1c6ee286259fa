"""The bridge's own word to a client that it refuses: why, and then the end (decision 0022).

Only a client that listens hears it (decision 0048); any other one's stream ends without a word. It
comes at any time before the reply, also while the client is still sending. What it sends is read
and forgotten for a moment, for a connection that is closed with unread data is reset, and a client
on some machines then loses what it has not read. The request's id may be there, for the log. Only
a few clients of one name are given that moment at once: whoever is refused by the hundred costs
nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from typing import Final

from ..errors import SigulError, Status, TransportError
from ..protocol.codec import pack_u32
from ..protocol.messages import bridge_refusal
from ..protocol.versions import LATEST, Version
from ..transport.chunked import ChunkedStream
from ..transport.request_id import RequestWatch
from ..transport.stream import ByteStream, Deadline
from .budget import Budget

#: Time for a client to read why it is refused, and to close, in seconds.
REFUSED_SECONDS: Final = 2.0
#: Time for the first bytes of one that is refused among many, in seconds.
HURRIED_SECONDS: Final = 0.1
#: Most that is read of a refused client meanwhile, in bytes: what may be on its way.
REFUSED_BYTES: Final = 16 * 1024**2


def refuse(client: ChunkedStream, reason: str, budget: Budget, version: Version = LATEST) -> None:
    """Tell `client` the reason, if it listens; else end its stream without a word.

    The connection is the caller's to end. `version` is that of its request, where it is known.
    """
    _tell(client, bridge_refusal(reason, version, int(time.time())), budget)


def refuse_version(client: ChunkedStream, budget: Budget) -> None:
    """Tell `client`, if it listens, that nobody here knows its version, as servers do."""
    _tell(client, [pack_u32(Status.UNKNOWN_VERSION)], budget)


def _tell(client: ChunkedStream, chunks: Collection[bytes], budget: Budget) -> None:
    with budget.refusal(client.stream) as has_time:
        listens = _listens(client, REFUSED_SECONDS if has_time else HURRIED_SECONDS)
        look = _look_for_id(client)
        _answer(client.stream, chunks if listens else (), look, has_time=has_time)


def _look_for_id(client: ChunkedStream) -> Callable[[bytes], None]:
    """Look for the request's id in what has come of a client, and in what is read of it later."""
    watch = RequestWatch()
    for piece in client.inner:
        watch.feed(piece)
    broken = False

    def look(data: bytes) -> None:
        nonlocal broken
        if broken or watch.is_over:
            return
        try:
            for piece in client.inner_within(data):
                watch.feed(piece)
        except SigulError:
            broken = True  # it is refused already, perhaps for that

    return look


def _listens(client: ChunkedStream, seconds: float) -> bool:
    """Tell whether a client listens; its first bytes, which say so, may be on their way yet."""
    deadline = Deadline(seconds, "waiting for a refused client's first bytes")
    with contextlib.suppress(SigulError):
        while client.listens is None:
            client.receive(deadline.remaining())
    return bool(client.listens)


def _answer(
    client: ByteStream,
    chunks: Collection[bytes],
    look: Callable[[bytes], None],
    *,
    has_time: bool,
) -> None:
    chunked = ChunkedStream(client, REFUSED_SECONDS)
    with contextlib.suppress(TransportError):
        for chunk in chunks:
            chunked.write(chunk)
        if chunks:
            chunked.end()
        client.end_writing()
        if has_time:
            chunked.wait_for_close(REFUSED_SECONDS, REFUSED_BYTES, look)
