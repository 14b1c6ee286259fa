"""The table of operations: fields, rights, payload limits and key types of every request.

One row is one operation. The bridge refuses by it, the server refuses by it again and looks up what
rights to check, the client builds requests from it and docs/operations.md is checked against it.
A new operation is a row here, a handler in `server.handlers` with what signs for it, a command in
`cli.commands`, and its row and section in docs/operations.md:
tests/integration/test_new_operation.py adds one. For callers in Python it may have a method of
`client.api`.
"""

from __future__ import annotations

import enum
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

from ..errors import ProtocolError, RemoteProtocolError
from ..records import dataclass
from .codec import (
    Fields,
    is_date,
    is_safe_filename,
    is_safe_identifier,
)
from .rights import Object, Rights, Thing

MIB: Final = 1024**2
GIB: Final = 1024**3
TIB: Final = 1024**4

#: What `sign-certificate` can make (docs/operations.md).
CERTIFICATE_TYPES: Final = ("ca", "codesigning", "sslserver")


class Form(enum.Enum):
    """The forms that a field's value may have."""

    TEXT = "text"
    UNICODE = "free text"
    FILENAME = "file name"
    IDENTIFIER = "identifier"
    DATE = "date (yyyy-mm-dd)"
    NUMBER = "number"
    YEARS = "number of years (such as 10y)"
    CERTIFICATE_TYPE = "certificate type (ca, codesigning or sslserver)"
    BOOLEAN = "boolean"
    BLOB = "bytes"
    INTEGER = "u32"


#: What is asked of a text of that form besides being safe.
_TEXT_CHECKS: Final[Mapping[Form, Callable[[str], bool]]] = MappingProxyType(
    {
        Form.FILENAME: is_safe_filename,
        Form.IDENTIFIER: is_safe_identifier,
        Form.DATE: is_date,
        Form.NUMBER: str.isdecimal,
        Form.YEARS: lambda text: text.endswith("y") and text[:-1].isdecimal(),
        Form.CERTIFICATE_TYPE: CERTIFICATE_TYPES.__contains__,
    }
)


@dataclass(frozen=True, slots=True)
class Field:
    """An outer field of an operation."""

    name: str
    form: Form = Form.TEXT
    required: bool = True
    #: The kind of thing that it names, where it names one that the server has or is to have.
    thing: Thing | None = None
    #: The right that this takes, where it is another one than the operation's own.
    right: Rights | None = None
    #: The field with the key that the right is on, where that is not the operation's `key_field`.
    right_on: str = ""
    #: The inner field with the passphrase that gives the right, where the right takes one.
    opened_by: str = ""
    #: It is the name of something that is made, so it may not be empty or blank. What has such a
    #: name from former times can still be named, to be renamed or deleted.
    made: bool = False

    def check(self, fields: Fields) -> None:
        """Raise `ProtocolError` unless the field is there where required, and of its form."""
        if self.name not in fields:
            if self.required:
                raise RemoteProtocolError(f"required field '{self.name}' is missing")
            return
        match self.form:
            case Form.BOOLEAN:
                fields.boolean(self.name)
            case Form.INTEGER:
                fields.integer(self.name)
            case Form.BLOB:
                pass
            case Form.UNICODE:
                if any(unicodedata.category(char) == "Cc" for char in fields.string(self.name)):
                    raise RemoteProtocolError(f"field '{self.name}' holds a control character")
            case form:
                text = fields.safe_string(self.name)
                if self.made and not text.strip():
                    raise RemoteProtocolError(
                        f"field '{self.name}' is empty: a name has one character at least that is"
                        " no blank"
                    )
                if form in _TEXT_CHECKS and not _TEXT_CHECKS[form](text):
                    raise RemoteProtocolError(f"field '{self.name}' is not a {form.value}")


