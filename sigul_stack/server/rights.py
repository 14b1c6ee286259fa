"""Checks of who may do what (docs/operations.md, "Rights").

Which rights on what is in the table of operations (`Operation.objects`). What is found lasts for as
long as nobody takes it back: it is looked at again before each change, signature and answer.

Invariant: every failure is the one answer AUTHENTICATION_FAILED, without a message, and costs as
much as a success: a password hash or a passphrase's unlocking runs whether the user, the key and
the access exist or not. The log says which it was. Two refusals have a message: what `guesses`
refuses, which depends on former failures alone, and those are all alike; and a limit of an access,
which is told to who has proven that access.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ..database import Database, Key, KeyAccess, Reader, User
from ..errors import (
    DatabaseError,
    KeystoreError,
    RequestRefused,
    Status,
    WrongPassphrase,
    quoted,
)
from ..keystore.bindings import CannotUnbind, Registry
from ..keystore.passwords import verify_password
from ..keystore.store import open_access, renewed_access
from ..logevents import tell
from ..protocol.rights import Object, Rights
from ..secret import Secret
from .guesses import Guard, unguarded
from .limits import allows, require_allowed
from .log_events import ServerLog
from .request import Request

log = logging.getLogger(__name__)

_NO_SECRET = Secret(b"")


@dataclass(frozen=True, slots=True)
class Granted:
    """The rights of a user who gave an administrator's password.

    `further` are those on other keys, by the fields that name them.
    """

    user: User
    further: Mapping[str, AccessGranted] = field(default_factory=dict, kw_only=True)

    def withdrawn(self, reader: Reader) -> str:
        """The reason why the right is no longer there, as `reader` has it; empty where it is."""
        if reader.user(self.user.name) == self.user:
            return ""
        return f"user {quoted(self.user.name)} is no longer the administrator of that password"


@dataclass(frozen=True, slots=True)
class AccessGranted(Granted):
    """The right of a user to have `operation` use a key that he has an access to."""

    access: KeyAccess
    operation: str
    needs_key_admin: bool = False

    @property
    def key(self) -> Key:
        """The key."""
        return self.access.key

    def withdrawn(self, reader: Reader) -> str:
        """The reason why the right is no longer there, as `reader` has it; empty where it is.

        A new name of user or key counts as well, as it would in a new request, and so does another
        passphrase.
        """
        user, key = self.user.name, self.key
        now = reader.access(user, key.name)
        if now is None or now.key != key:
            return f"user {quoted(user)} no longer has access to key {quoted(key.name)}"
        if now.encrypted_passphrase != self.access.encrypted_passphrase:
            return f"user {quoted(user)} has another passphrase for key {quoted(key.name)} by now"
        if self.needs_key_admin and not now.key_admin:
            return f"user {quoted(user)} is no longer an administrator of key {quoted(key.name)}"
        if not allows(now.limits, self.operation):
            return f"the access of user {quoted(user)} to key {quoted(key.name)} is limited by now"
        return ""


@dataclass(frozen=True, slots=True)
class KeyGranted(AccessGranted):
    """The rights of a user whose passphrase opened a key; `passphrase` is the key's own."""

    passphrase: Secret = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class NameCheck:
    """Rule for which users a client's certificate may speak."""

    lenient: bool
    proxies: frozenset[str]

    def allows(self, client_name: str, user: str) -> bool:
        """True if a client whose certificate has the CN `client_name` may speak for `user`."""
        return client_name == user or self.lenient or client_name in self.proxies


G = TypeVar("G", bound=Granted)


def _refuse(why: str) -> RequestRefused:
    tell(log, ServerLog.AUTHENTICATION_FAILED, why=why)
    return RequestRefused(Status.AUTHENTICATION_FAILED, reason=why)


