"""Operations of administrators that touch the database alone: users, and their keys."""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import KeystoreError, RequestRefused, Status
from ...keystore.passwords import hash_password
from ...keystore.store import shown
from ..limits import asked_for, require_within, told
from ..request import Answer
from ..services import RequestContext


def names_answer(counted_as: str, names: Iterable[str]) -> Answer:
    """A list of names as replies carry it: their number, and each ended by NUL."""
    listed = list(names)
    return Answer({counted_as: len(listed)}, b"".join(name.encode() + b"\0" for name in listed))


def _list_users(context: RequestContext) -> Answer:
    with context.services.database.read() as reader:
        return names_answer("num-users", (user.name for user in reader.users()))


def _new_password_hash(context: RequestContext) -> bytes | None:
    """The hash to store; None, which no password opens, where there is no `new-password`."""
    if context.request.optional_secret("new-password") is None:
        return None
    password = context.new_secret("new-password")
    try:
        return hash_password(password)
    except KeystoreError as error:
        raise RequestRefused.because(error) from None


def _new_user(context: RequestContext) -> None:
    request = context.request
    with context.write() as writer:
        writer.add_user(
            request.text("name"), _new_password_hash(context), bool(request.flag("admin"))
        )


def _delete_user(context: RequestContext) -> None:
    with context.write() as writer:
        writer.delete_user(context.request.text("name"))


def _user_info(context: RequestContext) -> Answer:
    with context.services.database.read() as reader:
        user = reader.user(context.request.text("name"))
    if user is None:
        raise RequestRefused(Status.USER_NOT_FOUND)
    return Answer({"admin": user.admin})


def _modify_user(context: RequestContext) -> None:
    request = context.request
    with context.write() as writer:
        writer.modify_user(
            request.text("name"),
            new_name=request.optional_text("new-name"),
            password_hash=_new_password_hash(context),
            admin=request.flag("admin"),
        )


def _key_user_info(context: RequestContext) -> Answer:
    name, key = context.request.text("name"), context.request.text("key")
    with context.services.database.read() as reader:
        if reader.user(name) is None:
            raise RequestRefused(Status.USER_NOT_FOUND)
        if reader.key(key) is None:
            raise RequestRefused(Status.KEY_NOT_FOUND)
        access = reader.access(name, key)
    if access is None:
        raise RequestRefused(Status.KEY_USER_NOT_FOUND)
    return Answer({"key-admin": access.key_admin, **told(access.limits)})


def _modify_key_user(context: RequestContext) -> None:
    request = context.request
    name, key = request.text("name"), request.text("key")
    with context.write() as writer:
        before, limits = writer.access(name, key), None
        if before is not None and {"only", "rpm-names"} & request.fields.keys():
            limits = asked_for(request.fields, before.limits)
            if name == context.granted.user.name:
                require_within(limits, before)
        writer.modify_access(name, key, key_admin=request.flag("key-admin"), limits=limits)


def _list_keys(context: RequestContext) -> Answer:
    with context.services.database.read() as reader:
        keys = reader.keys()
    typed = context.request.version.lists_key_types
    names = (f"{key.name} ({shown(key.keytype)})" if typed else key.name for key in keys)
    return names_answer("num-keys", names)


def _list_binding_methods(context: RequestContext) -> Answer:
    return names_answer("num-methods", context.services.registry)


HANDLERS = {
    "list-users": _list_users,
    "new-user": _new_user,
    "delete-user": _delete_user,
    "user-info": _user_info,
    "modify-user": _modify_user,
    "key-user-info": _key_user_info,
    "modify-key-user": _modify_key_user,
    "list-keys": _list_keys,
    "list-binding-methods": _list_binding_methods,
}
