"""The files that there may be in a backup: an allow list, by their paths in it.

Invariant: what is not on it is neither put into a backup nor written from one. Settings of GnuPG
and NSS are not on it: they name files to write and programs to run, so whoever wrote a backup would
have them run. Backups of earlier versions hold some; those are read past.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ..errors import BackupError
from .manifest import DATABASE, Manifest

#: The files of an NSS database, new form and old, and its password where `pki` puts it. In
#: the same directory may be other things: it is `/var/lib/sigul` by default.
NSS_FILES: Final = (
    *("cert9.db", "key4.db", "pkcs11.txt", "cert8.db", "key3.db", "secmod.db", "nss-password"),
)

#: These name modules, programs that whoever opens the NSS database loads. In a backup they are for
#: people to look at; restored, they have a name with this behind it, which NSS does not read.
NSS_MODULES: Final = ("pkcs11.txt", "secmod.db")
NOT_IN_USE: Final = ".from-backup"

#: What is backed up and restored.
_TAKEN: Final = re.compile(
    rf"{re.escape(DATABASE)}"
    r"|gnupg/pubring\.(?:kbx|gpg)"
    r"|gnupg/private-keys-v1\.d/[0-9A-F]{40}\.key"
    r"|gnupg/openpgp-revocs\.d/(?:[0-9A-F]{40}|[0-9A-F]{64})\.rev"
    r"|keys/[0-9a-f]{40}(?:\.public|\.cert\.[A-Za-z]+)?\.pem"
    r"|configuration/[0-9]{1,4}-[\x21-\x2e\x30-\x7e]{1,85}"
    r"|signing-log/(?:key|key\.pub|checkpoint|entries/[0-9]{6})"
    rf"|nss/(?:{'|'.join(map(re.escape, NSS_FILES))})"
)

#: What earlier versions took from GnuPG homes besides: settings, trust that counts for nothing
#: here, and the secret keys of GnuPG 1, which GnuPG 2 has moved to private-keys-v1.d.
_PASSED_OVER: Final = re.compile(
    r"gnupg/(?:[a-z-]{1,20}\.conf(?:-[0-9.]{1,10})?|trustdb\.gpg|secring\.gpg|tofu\.db"
    r"|trustlist\.txt|sshcontrol|\.gpg-v21-migrated|crls\.d/[\x21-\x2e\x30-\x7e]{1,90}"
    r"|openpgp-revocs\.d/[0-9A-F]{40}\.rev\.bak)"
)


def is_taken(path: str) -> bool:
    """Tell whether the file of a backup with that path is backed up and restored."""
    return _TAKEN.fullmatch(path) is not None


def restored_name(path: str) -> str:
    """The path at which the file `path` is restored, below the directory of its part."""
    part, _, name = path.partition("/")
    return name + NOT_IN_USE if part == "nss" and name in NSS_MODULES else name


def not_restored(manifest: Manifest) -> list[str]:
    """The paths of the files in a backup that are not restored."""
    return [member.path for member in manifest.members if not is_taken(member.path)]


def refuse_strangers(manifest: Manifest) -> None:
    """Raise `BackupError` where a backup holds what no version of this program puts into one."""
    strangers = [path for path in not_restored(manifest) if not _PASSED_OVER.fullmatch(path)]
    if strangers:
        raise BackupError(
            f"there are files in it that belong to no signing server: {listed(strangers)}",
            "see who made this backup; --skip-strangers goes on without these files",
        )


def listed(names: Iterable[object], most: int = 5) -> str:
    """Names for a message, the first few of them."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
