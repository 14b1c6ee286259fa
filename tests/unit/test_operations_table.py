"""The table of operations against the tables of docs/operations.md, so that a drift is seen.

Read from the page: operations, rights, outer fields with their forms, inner fields, payload limits,
key types, the field with the key; from docs/protocol.md: the fields of a subrequest, and who may
leave the payload's hash out. `test_docs.py` goes the other way, and prints the row that is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from sigul_stack.errors import ProtocolError
from sigul_stack.protocol.codec import Fields
from sigul_stack.protocol.operations import (
    OPERATIONS,
    SUBREQUEST_FIELDS,
    Field,
    Form,
    Operation,
    Rights,
    UnknownOperation,
    check_subrequest,
    operation_of,
)
from sigul_stack.protocol.versions import LATEST, VERSIONS
from sigul_stack.server.handlers import HANDLERS

DOCS = Path(__file__).parents[2] / "docs"
OPERATIONS_PAGE = (DOCS / "operations.md").read_text(encoding="utf-8")
PROTOCOL_PAGE = (DOCS / "protocol.md").read_text(encoding="utf-8")

_UNITS = {"MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_COLUMNS = [
    "operation", "rights", "outer fields", "inner fields", "payload, at most", "key types"
]  # fmt: skip

RIGHTS = {
    "administrator": Rights.ADMIN,
    "key user": Rights.KEY_USER,
    "key administrator": Rights.KEY_ADMIN,
    "key user or administrator": Rights.KEY_USER_OR_ADMIN,
    "key administrator or administrator": Rights.KEY_ADMIN_OR_ADMIN,
}

#: How the pages tell a field's form, behind the field's name.
FORMS = {
    "": Form.TEXT,
    "text": Form.TEXT,
    "free text": Form.UNICODE,
    "file name": Form.FILENAME,
    "identifier": Form.IDENTIFIER,
    "date": Form.DATE,
    "number": Form.NUMBER,
    "number of years": Form.YEARS,
    "certificate type": Form.CERTIFICATE_TYPE,
    "boolean": Form.BOOLEAN,
    "bytes": Form.BLOB,
    "blob": Form.BLOB,
}


@dataclass(frozen=True)
class Row:
    """What docs/operations.md says of an operation."""

    rights: Rights
    required: Mapping[str, Form]
    optional: Mapping[str, Form]
    secrets: frozenset[str]
    optional_secrets: frozenset[str]
    max_payload: int
    max_subpayload: int
    key_types: frozenset[str]
    key_field: str


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _tables() -> list[list[list[str]]]:
    """The rows of each table of operations."""
    found = []
    lines = OPERATIONS_PAGE.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("| operation |"):
            assert _cells(line) == _COLUMNS
            rest = lines[number + 2 :]
            end = next(at for at, row in enumerate(rest) if not row.startswith("|"))
            found.append([_cells(row) for row in rest[:end]])
    return found


def _fields(cell: str) -> tuple[dict[str, Form], dict[str, Form]]:
    """The required and the optional fields in a cell, each with its form: `x` form, [`y` form]."""
    required: dict[str, Form] = {}
    optional: dict[str, Form] = {}
    for part in [] if cell == "–" else cell.split(", "):
        match = re.fullmatch(r"(\[?)`([a-z0-9-]+)` ?([a-z ]*)(\]?)", part)
        assert match and bool(match[1]) == bool(match[4]), part
        (optional if match[1] else required)[match[2]] = FORMS[match[3]]
    return required, optional


def _size(cell: str) -> int:
    """The size that `cell` names, in bytes; 0 where it names none."""
    match = re.search(r"(\d+) ([MGT]iB)", cell)
    return int(match[1]) * _UNITS[match[2]] if match else 0


def _key_fields() -> dict[str, str]:
    """The operations whose rights are checked on another field's key than `key`'s."""
    said = re.search(r"key is the one in the field `key` \(for (.+?)\)", OPERATIONS_PAGE)
    assert said is not None
    return dict(re.findall(r"`([a-z-]+)`: `([a-z-]+)`", said[1]))


def _described() -> dict[str, Row]:
    found = {}
    key_fields = _key_fields()
    for table in _tables():
        for cells in table:
            name, rights, outer, inner, payload, key_types = cells
            name = name.partition("`")[2].partition("`")[0]
            required, optional = _fields(outer)
            secrets, optional_secrets = _fields(inner)
            payload, _, subpayload = payload.partition(";")
            found[name] = Row(
                rights=RIGHTS[rights],
                required=required,
                optional=optional,
                secrets=frozenset(secrets),
                optional_secrets=frozenset(optional_secrets),
                max_payload=_size(payload),
                max_subpayload=_size(subpayload),
                key_types=frozenset(() if key_types == "all" else key_types.split(", ")),
                key_field=key_fields.get(name, "key"),
            )
    return found


DESCRIBED = _described()

#: For each form a value that it allows, and values that it does not.
VALUES: dict[Form, tuple[bytes, list[bytes]]] = {
    Form.TEXT: (b"a text", [b"\xff", b"a\0b", b"a\nb", b"\x1b[31m"]),
    Form.UNICODE: (
        "J\u00fcrgen\u00a0\u5c71\u3000\u2028\u200b".encode(),
        [b"\xff", b"a\0b", b"a\nb", b"\x1b[31m", b"\x7f", "\x85".encode()],
    ),
    Form.FILENAME: (b"0a.B", [b"", b".a", b"a/b", b"a-b", b"\xff"]),
    Form.IDENTIFIER: (b"aZ", [b"", b"a1", b"a b", b"a.b", "é".encode()]),
    Form.DATE: (b"2030-02-28", [b"", b"2030-02-30", b"2030-2-1", b"20300228", b"never"]),
    Form.NUMBER: (b"2", [b"", b"-1", b"1.0", b"x", b" 1"]),
    Form.YEARS: (b"10y", [b"", b"10", b"y", b"1.5y", b"10d", b"-1y", b"10yy", b"1 y"]),
    Form.CERTIFICATE_TYPE: (b"codesigning", [b"", b"CA", b"root", b"ca "]),
    Form.BOOLEAN: (b"\1", [b"", b"\2", b"1", b"\0\1", b"true"]),
    Form.BLOB: (b"\0\xff", []),
    Form.INTEGER: (b"\0\0\0\1", [b"", b"1", b"\0\0\0\0\1"]),
}


def sample(operation: Operation, *names: str) -> dict[str, bytes]:
    """The required fields of a request, and the optional ones `names`."""
    found = {"op": operation.name.encode(), "user": b"root"}
    for item in operation.fields:
        if item.required or item.name in names:
            found[item.name] = VALUES[item.form][0]
    return found


@pytest.fixture(params=sorted(OPERATIONS))
def operation(request: pytest.FixtureRequest) -> Operation:
    """Each operation of the table."""
    return OPERATIONS[request.param]


@pytest.fixture
def row(operation: Operation) -> Row:
    """What docs/operations.md says of it."""
    return DESCRIBED[operation.name]


# --------------------------------------------------------------------------- the table as described


def test_the_specification_was_understood() -> None:
    # Counts by eye: what a changed layout of the page would upset first.
    assert len(DESCRIBED) == 31
    assert [len(table) for table in _tables()] == [13, 8, 10]
    assert DESCRIBED["new-key"].optional.keys() == {
        "keytype", "initial-key-admin", "name-real", "name-comment", "name-email", "expire-date"
    }  # fmt: skip
    assert DESCRIBED["sign-certificate"].required.keys() == {
        "issuer-key", "subject-key", "subject-certificate-name", "subject", "validity",
        "certificate-type",
    }  # fmt: skip
    assert DESCRIBED["sign-rpms"].max_subpayload == 1024**4
    assert DESCRIBED["sign-rpm"].optional["return-data"] is Form.BOOLEAN
    assert DESCRIBED["sign-certificate"].required["certificate-type"] is Form.CERTIFICATE_TYPE
    assert DESCRIBED["sign-certificate"].key_field == "issuer-key"


def test_the_operations_are_those_of_the_specification() -> None:
    assert set(OPERATIONS) == set(DESCRIBED)
    assert all(name == operation.name for name, operation in OPERATIONS.items())


def test_rights(operation: Operation, row: Row) -> None:
    assert operation.rights is row.rights


def test_outer_fields(operation: Operation, row: Row) -> None:
    assert {item.name for item in operation.fields if item.required} == row.required.keys()
    assert {item.name for item in operation.fields if not item.required} == row.optional.keys()


def test_forms(operation: Operation, row: Row) -> None:
    assert {item.name: item.form for item in operation.fields} == {**row.required, **row.optional}


def test_inner_fields(operation: Operation, row: Row) -> None:
    assert set(operation.secrets) == row.secrets
    assert set(operation.optional_secrets) == row.optional_secrets


def test_payload_limits(operation: Operation, row: Row) -> None:
    assert operation.max_payload == row.max_payload
    assert operation.max_subpayload == row.max_subpayload
    assert operation.subrequests == bool(row.max_subpayload)


def test_key_types(operation: Operation, row: Row) -> None:
    assert operation.key_types == row.key_types


def test_the_field_with_the_key_that_rights_are_checked_on(operation: Operation, row: Row) -> None:
    assert operation.key_field == row.key_field
    if operation.rights.by_passphrase:
        assert operation.key_field in row.required


def test_the_page_tells_what_each_touches_and_by_which_right(operation: Operation) -> None:
    touched = []
    for item in operation.objects:
        text = f"{item.thing.value} `{item.field}`"
        if (item.right, item.key_field) != (operation.rights, operation.key_field):
            to = "" if item.field == item.key_field else f" to `{item.key_field}`"
            by = f", by `{item.opened_by}`" if item.opened_by else ""
            text += f" ({item.right.value}{to}{by})"
        touched.append(text)
    if operation.lists is not None:
        touched.append(f"{'its' if touched else 'all'} {operation.lists.value}s")
    row = f"| `{operation.name}` | {operation.rights.value} | {', '.join(touched) or '–'} |"
    assert row in OPERATIONS_PAGE.splitlines()


#: Outer fields that name nothing that the server has, or that is the bridge's.
NO_OBJECTS = {
    "admin", "key-admin", "only", "rpm-names", "keytype", "name-real", "name-comment", "name-email",
    "expire-date", "subkey", "armor", "docker-reference", "ostree-hash", "subject", "validity",
    "certificate-type", "koji-instance", "import-signature", "return-data", "head-signing",
    "v3-signature", "rpm-name", "rpm-epoch", "rpm-version", "rpm-release", "rpm-arch", "rpm-sigmd5",
}  # fmt: skip


def test_whatever_a_field_names_has_a_right(operation: Operation) -> None:
    named = {item.field for item in operation.objects}
    assert {item.name for item in operation.fields} - NO_OBJECTS == named
    for item in operation.objects:
        if item.right.by_passphrase and item.key_field != operation.key_field:
            assert item.opened_by in (*operation.secrets, *operation.optional_secrets)
        if item.right is not Rights.ADMIN:
            assert item.key_field in {field.name for field in operation.fields}


def test_only_sign_rpm_may_leave_its_payload_hash_out(operation: Operation) -> None:
    said = re.search(
        r"Only `([^`]+)` with `rpm-sigmd5` may leave it out", " ".join(PROTOCOL_PAGE.split())
    )
    assert said is not None
    assert operation.sigmd5_authenticates == (operation.name == said.group(1))


def test_subrequest_fields() -> None:
    section = PROTOCOL_PAGE.split("\nA subrequest:\n")[1].split("\nA subreply:\n")[0]
    rows = re.findall(
        r"^\| `([a-z0-9-]+)` \| (\w+) \| (required|optional)\b", section, re.MULTILINE
    )
    assert [(item.name, item.form, item.required) for item in SUBREQUEST_FIELDS] == [
        (name, FORMS[form], said == "required") for name, form, said in rows
    ]


def test_what_each_right_can_be_proved_with() -> None:
    proofs = {
        rights: (rights.by_password, rights.by_passphrase, rights.needs_key_admin)
        for rights in Rights
    }
    assert proofs == {
        Rights.ADMIN: (True, False, False),
        Rights.KEY_USER: (False, True, False),
        Rights.KEY_ADMIN: (False, True, True),
        Rights.KEY_USER_OR_ADMIN: (True, True, False),
        Rights.KEY_ADMIN_OR_ADMIN: (True, True, True),
        Rights.ACCESS: (False, False, False),
        Rights.BRIDGE: (False, False, False),
    }


# -------------------------------------------------------------------------------- refusing by it


def test_a_right_request_passes(operation: Operation) -> None:
    operation.check(Fields(sample(operation)))
    everything = sample(operation, *(item.name for item in operation.fields))
    operation.check(Fields(everything))
    assert operation_of(Fields(everything)) is operation


def test_a_missing_field_is_refused_by_name(operation: Operation) -> None:
    whole = sample(operation)
    for name in whole:
        rest = {other: value for other, value in whole.items() if other != name}
        with pytest.raises(ProtocolError, match=f"'{name}' is missing"):
            operation.check(Fields(rest))


def test_a_field_of_another_operation_is_refused_by_name(operation: Operation) -> None:
    known = {item.name for item in operation.fields} | {"op", "user"}
    strangers = {item.name for other in OPERATIONS.values() for item in other.fields} - known
    for name in sorted(strangers | {"password", "payload", "id"}):
        with pytest.raises(ProtocolError, match=f"no field '{name}'"):
            operation.check(Fields({**sample(operation), name: b"1"}))


def test_a_field_of_a_wrong_form_is_refused_by_name(operation: Operation) -> None:
    for item in (Field("user"), *operation.fields):
        for wrong in VALUES[item.form][1]:
            with pytest.raises(ProtocolError, match=f"'{item.name}'"):
                operation.check(Fields({**sample(operation), item.name: wrong}))


def test_a_payload_over_the_limit_is_refused(operation: Operation) -> None:
    limit = operation.max_payload
    operation.check_payload(limit)
    for length in (limit + 1, 2**64 - 1):
        with pytest.raises(ProtocolError, match=f"limit of {limit} bytes"):
            operation.check_payload(length)


def test_a_configured_limit_only_lowers_the_limit(operation: Operation) -> None:
    operation.check_payload(min(100, operation.max_payload), 100)
    with pytest.raises(ProtocolError, match="limit"):
        operation.check_payload(101, 100)
    with pytest.raises(ProtocolError, match="limit"):
        operation.check_payload(operation.max_payload + 1, 2**63)


@pytest.mark.parametrize("op", [b"", b"list-user", b"LIST-USERS", b"list-users ", b"__class__"])
def test_an_unknown_operation_is_told_apart(op: bytes) -> None:
    with pytest.raises(UnknownOperation, match="unknown"):
        operation_of(Fields({"op": op, "user": b"root"}))


@pytest.mark.parametrize("fields", [{}, {"user": b"root"}, {"op": b"\xff"}, {"op": b"a\0"}])
def test_an_operation_that_cannot_be_read_is_refused(fields: dict[str, bytes]) -> None:
    with pytest.raises(ProtocolError, match="'op'") as caught:
        operation_of(Fields(fields))
    assert not isinstance(caught.value, UnknownOperation)


# ------------------------------------------------------------------------------------ subrequests


@pytest.mark.parametrize("name", [b"", b"\0\0\0\0", b"x" * 255])
def test_a_subrequests_id_is_the_clients_own(name: bytes) -> None:
    check_subrequest(Fields({"id": name}))


def test_a_subrequest_with_everything_passes() -> None:
    check_subrequest(Fields({item.name: VALUES[item.form][0] for item in SUBREQUEST_FIELDS}))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "'id' is missing"),
        ({"id": 1, "op": "sign-rpm"}, "no field 'op'"),
        ({"id": 1, "key": "k1"}, "no field 'key'"),
        ({"id": 1, "rpm-name": b"\xff"}, "'rpm-name'"),
        ({"id": 1, "rpm-epoch": b"1\n"}, "'rpm-epoch'"),
    ],
)
def test_a_wrong_subrequest_is_refused(fields: dict[str, str | int | bytes], told: str) -> None:
    with pytest.raises(ProtocolError, match=told):
        check_subrequest(
            Fields({name: LATEST.encode_value(value) for name, value in fields.items()})
        )


def test_every_operation_has_its_handler() -> None:
    assert HANDLERS.keys() == OPERATIONS.keys()


def test_the_page_has_the_operations_of_version_0() -> None:
    table = PROTOCOL_PAGE.partition("| operation of version 0 |")[2].partition("\n\n")[0]
    found = {
        name.strip("`"): set(re.findall(r"`([a-z0-9-]+)`", fields))
        for name, fields in (_cells(row) for row in table.splitlines()[2:])
    }
    assert found == {
        name: {field.name for field in operation.fields} - {"op", "user"}
        for name, operation in VERSIONS[0].operations.items()
    }


def test_version_0_has_a_part_of_version_1() -> None:
    for name, operation in VERSIONS[0].operations.items():
        assert set(operation.fields) <= set(OPERATIONS[name].fields), name
        assert max(operation.max_payload, operation.max_subpayload) <= 1024**3, name
    assert not {"decrypt", "sign-certificate", "sign-pe"} & set(VERSIONS[0].operations)
