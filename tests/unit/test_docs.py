"""The documentation says what the code does: tables, defaults, the worked example, every link.

Where a table differs, the failure prints the row as the page should have it.
"""

from __future__ import annotations

import configparser
import dataclasses
import fnmatch
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sigul_stack.client.core import MAX_MEMORY_REPLY
from sigul_stack.config import PROGRAMS, client, shared, values
from sigul_stack.config.fields import Option, OptionForm, options_of
from sigul_stack.config.shared import BINDING_METHODS
from sigul_stack.errors import Status, status_text
from sigul_stack.protocol import authentication, messages
from sigul_stack.protocol.chunks import (
    END_OF_INNER,
    END_OF_OUTER,
    MAX_WRITTEN_CHUNK,
    Stream,
    encode_chunk,
)
from sigul_stack.protocol.codec import MAX_FIELD_BYTES
from sigul_stack.protocol.operations import (
    GIB,
    MIB,
    OPERATIONS,
    SUBREQUEST_FIELDS,
    TIB,
    Field,
    Form,
    Operation,
)
from sigul_stack.protocol.versions import LATEST
from sigul_stack.server.request import MAX_REFUSED_PAYLOAD
from sigul_stack.transport.chunked import MAX_KEPT_BYTES

from ..checkout import TOP, own_files
from ..held_data import held

DOCS = TOP / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), TOP / "README.md", TOP / "SECURITY.md"]

NOTHING = "–"


# --- Reading Markdown ----------------------------------------------------------------------------


class Line(NamedTuple):
    """A line outside of code blocks, with the headings that it stands under."""

    text: str
    chapter: str
    section: str


def lines(page: Path) -> Iterator[Line]:
    chapter = section = ""
    fenced = False
    for text in page.read_text("utf-8").splitlines():
        if text.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            if heading := re.fullmatch(r"(#+) (.+)", text):
                if len(heading[1]) <= 2:
                    chapter, section = heading[2], ""
                elif len(heading[1]) == 3:
                    section = heading[2]
            yield Line(text, chapter, section)
    assert not fenced, f"{page}: a code block has no end"


def headings(page: Path) -> list[str]:
    """The titles of all sections, as they read, without Markdown's marks."""
    found = (re.fullmatch(r"#+ (.+)", line.text) for line in lines(page))
    return [heading[1].replace("`", "") for heading in found if heading]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub and GitLab give to the headings."""
    found: Counter[str] = Counter()
    result = set()
    for title in headings(page):
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        result.add(slug if not found[slug] else f"{slug}-{found[slug]}")
        found[slug] += 1
    return result


def cells(text: str) -> list[str]:
    """The cells of a table's row; none for another line and for the line under its head."""
    if not text.startswith("|") or re.fullmatch(r"[|:\- ]+", text):
        return []
    return [cell.strip() for cell in text.strip().strip("|").split("|")]


def code_blocks(page: Path, language: str) -> list[list[str]]:
    found = re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    return [block.splitlines() for block in found]


# --- Links and references ------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_links_lead_somewhere(page: Path) -> None:
    for line in lines(page):
        for target in re.findall(r"\]\(([^)\s]+)\)", line.text):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            other = (page.parent / name).resolve() if name else page
            assert other.exists(), f"{page.name}: {target}: there is no such file"
            assert other.is_relative_to(TOP), f"{page.name}: {target} leaves the project"
            if anchor:
                assert anchor in anchors(other), f"{page.name}: {target}: there is no such section"


def test_pages_are_linked() -> None:
    """A page that no other names is not found by anybody."""
    linked = {
        (page.parent / name).resolve()
        for page in PAGES
        for line in lines(page)
        for name in re.findall(r"\]\(([^)#\s]+)", line.text)
    }
    assert set(DOCS.rglob("*.md")) - linked <= {DOCS / "README.md"}


def references() -> Iterator[tuple[Path, str, str]]:
    """What modules, those of tests too, say of the documentation: module, page, section if any."""
    for module in (file for file in own_files() if file.suffix == ".py"):
        text = re.sub(r"\n\s*(#: ?|# )?", " ", module.read_text("utf-8"))
        for name, section in re.findall(r'docs/([\w/.-]+\.md)(?:, "([^"]+)")?', text):
            yield module, name, section


def test_sections_that_modules_refer_to_exist() -> None:
    found = list(references())
    assert {section for _, _, section in found} >= {"Chunks", "Fields", "Habits of peers", "Rights"}
    for module, name, section in found:
        where = f"{module.relative_to(TOP)} refers to docs/{name}"
        assert (DOCS / name).exists(), where
        if section:
            assert section in headings(DOCS / name), f"{where}, {section!r}"


