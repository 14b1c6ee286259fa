"""All of a new site's certificates in one go: a CA, a bridge, a signing server, and clients.

Layout: `DIR/ca` (the CA's database and `ca.pem`), `DIR/bridge`, `DIR/server`, `DIR/clients/USER`,
each an NSS database with its own random password in `nss-password`. A component gets its own
directory and nothing of any other; `DIR/ca` stays on the machine that issues.

Idempotent: what is there and good is kept; a leaf that runs out or lacks a name is renewed; what is
wrong otherwise is named, and left alone.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from ..checks import State
from ..errors import ConfigurationError, NSSError
from ..secret import Secret
from .authority import AUTHORITY_LIFETIME, Authority
from .certificate_info import covers, current_time, issued
from .contents import put_leaf
from .inspection import WARN_DAYS, Topic, inspect_database
from .leaf import LEAF_LIFETIME, KeyKind, LeafRequest, Role
from .nss_directory import DatabaseKind, NSSDatabase
from .password_files import (
    PASSWORD_FILE_NAME,
    Permissions,
    make_password_file,
    password_beside,
    read_password,
)
from .renewal import renew_leaf

#: A user's name becomes a directory's.
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")


class Made(enum.Enum):
    """The change made to a database."""

    MADE = "made"
    KEPT = "kept"
    RENEWED = "renewed"


@dataclass(frozen=True, slots=True)
class Component:
    """A component's NSS database. `name` is its host name, or the client's user name."""

    role: Role
    name: str
    directory: Path
    nickname: str
    made: Made

    @property
    def password_file(self) -> Path:
        """The file that holds the database's password, and nothing else."""
        return self.directory / PASSWORD_FILE_NAME

    @property
    def database(self) -> NSSDatabase:
        """The database, with its password."""
        return NSSDatabase(self.directory, read_password(self.password_file))


@dataclass(frozen=True, slots=True)
class Site:
    """The directories of a site's certificates."""

    authority_directory: Path
    authority_made: Made
    bridge: Component
    server: Component
    clients: tuple[Component, ...]

    @property
    def components(self) -> tuple[Component, ...]:
        """All that have a leaf certificate."""
        return (self.bridge, self.server, *self.clients)

    def client(self, user: str) -> Component:
        """The client of `user`. Raises `LookupError`."""
        for component in self.clients:
            if component.name == user:
                return component
        raise LookupError(user)


def make_site(
    directory: Path | str,
    *,
    bridge: str,
    server: str,
    users: Iterable[str],
    bridge_names: Iterable[str] = (),
    server_names: Iterable[str] = (),
    lifetime: timedelta = LEAF_LIFETIME,
    key_kind: KeyKind = KeyKind.RSA,
    authority_lifetime: timedelta = AUTHORITY_LIFETIME,
    authority_password: Secret | None = None,
    permissions: Permissions | None = None,
    now: datetime | None = None,
) -> Site:
    """Make, or complete, a site's certificates in `directory`.

    `bridge` and `server` are host names; `bridge_names` and `server_names` further ones, or IP
    addresses. `key_kind` is of new leaves' keys. `permissions` hold for the components, not for the
    CA, whose password is random unless `authority_password` gives one. Raises
    `ConfigurationError`, `NSSError`.
    """
    root = Path(directory)
    # All names are looked at before anything is made.
    leaf = partial(LeafRequest, lifetime=lifetime, key_kind=key_kind)
    requests = [
        (root / "bridge", leaf(Role.BRIDGE, bridge, tuple(bridge_names))),
        (root / "server", leaf(Role.SERVER, server, tuple(server_names))),
    ]
    for user in dict.fromkeys(users):
        if not _USER.fullmatch(user):
            raise ConfigurationError(
                f"{user!r} cannot be a directory's name",
                "issue its certificate by itself (sigul-stack pki issue --role client)",
            )
        requests.append((root / "clients" / user, leaf(Role.CLIENT, user)))
    authority, made = _authority(root / "ca", authority_password, authority_lifetime, now)
    components = [
        _component(place, request, authority, permissions or Permissions(), now)
        for place, request in requests
    ]
    return Site(root / "ca", made, components[0], components[1], tuple(components[2:]))


def _authority(
    directory: Path, password: Secret | None, lifetime: timedelta, now: datetime | None
) -> tuple[Authority, Made]:
    if NSSDatabase(directory).recognise() is DatabaseKind.MISSING:
        if password is None:
            password = make_password_file(directory, Permissions())
        return Authority.create(directory, password, lifetime=lifetime, now=now), Made.MADE
    authority = Authority.open(directory, _password(directory) if password is None else password)
    authority.write_pem()
    return authority, Made.KEPT


def _component(
    directory: Path,
    request: LeafRequest,
    authority: Authority,
    permissions: Permissions,
    now: datetime | None,
) -> Component:
    database = NSSDatabase(directory)
    nickname = request.role.nickname
    if database.recognise() is DatabaseKind.MISSING:
        leaf = authority.issue(request, now=now)
        database.password = make_password_file(directory, permissions)
        with database.making(permissions) as store:
            put_leaf(store, leaf, nickname, authorities=authority.trusted)
        made = Made.MADE
    else:
        database.require()
        database.password = _password(directory)
        made = _mend(database, request, authority, now)
    return Component(request.role, request.name, directory, nickname, made)


def _mend(
    database: NSSDatabase, request: LeafRequest, authority: Authority, now: datetime | None
) -> Made:
    """Keep an existing database, or renew its leaf. Raises `NSSError` where that is no cure."""
    nickname, dialled = request.role.nickname, request.role.is_dialled
    checks = inspect_database(
        database, request.role, names=() if dialled else (request.name,), now=now
    )
    for check in checks:
        if check.state is State.FAILED and check.layer != Topic.DATES:
            raise NSSError(f"'{database.directory}' is there, but: {check.finding}", check.cure)
    leaf, trusted = database.find(nickname), authority.trusted
    if not any(issued(item, leaf.certificate) for item in trusted):
        raise NSSError(
            f"'{nickname}' in '{database.directory}' was issued by another CA",
            "have it issued by"
            f" this one: sigul-stack pki renew --ca {authority.database.directory}"
            f" {database.directory} --nickname {nickname}",
        )
    names = (str(name.value) for name in request.alternative_names)
    missing = [name for name in names if not covers(name, leaf.certificate)]
    left = leaf.not_after - (now or current_time())
    if missing or left < min(timedelta(days=WARN_DAYS), request.lifetime / 3):
        renew_leaf(
            *(authority, database, nickname),
            lifetime=request.lifetime,
            names=missing,
            now=now,
        )
        return Made.RENEWED
    held = {item.certificate for item in database.certificates()}
    for certificate in trusted:
        if certificate not in held:
            database.add_authority(certificate)
    return Made.KEPT if held.issuperset(trusted) else Made.RENEWED


def _password(directory: Path) -> Secret:
    known = password_beside(directory)
    if known is None:
        raise NSSError(
            f"'{directory}' holds an NSS database, but not its password",
            f"put that into '{directory / PASSWORD_FILE_NAME}'"
            " (0600, without a newline), or move the directory away to have it made anew",
        )
    return known
