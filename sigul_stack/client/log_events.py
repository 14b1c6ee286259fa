"""The events of the client's log (`logevents`)."""

from __future__ import annotations

from ..logevents import WARNING, LogEvent


class ClientLog(LogEvent):
    """Lines of a client."""

    TRYING_AGAIN = (
        "request-tried-again",
        WARNING,
        "nothing was done yet: {cause!t}; next attempt in {seconds} s",
    )
    GAVE_UP = (
        "request-given-up",
        WARNING,
        "gave up after attempt {tries}: the limit of {seconds:g} s is over (retry-seconds)",
    )
