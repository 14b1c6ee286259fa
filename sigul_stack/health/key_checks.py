"""Checks of OpenPGP keys for who signs RPMs with them, of `doctor` alone.

Not for health: such a key may be for anything but RPMs, and a check that always warns is no check.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..checks import Check, warning
from ..errors import quoted
from ..formats.key_remarks import remarks_for_rpm
from ..formats.openpgp_keys import read_keys
from ..formats.openpgp_packets import MalformedPacket
from .steps import Layer


def rpm_checks(layer: Layer, name: str, public: bytes) -> Iterator[Check]:
    """A warning for each reason why not every rpm verifies what key `name` signs.

    `public` is its public key, armoured or not; of any other type there is nothing to say.
    """
    try:
        keys = read_keys(public)
    except MalformedPacket:
        return
    for key in keys:
        if key.signs:
            for remark in remarks_for_rpm(key):
                yield warning(layer, f"key {quoted(name)}, for RPMs: {remark.problem}", remark.cure)