def authorise(
    request: Request,
    database: Database,
    registry: Registry,
    name_check: NameCheck,
    guard: Guard = unguarded,
    *,
    with_accesses: bool = True,
) -> Granted:
    """Check the rights that the request's operation needs on all things that the request names.

    `guard` is told of each secret and how that did. Without `with_accesses` none is needed on a key
    for which no secret is sent (`Rights.ACCESS`), as servers of 1.x had it. Raises `RequestRefused`
    (AUTHENTICATION_FAILED): without a message, unless who asks has proven a limited access.
    """
    name = request.text("user")
    operation = request.operation
    rights = operation.rights
    passphrase = request.optional_secret("passphrase") if rights.by_passphrase else None
    by_passphrase = passphrase is not None or not rights.by_password
    given = passphrase if by_passphrase else request.optional_secret("password")
    watched = name, request.text(operation.key_field) if by_passphrase else ""
    # What cannot be right is no guess at anybody's secret, and counts against the client alone:
    # of names that it may not speak for there are as many as it likes.
    if not given or not name_check.allows(request.client_name, name):
        watched = "", ""
    with guard(request.client_name, *watched):
        granted = _by_secret(request, database, registry, name_check, by_passphrase=by_passphrase)
    _require_allowed(granted)
    further = {
        item.field: _further(request, item, database, registry, guard)
        for item in _further_keys(request, with_accesses=with_accesses)
    }
    return replace(granted, further=further) if further else granted


def _by_secret(
    request: Request,
    database: Database,
    registry: Registry,
    name_check: NameCheck,
    *,
    by_passphrase: bool,
) -> Granted:
    """The right that the request's passphrase or password gives. Raises `RequestRefused`."""
    name, operation = request.text("user"), request.operation
    allowed = name_check.allows(request.client_name, name)
    granted: Granted | str
    if by_passphrase:
        granted = _by_passphrase(
            database,
            registry,
            name,
            request.text(operation.key_field),
            request.optional_secret("passphrase") or _NO_SECRET,
            operation.name,
            needs_key_admin=operation.rights.needs_key_admin,
            allowed=allowed,
        )
    else:
        granted = _by_password(database, name, request.optional_secret("password") or _NO_SECRET)
    if not allowed:
        raise _refuse(
            f"the certificate of {quoted(request.client_name)} does not allow it to speak for"
            f" {quoted(name)} (lenient-username-check, proxy-usernames)"
        )
    return _proven(granted)


def _further_keys(request: Request, *, with_accesses: bool) -> Iterator[Object]:
    """The keys in a request beside the one whose right lets it in, which need a right of theirs."""
    first = request.operation.key_field
    for item in request.operation.objects:
        if item.key_field == first or item.field != item.key_field:
            continue
        if item.field not in request.fields:
            continue
        if item.right is not Rights.ACCESS or (
            with_accesses and request.text(item.field) != request.text(first)
        ):
            yield item


def _further(
    request: Request, item: Object, database: Database, registry: Registry, guard: Guard
) -> AccessGranted:
    """The right on one more key. Raises `RequestRefused`."""
    user, key = request.text("user"), request.text(item.field)
    granted: AccessGranted
    if item.right is Rights.ACCESS:
        granted = _proven(_by_access(database, user, key, request.op))
    else:
        with guard(request.client_name, user, key):
            granted = _proven(
                _by_passphrase(
                    database,
                    registry,
                    user,
                    key,
                    request.optional_secret(item.opened_by) or _NO_SECRET,
                    request.op,
                    needs_key_admin=item.right.needs_key_admin,
                )
            )
    _require_allowed(granted)
    return granted


def _proven(granted: G | str) -> G:
    """The right that was found. Raises `RequestRefused` where there is none."""
    if isinstance(granted, str):
        raise _refuse(granted)
    return granted


def _require_allowed(granted: Granted) -> None:
    """Raise `RequestRefused` where the access is limited to other operations."""
    if isinstance(granted, AccessGranted):
        require_allowed(granted.access, granted.operation)


def require_still(granted: Granted, database: Database) -> None:
    """Check that the rights which `authorise` found are there still, all of them.

    For what comes after a wait: they may have been taken back since. Raises `RequestRefused`
    (AUTHENTICATION_FAILED), and `DatabaseError` where that cannot be told.
    """
    with database.read() as reader:
        require_still_in(granted, reader)


