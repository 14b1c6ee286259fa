"""URIs of objects on PKCS#11 tokens, as RFC 7512 has them: text to attributes, and matching.

A value is percent-encoded UTF-8, only `id` is any bytes. An attribute that a URI does not have
matches everything; the token's own texts are compared without the blanks that PKCS#11 pads them
with. What says where a module or a PIN is (the query) plays no part in matching, and nothing here
loads or reads what it names: whoever writes a row must not choose code for the server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from ..errors import ProtocolError, shortened

_SCHEME: Final = "pkcs11:"
_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
#: Unreserved characters, and those of `pk11-res-avail`; paths have `&` too, queries `/?|`.
_AVAILABLE: Final = r"A-Za-z0-9\-._~:\[\]@!$'()*+,=%"
_PATH_VALUE: Final = re.compile(f"[{_AVAILABLE}&]*")
_QUERY_VALUE: Final = re.compile(f"[{_AVAILABLE}/?|]*")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")

_TOKEN: Final = ("token", "manufacturer", "serial", "model")
_TYPES: Final = frozenset({"public", "private", "cert", "secret-key", "data"})
#: The attributes of a path that say something of slot or library, which are not part of a token.
_PLACES: Final = (
    *("library-manufacturer", "library-version", "library-description"),
    *("slot-description", "slot-manufacturer", "slot-id"),
)


class InvalidURI(ProtocolError):
    """A text is no URI of an object on a token."""


@dataclass(frozen=True, slots=True)
class TokenURI:
    """The attributes of a URI, decoded; of a query only the names, which may go with secrets.

    `token` has those of the token itself (token, manufacturer, serial, model). `object` is a label,
    `id` a CKA_ID, each None where the URI does not say.
    """

    token: Mapping[str, str]
    object: str | None
    id: bytes | None
    type: str | None
    query: frozenset[str] = field(default=frozenset())

    def matches_token(self, **texts: str) -> bool:
        """Whether a token with these texts (`token`, `manufacturer`, `serial`, `model`) is meant.

        PKCS#11 pads them with blanks, and some modules with NUL.
        """
        return all(
            texts.get(name, "").rstrip(" \0") == value.rstrip(" \0")
            for name, value in self.token.items()
        )

    def matches_object(self, label: str, identity: bytes) -> bool:
        """Whether an object with that label and CKA_ID is meant."""
        return (self.object is None or self.object == label) and (
            self.id is None or self.id == identity
        )


def parse(text: str, *, as_typed: bool = False) -> TokenURI:
    """The private key that `text` means.

    With `as_typed`, characters that should have been percent-encoded are taken as they are: rows
    of a database have what somebody typed. Raises `InvalidURI`, which quotes no value of a query.
    """
    if text[: len(_SCHEME)].lower() != _SCHEME:
        raise InvalidURI(f"it does not begin with '{_SCHEME}'", "write pkcs11:token=…;object=…")
    path, _, query = text[len(_SCHEME) :].partition("?")
    found = dict(_attributes(path, ";", None if as_typed else _PATH_VALUE))
    asked = frozenset(
        name for name, _ in _attributes(query, "&", None if as_typed else _QUERY_VALUE)
    )
    kind = _optional(found, "type")
    if kind is not None and kind not in _TYPES:
        raise InvalidURI(f"its type is {shortened(repr(kind), 40)}", "write type=private")
    if kind not in (None, "private"):
        raise InvalidURI(f"it is the URI of a {kind} object", "name the private key: type=private")
    slot = _optional(found, "slot-id")
    if slot is not None and not (slot.isascii() and slot.isdecimal()):
        raise InvalidURI("its slot-id is no number")
    if not found.keys() & {*_TOKEN, *_PLACES, "object", "id"}:
        raise InvalidURI("it names neither token nor object", "write pkcs11:token=…;object=…")
    return TokenURI(
        token={name: _text(name, found[name]) for name in _TOKEN if name in found},
        object=_optional(found, "object"),
        id=found.get("id"),
        type=kind,
        query=asked,
    )


def _attributes(
    text: str, separator: str, characters: re.Pattern[str] | None
) -> Iterator[tuple[str, bytes]]:
    """Name and decoded value of each attribute. Raises `InvalidURI`."""
    names = set()
    for part in text.split(separator) if text else ():
        name, equals, value = part.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise InvalidURI("a part of it is no NAME=VALUE", "write pkcs11:token=…;object=…")
        if name in names and separator == ";":
            raise InvalidURI(f"it has {shortened(name, 40)} twice", "write it once")
        names.add(name)
        if _PERCENT.search(value):
            raise InvalidURI(
                f"{shortened(name, 40)} has a '%' without two hexadecimal digits", "write it %25"
            )
        if characters is not None and not characters.fullmatch(value):
            raise InvalidURI(
                f"{shortened(name, 40)} has a character that has to be percent-encoded",
                "write a blank as %20, ';' as %3B, '/' as %2F",
            )
        yield name, unquote_to_bytes(value)


def _optional(found: Mapping[str, bytes], name: str) -> str | None:
    return _text(name, found[name]) if name in found else None


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidURI(f"{name} is no UTF-8") from None
