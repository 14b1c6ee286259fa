"""Keys: making, importing, naming, expiring, deleting, and their public halves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import date
from pathlib import Path

from ...database import Database, Key, KeyType
from ...errors import KeystoreError, RequestRefused, Status
from ...keystore.gnupg import UserId
from ...keystore.store import KeyStore, NewKey, shown
from ...keystore.tokens import TokenError
from ...logevents import tell
from ...protocol.operations import MIB
from ...secret import Secret
from ..keychanges import HalfDeleted, finish_deleting, key_change
from ..log_events import ServerLog
from ..phases import Phase
from ..request import Answer
from ..rights import KeyGranted
from ..services import RequestContext

log = logging.getLogger(__name__)


def _key_type(context: RequestContext) -> KeyType:
    """The type asked for. Raises `RequestRefused` where this server does not have it."""
    name = context.request.optional_text("keytype") or KeyType.GNUPG.value
    if name != KeyType.GNUPG and name not in context.services.settings.allowed_key_types:
        raise RequestRefused(Status.UNSUPPORTED_KEYTYPE)
    return KeyType(name)


def _add_key(
    context: RequestContext,
    passphrase_field: str,
    make: Callable[[KeyType, Secret, frozenset[str]], NewKey],
) -> NewKey:
    """Make a key under a new random passphrase and give its first user access to it.

    `make` is also given the fingerprints of all keys in the database.
    """
    request, services = context.request, context.services
    name = request.text("key")
    owner = request.optional_text("initial-key-admin") or request.text("user")
    with services.database.read() as reader:
        if reader.key(name) is not None:
            raise RequestRefused(Status.ALREADY_EXISTS)
        if reader.user(owner) is None:
            raise RequestRefused(Status.USER_NOT_FOUND)
    key_type = _key_type(context)
    key_passphrase = Secret.random(services.settings.passphrase_length)
    sealed = context.sealed(key_passphrase, passphrase_field, services.policy.only_forced())
    change = key_change(services.settings.gnupg_home, services.keystore, services.database)
    with context.phases.measured(Phase.STORE), change:
        with services.database.read() as reader:
            keys = reader.keys()
        new = make(key_type, key_passphrase, frozenset(key.fingerprint for key in keys))
        with context.write() as writer:
            writer.add_key(name, key_type, new.fingerprint)
            writer.add_access(owner, name, sealed, key_admin=True)
    context.decision.key(Key(name, key_type, new.fingerprint))
    return new


def _new_key(context: RequestContext) -> Answer:
    request, keystore = context.request, context.services.keystore
    user_id = UserId(
        real=request.optional_unicode("name-real") or request.text("key"),
        comment=request.optional_unicode("name-comment") or "",
        email=request.optional_unicode("name-email") or "",
    )
    expires = _day(request.optional_text("expire-date"))
    new = _add_key(
        context,
        "passphrase",
        lambda key_type, passphrase, _known: keystore.make(key_type, passphrase, user_id, expires),
    )
    return Answer(payload=new.public)


def _import_key(context: RequestContext) -> None:
    data, keystore = context.request.payload.file.read(MIB), context.services.keystore
    own = context.request.secret("passphrase")
    _add_key(
        context,
        "new-passphrase",
        lambda key_type, passphrase, known: keystore.import_(
            key_type, data, own, passphrase, known
        ),
    )


def _delete_key(context: RequestContext) -> None:
    services, name = context.services, context.request.text("key")
    stores = services.settings.gnupg_home, services.keystore, services.database
    try:
        key = context.key()
    except RequestRefused as refused:
        if refused.status == Status.KEY_NOT_FOUND and _finish_deleting(stores, name):
            return
        raise
    if not services.keystore.holds(key):
        with context.write() as writer:
            writer.delete_key(key.name)
        tell(
            log,
            ServerLog.FOREIGN_KEY_DELETED,
            key=key.name,
            keytype=shown(key.keytype),
            fingerprint=key.fingerprint,
        )
        return
    try:
        change = key_change(*stores, removing=key)
        with context.phases.measured(Phase.STORE), change, context.write() as writer:
            writer.delete_key(key.name)
    except HalfDeleted as error:
        raise RequestRefused.because(error) from None


def _finish_deleting(stores: tuple[Path, KeyStore, Database], name: str) -> bool:
    try:
        return finish_deleting(*stores, name)
    except HalfDeleted as error:
        raise RequestRefused.because(error) from None


def _modify_key(context: RequestContext) -> None:
    key, new_name = context.key(), context.request.optional_text("new-name")
    if new_name is not None and new_name != key.name:
        with context.write() as writer:
            writer.rename_key(key.name, new_name)


def _get_public_key(context: RequestContext) -> Answer:
    key = context.key()
    if context.request.wants_notes:
        context.notes.look_ahead(key, soon=True)
    granted = context.granted
    passphrase = granted.passphrase if isinstance(granted, KeyGranted) else None
    try:
        return Answer(payload=context.services.keystore.public(key, passphrase))
    except TokenError as error:
        raise RequestRefused.because(error) from None


def _change_key_expiration(context: RequestContext) -> None:
    key, passphrase = context.opened_key()
    expires = _day(context.request.optional_text("expire-date"))
    text = context.request.optional_text("subkey")
    subkey = 0 if text is None else int(text)
    if text is not None and subkey < 1:
        raise RequestRefused(Status.UNKNOWN_ERROR, "subkeys are numbered from 1")
    store = context.services.keystore
    try:
        with context.phases.measured(Phase.STORE):
            store.expire(key, passphrase, expires, subkey, context.require_still)
    except KeystoreError as error:
        raise RequestRefused.because(error) from None
    context.stored = True


def _day(text: str | None) -> date | None:
    return None if text is None else date.fromisoformat(text)


HANDLERS = {
    "new-key": _new_key,
    "import-key": _import_key,
    "delete-key": _delete_key,
    "modify-key": _modify_key,
    "get-public-key": _get_public_key,
    "change-key-expiration": _change_key_expiration,
}

NEEDS_BYTES = frozenset({"import-key"})
