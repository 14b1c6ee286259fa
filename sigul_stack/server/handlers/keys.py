"""Keys: making, importing, naming, expiring, deleting, and their public halves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from ...database import KeyType
from ...errors import KeystoreError, RequestRefused, Status
from ...keystore.bindings import CannotBind
from ...keystore.gnupg import UserId
from ...keystore.store import NewKey, new_access
from ...protocol.operations import MIB
from ...secret import Secret
from ..keychanges import key_change
from ..request import Answer
from ..services import Work
from .signing import opened_key


def _key_type(work: Work) -> KeyType:
    """The type asked for. Raises `RequestRefused` where this server does not have it."""
    name = work.request.optional_text("keytype") or KeyType.GNUPG.value
    if name != KeyType.GNUPG and name not in work.services.settings.allowed_key_types:
        raise RequestRefused(Status.UNSUPPORTED_KEYTYPE)
    return KeyType(name)


def _add_key(
    work: Work, passphrase_field: str, make: Callable[[KeyType, Secret], NewKey]
) -> NewKey:
    """Make a key under a new random passphrase and give its first user access to it."""
    request, services = work.request, work.services
    name = request.text("key")
    owner = request.optional_text("initial-key-admin") or request.text("user")
    with services.database.read() as reader:
        if reader.key(name) is not None:
            raise RequestRefused(Status.ALREADY_EXISTS)
        if reader.user(owner) is None:
            raise RequestRefused(Status.USER_NOT_FOUND)
    key_type = _key_type(work)
    key_passphrase = Secret.random(services.settings.passphrase_length)
    try:
        sealed = new_access(
            key_passphrase,
            request.secret(passphrase_field),
            services.policy.only_forced(),
            services.registry,
        )
    except CannotBind as error:
        raise RequestRefused.because(error) from None
    with key_change(services.settings.gnupg_home, services.keystore, services.database):
        new = make(key_type, key_passphrase)
        with services.database.write() as writer:
            writer.add_key(name, key_type, new.fingerprint)
            writer.add_access(owner, name, sealed, key_admin=True)
    return new


def _new_key(work: Work) -> Answer:
    request = work.request
    user_id = UserId(
        real=request.optional_unicode("name-real") or request.text("key"),
        comment=request.optional_unicode("name-comment") or "",
        email=request.optional_unicode("name-email") or "",
    )
    expires = _day(request.optional_text("expire-date"))

    def make(key_type: KeyType, passphrase: Secret) -> NewKey:
        return work.services.keystore.make(key_type, passphrase, user_id, expires)

    return Answer(payload=_add_key(work, "passphrase", make).public)


def _import_key(work: Work) -> Answer:
    data = work.request.payload.read(MIB)
    file_passphrase = work.request.secret("passphrase")

    def make(key_type: KeyType, passphrase: Secret) -> NewKey:
        return work.services.keystore.import_(key_type, data, file_passphrase, passphrase)

    _add_key(work, "new-passphrase", make)
    return Answer()


def _delete_key(work: Work) -> Answer:
    services = work.services
    with services.database.read() as reader:
        key = reader.key(work.request.text("key"))
    if key is None:
        raise RequestRefused(Status.KEY_NOT_FOUND)
    home = services.settings.gnupg_home
    with (
        key_change(home, services.keystore, services.database, removing=key),
        services.database.write() as writer,
    ):
        writer.delete_key(key.name)
    return Answer()


def _modify_key(work: Work) -> Answer:
    name, new_name = work.request.text("key"), work.request.optional_text("new-name")
    with work.services.database.write() as writer:
        if writer.key(name) is None:
            raise RequestRefused(Status.KEY_NOT_FOUND)
        if new_name is not None and new_name != name:
            writer.rename_key(name, new_name)
    return Answer()


def _get_public_key(work: Work) -> Answer:
    with work.services.database.read() as reader:
        key = reader.key(work.request.text("key"))
    if key is None:
        raise RequestRefused(Status.KEY_NOT_FOUND)
    return Answer(payload=work.services.keystore.public(key))


def _change_key_expiration(work: Work) -> Answer:
    key, passphrase = opened_key(work)
    expires = _day(work.request.optional_text("expire-date"))
    text = work.request.optional_text("subkey")
    subkey = 0
    if text is not None:
        if not text.isdigit() or int(text) < 1:
            raise RequestRefused(Status.UNKNOWN_ERROR, "subkeys are numbered from 1")
        subkey = int(text)
    try:
        work.services.keystore.expire(key, passphrase, expires, subkey)
    except KeystoreError as error:
        raise RequestRefused.because(error) from None
    return Answer()


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
