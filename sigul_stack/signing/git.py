"""Signatures of git tags.

A tag object is signed by an armoured detached signature over all of it, which is then its end.
What is signed here is checked to be an annotated tag of a commit first: the key that signs tags is
often one that signs other things as well.
"""

from __future__ import annotations

import re
from typing import IO

from ..errors import RequestRefused, Status
from ..keystore.gnupg import GnuPG
from ..secret import Secret
from . import openpgp

#: More than the first four lines of any tag, in bytes.
_MAX_HEADER = 1 << 16
_HEADER = re.compile(
    rb"object (?:[0-9a-f]{40}|[0-9a-f]{64})\ntype commit\ntag [^\n\0]+\ntagger [^\n\0]+\n"
)


def sign_tag(
    home: GnuPG, fingerprint: str, passphrase: Secret, source: IO[bytes], target: IO[bytes]
) -> None:
    """Write an armoured detached signature over the tag object in `source` to `target`.

    Raises `RequestRefused` for what is no annotated tag of a commit; `WrongPassphrase`,
    `KeystoreError`.
    """
    start = source.tell()
    header = source.read(_MAX_HEADER)
    source.seek(start)
    if not _HEADER.match(header):
        raise RequestRefused(
            Status.UNKNOWN_ERROR,
            "this is not an annotated tag of a commit (object, type commit, tag, tagger); make one"
            " with git tag -a",
        )
    openpgp.detach_sign(home, fingerprint, passphrase, source, target, armor=True)
