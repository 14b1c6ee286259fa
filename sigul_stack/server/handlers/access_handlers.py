"""Access to keys: granting, revoking and changing passphrases."""

from __future__ import annotations

import logging

from ...errors import RequestRefused
from ...keystore.bindings import CannotBind, Layer, load_layers
from ...logevents import tell
from ..limits import asked_for, require_within
from ..log_events import ServerLog
from ..phases import Phase
from ..request import Answer
from ..services import RequestContext
from .administration_handlers import names_answer

log = logging.getLogger(__name__)

#: The field with the binding layers that the server is to apply.
_LAYERS = "server-binding"


def _list_key_users(context: RequestContext) -> Answer:
    key = context.key()
    with context.services.database.read() as reader:
        return names_answer("num-users", reader.key_users(key.name))


def _requested_layers(context: RequestContext) -> tuple[Layer, ...]:
    """The binding layers for the new access: what the request names, forced and default ones."""
    secrets = context.request.secrets
    if "client-binding" in secrets:
        # The client binds its own side itself. What it says of that is for the log, whatever it
        # holds: clients of 1.2 leave the methods' names out.
        text = secrets["client-binding"].decode("utf-8", "backslashreplace")
        tell(log, ServerLog.PASSPHRASE_BINDING_TOLD, method=text)
    try:
        requested = load_layers(secrets.string(_LAYERS)) if _LAYERS in secrets else ()
    except CannotBind as error:
        raise RequestRefused.because(error) from None
    return context.services.policy.layers(requested)


def _grant_key_access(context: RequestContext) -> None:
    granted = context.opened()
    # Who is limited gives no more than he has; what he does not name is as his own.
    limits = asked_for(context.request.fields, granted.access.limits)
    require_within(limits, granted.access)
    sealed = context.sealed(granted.passphrase, "new-passphrase", _requested_layers(context))
    with context.write() as writer:
        writer.add_access(
            context.request.text("name"), granted.key.name, sealed, key_admin=False, limits=limits
        )


def _revoke_key_access(context: RequestContext) -> None:
    request = context.request
    with context.write() as writer:
        writer.delete_access(request.text("name"), request.text("key"))


def _change_passphrase(context: RequestContext) -> None:
    key, passphrase = context.opened_key()
    sealed = context.sealed(passphrase, "new-passphrase", _requested_layers(context))
    with context.write() as writer:
        writer.modify_access(context.granted.user.name, key.name, encrypted_passphrase=sealed)
    # The key's own passphrase is at hand here, and a change of the store is no surprise.
    with context.phases.measured(Phase.STORE):
        context.services.keystore.hasten(key, passphrase)


HANDLERS = {
    "list-key-users": _list_key_users,
    "grant-key-access": _grant_key_access,
    "revoke-key-access": _revoke_key_access,
    "change-passphrase": _change_passphrase,
}
