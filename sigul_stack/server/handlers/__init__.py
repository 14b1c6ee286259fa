"""One function an operation: takes an authorised request, gives the answer or refuses.

`HANDLERS` is the register: an operation without a row is unknown to this server, whatever the table
of operations says of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ..request import Answer
from ..services import Work
from . import access, administration, certificates, images, keys, rpm, signing

Handler = Callable[[Work], Answer]

#: Every operation that this server serves, by name.
HANDLERS: Mapping[str, Handler] = MappingProxyType(
    {
        **administration.HANDLERS,
        **keys.HANDLERS,
        **access.HANDLERS,
        **signing.HANDLERS,
        **certificates.HANDLERS,
        **images.HANDLERS,
        **rpm.HANDLERS,
    }
)
