"""The bridge's own word to a client that it refuses: why, and then the end (decision 0022).

It comes at any time before the reply, also while the client is still sending. What it sends is read
and forgotten for a moment, for a connection that is closed with unread data is reset, and a client
on some machines then loses what it has not read. Only a few clients of one name are given that
moment at once: whoever is refused by the hundred costs nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import Final

from ..errors import Status, TransportError
from ..protocol.codec import pack_u32
from ..protocol.messages import bridge_refusal
from ..protocol.versions import LATEST, Version
from ..transport.chunked import ChunkedStream
from ..transport.stream import ByteStream
from .budget import Budget

#: Time for a client to read why it is refused, and to close, in seconds.
REFUSED_SECONDS: Final = 2.0
#: Most that is read of a refused client meanwhile, in bytes: what may be on its way.
REFUSED_BYTES: Final = 16 * 1024**2


def refuse(client: ByteStream, reason: str, budget: Budget, version: Version = LATEST) -> None:
    """Tell `client` the reason, as far as it listens. The connection is the caller's to end.

    `version` is that of its request, where it is known.
    """
    _answer(client, bridge_refusal(reason, version, int(time.time())), budget)


def refuse_version(client: ByteStream, budget: Budget) -> None:
    """Tell `client` that nobody here knows its version of the protocol, as servers do."""
    _answer(client, [pack_u32(Status.UNKNOWN_VERSION)], budget)


def _answer(client: ByteStream, chunks: Iterable[bytes], budget: Budget) -> None:
    chunked = ChunkedStream(client, REFUSED_SECONDS)
    with budget.refusal(client) as has_time, contextlib.suppress(TransportError):
        for chunk in chunks:
            chunked.write(chunk)
        chunked.end()
        client.end_writing()
        if has_time:
            chunked.wait_for_close(REFUSED_SECONDS, REFUSED_BYTES)