def test_every_decision_is_in_the_index() -> None:
    directory = DOCS / "decisions"
    index = (directory / "README.md").read_text("utf-8")
    files = sorted(directory.glob("[0-9]*.md"))
    assert files
    for file in files:
        number, colon, title = headings(file)[0].partition(": ")
        assert re.fullmatch(r"\d{4}-[a-z0-9-]+", file.stem), f"{file.name}: NNNN-title.md"
        assert colon and file.name.startswith(f"{number}-"), f"{file.name}: '# {number}: …'"
        assert f"| [{number}]({file.name}) | {title} |" in index.replace("`", "")
    numbers = Counter(file.name[:4] for file in files)
    assert [number for number, count in numbers.items() if count > 1] == []


def test_every_module_has_its_place() -> None:
    named = {
        row[0].strip("`")
        for line in lines(DOCS / "architecture.md")
        if line.chapter == "The rooms and what they import" and (row := cells(line.text))
    }
    package = TOP / "sigul_stack"
    there = {file.stem for file in package.glob("*.py")} | {
        directory.parent.name for directory in package.glob("*/__init__.py")
    }
    assert there - {"__init__", "__main__"} <= named


# --- Operations ----------------------------------------------------------------------------------


def size(count: int) -> str:
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB")):
        if count and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} bytes" if count else "none"


def described(field: Field) -> str:
    form = "" if field.form is Form.TEXT else " " + field.form.value.partition(" (")[0]
    text = f"`{field.name}`{form}"
    return text if field.required else f"[{text}]"


def operation_row(operation: Operation) -> str:
    """An operation's row in docs/operations.md."""
    secrets = [f"`{name}`" for name in operation.secrets]
    secrets += [f"[`{name}`]" for name in operation.optional_secrets]
    payload = size(operation.max_payload)
    if operation.subrequests:
        payload += f"; {size(operation.max_subpayload)} a subrequest"
    columns = [
        f"[`{operation.name}`](#{operation.name})",
        operation.rights.value,
        ", ".join(map(described, operation.fields)) or NOTHING,
        ", ".join(secrets) or NOTHING,
        payload,
        ", ".join(sorted(operation.key_types)) or "all",
    ]
    return f"| {' | '.join(columns)} |"


OPERATIONS_PAGE = DOCS / "operations.md"


def test_tables_of_operations_are_those_of_the_code() -> None:
    rows = [line.text for line in lines(OPERATIONS_PAGE) if line.text.startswith("| [`")]
    expected = [operation_row(operation) for operation in OPERATIONS.values()]
    missing = [row for row in expected if row not in rows]
    assert not missing, "docs/operations.md lacks these rows:\n" + "\n".join(missing)
    assert rows == expected


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_described(name: str) -> None:
    text = [line.text for line in lines(OPERATIONS_PAGE) if line.section == f"`{name}`"]
    assert any(line.startswith("* **Reply:** ") for line in text), f"### `{name}` with its reply"
    errors = " ".join(text).partition("* **Errors:** ")[2]
    assert errors, f"### `{name}` with its errors"
    codes = set(re.findall(r"`([A-Z_]+)`", errors))
    assert codes <= set(Status.__members__)
    key_types = OPERATIONS[name].key_types
    assert not key_types or "UNSUPPORTED_KEYTYPE" in codes


# --- The protocol --------------------------------------------------------------------------------

PROTOCOL_PAGE = DOCS / "protocol.md"


def protocol_rows(section: str) -> list[list[str]]:
    return [
        row
        for line in lines(PROTOCOL_PAGE)
        if line.chapter == section and (row := cells(line.text))
    ]


def test_status_codes_are_those_of_the_code() -> None:
    expected = [[str(status.value), status.name, status_text(status)] for status in Status]
    assert protocol_rows("Status codes")[1:] == expected


def test_fields_of_a_subrequest_are_those_of_the_code() -> None:
    forms = {Form.TEXT: "text", Form.BLOB: "blob"}
    expected = [
        [f"`{field.name}`", forms[field.form], "required" if field.required else "optional"]
        for field in SUBREQUEST_FIELDS
    ]
    found = [
        [name, form, meaning.partition(";")[0]]
        for name, form, meaning in protocol_rows("Many in one request")[1:]
    ]
    assert found == expected