@dataclass(frozen=True, slots=True)
class Operation:
    """One row: what a request of this name holds, who may send it and on what keys.

    `max_payload` is in bytes. `key_types` is empty where every type will do. `key_field` names the
    field with the key that rights are checked on. `secrets` and `optional_secrets` travel in the
    inner session, besides the password or passphrase that gives the rights.
    """

    name: str
    rights: Rights
    fields: tuple[Field, ...] = ()
    secrets: tuple[str, ...] = ()
    optional_secrets: tuple[str, ...] = ()
    max_payload: int = 0
    key_types: frozenset[str] = frozenset()
    key_field: str = "key"
    subrequests: bool = False
    #: Largest payload of one subrequest, in bytes.
    max_subpayload: int = 0
    #: Whether `payload-auth-sha512` may be left out when `rpm-sigmd5` is given. Without either, the
    #: answer is UNAUTHENTICATED_RPM.
    sigmd5_authenticates: bool = False
    #: The things that the answer lists.
    lists: Thing | None = None

    @property
    def objects(self) -> tuple[Object, ...]:
        """Every thing that a request names, in the order of the fields, and the right on it."""
        return tuple(
            Object(
                field.name,
                field.thing,
                field.right or self.rights,
                field.right_on or self.key_field,
                field.opened_by,
            )
            for field in self.fields
            if field.thing is not None
        )

    def check(self, fields: Fields) -> None:
        """Raise `ProtocolError` for a missing, unknown or malformed outer field."""
        _check_fields(fields, (*_COMMON, *self.fields), f"operation '{self.name}'")

    def check_payload(self, length: int, configured_limit: int | None = None) -> None:
        """Raise `ProtocolError` if a payload of `length` bytes is over the operation's limit.

        `configured_limit` (bytes), where given, lowers the limit further.
        """
        limit = (
            self.max_payload
            if configured_limit is None
            else min(self.max_payload, configured_limit)
        )
        if length > limit:
            raise RemoteProtocolError(
                f"a payload of {length} bytes is over the limit of {limit} bytes"
                f" for operation '{self.name}'"
            )


def _text(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name) for name in names)


def _optional(
    *names: str, form: Form = Form.TEXT, thing: Thing | None = None, made: bool = False
) -> tuple[Field, ...]:
    return tuple(Field(name, form, required=False, thing=thing, made=made) for name in names)


def _key(name: str = "key", *, made: bool = False) -> Field:
    return Field(name, thing=Thing.KEY, made=made)


def _user(name: str = "name", *, made: bool = False) -> Field:
    return Field(name, thing=Thing.USER, made=made)


#: Outer fields of every request.
_COMMON: Final = _text("op", "user")

_GNUPG: Final = frozenset({"gnupg"})
_PEM: Final = frozenset({"ECC", "RSA"})
_TOKEN: Final = frozenset({"PKCS11"})
_BINDINGS: Final = ("server-binding", "client-binding")
_RPM_NAMES: Final = _optional("rpm-name", "rpm-epoch", "rpm-version", "rpm-release", "rpm-arch")
_RPM_SIGMD5: Final = _optional("rpm-sigmd5", form=Form.BLOB)
_RPM_OPTIONS: Final = (
    Field(
        "file-signing-key",
        required=False,
        thing=Thing.KEY,
        right=Rights.KEY_USER,
        right_on="file-signing-key",
        opened_by="file-signing-key-passphrase",
    ),
    *_optional("koji-instance"),
    *_optional(
        "import-signature", "return-data", "head-signing", "v3-signature", form=Form.BOOLEAN
    ),
)
#: Limits of an access: names of operations and patterns of RPMs' names, between commas.
_LIMITS: Final = _optional("only", "rpm-names")
#: Outer fields of a `sign-rpms` subrequest.
SUBREQUEST_FIELDS: Final = (Field("id", Form.BLOB), *_RPM_NAMES, *_RPM_SIGMD5)

