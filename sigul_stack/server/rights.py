"""Checks of who may do what (docs/operations.md, "Rights").

Invariant: every failure is the one answer AUTHENTICATION_FAILED, without a message, and costs as
much as a success: a password hash or a passphrase's unlocking runs whether the user, the key and
the access exist or not. The log says which it was.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass

from ..database import Database, Key, User
from ..errors import KeystoreError, RequestRefused, Status, WrongPassphrase
from ..keystore.bindings import CannotUnbind, Registry
from ..keystore.passwords import verify_password
from ..keystore.store import open_access
from ..secret import Secret
from .request import Request

log = logging.getLogger(__name__)

_NO_SECRET = Secret(b"")


@dataclass(frozen=True, slots=True)
class Granted:
    """The rights of a user who gave an administrator's password."""

    user: User


@dataclass(frozen=True, slots=True)
class KeyGranted(Granted):
    """The rights of a user whose passphrase opened a key; `passphrase` is the key's own."""

    key: Key
    passphrase: Secret


@dataclass(frozen=True, slots=True)
class NameCheck:
    """Rule for which users a client's certificate may speak."""

    lenient: bool
    proxies: frozenset[str]

    def allows(self, client_name: str, user: str) -> bool:
        """True if a client whose certificate has the CN `client_name` may speak for `user`."""
        return client_name == user or self.lenient or client_name in self.proxies


def _refuse(why: str) -> RequestRefused:
    log.warning("Authentication failed: %s", why)
    return RequestRefused(Status.AUTHENTICATION_FAILED)


def authorise(
    request: Request,
    database: Database,
    registry: Registry,
    name_check: NameCheck,
) -> Granted:
    """Check the rights that the request's operation needs.

    Raises `RequestRefused` (AUTHENTICATION_FAILED).
    """
    name = request.text("user")
    operation = request.operation
    rights = operation.rights
    granted: Granted | str
    passphrase = request.optional_secret("passphrase") if rights.by_passphrase else None
    if passphrase is not None or not rights.by_password:
        granted = _by_passphrase(
            database,
            registry,
            name,
            request.text(operation.key_field),
            passphrase or _NO_SECRET,
            needs_key_admin=rights.needs_key_admin,
        )
    else:
        granted = _by_password(database, name, request.optional_secret("password") or _NO_SECRET)
    if not name_check.allows(request.client_name, name):
        raise _refuse(
            f"the certificate of '{request.client_name}' does not allow it to speak for '{name}'"
            " (lenient-username-check, proxy-usernames)"
        )
    if isinstance(granted, str):
        raise _refuse(granted)
    return granted


def authorise_further_key(
    request: Request,
    key_field: str,
    passphrase_field: str,
    database: Database,
    registry: Registry,
) -> KeyGranted:
    """Check a key user's rights on a second key, once `authorise` has let the request in.

    Raises `RequestRefused` (AUTHENTICATION_FAILED).
    """
    granted = _by_passphrase(
        database,
        registry,
        request.text("user"),
        request.text(key_field),
        request.optional_secret(passphrase_field) or _NO_SECRET,
        needs_key_admin=False,
    )
    if isinstance(granted, str):
        raise _refuse(granted)
    return granted


def require_still(granted: Granted, database: Database) -> None:
    """Check that the access which `granted` a key is there still, for the same key.

    Of an administrator: that he is one still.

    For a request that lasts: what `authorise` found may have been taken back since, with the
    access, the user or the key. A new name of user or key counts as well, as it would in a new
    request. Raises `RequestRefused` (AUTHENTICATION_FAILED), and `DatabaseError` where that cannot
    be told.
    """
    user = granted.user.name
    if not isinstance(granted, KeyGranted):
        with database.read() as reader:
            now = reader.user(user)
        if now is None or not now.admin:
            raise _refuse(f"user '{user}' is no longer an administrator")
        return
    key = granted.key
    with database.read() as reader:
        access = reader.access(user, key.name)
    if access is None or access.key != key:
        raise _refuse(f"user '{user}' no longer has access to key '{key.name}'")


def _by_password(database: Database, name: str, password: Secret) -> Granted | str:
    """The administrator's rights, or why not."""
    with database.read() as reader:
        user = reader.user(name)
    right = verify_password(password, user.password_hash if user else None)
    if user is None:
        return f"user '{name}' does not exist"
    if not right:
        return f"{'wrong' if password else 'no'} password for user '{name}'"
    if not user.admin:
        return f"user '{name}' is not an administrator"
    return Granted(user)


def _by_passphrase(
    database: Database,
    registry: Registry,
    name: str,
    key_name: str,
    passphrase: Secret,
    *,
    needs_key_admin: bool,
) -> KeyGranted | str:
    """A key user's or key administrator's rights, or why not."""
    with database.read() as reader:
        user = reader.user(name)
        access = reader.access(name, key_name)
    sealed = None if access is None else access.encrypted_passphrase
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
        return f"user '{name}' or key '{key_name}' does not exist, or has no access to it"
    if key_passphrase is None:
        return f"user '{name}' did not open key '{key_name}': {reason}"
    if needs_key_admin and not access.key_admin:
        return f"user '{name}' is not an administrator of key '{key_name}'"
    return KeyGranted(user, access.key, key_passphrase)
