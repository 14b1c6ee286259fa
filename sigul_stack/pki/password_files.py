"""Password files and who may read what is made: the one place that writes a secret to disk.

Root works in a directory of another user's with the rights of that user (`rights_of_owner`).

A password file holds the password and nothing else (no newline), is 0600 unless told otherwise, and
is never written over: a new password over an old database is the mistake that looks like every
other one (known fault 9).
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..config.identity import rights_of_owner
from ..config.reading import read_small
from ..config.values import strip_one_end
from ..errors import ConfigurationError, NSSError
from ..password_strength import why_weak
from ..secret import Secret
from ..system.files import opened, whole_file

#: The password file that lies beside an NSS database, in its directory.
PASSWORD_FILE_NAME: Final = "nss-password"  # noqa: S105 - a file's name

#: 43 URL-safe base64 characters are 256 random bits.
PASSWORD_CHARACTERS: Final = 43

_MAX_PASSWORD_FILE_SIZE: Final = 4096


@dataclass(frozen=True, slots=True)
class Permissions:
    """Owner, group and mode of the files made; None leaves what there is, or the maker's own."""

    uid: int | None = None
    gid: int | None = None
    mode: int | None = None

    @classmethod
    def parse(cls, owner: str | None, mode: str | None) -> Permissions:
        """From `USER[:GROUP]` (names or numbers) and an octal mode such as `0640`.

        Raises `ConfigurationError`.
        """
        uid = gid = bits = None
        if owner:
            user, _, group = owner.partition(":")
            uid = _number(user, "user", lambda name: pwd.getpwnam(name).pw_uid)
            if group:
                gid = _number(group, "group", lambda name: grp.getgrnam(name).gr_gid)
        if mode:
            try:
                bits = int(mode, 8)
            except ValueError:
                bits = 0
            if bits & 0o600 != 0o600 or bits & ~0o664:
                raise ConfigurationError(
                    f"{mode!r} is no mode for an NSS database", "write for example 0600 or 0640"
                )
        return cls(uid, gid, bits)

    @property
    def file_mode(self) -> int:
        """The mode of a file that is made."""
        return 0o600 if self.mode is None else self.mode

    @property
    def directory_mode(self) -> int:
        """The mode of a directory that is made: whoever may read the files may enter it."""
        return 0o700 | (self.file_mode & 0o044) | (self.file_mode & 0o044) >> 2

    def apply(self, path: Path, mode: int | None = None) -> None:
        """Give `path` this owner and group, and `mode`. Raises `NSSError`."""
        try:
            with opened(path) as descriptor:
                found = os.fstat(descriptor)
                uid = found.st_uid if self.uid is None else self.uid
                gid = found.st_gid if self.gid is None else self.gid
                if (uid, gid) != (found.st_uid, found.st_gid):
                    os.fchown(descriptor, uid, gid)
                if mode is not None:
                    os.fchmod(descriptor, mode)
        except OSError as error:
            raise NSSError(
                f"'{path}' cannot be given its owner or mode: {error.strerror}",
                "run this as root, or leave --owner out",
            ) from error

    def over(self, existing: Path) -> Permissions:
        """These, with the owner and mode of `existing` where they say nothing."""
        found = existing.stat()
        return Permissions(
            found.st_uid if self.uid is None else self.uid,
            found.st_gid if self.gid is None else self.gid,
            found.st_mode & 0o777 if self.mode is None else self.mode,
        )


def read_password(path: Path) -> Secret:
    """The password in the file `path`, without one line end that an editor or `echo` left.

    Raises `ConfigurationError` where it cannot be read or cannot be a password.
    """
    try:
        data = read_small(path, _MAX_PASSWORD_FILE_SIZE)
    except OSError as error:
        raise ConfigurationError(
            f"the password file '{path}' cannot be read: {error.strerror}",
            "name a file that holds the password alone and that this user may read",
        ) from error
    if data.startswith(b"$ANSIBLE_VAULT;"):
        raise ConfigurationError(
            f"the password file '{path}' is encrypted by Ansible vault",
            "write what `ansible-vault view` shows of it into a file that is removed afterwards",
        )
    password = strip_one_end(data)
    if len(data) > _MAX_PASSWORD_FILE_SIZE or b"\n" in password or b"\0" in password:
        raise ConfigurationError(
            f"the password file '{path}' holds more than one line", "let it hold the password alone"
        )
    return Secret(password)


def make_password_file(directory: Path, permissions: Permissions) -> Secret:
    """The password in `directory`'s password file, which is made with a random one if missing."""
    path = directory / PASSWORD_FILE_NAME
    known = password_beside(directory)
    if known is not None:
        return known
    password = Secret.random(PASSWORD_CHARACTERS)
    while why_weak(password) is not None:  # one in some hundred looks weak
        password = Secret.random(PASSWORD_CHARACTERS)
    make_directory(directory, permissions)
    write_file(path, password.reveal(), permissions)
    return password


def password_beside(directory: Path) -> Secret | None:
    """The password in `directory`'s password file, if there is one."""
    path = directory / PASSWORD_FILE_NAME
    with rights_of_owner(directory):
        return read_password(path) if path.is_file() else None


def make_directory(directory: Path, permissions: Permissions) -> None:
    """Make `directory` and its parents where missing, and give it its owner. Raises `NSSError`."""
    with rights_of_owner(directory):
        mode = None
        if not directory.is_dir():
            mode = permissions.directory_mode
            try:
                directory.parent.mkdir(parents=True, exist_ok=True)
                directory.mkdir(mode=0o700)
            except OSError as error:
                raise NSSError(
                    f"the directory '{directory}' cannot be made: {error.strerror}"
                ) from error
        permissions.apply(directory, mode)


def write_file(
    path: Path, content: bytes, permissions: Permissions, *, replace: bool = True
) -> None:
    """Write `path` whole or not at all. Raises `NSSError`."""
    try:
        with rights_of_owner(path.parent), whole_file(path, replace=replace) as file:
            file.write(content)
            permissions.apply(Path(file.name), permissions.file_mode)
    except OSError as error:
        raise NSSError(f"'{path}' cannot be written: {error.strerror}") from error


def _number(text: str, what: str, look_up: Callable[[str], int]) -> int:
    if text.isdecimal():
        return int(text)
    try:
        return look_up(text)
    except KeyError:
        raise ConfigurationError(
            f"there is no {what} {text!r} on this machine", "name one that there is, or its number"
        ) from None
