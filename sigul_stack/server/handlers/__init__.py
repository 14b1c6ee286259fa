"""The handlers of operations: each takes an authorised request, and answers or refuses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ..payload import Intake
from ..request import Answer
from ..services import RequestContext
from . import (
    access_handlers,
    administration_handlers,
    certificate_handlers,
    key_handlers,
    rpm_handlers,
    signing_handlers,
)

#: None is an answer without fields and payload.
Handler = Callable[[RequestContext], Answer | None]

#: The handler of every operation in the table of operations, by name.
HANDLERS: Mapping[str, Handler] = MappingProxyType(
    {
        **administration_handlers.HANDLERS,
        **key_handlers.HANDLERS,
        **access_handlers.HANDLERS,
        **signing_handlers.HANDLERS,
        **certificate_handlers.HANDLERS,
        **rpm_handlers.HANDLERS,
    }
)

#: What is to be had of payloads: the bytes for the handlers that are declared to need them.
INTAKE = Intake(
    frozenset().union(
        key_handlers.NEEDS_BYTES,
        signing_handlers.NEEDS_BYTES,
        certificate_handlers.NEEDS_BYTES,
        rpm_handlers.NEEDS_BYTES,
    )
)
