"""The table of operations against the specification's own tables, so that a drift is seen.

`operations.md` is read here: operations, rights, outer and inner fields with their forms, payload
limits and key types. What it says in words only is written down in the constants below.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from sigul_stack.errors import ProtocolError
from sigul_stack.protocol.codec import Fields, encode_value
from sigul_stack.protocol.operations import (
    MAX_PAYLOAD,
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
from tests.shared_data import shared

OPERATIONS_MD = shared("spec", "operations.md").read_text(encoding="utf-8")
WIRE_PROTOCOL_MD = shared("spec", "wire-protocol.md").read_text(encoding="utf-8")

_CODE = re.compile(r"`([^`]+)`")
_UNITS = {"MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_BINDINGS = {"server-binding", "client-binding"}

#: How the specification tells a field's form, behind the field's name.
_FORM_WORDS = (
    (re.compile(r"^ bool"), Form.BOOLEAN),
    (re.compile(r"^ yyyy-mm-dd"), Form.DATE),
    (re.compile(r"^ number as text"), Form.NUMBER),
    (re.compile(r"^ \(filename-safe"), Form.FILENAME),
    (re.compile(r"^ \(identifier-safe"), Form.IDENTIFIER),
    (re.compile(r"^ \(`<n>y`\)"), Form.YEARS),
    (re.compile(r"^ one of `ca`, `codesigning`, `sslserver`"), Form.CERTIFICATE_TYPE),
)
#: Forms that follow from what the specification says elsewhere.
_OTHER_FORMS = {
    # It names a certificate that a `subject-certificate-name` has named.
    "issuer-certificate-name": Form.IDENTIFIER,
    "cert-name": Form.IDENTIFIER,
    # "stands in for payload authentication": a digest, as bytes.
    "rpm-sigmd5": Form.BLOB,
    # "`id` (blob, the client's own …)"
    "id": Form.BLOB,
    "expire-date": Form.DATE,
    # People's and organisations' names are not all ASCII, and nothing says that these are "safe".
    "name-real": Form.UNICODE,
    "name-comment": Form.UNICODE,
    "name-email": Form.UNICODE,
    "subject": Form.UNICODE,
}


@dataclass(frozen=True)
class Row:
    """What the specification says of an operation."""

    rights: str
    required: frozenset[str]
    optional: frozenset[str]
    secrets: frozenset[str]
    optional_secrets: frozenset[str]
    max_payload: int
    max_subpayload: int
    key_types: frozenset[str]
    key_field: str


def _tables() -> list[tuple[str, list[str], list[list[str]]]]:
    """The tables of `operations.md`: the heading above each, its columns and its rows."""
    found = []
    heading = ""
    lines = OPERATIONS_MD.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("## "):
            heading = line[3:]
        if not line.startswith("| op |"):
            continue
        rows = []
        for row in lines[number + 2 :]:
            if not row.startswith("|"):
                break
            rows.append(_cells(row))
        found.append((heading, _cells(line), rows))
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _names(cell: str) -> tuple[frozenset[str], frozenset[str]]:
    """The required and the optional names in a cell: `x`, [`y` `z`=default]."""
    # Taken out: defaults, explanations in parentheses, lists of values.
    cell = re.sub(r"=`[^`]*`", "", cell)
    cell = re.sub(r"\([^)]*\)", "", cell)
    cell = re.sub(r"one of (`[^`]*`(, )?)+", "", cell)
    optional = {name for group in re.findall(r"\[[^]]*\]", cell) for name in _CODE.findall(group)}
    required = set(_CODE.findall(re.sub(r"\[[^]]*\]", "", cell)))
    return frozenset(required), frozenset(optional)


def _forms() -> dict[str, Form]:
    """The form of each field for which some table tells one."""
    found = dict(_OTHER_FORMS)
    for _heading, _columns, rows in _tables():
        for row in rows:
            for cell in row[1:]:
                for match in _CODE.finditer(cell):
                    for pattern, form in _FORM_WORDS:
                        if pattern.match(cell[match.end() :]):
                            found[match.group(1)] = form
    return found


def _size(cell: str) -> int:
    """The size that `cell` names, in bytes; 0 where it names none."""
    match = re.search(r"(\d+) ([KMGT]iB)", cell)
    return int(match.group(1)) * _UNITS[match.group(2)] if match else 0


def _specified() -> dict[str, Row]:
    found = {}
    for heading, columns, rows in _tables():
        common = re.search(r"\(rights: (.*)\)", heading)
        for cells in rows:
            row = dict(zip(columns, cells, strict=True))
            required, optional = _names(row["outer fields"])
            secrets, optional_secrets = _names(row.get("inner", ""))
            if "bindings as above" in row.get("inner", ""):
                optional_secrets |= {f"|{name}" for name in _BINDINGS}
            if "file-signing-key" in optional:
                # Told below the table.
                optional_secrets |= {"|file-signing-key-passphrase"}
            payload = row.get("payload in, limit", "")
            if "request payload" in row.get("reply", ""):
                payload = row["reply"].split("request payload")[1]
            subrequests = "subrequests follow" in payload
            key_types = re.findall(r"\b(gnupg|ECC|RSA)\b", row.get("key types", ""))
            if "key types" not in row and "16" in row["errors"] and "keytype" not in optional:
                # Error 16 where no type is asked for: a field that only one type knows.
                key_types = ["gnupg"]
            on = re.search(r"`([^`]+)` \(rights are checked on it\)", row["outer fields"])
            found[row["op"].strip("`")] = Row(
                rights=common.group(1) if common else row["rights"],
                required=required,
                optional=optional,
                secrets=frozenset(name.removeprefix("|") for name in secrets),
                optional_secrets=frozenset(name.removeprefix("|") for name in optional_secrets),
                max_payload=0 if subrequests else _size(payload),
                max_subpayload=_size(payload) if subrequests else 0,
                key_types=frozenset(key_types),
                key_field=on.group(1) if on else "key",
            )
    return found


SPECIFIED = _specified()
FORMS = _forms()

RIGHTS = {
    "admin": Rights.ADMIN,
    "key user": Rights.KEY_USER,
    "key admin": Rights.KEY_ADMIN,
    "key user or admin": Rights.KEY_USER_OR_ADMIN,
    "key admin or admin": Rights.KEY_ADMIN_OR_ADMIN,
}

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
    """What the specification says of it."""
    return SPECIFIED[operation.name]


# --------------------------------------------------------------------------- the table as specified


def test_the_specification_was_understood() -> None:
    # Counts by eye: what a changed layout of the page would upset first.
    assert len(SPECIFIED) == 29
    assert len(_tables()) == 3
    assert SPECIFIED["new-key"].optional == {
        "keytype", "initial-key-admin", "name-real", "name-comment", "name-email", "expire-date"
    }  # fmt: skip
    assert SPECIFIED["sign-certificate"].required == {
        "issuer-key", "subject-key", "subject-certificate-name", "subject", "validity",
        "certificate-type",
    }  # fmt: skip
    assert SPECIFIED["sign-rpms"].max_subpayload == 1024**4
    assert FORMS["return-data"] is Form.BOOLEAN
    assert FORMS["certificate-type"] is Form.CERTIFICATE_TYPE


def test_the_operations_are_those_of_the_specification() -> None:
    assert set(OPERATIONS) == set(SPECIFIED)
    assert all(name == operation.name for name, operation in OPERATIONS.items())


def test_rights(operation: Operation, row: Row) -> None:
    assert operation.rights is RIGHTS[row.rights]


def test_outer_fields(operation: Operation, row: Row) -> None:
    assert {item.name for item in operation.fields if item.required} == row.required
    assert {item.name for item in operation.fields if not item.required} == row.optional


def test_forms(operation: Operation) -> None:
    assert {item.name: item.form for item in operation.fields} == {
        item.name: FORMS.get(item.name, Form.TEXT) for item in operation.fields
    }


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


def test_only_sign_rpm_may_leave_its_payload_hash_out(operation: Operation) -> None:
    said = re.search(
        r"May be left out only by `([^`]+)` with `rpm-sigmd5`", " ".join(WIRE_PROTOCOL_MD.split())
    )
    assert said is not None
    assert operation.sigmd5_authenticates == (operation.name == said.group(1))


def test_subrequest_fields() -> None:
    section = " ".join(WIRE_PROTOCOL_MD.split("Subrequest:\n\n```\n")[1].split("u8[64]")[0].split())
    required, optional = section.split("optional", 1)
    assert [item.name for item in SUBREQUEST_FIELDS if item.required] == _CODE.findall(required)
    assert [item.name for item in SUBREQUEST_FIELDS if not item.required] == _CODE.findall(optional)
    for item in SUBREQUEST_FIELDS:
        assert item.form is FORMS.get(item.name, Form.TEXT)


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
    assert limit <= MAX_PAYLOAD


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
        check_subrequest(Fields({name: encode_value(value) for name, value in fields.items()}))
