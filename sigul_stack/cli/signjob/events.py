"""Events of a signing job: a JSON object a line, ASCII, each with its kind as `event`."""

from __future__ import annotations

import json
from typing import Final, TextIO

from ...errors import SigulError, printable, shortened
from ..outcome import request_of

#: Longest reason in an event, in bytes of UTF-8.
MAX_REASON_BYTES: Final = 1000


def reason_of(error: object) -> str:
    """The reason that an error gives, as one line of text that is not too long.

    Of a request that failed it ends with its id: ` (request ID 0123456789abcdef)`.
    """
    request = request_of(error) if isinstance(error, SigulError) else ""
    behind = f" (request ID {request})" if request else ""
    return shortened(printable(str(error)), MAX_REASON_BYTES - len(behind)) + behind


def request_member(error: SigulError | None = None) -> dict[str, str]:
    """The member `request` of an event about a request; none where there is no id."""
    request = request_of(error)
    return {"request": request} if request else {}


class Events:
    """Writes events to a stream, each at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def tell(self, event: str, **fields: str | int | bool) -> None:
        """Write one event."""
        self._stream.write(json.dumps({"event": event, **fields}) + "\n")
        self._stream.flush()
