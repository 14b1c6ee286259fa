"""The content of a bundle: one NSS database, a configuration, nothing that git would obey."""

from __future__ import annotations

import configparser
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from ..errors import SigulError, quoted
from ..system.files import sync

#: A file's content by its path; None: a directory.
Members = dict[str, bytes | None]

#: Where the configuration is that counts before all others.
CONFIGURATION: Final = ".sigul/client.conf"
#: Most bytes of a configuration.
MAX_CONFIGURATION: Final = 1 << 20

#: The files of an NSS database, of either format.
NSS_FILES: Final = frozenset(
    {"cert8.db", "key3.db", "secmod.db", "cert9.db", "key4.db", "pkcs11.txt"}
)
#: Files that git would take commands from: the bundle's directory becomes the client's HOME.
_OF_GIT: Final = frozenset({".gitconfig", ".config/git/config"})
#: What Jenkins would have put a name or a password in for.
_PLACEHOLDER: Final = re.compile(rb"\$(?:SIGUL_CONFIG_(?:USR|PSW)\b|\{SIGUL_CONFIG_(?:USR|PSW)\})")


class BundleError(SigulError):
    """A bundle is not whole, not of its format, or holds what none may hold."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle's content, all of it checked."""

    members: Members
    #: The directory with the NSS database; `.` where that is the top.
    nss_directory: str

    @classmethod
    def of(cls, members: Members) -> Bundle:
        """The bundle of these members. Raises `BundleError`."""
        held = {
            str(PurePosixPath(name).parent)
            for name, content in members.items()
            if content is not None and PurePosixPath(name).name in NSS_FILES
        }
        if not held:
            raise BundleError(
                "the bundle has no NSS database",
                "put cert9.db, key4.db and pkcs11.txt into .sigul/",
            )
        if len(held) > 1:
            raise BundleError(
                "the bundle has NSS databases in more than one directory:"
                f" {', '.join(quoted(name, 60) for name in sorted(held)[:4])}",
                "leave all but one out, such as backup copies",
            )
        for name in members:
            if name in _OF_GIT:
                raise BundleError(
                    f"the bundle has {quoted(name)}, which git would obey", "leave it out"
                )
        if (text := members.get(CONFIGURATION)) is not None:
            check_configuration(text, f"the bundle's {CONFIGURATION}")
        [directory] = held
        return cls(members, directory)

    @property
    def configuration(self) -> bytes | None:
        """The text of `.sigul/client.conf`, if it has one."""
        return self.members.get(CONFIGURATION)

    def write_to(self, directory: Path) -> None:
        """Make `directory` of it, 0700 and 0600, whole or not at all. It may be there, if empty.

        Raises `BundleError`.
        """
        target = directory.absolute()
        draft: Path | None = None
        try:
            draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            for name, content in sorted(self.members.items()):
                path = draft / name
                # One by one: `parents=True` would make those between for more than the owner.
                for parent in reversed(path.relative_to(draft).parents):
                    (draft / parent).mkdir(mode=0o700, exist_ok=True)
                if content is None:
                    path.mkdir(mode=0o700, exist_ok=True)
                else:
                    path.touch(mode=0o600)
                    path.write_bytes(content)
            # Takes the place of an empty directory, and of nothing else.
            draft.rename(target)
            draft = None
            sync(target.parent)
        except OSError as error:
            raise BundleError(
                f"'{directory}' cannot be made: {error.strerror}",
                "name a directory that is not there yet, in one that this user may write to",
            ) from error
        finally:
            if draft is not None:
                shutil.rmtree(draft, ignore_errors=True)


def check_configuration(text: bytes, name: str = "the configuration") -> None:
    """Raise `BundleError` for a client's configuration that can hardly be one.

    That is one of more than 1 MiB, that is not of INI form, or has the words that Jenkins replaces.
    Nothing of it is quoted: it may hold a password.
    """
    if len(text) > MAX_CONFIGURATION:
        raise BundleError(f"{name} is larger than {MAX_CONFIGURATION} bytes", "shorten it")
    if _PLACEHOLDER.search(text):
        raise BundleError(
            f"{name} has $SIGUL_CONFIG_USR or $SIGUL_CONFIG_PSW, which Jenkins replaces and nothing"
            " here does",
            "write user name and password out",
        )
    try:
        configparser.RawConfigParser().read_string(text.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise BundleError(f"{name} is not UTF-8 text", "save it as UTF-8") from None
    except configparser.Error as error:
        line = getattr(error, "lineno", None) or (getattr(error, "errors", None) or [(0,)])[0][0]
        where = f" (line {line})" if line else ""
        raise BundleError(
            f"{name} is not of the form `[section]`, `option: value`{where}", "correct it"
        ) from None