def require_still_in(granted: Granted, reader: Reader) -> None:
    """As `require_still`, in a transaction that is open: for a change in the same one."""
    for right in (granted, *granted.further.values()):
        if why := right.withdrawn(reader):
            raise _refuse(why)


def _by_password(database: Database, name: str, password: Secret) -> Granted | str:
    """The administrator's rights, or why not."""
    with database.read() as reader:
        user = reader.user(name)
    right = verify_password(password, user.password_hash if user else None)
    if user is None:
        return f"user {quoted(name)} does not exist"
    if not right:
        return f"{'wrong' if password else 'no'} password for user {quoted(name)}"
    if not user.admin:
        return f"user {quoted(name)} is not an administrator"
    return Granted(user)


def _by_passphrase(
    database: Database,
    registry: Registry,
    name: str,
    key_name: str,
    passphrase: Secret,
    operation: str,
    *,
    needs_key_admin: bool,
    allowed: bool = True,
) -> KeyGranted | str:
    """A key user's or key administrator's rights, or why not.

    `allowed` tells whether the client may speak for the user. An access that would be of no use
    anyway is not opened: the time of the refusal would tell whether the passphrase is right.
    """
    with database.read() as reader:
        user = reader.user(name)
        access = reader.access(name, key_name)
    sealed = None
    if access is not None and allowed and (access.key_admin or not needs_key_admin):
        sealed = access.encrypted_passphrase
    reason = ""
    try:
        key_passphrase = open_access(sealed, passphrase, registry)
    except KeystoreError as error:
        key_passphrase, reason = None, str(error)
        if not isinstance(error, (WrongPassphrase, CannotUnbind)):
            # That the access is damaged shows before any work is done.
            with contextlib.suppress(WrongPassphrase):
                open_access(None, passphrase, registry)
    if user is None or access is None:
        return (
            f"user {quoted(name)} or key {quoted(key_name)} does not exist, or has no access to it"
        )
    if needs_key_admin and not access.key_admin:
        return f"user {quoted(name)} is not an administrator of key {quoted(key_name)}"
    if key_passphrase is None:
        return f"user {quoted(name)} did not open key {quoted(key_name)}: {reason}"
    access = _renewed(database, registry, access, name, passphrase)
    return KeyGranted(user, access, operation, needs_key_admin, passphrase=key_passphrase)


def _renewed(
    database: Database, registry: Registry, access: KeyAccess, user: str, passphrase: Secret
) -> KeyAccess:
    """The access as it is in the database once an envelope of Sigul 0.x has been written anew.

    Where that fails it stays as it is: it is good for the request all the same.
    """
    what = f"The access of {quoted(user)} to key {quoted(access.key.name)}"
    try:
        sealed = renewed_access(access.encrypted_passphrase, passphrase)
        if sealed is None:
            return access
        with database.write() as writer:
            now = writer.access(user, access.key.name)
            if now is not None and now.encrypted_passphrase == access.encrypted_passphrase:
                writer.modify_access(user, access.key.name, encrypted_passphrase=sealed)
                now = replace(access, encrypted_passphrase=sealed)
    except (DatabaseError, KeystoreError) as error:
        tell(log, ServerLog.ACCESS_LEFT_AS_IT_IS, what=what, why=str(error))
        return access
    if now is not None and now.encrypted_passphrase == sealed:
        tell(log, ServerLog.ACCESS_WRITTEN_ANEW, what=what)
        return now
    # Another request was here first; or the passphrase was changed, or the access taken away.
    if now is not None:
        with contextlib.suppress(KeystoreError):
            open_access(now.encrypted_passphrase, passphrase, registry)
            return replace(access, encrypted_passphrase=now.encrypted_passphrase)
    return access


def _by_access(database: Database, name: str, key_name: str, operation: str) -> AccessGranted | str:
    """The right of a user to whom a key is known, or why not."""
    with database.read() as reader:
        user = reader.user(name)
        access = reader.access(name, key_name)
    if user is None or access is None:
        return (
            f"user {quoted(name)} or key {quoted(key_name)} does not exist, or has no access to it"
        )
    return AccessGranted(user, access, operation)
