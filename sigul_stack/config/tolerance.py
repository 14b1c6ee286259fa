"""Readings of values that stand in files in the field and cannot be right as they stand.

Sigul 0.x took what follows ` ;` for a comment and `""` for nothing; templates leave quotation marks
around values, and values empty; some files give the database as a URL. A value that cannot be right
is tried without these. What can be right is never touched: it means what it means to Sigul 1.x.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

#: Of the options of Sigul 1.2, those that mean their default where their value is empty: no file
#: with one started a Sigul, but templates make such files. An empty new option is a mistake.
EMPTY_MEANS_ABSENT: Final = frozenset(
    {
        "bridge-cert-nickname", "bridge-port", "client-cert-nickname", "client-listen-port",
        "database-path", "ecc-default-curve", "forced-binding-methods-position", "gnupg-home",
        "gnupg-key-length", "gnupg-key-type", "gnupg-subkey-length", "keys-storage",
        "koji-config", "lenient-username-check", "max-file-payload-size",
        "max-memory-payload-size", "max-rpms-payloads-size", "nss-dir", "nss-max-tls",
        "nss-min-tls", "passphrase-length", "rsa-key-size", "server-cert-nickname",
        "server-listen-port", "signing-timeout", "user-name",
    }
)  # fmt: skip

_BEFORE_COMMENT: Final = re.compile(r"(.*?)(?:^|\s)[;#].*", re.DOTALL)
_QUOTED: Final = re.compile(r"([\"'])([^\"']*)\1")
_SQLITE: Final = "sqlite:///"


def readings(text: str) -> Iterator[tuple[str, str]]:
    """Each text that a value may have meant, and what to do about it; the likeliest first."""
    if found := _BEFORE_COMMENT.fullmatch(text):
        shorter = found[1].rstrip()
        yield shorter, "put the comment on a line of its own"
        if quoted := _QUOTED.fullmatch(shorter):
            yield quoted[2], "put the comment on a line of its own, leave the quotation marks out"
    if quoted := _QUOTED.fullmatch(text):
        text = quoted[2]
        yield text, "leave the quotation marks out"
    if text.startswith(_SQLITE):
        yield text.removeprefix(_SQLITE), "write the file's path alone"


def is_quoted(text: str) -> bool:
    """Whether a value stands in quotation marks as a whole."""
    return _QUOTED.fullmatch(text) is not None
