"""Signatures of OSTree commits: a detached OpenPGP signature over the commit object.

A commit's name is the SHA-256 of the object, and no object is signed under another's name. How
signatures are kept beside a commit is `formats.commitmeta`'s.
"""

from __future__ import annotations

import hashlib
import io
import re
from typing import IO

from ..errors import RequestRefused, Status
from ..keystore.gnupg import GnuPG
from ..secret import Secret
from . import openpgp

_HASH = re.compile(r"[0-9a-f]{64}")


def sign_commit(
    home: GnuPG, fingerprint: str, passphrase: Secret, commit: IO[bytes], name: str
) -> bytes:
    """A binary detached signature over the commit object that is named `name`.

    Raises `RequestRefused` where the object has another name; `WrongPassphrase`, `KeystoreError`.
    """
    if not _HASH.fullmatch(name):
        raise RequestRefused(
            Status.UNKNOWN_ERROR, "a commit's name is a SHA-256 in lower-case hexadecimal digits"
        )
    start = commit.tell()
    found = hashlib.file_digest(commit, "sha256").hexdigest()  # type: ignore[arg-type]
    if found != name:
        raise RequestRefused(
            Status.UNKNOWN_ERROR,
            f"the SHA-256 of the commit object is {found}, not {name}; name the commit that it is",
        )
    commit.seek(start)
    signature = io.BytesIO()
    openpgp.detach_sign(home, fingerprint, passphrase, commit, signature, armor=False)
    return signature.getvalue()
