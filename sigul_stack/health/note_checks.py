"""Checks of what a server says of a key besides its answer, and of the three machines' clocks.

A server tells its clock to who has proved a right, and a bridge to whom it refuses: a request for
the operation `bridge-time`, which there is not, costs no server anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from ..checks import Check, ok, warning
from ..client import Client
from ..errors import SigulError, printable
from ..protocol.codec import Fields
from ..protocol.messages import warnings_in
from .steps import Layer

#: From which difference between two clocks on there is a warning, in seconds.
CLOCK_SECONDS: Final = 60.0
_CLOCK_CURE: Final = (
    "set the clock that is wrong (timedatectl set-ntp true): by a wrong one certificates and keys"
    " are not valid yet, or have expired, and signatures have a wrong date"
)


def key_checks(key: str, fields: Fields) -> Iterator[Check]:
    """Check what the reply to `get-public-key` says of the key: who signs, and what is coming."""
    if "server-time" not in fields:
        return  # a server that has no notes
    if signer := fields.get("signing-key"):
        name = printable(signer.decode("utf-8", "backslashreplace"))
        yield ok(Layer.RIGHTS, f"key '{key}' signs with {name}", signing_key=name)
    for text in warnings_in(fields):
        finding, _, cure = text.partition("; ")
        yield warning(Layer.RIGHTS, finding, cure or "ask its owner")


def clock_checks(client: Client, fields: Fields, began: float) -> Iterator[Check]:
    """Compare the clocks of server and bridge with ours; the reply was asked for at `began`.

    That is by `time.time()`. Of older peers the clock is not known, and nothing is said.
    """
    if "server-time" in fields:
        yield _clock("server", fields.integer("server-time"), began, time.time())
    began = time.time()
    try:
        theirs = client.bridge_time()
    except SigulError:
        return  # what is wrong there, the other layers tell
    if theirs is not None:
        yield _clock("bridge", theirs, began, time.time())


def _clock(what: str, theirs: int, began: float, ended: float) -> Check:
    """The check of a clock that showed `theirs` at some moment from `began` to `ended`."""
    # Whole seconds, cut off.
    ahead = max(theirs - ended, 0.0) - max(began - (theirs + 1), 0.0)
    if abs(ahead) < CLOCK_SECONDS:
        return ok(Layer.CLOCKS, f"the {what}'s clock is as ours", clock_seconds=round(ahead, 1))
    return warning(
        Layer.CLOCKS,
        f"the {what}'s clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours",
        _CLOCK_CURE,
        clock_seconds=round(ahead, 1),
    )