_ADMINISTRATION: Final = (
    Operation("list-users", Rights.ADMIN, lists=Thing.USER),
    Operation(
        "new-user",
        Rights.ADMIN,
        (_user(made=True), *_optional("admin", form=Form.BOOLEAN)),
        optional_secrets=("new-password",),
    ),
    Operation("delete-user", Rights.ADMIN, (_user(),)),
    Operation("user-info", Rights.ADMIN, (_user(),)),
    Operation(
        "modify-user",
        Rights.ADMIN,
        (
            _user(),
            *_optional("admin", form=Form.BOOLEAN),
            *_optional("new-name", thing=Thing.USER, made=True),
        ),
        optional_secrets=("new-password",),
    ),
    Operation("key-user-info", Rights.ADMIN, (_user(), _key())),
    Operation(
        "modify-key-user",
        Rights.ADMIN,
        (_user(), _key(), *_optional("key-admin", form=Form.BOOLEAN), *_LIMITS),
    ),
    Operation("list-keys", Rights.ADMIN, lists=Thing.KEY),
    Operation(
        "new-key",
        Rights.ADMIN,
        (
            _key(made=True),
            *_optional("keytype"),
            *_optional("initial-key-admin", thing=Thing.USER),
            *_optional("name-real", "name-comment", "name-email", form=Form.UNICODE),
            *_optional("expire-date", form=Form.DATE),
        ),
        secrets=("passphrase",),
    ),
    Operation(
        "import-key",
        Rights.ADMIN,
        (_key(made=True), *_optional("keytype"), *_optional("initial-key-admin", thing=Thing.USER)),
        secrets=("passphrase", "new-passphrase"),
        max_payload=MIB,
    ),
    Operation("delete-key", Rights.ADMIN, (_key(),)),
    Operation(
        "modify-key", Rights.ADMIN, (_key(), *_optional("new-name", thing=Thing.KEY, made=True))
    ),
    Operation("list-binding-methods", Rights.ADMIN),
)

_KEYS_AND_USERS: Final = (
    Operation("list-key-users", Rights.KEY_ADMIN_OR_ADMIN, (_key(),), lists=Thing.USER),
    Operation(
        "grant-key-access",
        Rights.KEY_ADMIN,
        (_key(), _user(), *_LIMITS),
        secrets=("new-passphrase",),
        optional_secrets=_BINDINGS,
    ),
    Operation("revoke-key-access", Rights.KEY_ADMIN_OR_ADMIN, (_key(), _user())),
    Operation(
        "change-passphrase",
        Rights.KEY_USER,
        (_key(),),
        secrets=("new-passphrase",),
        optional_secrets=_BINDINGS,
    ),
    Operation("get-public-key", Rights.KEY_USER_OR_ADMIN, (_key(),)),
    Operation(
        "change-key-expiration",
        Rights.KEY_ADMIN,
        (
            _key(),
            *_optional("expire-date", form=Form.DATE),
            *_optional("subkey", form=Form.NUMBER),
        ),
        key_types=_GNUPG,
    ),
    Operation(
        "list-certificates",
        Rights.KEY_USER_OR_ADMIN,
        (_key(),),
        key_types=_PEM,
        lists=Thing.CERTIFICATE,
    ),
    Operation(
        "delete-certificate",
        Rights.KEY_ADMIN_OR_ADMIN,
        (_key(), Field("cert-name", Form.IDENTIFIER, thing=Thing.CERTIFICATE)),
        key_types=_PEM,
    ),
)


def _signing(
    name: str,
    *fields: Field,
    key_types: frozenset[str] = _GNUPG,
    max_payload: int = GIB,
) -> Operation:
    return Operation(
        name,
        Rights.KEY_USER,
        (_key(), *fields),
        key_types=key_types,
        max_payload=max_payload,
    )


