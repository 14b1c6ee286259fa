"""Parsers of gpg's output for programs: status lines and colon listings (GnuPG's doc/DETAILS).

Lines and fields that are unknown here are passed over: every version of GnuPG adds some.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_STATUS = "[GNUPG:] "

# Fields of a colon listing, counted from 0.
_TYPE, _VALIDITY, _BITS, _ALGORITHM, _CREATED, _EXPIRES = 0, 1, 2, 3, 5, 6
_TEXT, _CAPABILITIES, _TOKEN = 9, 11, 14
_FIELDS = 15
#: Numbers of the algorithms whose keys have a length: RSA, ElGamal, DSA (RFC 4880, 9.1).
_WITH_LENGTH = frozenset({"1", "2", "3", "16", "17", "20"})

_CODE_MASK = 0xFFFF
#: Error codes (libgpg-error): a wrong passphrase, or none for a key that has one.
PASSPHRASE_ERRORS = frozenset({11, 177})
#: Error code: what protects a secret key is damaged, so that no passphrase opens it.
CORRUPTED_PROTECTION = 106
#: The words for it, in messages.
CORRUPTED_PROTECTION_TEXT = "Corrupted protection"


def error_code(number: str) -> int:
    """The code in an error number as GnuPG prints it (the upper bits only tell its origin)."""
    return int(number) & _CODE_MASK if number.isdecimal() else 0


@dataclass(frozen=True, slots=True)
class StatusLine:
    """One status line: its keyword, as `KEY_CREATED`, and its arguments."""

    keyword: str
    arguments: tuple[str, ...]

    def is_wrong_passphrase(self) -> bool:
        """True if this FAILURE or ERROR is that a passphrase did not open a secret key."""
        return len(self.arguments) > 1 and error_code(self.arguments[1]) in PASSPHRASE_ERRORS


@dataclass(frozen=True, slots=True)
class StatusLines:
    """All status lines of one run of gpg, in their order."""

    lines: tuple[StatusLine, ...]

    def of(self, *keywords: str) -> list[StatusLine]:
        """The lines with one of `keywords`."""
        return [line for line in self.lines if line.keyword in keywords]

    def says_wrong_passphrase(self) -> bool:
        """True if something failed because the passphrase did not open a secret key."""
        return any(line.is_wrong_passphrase() for line in self.of("FAILURE", "ERROR"))


def parse_status(text: str) -> StatusLines:
    """The status lines in what gpg wrote to its status descriptor."""
    lines = (line.removeprefix(_STATUS) for line in text.split("\n") if line.startswith(_STATUS))
    words = (line.split(" ") for line in lines)
    return StatusLines(tuple(StatusLine(keyword, tuple(rest)) for keyword, *rest in words))


@dataclass(frozen=True, slots=True)
class KeyPart:
    """A primary key or a subkey. `secret` says whether its secret part is in the key store.

    `bits` is the length of one of RSA, DSA or ElGamal, 0 of any other. Times are in seconds since
    1970. `revoked` and `invalid` are gpg's verdicts; its `expired` is left to `expires`.
    """

    fingerprint: str
    keygrip: str
    secret: bool
    capabilities: str
    expires: int | None
    bits: int
    created: int = 0
    revoked: bool = False
    invalid: bool = False

    @property
    def can_sign(self) -> bool:
        """True if it is meant for signatures over data."""
        # In capital letters are those of the key as a whole.
        return "s" in self.capabilities


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key: its primary key, then its subkeys in their order in the key."""

    parts: tuple[KeyPart, ...]
    has_user_id: bool

    @property
    def fingerprint(self) -> str:
        """The primary key's fingerprint, which is the key's."""
        return self.parts[0].fingerprint

    @property
    def secret(self) -> bool:
        """True if the secret of any part is in the key store."""
        return any(part.secret for part in self.parts)


def parse_keys(listing: str) -> list[ListedKey]:
    """The keys in a colon listing made with `--with-secret` and `--with-keygrip`."""
    keys: list[list[list[str]]] = []
    # A user ID may hold what Python, too, takes for the end of a line.
    for line in listing.split("\n"):
        record = line.split(":") + [""] * _FIELDS
        if record[_TYPE] == "pub":
            keys.append([])
        if keys:
            keys[-1].append(record)
    return [
        ListedKey(tuple(_parts(records)), any(record[_TYPE] == "uid" for record in records))
        for records in keys
    ]


def _parts(records: Iterable[list[str]]) -> Iterator[KeyPart]:
    """The parts of one key, each a record with those of its fingerprint and keygrip behind it."""
    parts: list[tuple[list[str], dict[str, str]]] = []
    for record in records:
        if record[_TYPE] in ("pub", "sub"):
            parts.append((record, {}))
        elif record[_TYPE] in ("fpr", "grp"):
            parts[-1][1].setdefault(record[_TYPE], record[_TEXT])
    for record, more in parts:
        yield KeyPart(
            fingerprint=more.get("fpr", ""),
            # GnuPG has none for algorithms that it does not know; no secret goes with those.
            keygrip=more.get("grp", ""),
            secret=record[_TOKEN] == "+",
            capabilities=record[_CAPABILITIES],
            expires=int(record[_EXPIRES]) if record[_EXPIRES].isdecimal() else None,
            bits=int(record[_BITS])
            if record[_ALGORITHM] in _WITH_LENGTH and record[_BITS].isdecimal()
            else 0,
            created=int(record[_CREATED]) if record[_CREATED].isdecimal() else 0,
            revoked=record[_VALIDITY] == "r",
            invalid=record[_VALIDITY] == "i",
        )
