"""Taking secrets out of texts that leave the machine.

Invariant: nothing is shown because it looks harmless. Of a configuration, a value is shown only
where its option is known there and is no secret. From every other text are taken: the secrets that
the configurations hold or name, whatever way they are encoded, and what looks like a secret.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final
from urllib.parse import quote, quote_plus

from ..config import PROGRAMS
from ..config.ini import ConfigFiles
from ..config.secrecy import TELLING, is_secret, passwords_in

#: What stands where a secret was.
REMOVED: Final = "[removed]"

#: A secret of fewer bytes is in every text, and no text could be shown.
_SHORTEST: Final = 4
#: Largest file that is read for the secret in it, in bytes.
_MAX_SECRET_FILE: Final = 4096


class Redactor:
    """Takes secrets out of texts. `secrets` are those that are known."""

    def __init__(self, secrets: Iterable[bytes]) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        # The longest first: one may be a part of another.
        self._forms = sorted(forms, key=len, reverse=True)

    def clean(self, text: str) -> str:
        """`text` without the known secrets, and without what looks like one."""
        text = self.known(text)
        for form, shown in _LOOKS_SECRET:
            text = form.sub(shown, text)
        return text

    def known(self, text: str) -> str:
        """`text` without the known secrets."""
        for form in self._forms:
            text = text.replace(form, REMOVED)
        return text


def _keep_path(found: re.Match[str]) -> str:
    """A path after such a word names the file with the secret, which is no secret."""
    value = found["value"].strip("\"'")
    return found[0] if value.startswith(("/", "~")) else found["word"] + REMOVED


def _remove_random(found: re.Match[str]) -> str:
    """Remove a word that changes between its kinds of letters as often as only random ones do.

    Two of three neighbours in base64 are of different kinds. In paths, names and times hardly any
    are, and in hexadecimal numbers, of which there are fingerprints and keygrips, one in two.
    """
    word = found[0]
    kinds = ["aA0-"[letter.isupper() + 2 * letter.isdigit()] if letter.isalnum() else "-"
             for letter in word]  # fmt: skip
    changes = sum(one != other for one, other in pairwise(kinds))
    return REMOVED if {"a", "A"} <= set(kinds) and changes > 0.35 * len(word) else word


#: What looks like a secret, and what stands there instead; looked for in this order.
_LOOKS_SECRET: Final[tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]] = (
    (
        re.compile(
            r"-----BEGIN (?:[A-Z ]*PRIVATE KEY[A-Z ]*|PGP MESSAGE)-----"
            r".*?(?:-----END [A-Z ]+-----|\Z)",
            re.S,
        ),
        REMOVED,
    ),
    # What crypt(3) gives.
    (re.compile(r"\$[0-9a-z]{1,3}\$[^\s\"']{20,}"), REMOVED),
    # `postgresql://user:password@host`.
    (
        re.compile(r"(?P<head>\b[a-z][a-z0-9+]*://[^\s/:@]*:)[^\s@]+(?=@)", re.I),
        rf"\g<head>{REMOVED}",
    ),
    # `password=x`, `"pin": "x"`, `Passphrase x`: the word is kept, what it gives is not.
    (
        re.compile(
            r"(?P<word>\b\w*(?:passw(?:or)?d|passphrase|secret(?!s)|token|credential|pin-value|_pin)"
            r"\w*[\"']?\s*[:=]\s*)(?P<value>\"[^\"]*\"|'[^']*'|\S+)",
            re.I,
        ),
        _keep_path,
    ),
    # Hexadecimal.
    (
        re.compile(r"(?<![0-9A-Za-z])(?:[0-9a-f]{80,}|[0-9A-F]{80,})(?![0-9A-Za-z])"),
        REMOVED,
    ),
    # As random as a key or a password made at random: with what base64 has besides, first.
    (re.compile(r"[A-Za-z0-9+/]{40,}={0,2}"), _remove_random),
    (re.compile(r"[A-Za-z0-9+_-]{20,}={0,2}"), _remove_random),
)


def _forms(secret: bytes) -> Iterator[str]:
    """The ways in which a text may hold `secret`."""
    for value in {secret, secret.strip(b"\r\n\0 \t")}:
        if len(value) < _SHORTEST:
            continue
        plain = value.decode("utf-8", "surrogateescape")
        yield plain
        yield from (json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1])
        yield repr(plain)[1:-1]
        yield from (quote(value, safe=""), quote(value), quote_plus(value))
        yield from (value.hex(), value.hex().upper())
        for altered in (base64.b64encode, base64.urlsafe_b64encode):
            yield altered(value).decode().rstrip("=")
            # In the middle of something else that was encoded with it.
            for shift in (1, 2):
                encoded = altered(bytes(shift) + value).decode().rstrip("=")
                middle = encoded[shift + 1 : -1]
                if len(middle) >= _SHORTEST:
                    yield middle


def known_secrets(files: ConfigFiles) -> Iterator[bytes]:
    """The secrets that configuration files hold, and those in the files that they name."""
    for entry in files.entries():
        if not is_secret(entry):
            continue
        if entry.option.endswith("-file"):
            yield from _content(Path(entry.text).expanduser())
        else:
            yield entry.text.encode("utf-8", "surrogateescape")
            yield from passwords_in(entry.text)


def secrets_beside(directory: Path) -> Iterator[bytes]:
    """The contents of those files in `directory` whose names tell of a secret."""
    try:
        paths = sorted(directory.iterdir())
    except OSError:
        return
    for path in paths:
        if TELLING.search(path.name):
            yield from _content(path)


def _content(path: Path) -> Iterator[bytes]:
    with contextlib.suppress(OSError):
        if path.is_file() and path.stat().st_size <= _MAX_SECRET_FILE:
            data = path.read_bytes()
            yield from (data, *data.splitlines(), *data.split(b"\0"))


def shown_configuration(component: str, files: ConfigFiles) -> str:
    """The entries of configuration files, without comments, with values only where they are shown.

    A value is shown where the component knows the option in that section, and it is no secret. What
    a binding method is given is never shown: a URI may hold a PIN.
    """
    own = PROGRAMS[component]()
    lines: list[str] = []
    for path in files.paths:
        lines.append(f"# {path}")
        last = ""
        for entry in (item for item in files.entries() if item.path == path):
            if entry.section != last:
                lines.append(f"[{entry.section}]")
                last = entry.section
            shown = (
                own.knows(entry.section, entry.option)
                and not (is_secret(entry) and not entry.option.endswith("-file"))
                and not (entry.section == "binding" and "_" in entry.option)
            )
            value = entry.text.replace("\n", "\n    ") if shown else REMOVED
            lines.append(f"{entry.option}: {value}")
    return "\n".join(lines) + "\n"
