"""The handlers of operations: each takes an authorised request, and answers or refuses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ...config.server import ServerSettings
from ...errors import KeystoreError
from ...formats.openpgp_signatures import SignatureOptions
from ..payload import Intake
from ..request import Answer
from ..services import RequestContext, signature_options
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

#: The operations whose handlers need the bytes of a payload.
NEEDS_BYTES: frozenset[str] = frozenset().union(
    key_handlers.NEEDS_BYTES,
    signing_handlers.NEEDS_BYTES,
    certificate_handlers.NEEDS_BYTES,
    rpm_handlers.NEEDS_BYTES,
)


def intake(settings: ServerSettings) -> Intake:
    """The parts of payloads that handlers need: bytes for some, the site's own hash for some.

    A configuration of GnuPG that cannot be read is for the handler that signs to tell.
    """
    try:
        wanted = signature_options(settings)
    except KeystoreError:
        wanted = SignatureOptions()
    return Intake(NEEDS_BYTES, (wanted.hash_name,))
