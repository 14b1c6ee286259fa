"""The user and group that a daemon runs as: `unix-user` and `unix-group`, by name or number.

When to change identity is the daemon's business: after what only root may do, before any peer. A
process that stays root beside one that has changed works on that one's files inside `rights_for`.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigurationError
from ..records import dataclass


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
    account = None if unix_user is None else _account(unix_user)
    if unix_group is not None:
        gid = group_number(unix_group)
    elif account is not None:
        gid = account.pw_gid
    else:
        raise ConfigurationError(
            f"[daemon] unix-user: there is no account with the number {unix_user}, so its group is"
            " not known",
            "set unix-group as well",
        )
    if account is not None:
        return Identity(account.pw_uid, gid, tuple(os.getgrouplist(account.pw_name, gid)))
    return Identity(os.getuid() if unix_user is None else int(unix_user), gid, (gid,))


def _number(text: str, option: str) -> int | None:
    if not re.fullmatch("[0-9]+", text):
        return None
    # The highest number means "no change" to the kernel.
    if (number := int(text)) >= (1 << 32) - 1:
        raise ConfigurationError(
            f"{option}: {text} is too large, no user or group has such a number",
            "correct it",
        )
    return number


def _account(user: str) -> pwd.struct_passwd | None:
    number = _number(user, "[daemon] unix-user")
    try:
        return pwd.getpwnam(user) if number is None else pwd.getpwuid(number)
    except KeyError:
        if number is not None:
            return None
        raise ConfigurationError(
            f"[daemon] unix-user: there is no user '{user}' on this machine",
            f"make it (`useradd --system {user}`) or correct the name",
        ) from None


def group_number(group: str, option: str = "[daemon] unix-group") -> int:
    """The number of a group by its name or number. Raises `ConfigurationError` where it has none.

    `option` says in it what named the group.
    """
    number = _number(group, option)
    if number is not None:
        return number
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigurationError(
            f"{option}: there is no group '{group}' on this machine",
            f"make it (`groupadd --system {group}`) or correct the name",
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
    _set_ids(identity, user, group)


def drop_privileges_unless_roots(identity: Identity | None, directory: Path) -> None:
    """Become `identity` now unless nobody but root can change `directory` and the files in it.

    For a process that goes on to read there what may have it run code, as an NSS database does by
    naming modules to load. What root alone may read is then read as root. Raises
    `ConfigurationError`.
    """
    try:
        names = [directory, *directory.iterdir()]
    except OSError:
        names = [directory]
    if not all(map(_is_roots_alone, names)):
        drop_privileges(identity)


@contextlib.contextmanager
def rights_for(identity: Identity | None, directory: Path) -> Iterator[None]:
    """Work on files in `directory`, as root, without a way for `identity` to gain by it.

    Who can change a name on a path decides which file is meant by it, at any moment between two
    calls: a link, or another directory, in its place would have root make, change or give away a
    file that is not his. So root's own rights are used only where nobody but root can change any
    name on the way; everywhere else the block has the rights of `identity`, who then reaches
    nothing that he could not reach himself. That holds however often names change, for whatever
    the block does, and needs no look at what was opened.

    The user and group of the whole process change for the time of the block, so that no other
    thread may work on files meanwhile. The real user stays root: `identity` can neither trace nor
    signal the process. Nothing changes where the process is not root, or stays root for good.
    Raises `ConfigurationError` where it may not become `identity`.
    """
    if identity is None or identity.uid == 0 or os.geteuid() != 0 or _is_roots_alone(directory):
        yield
        return
    with _acting_as(identity):
        yield


@contextlib.contextmanager
def rights_of_owner(directory: Path) -> Iterator[None]:
    """As `rights_for`, with the rights of whoever beside root can change `directory` or its files.

    For a tool that root runs on a directory which may be anybody's, as an NSS database's may: what
    it makes there belongs to its owner, and what that names, such as a module that NSS loads, has
    no more rights than he has. Programs started inside have them for good (`system.programs`).
    Raises `ConfigurationError` where he cannot be told.
    """
    who = other_owner(directory) if os.geteuid() == 0 else None
    with contextlib.nullcontext() if who is None else _acting_as(who):
        yield


@contextlib.contextmanager
def _acting_as(identity: Identity) -> Iterator[None]:
    group, groups = os.getegid(), os.getgroups()
    _set_ids(identity, (-1, identity.uid, -1), (-1, identity.gid, -1))
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def other_owner(directory: Path) -> Identity | None:
    """Whoever beside root can change `directory`, a file in it or the way there; None for nobody.

    Where it is missing, that is who can change the directory that it would be made in. What belongs
    to somebody who does not reach it, as below a directory of root's alone, he cannot change. For
    root to ask. Raises `ConfigurationError` where all of it is root's and others may write to it.
    """
    directory = directory.absolute()
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    try:
        names = [directory, *directory.iterdir()]
    except OSError:
        names = [directory]
    if _is_roots_alone(directory) and all(map(_entry_is_roots_alone, names[1:])):
        return None
    real = directory.resolve()
    for path in (*reversed(directory.parents), *reversed(real.parents), directory, real, *names):
        with contextlib.suppress(OSError):
            found = path.lstat()
            if found.st_uid != 0:
                who = _identity_of(found.st_uid, found.st_gid)
                return who if _reaches(who, real) else None
    raise ConfigurationError(
        f"'{directory}' is root's, but others may change it or what is in it",
        "take the right to write from group and others, or give it to the user whose it is",
    )


def _reaches(who: Identity, directory: Path) -> bool:
    """Whether he comes to the files in it, for which seeing the directory itself is not enough."""
    with _acting_as(who):
        return os.access(directory, os.X_OK, effective_ids=True)


def _identity_of(uid: int, gid: int) -> Identity:
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        gid = gid or uid  # root's group is not his
        return Identity(uid, gid, (gid,))
    groups = tuple(os.getgrouplist(account.pw_name, account.pw_gid))
    return Identity(uid, gid if gid in groups else account.pw_gid, groups)


def _is_roots_alone(path: Path) -> bool:
    """Whether nobody but root can change what `path` names, a file or a directory's names.

    Where it is not there, or a step of the way cannot be looked at, the answer is no.
    """
    path = path.absolute()
    try:
        path.stat()  # links that lead in a circle end here
        for step in (*reversed(path.parents), path):
            found = step.lstat()
            if found.st_uid != 0:
                return False
            if stat.S_ISLNK(found.st_mode):
                if not _is_roots_alone(step.parent / step.readlink()):
                    return False
            # What is root's stays where it is in a directory like /tmp, but others may add to it.
            elif found.st_mode & 0o022 and not (found.st_mode & stat.S_ISVTX and step != path):
                return False
    except OSError:
        return False
    return True


def _entry_is_roots_alone(path: Path) -> bool:
    """As `_is_roots_alone`, of an entry in a directory that is so: one that is gone counts, too.

    A journal of SQLite's goes while somebody else works with an NSS database.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    if stat.S_ISLNK(found.st_mode):
        return _is_roots_alone(path)
    return found.st_uid == 0 and not found.st_mode & 0o022


def _set_ids(identity: Identity, users: tuple[int, int, int], groups: tuple[int, int, int]) -> None:
    """Take the groups of `identity`, and real, effective and saved IDs; -1 leaves one as it is.

    Raises `ConfigurationError` where the process may not.
    """
    try:
        os.setgroups(identity.groups)
        os.setresgid(*groups)
        os.setresuid(*users)
    except PermissionError as error:
        raise ConfigurationError(
            f"this process (user {os.geteuid()}) may not become user {identity.uid}, group"
            f" {identity.gid}",
            "start it as root, or leave unix-user and unix-group empty",
        ) from error
