"""The bridge's own word to a client that it refuses: why, and then the end (decision 0022).

It comes at any time before the reply, also while the client is still sending. What it sends is read
and forgotten for a moment, for a connection that is closed with unread data is reset, and a client
on some machines then loses what it has not read. Only a few clients of one name are given that
moment at once: whoever is refused by the hundred costs nothing.
"""

from __future__ import annotations

import contextlib
import time
from typing import Final

from ..errors import TransportError
from ..protocol.messages import bridge_refusal
from ..transport.chunked import ChunkedStream
from ..transport.stream import ByteStream
from .budget import Budget

#: Time for a client to read why it is refused, and to close, in seconds.
REFUSED_SECONDS: Final = 2.0
#: Most that is read of a refused client meanwhile, in bytes: what may be on its way.
REFUSED_BYTES: Final = 16 * 1024**2


def refuse(client: ByteStream, reason: str, budget: Budget) -> None:
    """Tell `client` the reason, as far as it listens. The connection is the caller's to end."""
    chunked = ChunkedStream(client, REFUSED_SECONDS)
    with budget.refusal(client) as has_time, contextlib.suppress(TransportError):
        for chunk in bridge_refusal(reason, int(time.time())):
            chunked.write(chunk)
        chunked.end()
        client.end_writing()
        if has_time:
            chunked.wait_for_close(REFUSED_SECONDS, REFUSED_BYTES)