def test_inner_fields_and_keys_are_those_of_the_code() -> None:
    named = " ".join(row[0] for row in protocol_rows("A request"))
    own = (messages.HEADER_HASH, messages.PAYLOAD_HASH, messages.HEADER_KEY, messages.PAYLOAD_KEY)
    for name in own:
        assert f"`{name}`" in named
    many = " ".join(
        line.text for line in lines(PROTOCOL_PAGE) if line.chapter == "Many in one request"
    )
    for name in messages.new_chain_secrets(bytes):
        assert f"`{name}`" in many


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("fields in a map", f"{MAX_FIELD_BYTES}"),
        ("a field's name", f"1 to {MAX_FIELD_BYTES} bytes"),
        ("a field's value", f"{MAX_FIELD_BYTES} bytes"),
        ("a field map as a whole", f"{1 + MAX_FIELD_BYTES * 2 * (1 + MAX_FIELD_BYTES):,} bytes"),
        ("HMAC keys", f"{messages.MIN_KEY_BYTES} to {MAX_FIELD_BYTES} bytes"),
        ("chunks that they write", f"{MAX_WRITTEN_CHUNK // 1024} KiB"),
        ("bytes of one stream", f"{MAX_KEPT_BYTES // MIB} MiB"),
        ("payload of a request that will be refused", f"{MAX_REFUSED_PAYLOAD // MIB} MiB"),
        ("a reply's payload that the client keeps", f"{MAX_MEMORY_REPLY // MIB} MiB"),
        ("`message` of a reply", f"{MAX_FIELD_BYTES} bytes"),
    ],
)
def test_limits_are_those_of_the_code(what: str, limit: str) -> None:
    found = [row for row in protocol_rows("Limits") if row[0].startswith(what)]
    assert len(found) == 1
    assert found[0][1].partition(";")[0] == limit


def example() -> list[bytes]:
    """What docs/protocol.md, "A worked example", shows, in order."""
    keys = messages.ReplyKeys(bytes(range(0x40)), bytes(range(0x40, 0x80)))
    header = messages.encode_request_header({"op": b"list-users", "user": b"ann"}, LATEST.number)
    secrets = {"password": b"secret"}
    nothing = hashlib.sha512(b"").digest()
    reply = messages.encode_reply_header(
        Status.OK, {"num-users": LATEST.encode_value(2)}, keys.header
    )
    payload = b"ann\0bob\0"
    code = authentication.new_hmac(keys.payload)
    code.update(payload)
    base = bytes(range(0x80, 0xC0))
    chain = messages.ChainKeys(base, base)
    return [
        header,
        encode_chunk(Stream.OUTER, header + LATEST.encode_length(0)),
        messages.encode_inner_fields(header, nothing, keys, secrets),
        END_OF_INNER,
        encode_chunk(Stream.OUTER, reply)
        + encode_chunk(Stream.OUTER, LATEST.encode_length(len(payload)))
        + encode_chunk(Stream.OUTER, payload)
        + encode_chunk(Stream.OUTER, code.digest())
        + END_OF_OUTER,
        chain.numbered(0).header + chain.numbered(1).header,
    ]


def test_worked_example_is_what_the_code_makes() -> None:
    shown = []
    for block in code_blocks(PROTOCOL_PAGE, "hex"):
        # What stands behind two blanks explains the bytes before them.
        digits = "".join(line.strip().partition("  ")[0] for line in block)
        shown.append(bytes.fromhex(digits))
    assert [block.hex(" ", 4) for block in shown] == [block.hex(" ", 4) for block in example()]


# --- Configuration -------------------------------------------------------------------------------

CONFIGURATION_PAGE = DOCS / "configuration.md"
SHARED_CHAPTER = "Sections of several files"


class Row(NamedTuple):
    """An option's row in docs/configuration.md."""

    option: str
    default: str
    unit: str
    since: str
    meaning: str


def documented() -> dict[tuple[str, str, str], Row]:
    """Every row, by chapter (a file's name, or the one of shared sections), section and option."""
    found = {}
    for line in lines(CONFIGURATION_PAGE):
        section = re.match(r"`\[(\w+)\]`", line.section)
        row = cells(line.text)
        if section and row and row[0] != "option":
            assert len(row) == len(Row._fields), f"five columns: {line.text}"
            place = line.chapter.strip("`"), section[1], row[0].strip("`")
            assert place not in found, f"{place} stands there twice"
            found[place] = Row(*row)
    return found


