"""A leaf of the signing log: one decision of a server, as canonical JSON.

    {"client":{"certificate":HEX,"name":"ann"},"file":"a.tar","input":{"bytes":5,"sha256":HEX},…}

Canonical is RFC 8785 (JCS) for what there is here: members in the order of their names, no blanks,
UTF-8, integers alone as numbers. A member that says nothing is left out. `v` is the schema's
version; a reader refuses one that it does not know. No member is ever a secret. docs/audit.md
tells each member.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from ..formats.merkle_tree import MAX_ENTRY_BYTES, NotProven
from ..records import dataclass, field, fields

#: The version of the schema that is written.
SCHEMA: Final = 1
#: Operations of the log itself: its first leaf, and one where it was completed from a copy.
LOG_START: Final = "log-start"
LOG_RESTORED: Final = "log-restored"


class Result(enum.StrEnum):
    """The kinds of decisions."""

    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes that were signed or made: their SHA-256 in lower-case hexadecimal, and their number."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class LeafClient:
    """The client: the name in its certificate, and the SHA-256 of that in hexadecimal."""

    name: str
    certificate: str = ""


@dataclass(frozen=True, slots=True)
class LeafKey:
    """The key that was used; `signer` is the fingerprint of the part of an OpenPGP key."""

    name: str
    type: str = ""
    fingerprint: str = ""
    signer: str = ""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One decision. What does not apply is empty or None.

    `time` is UTC to the millisecond (`2026-11-30T17:22:15.123Z`), set where the log is written;
    `request` the request's ID in the logs. `objects` has each outer field that names a thing.
    `signed` is the SHA-256 of what the signature is over, where that is not `input`; `signatures`
    those of the signatures themselves, where they lie within `output`. `file` is the name that the
    client gave for its file, or an RPM's NEVRA. `previous` is the note of another log's checkpoint.
    """

    op: str
    result: Result
    time: str = ""
    request: str = ""
    client: LeafClient | None = None
    user: str = ""
    objects: Mapping[str, str] = field(default_factory=dict)
    key: LeafKey | None = None
    input: Content | None = None
    signed: str = ""
    file: str = ""
    output: Content | None = None
    signatures: tuple[str, ...] = ()
    status: int = 0
    reason: str = ""
    previous: str = ""

    def encode(self) -> bytes:
        """The leaf's bytes. Raises `NotProven` where they are more than an entry may have."""
        members = {"v": SCHEMA, **_members(self)}
        data = json.dumps(
            members, ensure_ascii=False, sort_keys=True, separators=(",", ":")
        ).encode("utf-8", "backslashreplace")
        if len(data) > MAX_ENTRY_BYTES:
            raise NotProven(f"a leaf of {len(data)} bytes is over the limit of {MAX_ENTRY_BYTES}")
        return data

    @classmethod
    def parse(cls, data: bytes) -> Leaf:
        """The leaf that an entry holds. Raises `NotProven` where it is none that is known here."""
        try:
            members = json.loads(data)
            version = members.pop("v")
            if version != SCHEMA:
                raise NotProven(
                    f"a leaf has version {version!r:.20} of the schema, and {SCHEMA} is known here",
                    "use a later sigul-stack",
                )
            members["result"] = Result(members["result"])
            for name, kind in _PARTS.items():
                if name in members:
                    members[name] = kind(**members[name])
            members["signatures"] = tuple(members.get("signatures", ()))
            leaf = cls(**members)
            _check_types(leaf)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise NotProven("an entry of the log is no leaf") from None
        if leaf.encode() != data:
            raise NotProven("a leaf of the log is not in canonical form")
        return leaf


_PARTS: Final[Mapping[str, Any]] = MappingProxyType(
    {"client": LeafClient, "key": LeafKey, "input": Content, "output": Content}
)


def _check_types(leaf: Leaf) -> None:
    """Raise TypeError where a member is not of its type: JSON may have any in any place."""
    for part in (leaf, leaf.client, leaf.key, leaf.input, leaf.output):
        for row in () if part is None else fields(part):
            value = getattr(part, row.name)
            if (row.type == "str" and not isinstance(value, str)) or (
                row.type == "int" and (type(value) is not int or not 0 <= value < 1 << 63)
            ):
                raise TypeError(row.name)
    if not all(isinstance(text, str) for text in (*leaf.objects.values(), *leaf.signatures)):
        raise TypeError


def _members(part: object) -> dict[str, object]:
    found: dict[str, object] = {}
    for row in fields(part):  # type: ignore[arg-type]
        value = getattr(part, row.name)
        if isinstance(value, Content | LeafClient | LeafKey):
            value = _members(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        elif isinstance(value, tuple):
            value = list(value)
        # The size of nothing is said: it tells an empty payload from none.
        if value or (isinstance(part, Content) and value == 0):
            found[row.name] = value
    return found
