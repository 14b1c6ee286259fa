"""Finding the entries of configuration files that hold a secret, or name the file that does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

from . import PROGRAMS
from .fields import OptionForm
from .ini import ConfigEntry, ConfigFiles

#: Names of options and files that are most likely to be of secrets.
TELLING: Final = re.compile(r"passw|passphrase|secret|token|credential|_pin\b|\bpin\b", re.I)
_URL: Final = re.compile(r"[a-z][a-z0-9+]*://", re.I)
#: Secrets inside a URL or URI: `?password=`, `;pin-value=`.
_IN_URL: Final = re.compile(r"(?:password|passwd|pin-value)=[^&;\s]", re.I)


def is_pin(option: str) -> bool:
    """Tell whether an option of `[binding]` holds a token's PIN or names the file with it."""
    return option.removesuffix("-file").endswith("_pin")


def is_secret(entry: ConfigEntry) -> bool:
    """Tell whether an entry holds a secret, or names its file, wherever it stands."""
    options = [
        option
        for program in PROGRAMS.values()
        for option in program().options
        if option.covers(entry.option)
    ]
    if is_pin(entry.option) or any(option.form is OptionForm.SECRET for option in options):
        return True
    # The name of `max-secret-delay` tells of secrets, but its value is none: it would be taken out
    # of all texts wherever that number stands.
    is_known = any(o.form is OptionForm.VALUE and o.section == entry.section for o in options)
    return not is_known and bool(TELLING.search(entry.option))


def passwords_in(text: str) -> Iterator[bytes]:
    """The password in a URL, as it stands there and as it is meant."""
    found = re.match(r"[a-z][a-z0-9+]*://[^\s/:@]*:([^\s@]+)@", text, re.I)
    if found:
        yield found[1].encode()
        yield unquote_to_bytes(found[1])


def inline_secrets(files: ConfigFiles) -> list[ConfigEntry]:
    """The entries whose text is, or holds, a secret itself.

    The name of a secret's file is none; nor is a database's URL without a password.
    """
    return [entry for entry in files.entries() if _is_inline(entry)]


def _is_inline(entry: ConfigEntry) -> bool:
    if any(passwords_in(entry.text)) or _IN_URL.search(entry.text):
        return True
    # The values of these are names of files, and of tokens.
    if entry.option.endswith(("-file", "_tokens")) or not is_secret(entry):
        return False
    return bool(entry.text) and not _URL.match(entry.text)
