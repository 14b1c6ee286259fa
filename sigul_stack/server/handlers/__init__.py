"""The handlers of operations: each takes an authorised request, and answers or refuses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ..request import Answer
from ..services import RequestContext
from . import access, administration, certificates, keys, rpm, signing

Handler = Callable[[RequestContext], Answer]

#: The handler of every operation in the table of operations, by name.
HANDLERS: Mapping[str, Handler] = MappingProxyType(
    {
        **administration.HANDLERS,
        **keys.HANDLERS,
        **access.HANDLERS,
        **signing.HANDLERS,
        **certificates.HANDLERS,
        **rpm.HANDLERS,
    }
)