_SIGNING: Final = (
    _signing("sign-text"),
    _signing("sign-data", *_optional("armor", form=Form.BOOLEAN), max_payload=TIB),
    _signing("decrypt"),
    _signing("sign-git-tag"),
    _signing("sign-container", *_text("docker-reference")),
    _signing("sign-ostree", Field("ostree-hash", Form.FILENAME)),
    Operation(
        "sign-certificate",
        Rights.KEY_USER,
        (
            _key("issuer-key"),
            Field("subject-key", thing=Thing.KEY, right=Rights.ACCESS, right_on="subject-key"),
            Field("subject", Form.UNICODE),
            Field("validity", Form.YEARS),
            Field("certificate-type", Form.CERTIFICATE_TYPE),
            Field(
                "subject-certificate-name",
                Form.IDENTIFIER,
                thing=Thing.CERTIFICATE,
                right=Rights.ACCESS,
                right_on="subject-key",
            ),
            *_optional("issuer-certificate-name", form=Form.IDENTIFIER, thing=Thing.CERTIFICATE),
        ),
        key_types=_PEM,
        key_field="issuer-key",
    ),
    _signing(
        "sign-pe",
        # Of a key on a token it is the label of a certificate there, which may be any text.
        Field("cert-name", thing=Thing.CERTIFICATE),
        key_types=_PEM | _TOKEN,
    ),
    Operation(
        "sign-rpm",
        Rights.KEY_USER,
        (_key(), *_RPM_OPTIONS, *_RPM_NAMES, *_RPM_SIGMD5),
        optional_secrets=("file-signing-key-passphrase",),
        max_payload=GIB,
        key_types=_GNUPG,
        sigmd5_authenticates=True,
    ),
    Operation(
        "sign-rpms",
        Rights.KEY_USER,
        (_key(), *_RPM_OPTIONS),
        optional_secrets=("file-signing-key-passphrase",),
        key_types=_GNUPG,
        subrequests=True,
        max_subpayload=TIB,
    ),
)


def _by_name(operations: Iterable[Operation]) -> MappingProxyType[str, Operation]:
    return MappingProxyType({operation.name: operation for operation in operations})


#: Every operation, by name.
OPERATIONS: Final = _by_name((*_ADMINISTRATION, *_KEYS_AND_USERS, *_SIGNING))

#: What the bridge itself asks of a server: for evidence of the signing log's checkpoint. No client
#: may send it, so it is no row of `OPERATIONS`, by which the bridge takes requests.
LOG_CHECKPOINT: Final = "log-checkpoint"
BRIDGE_OPERATIONS: Final = _by_name((Operation(LOG_CHECKPOINT, Rights.BRIDGE),))
#: The field `user` of such a request.
BRIDGE_USER: Final = "bridge"


class UnknownOperation(ProtocolError):
    """A request names an operation that is not in the table."""


def operation_of(fields: Fields, operations: Mapping[str, Operation] = OPERATIONS) -> Operation:
    """The row for a request's `op`. Raises `UnknownOperation`, `ProtocolError` without one."""
    name = fields.safe_string("op")
    try:
        return operations[name]
    except KeyError:
        raise UnknownOperation(f"operation '{name}' is unknown") from None


def fault_of_subrequest(fields: Fields) -> ProtocolError | None:
    """The fault of a subrequest's fields, which costs that one alone, by its `id`; None without.

    Raises `ProtocolError` where there is no `id`.
    """
    fields.blob("id")
    try:
        check_subrequest(fields)
    except ProtocolError as error:
        return error
    return None


def check_subrequest(fields: Fields) -> None:
    """Raise `ProtocolError` for a missing, unknown or malformed field of a subrequest."""
    _check_fields(fields, SUBREQUEST_FIELDS, "a subrequest")


def _check_fields(fields: Fields, rows: Iterable[Field], whose: str) -> None:
    known = {field.name: field for field in rows}
    for name in fields:
        if name not in known:
            raise RemoteProtocolError(f"{whose} has no field '{name}'")
    for field in known.values():
        field.check(fields)
