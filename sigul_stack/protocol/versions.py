"""The versions of the protocol: a table of widths, operations and fields for each.

Protocol 0 is what every Sigul 0.x speaks, up to 0.207; protocol 1 is spoken from 1.0 on. The rest
is the same bytes in both: chunks, the inner session, field maps, hashes, codes and statuses
(docs/protocol.md, "Versions"). A request is of the version that its first four bytes name, in all
its parts and in its reply. Nothing between client and server can translate, for hash and code cover
the version and the booleans.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

from ..records import dataclass, replace
from .codec import U8_BYTES, U32_BYTES, U64_BYTES, Widths
from .operations import GIB, OPERATIONS, Operation


@dataclass(frozen=True, slots=True)
class Version(Widths):
    """One version of the protocol: its number, its widths and what can be said in it."""

    number: int
    #: What a request may ask for, by name, with the fields that it may have for it.
    operations: Mapping[str, Operation]
    #: `list-keys` answers `NAME (TYPE)`, else `NAME` alone.
    lists_key_types: bool


#: Largest payload of any request or subrequest of protocol 0, in bytes.
_MAX_PAYLOAD_OF_0: Final = GIB
_RPM_OPTIONS_OF_0: Final = "key koji-instance import-signature return-data v3-signature"
_RPM_NAMES: Final = "rpm-name rpm-epoch rpm-version rpm-release rpm-arch rpm-sigmd5"
#: The operations of protocol 0 and their outer fields, as 0.207 has them, without `op` and `user`.
_OPERATIONS_OF_0: Final = {
    "list-users": "",
    "new-user": "name admin",
    "delete-user": "name",
    "user-info": "name",
    "modify-user": "name admin new-name",
    "key-user-info": "name key",
    "modify-key-user": "name key key-admin",
    "list-keys": "",
    "new-key": "key initial-key-admin name-real name-comment name-email expire-date",
    "import-key": "key initial-key-admin",
    "delete-key": "key",
    "modify-key": "key new-name",
    "list-binding-methods": "",
    "list-key-users": "key",
    "grant-key-access": "key name",
    "revoke-key-access": "key name",
    "change-passphrase": "key",
    "get-public-key": "key",
    "change-key-expiration": "key expire-date subkey",
    "sign-text": "key",
    "sign-data": "key armor",
    "sign-git-tag": "key",
    "sign-container": "key docker-reference",
    "sign-ostree": "key ostree-hash",
    "sign-rpm": f"{_RPM_OPTIONS_OF_0} {_RPM_NAMES}",
    "sign-rpms": _RPM_OPTIONS_OF_0,
}


def _cut(operation: Operation, fields: Collection[str]) -> Operation:
    """The row of protocol 0 for an operation of which it has these fields."""
    kept = tuple(field for field in operation.fields if field.name in fields)
    return replace(
        operation,
        fields=kept,
        max_payload=min(operation.max_payload, _MAX_PAYLOAD_OF_0),
        max_subpayload=min(operation.max_subpayload, _MAX_PAYLOAD_OF_0),
    )


def _table(*versions: Version) -> Mapping[int, Version]:
    return MappingProxyType({version.number: version for version in versions})


#: Every version that this package speaks, by its number.
VERSIONS: Final = _table(
    Version(
        number=0,
        boolean_bytes=U32_BYTES,
        length_bytes=U32_BYTES,
        operations=MappingProxyType(
            {
                name: _cut(OPERATIONS[name], fields.split())
                for name, fields in _OPERATIONS_OF_0.items()
            }
        ),
        lists_key_types=False,
    ),
    Version(
        number=1,
        boolean_bytes=U8_BYTES,
        length_bytes=U64_BYTES,
        operations=OPERATIONS,
        lists_key_types=True,
    ),
)

#: The version that is spoken where nothing tells which.
LATEST: Final = VERSIONS[max(VERSIONS)]
