"""Who may use a key: granting, revoking and changing passphrases."""

from __future__ import annotations

from ...errors import RequestRefused, Status
from ...keystore.bindings import CannotBind, Layer, load_layers
from ...keystore.store import new_access
from ...secret import Secret
from ..request import Answer
from ..services import Work
from .administration import names_answer


def _list_key_users(work: Work) -> Answer:
    key = work.request.text("key")
    with work.services.database.read() as reader:
        if reader.key(key) is None:
            raise RequestRefused(Status.KEY_NOT_FOUND)
        return names_answer("num-users", reader.key_users(key))


def _requested_layers(work: Work) -> tuple[Layer, ...]:
    """The binding layers for the new access: what the request names, forced and default ones."""
    # The client binds its own side itself; what it says of that is checked for form alone.
    try:
        for name in ("client-binding", "server-binding"):
            if name in work.request.secrets:
                load_layers(work.request.secrets.string(name))
        requested = (
            load_layers(work.request.secrets.string("server-binding"))
            if "server-binding" in work.request.secrets
            else ()
        )
    except CannotBind as error:
        raise RequestRefused.because(error) from None
    return work.services.policy.layers(requested)


def _sealed(work: Work, key_passphrase: Secret, layers: tuple[Layer, ...]) -> bytes:
    try:
        return new_access(
            key_passphrase, work.request.secret("new-passphrase"), layers, work.services.registry
        )
    except CannotBind as error:
        raise RequestRefused.because(error) from None


def _grant_key_access(work: Work) -> Answer:
    key, key_passphrase = work.granted.opened()
    name = work.request.text("name")
    sealed = _sealed(work, key_passphrase, _requested_layers(work))
    with work.services.database.write() as writer:
        if writer.user(name) is None:
            raise RequestRefused(Status.USER_NOT_FOUND)
        writer.add_access(name, key.name, sealed, key_admin=False)
    return Answer()


def _revoke_key_access(work: Work) -> Answer:
    key, name = work.request.text("key"), work.request.text("name")
    with work.services.database.write() as writer:
        if writer.user(name) is None:
            raise RequestRefused(Status.USER_NOT_FOUND)
        writer.delete_access(name, key, keep_last=True)
    return Answer()


def _change_passphrase(work: Work) -> Answer:
    key, key_passphrase = work.granted.opened()
    sealed = _sealed(work, key_passphrase, _requested_layers(work))
    with work.services.database.write() as writer:
        writer.modify_access(work.granted.user.name, key.name, encrypted_passphrase=sealed)
    return Answer()


HANDLERS = {
    "list-key-users": _list_key_users,
    "grant-key-access": _grant_key_access,
    "revoke-key-access": _revoke_key_access,
    "change-passphrase": _change_passphrase,
}
