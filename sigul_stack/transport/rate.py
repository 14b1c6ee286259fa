"""A minimum rate for payloads: how long a peer may be waited for, by how much it has moved.

Who is waited for has a credit of seconds. A second of waiting takes one, and each byte that has
moved gives back what it may take at the minimum rate, up to a limit. What a peer announces plays no
role, and neither does the time in which this side, or whoever is behind it, is the slow one.

No clock and no I/O: times are passed in.
"""

from __future__ import annotations

from typing import Final

from ..errors import DeadlineExceeded

#: The credit that each peer begins with, in seconds.
FIRST_SECONDS: Final = 10.0
#: More of it at a server, so that the bridge, which can tell the client why, gives up first.
SERVER_FIRST_SECONDS: Final = 15.0
#: The most that can be gained, in seconds: a pause that an honest peer may make.
MOST_SECONDS: Final = 60.0


class TooSlow(DeadlineExceeded):
    """A peer moves less than the minimum rate."""


class RateMeter:
    """The credit of one peer, at `rate` bytes a second. `doing` says what is slow, for errors."""

    def __init__(self, rate: int, doing: str, first: float = FIRST_SECONDS) -> None:
        self._rate = rate
        self._doing = doing
        self._most = MOST_SECONDS + first - FIRST_SECONDS
        self._left = first

    def limit(self, count: int = 0) -> float:
        """Seconds in which the next `count` bytes must have moved; any, where it is 0.

        Raises `TooSlow` where there are none.
        """
        left = self._left + count / self._rate
        if left <= 0:
            raise self.exceeded()
        return left

    def waited(self, seconds: float, moved: int) -> None:
        """Note that `moved` bytes came, or went, after this side had waited for `seconds`."""
        self._left = min(self._left - seconds + moved / self._rate, self._most)

    def exceeded(self) -> TooSlow:
        """The error for a peer whose credit is used up."""
        return TooSlow(
            f"{self._doing} slower than {self._rate} bytes/s (min-payload-rate)",
            "a slower line needs a lower min-payload-rate at the bridge and at the server",
        )
