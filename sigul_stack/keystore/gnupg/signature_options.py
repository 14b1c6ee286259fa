"""A site's options for signatures, from `gpg.conf` in its GnuPG home.

Signatures are made here and not by gpg, so what a site has written there for them is read here
(GnuPG manual, "GPG Configuration Options"): the digest, notations, policy URL, key server and
expiry, comments and version in armour. What else of it would change a signature is named, and not
done; so is a digest that is broken. Options about anything else are none of this module's, and are
not passed on to gpg either: one could undo what callers rely on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ... import __version__
from ...formats.openpgp_hashes import HASHES
from ...formats.openpgp_signatures import Notation, SignatureOptions

CONFIGURATION_NAME: Final = "gpg.conf"
#: More than any configuration, in bytes.
_MAX_BYTES: Final = 1 << 20

#: Options that would change signatures and are not followed, with what happens instead.
_NOT_FOLLOWED: Final[Mapping[str, str]] = {
    "local-user": "each signature is by the key that was asked for",
    "default-key": "each signature is by the key that was asked for",
    "try-secret-key": "each signature is by the key that was asked for",
    "sender": "signatures name no user ID",
    "textmode": "data is signed as it is",
    "not-dash-escaped": "clear-signed text is always escaped",
    "include-key-block": "signatures hold no keys",
    "force-v3-sigs": "signatures are of version 4",
    "personal-digest-preferences": "digest-algo is followed, else it is SHA-512",
    "weak-digest": "digest-algo is followed, else it is SHA-512",
    "faked-system-time": "signatures have the server's time",
}
#: Seconds of a unit of time; without one it is days.
_SECONDS: Final = {"": 86400, "d": 86400, "w": 7 * 86400, "m": 30 * 86400, "y": 365 * 86400}


def read_options(home: Path) -> SignatureOptions:
    """The options of the GnuPG home. Raises `OSError`."""
    try:
        with (home / CONFIGURATION_NAME).open("rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return SignatureOptions()
    return parse_options(text)


def parse_options(text: str) -> SignatureOptions:
    """The options in the text of a `gpg.conf`."""
    options, refused = SignatureOptions(), []
    for name, value in _lines(text):
        if name in _NOT_FOLLOWED:
            refused.append(f"{name}: {_NOT_FOLLOWED[name]}")
        elif name in _FOLLOWED:
            try:
                options = _FOLLOWED[name](options, value)
            except ValueError as error:
                refused.append(f"{name} {value}: {error}")
    return replace(options, unfollowed=tuple(refused))


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Name and value of each option; gpg takes the two dashes before a name, too."""
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        if name and not name.startswith("#"):
            yield name.removeprefix("--").lower(), value.strip().strip('"')


def _digest(options: SignatureOptions, value: str) -> SignatureOptions:
    wanted = value.lower().replace("-", "")
    for number, known in HASHES.items():
        if wanted in (known.name, f"h{number}"):
            return replace(options, hash=number)
    raise ValueError("signatures are made with SHA-2 alone; it is SHA-512")


def _notation(options: SignatureOptions, value: str) -> SignatureOptions:
    name, equals, content = value.removeprefix("!").partition("=")
    if not equals or not re.fullmatch(r"[!-?A-~]+(@[!-?A-~]+)?", name):
        raise ValueError("it is no NAME@DOMAIN=VALUE")
    notation = Notation(name, _plain(content), critical=value.startswith("!"))
    remarks = options.remarks
    return replace(options, remarks=replace(remarks, notations=(*remarks.notations, notation)))


def _plain(text: str) -> str:
    """A text in which gpg would put something for `%` and a letter: only `%%` is taken."""
    if re.search(r"%[^%]|%$", text.replace("%%", "")):
        raise ValueError("its % is not filled in")
    return text.replace("%%", "%")


def _policy(options: SignatureOptions, value: str) -> SignatureOptions:
    url, critical = _plain(value.removeprefix("!")), value.startswith("!")
    return replace(
        options, remarks=replace(options.remarks, policy_url=url, policy_critical=critical)
    )


def _key_server(options: SignatureOptions, value: str) -> SignatureOptions:
    url, critical = _plain(value.removeprefix("!")), value.startswith("!")
    return replace(
        options, remarks=replace(options.remarks, key_server=url, key_server_critical=critical)
    )


def _expiry(options: SignatureOptions, value: str) -> SignatureOptions:
    if value in ("", "0", "none", "never"):
        return replace(options, remarks=replace(options.remarks, expires=None))
    found = re.fullmatch(r"(?:seconds=([0-9]{1,9})|([0-9]{1,5})([dwmy]?))", value)
    if found is None:
        raise ValueError("only times like 90, 2w, 6m and 1y are known here")
    seconds = int(found[1]) if found[1] else int(found[2]) * _SECONDS[found[3]]
    return replace(options, remarks=replace(options.remarks, expires=seconds))


def _header(name: str) -> Callable[[SignatureOptions, str], SignatureOptions]:
    def follow(options: SignatureOptions, value: str) -> SignatureOptions:
        text = value or f"sigul-stack {__version__}"
        if not text.isprintable():
            raise ValueError("it is not one line of text")
        return replace(options, headers=(*options.headers, (name, text)))

    return follow


def _without(name: str) -> Callable[[SignatureOptions, str], SignatureOptions]:
    def follow(options: SignatureOptions, _value: str) -> SignatureOptions:
        return replace(options, headers=tuple(item for item in options.headers if item[0] != name))

    return follow


_FOLLOWED: Final[Mapping[str, Callable[[SignatureOptions, str], SignatureOptions]]] = {
    "digest-algo": _digest,
    **dict.fromkeys(("sig-notation", "set-notation"), _notation),
    **dict.fromkeys(("sig-policy-url", "set-policy-url"), _policy),
    "sig-keyserver-url": _key_server,
    "default-sig-expire": _expiry,
    "comment": _header("Comment"),
    "no-comments": _without("Comment"),
    "emit-version": _header("Version"),
    "no-emit-version": _without("Version"),
    "escape-from-lines": lambda options, _value: replace(options, escape_from=True),
    "no-escape-from-lines": lambda options, _value: replace(options, escape_from=False),
}