def declared(name: str) -> Iterator[tuple[str, Option, Any]]:
    """Every option of a program: the name as documented, the option, its default (see below)."""
    for cls in PROGRAMS[name]().classes:
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for field_name, option in options_of(cls).items():
            field = fields[field_name]
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = None
            names = [option.name]
            if option.form is OptionForm.FAMILY:
                methods = any(prefix.endswith("_") for prefix in option.prefixes)
                names = ["METHOD_PARAMETER"] if methods else [p + "NAME" for p in option.prefixes]
            for shown in names:
                yield shown, option, default


def default_text(option: Option, default: Any) -> str:
    if option.name == "nss-dir":
        return f"client `{client.DEFAULT_NSS_DIRECTORY}`, daemons `{shared.DAEMON_NSS_DIRECTORY}`"
    if default is dataclasses.MISSING:
        return "required"
    if option.name == "forced-binding-methods-position":
        return "`first`" if default else "`last`"
    if isinstance(default, bool):
        return "`yes`" if default else "`no`"
    if default is None or default in ("", ()):
        return NOTHING
    if isinstance(default, tuple):
        return f"`{', '.join(map(str, default))}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_option_is_documented_with_its_default(name: str) -> None:
    rows = documented()
    known = set()
    for shown, option, default in declared(name):
        own, several = ((c, option.section, shown) for c in (f"{name}.conf", SHARED_CHAPTER))
        wanted = f"| `{shown}` | {default_text(option, default)} | … in [{option.section}]"
        assert (own in rows) != (several in rows), f"one row: {wanted}"
        known.add(own)
        row = rows.get(own) or rows[several]
        assert row.default == default_text(option, default), wanted
        assert row.meaning.endswith("."), wanted
        assert ("New sites: " in row.meaning) == bool(option.new_site), wanted
        assert not option.new_site or f"New sites: `{option.new_site}`" in row.meaning, wanted
        units = {values.seconds: "seconds", values.size: "bytes", values.port: "TCP port"}
        if option.form is OptionForm.SECRET:
            assert row.unit == "*secret*", wanted
        elif option.parse in units:
            assert row.unit == units[option.parse], wanted
    of_file = {place for place in rows if place[0] == f"{name}.conf"}
    assert of_file <= known, "options that there are not"


def test_shared_options_exist() -> None:
    known = {
        (option.section, shown) for name in PROGRAMS for shown, option, _default in declared(name)
    }
    several = {place[1:] for place in documented() if place[0] == SHARED_CHAPTER}
    assert several
    assert several <= known


def test_binding_methods_are_named() -> None:
    meaning = documented()[SHARED_CHAPTER, "binding", "METHOD_PARAMETER"].meaning
    for method in BINDING_METHODS:
        assert f"`{method}`" in meaning


def options_of_1_2() -> set[tuple[str, str, str]]:
    """File, section and name of every option that 1.2 had."""
    found = set()
    for name in PROGRAMS:
        file = configparser.RawConfigParser()
        file.read_string(held("configuration-1.2", f"{name}.conf").read_text("utf-8"))
        for section in file.sections():
            found |= {(f"{name}.conf", section, option) for option in file[section]}
    return found


def test_new_options_are_marked() -> None:
    """`since` is 1.2 where 1.2's own files have the option, and each option of theirs has a row."""
    old = options_of_1_2()
    with_a_row = set()
    for (chapter, section, name), row in documented().items():
        pattern = name.replace("METHOD_PARAMETER", "*_*").replace("NAME", "*")
        same = {
            (file, in_section, option)
            for file, in_section, option in old
            if chapter in (file, SHARED_CHAPTER)
            and in_section == section
            and fnmatch.fnmatchcase(option, pattern)
        }
        assert row.since == ("1.2" if same else "new"), f"{chapter}, [{section}] {name}"
        with_a_row |= same
    assert with_a_row == old


def test_limits_on_waiting_have_their_defaults() -> None:
    """Decision 0010 lists every wait; where an option sets its limit, the number is its default."""
    page = next((DOCS / "decisions").glob("0010-*.md"))
    defaults: dict[str, set[str]] = {}
    for name in PROGRAMS:
        for shown, option, default in declared(name):
            if option.parse is values.seconds:
                defaults.setdefault(shown, set()).add(f"{default:g}")
    listed = set()
    for row in (cells(line.text) for line in lines(page)):
        option_named = re.search(r"`([a-z-]+)`", row[2]) if len(row) == 3 else None
        number = re.search(r"\d+", row[1]) if option_named else None
        if option_named and number:
            assert number[0] in defaults[option_named[1]], row
            listed.add(option_named[1])
    assert listed == set(defaults)
