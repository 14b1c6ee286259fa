"""Subjects of certificates as RFC 4514 strings, made of their parts.

Only what the grammar and the wire want escaped is: a request's fields hold printable ASCII.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

_SPECIAL = '"+,;<=>\\'


@dataclass(frozen=True, slots=True, kw_only=True)
class DistinguishedName:
    """The parts of a subject, the most particular first, as they stand in the string."""

    common_name: str | None = None
    organizational_unit: str | None = None
    organization: str | None = None
    locality: str | None = None
    state: str | None = None
    country_name: str | None = None

    def __str__(self) -> str:
        return ",".join(
            f"{_KEYWORDS[part.name]}={_escaped(value)}"
            for part in fields(self)
            if (value := getattr(self, part.name)) is not None
        )


_KEYWORDS = {
    "common_name": "CN",
    "organizational_unit": "OU",
    "organization": "O",
    "locality": "L",
    "state": "ST",
    "country_name": "C",
}


def _escaped(value: str) -> str:
    """A value as RFC 4514, section 2.4, wants it."""
    escaped = []
    for at, character in enumerate(value):
        blank_at_an_end = character == " " and at in (0, len(value) - 1)
        if not " " <= character <= "~":
            escaped += [f"\\{byte:02X}" for byte in character.encode()]
        elif character in _SPECIAL or blank_at_an_end or (character == "#" and at == 0):
            escaped.append(f"\\{character}")
        else:
            escaped.append(character)
    return "".join(escaped)
