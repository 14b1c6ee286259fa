"""The user and group that a daemon runs as: `unix-user` and `unix-group`, by name or number.

When to change identity is the daemon's business: after what only root may do, before any peer.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
from dataclasses import dataclass

from ..errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Identity:
    """Numbers as the kernel wants them; `groups` are the supplementary ones."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def identity(unix_user: str | None, unix_group: str | None) -> Identity | None:
    """The identity that the two options name; None where both are empty (stay as started).

    A user alone brings its own groups; a group alone keeps the user. A number needs no account,
    but then a group has to be given. Raises `ConfigurationError` for a name that does not exist.
    """
    if unix_user is None and unix_group is None:
        return None
    account = None
    uid = os.getuid()
    if unix_user is not None:
        account = _account(unix_user)
        uid = account.pw_uid if account else int(unix_user)
    if unix_group is not None:
        gid = _group(unix_group)
    elif account is not None:
        gid = account.pw_gid
    else:
        raise ConfigurationError(
            f"[daemon] unix-user: there is no account with the number {unix_user}, so its group is"
            " not known; set unix-group as well"
        )
    if account is not None:
        return Identity(uid, gid, tuple(os.getgrouplist(account.pw_name, gid)))
    return Identity(uid, gid, (gid,))


def _number(text: str, option: str) -> int | None:
    if not re.fullmatch("[0-9]+", text):
        return None
    # The highest number means "no change" to the kernel.
    if (number := int(text)) >= (1 << 32) - 1:
        raise ConfigurationError(
            f"[daemon] {option}: {text} is too large, no user or group has such a number;"
            " correct it"
        )
    return number


def _account(user: str) -> pwd.struct_passwd | None:
    number = _number(user, "unix-user")
    try:
        return pwd.getpwnam(user) if number is None else pwd.getpwuid(number)
    except KeyError:
        if number is not None:
            return None
        raise ConfigurationError(
            f"[daemon] unix-user: there is no user '{user}' on this machine; make it"
            f" (`useradd --system {user}`) or correct the name"
        ) from None


def _group(group: str) -> int:
    number = _number(group, "unix-group")
    if number is not None:
        return number
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigurationError(
            f"[daemon] unix-group: there is no group '{group}' on this machine; make it"
            f" (`groupadd --system {group}`) or correct the name"
        ) from None


def drop_privileges(identity: Identity | None) -> None:
    """Become `identity`, for good; nothing where it is None or what the process already is.

    Raises `ConfigurationError` where the process may not.
    """
    if identity is None:
        return
    user, group = (identity.uid,) * 3, (identity.gid,) * 3
    if os.getresuid() == user and os.getresgid() == group:
        return
    try:
        os.setgroups(identity.groups)
        os.setresgid(*group)
        os.setresuid(*user)
    except PermissionError as error:
        raise ConfigurationError(
            f"this process (user {os.geteuid()}) may not become user {identity.uid}, group"
            f" {identity.gid}; start it as root, or leave unix-user and unix-group empty"
        ) from error
