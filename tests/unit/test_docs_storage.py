"""docs/storage.md says what the code stores: its tables, examples and file names.

Where a table differs, the failure prints the row as the page should have it.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateColumn

from sigul_stack.backup import BackupOptions, create_backup
from sigul_stack.backup.manifest import DATABASE
from sigul_stack.config import load_server, shared
from sigul_stack.config.server import ServerSettings
from sigul_stack.config.shared import BINDING_METHODS
from sigul_stack.database import (
    Database,
    KeyType,
    SchemaState,
    create,
    ensure_usable,
    migrate,
    schema,
    schema_state,
    sqlite_url,
)
from sigul_stack.errors import DatabaseError, KeystoreError, WrongPassphrase
from sigul_stack.keystore import envelope, passwords
from sigul_stack.keystore.bindings import bind, enabled_methods, layers, parse_layer, value
from sigul_stack.keystore.bindings.methods import MethodFailed
from sigul_stack.keystore.bindings.pkcs11 import PKCS11Method, Token
from sigul_stack.keystore.bindings.tpm import TPMMethod
from sigul_stack.keystore.gnupg import KeySettings, UserId
from sigul_stack.keystore.gnupg.directory import AGENT_CONFIGURATION
from sigul_stack.keystore.gnupg.home import GnuPGHome
from sigul_stack.keystore.pem import PemStore
from sigul_stack.keystore.store import KeyStore
from sigul_stack.pki.password_files import PASSWORD_FILE_NAME
from sigul_stack.secret import Secret
from sigul_stack.server.keychanges import key_change
from sigul_stack.server.spool import Spool

from ..checkout import TOP
from ..held_data import held
from .test_citations import functions
from .test_docs import NOTHING, cells, code_blocks, headings, lines

PAGE = TOP / "docs" / "storage.md"
PASSPHRASE = Secret("sesame")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def table(chapter: str, head: str, section: str = "") -> list[list[str]]:
    """The rows of the table in that chapter, or section of it, whose head begins with `head`."""
    found: list[list[str]] = []
    inside = False
    for line in lines(PAGE):
        if line.chapter == chapter and (not section or line.section == section):
            row = cells(line.text)
            if not line.text.startswith("|"):
                inside = False
            elif inside and row:
                found.append(row)
            elif row and row[0] == head:
                inside = True
    assert found, f"docs/storage.md, {chapter!r} has no table that begins with {head!r}"
    return found


def require(found: Iterable[list[str]], expected: Iterable[list[str]], last: int = 0) -> None:
    """Compare rows, but for their `last` cells, which must say something."""
    rows = list(found)
    if last:
        assert all(all(row[-last:]) for row in rows if row[0] != "`id`")
        rows = [row[:-last] for row in rows]
    tail = " | …" if last else ""
    wanted = [f"| {' | '.join(row)}{tail} |" for row in expected]
    shown = [f"| {' | '.join(row)}{tail} |" for row in rows]
    missing = [row for row in wanted if row not in shown]
    assert not missing, "docs/storage.md lacks these rows:\n" + "\n".join(missing)
    assert shown == wanted


def names(cell: str) -> list[str]:
    """What stands in a cell as code."""
    return re.findall(r"`([^`]+)`", cell)


def numbers(cell: str) -> set[int]:
    return {int(number) for number in re.findall(r"(?:^|, )(\d+)", cell)}


# --- Database ------------------------------------------------------------------------------------


def column_row(column: sa.Column[object]) -> list[str]:
    """A column's row, but for its meaning."""
    table = column.table
    assert isinstance(table, sa.Table)
    types = [
        str(CreateColumn(column).compile(dialect=dialect.dialect()))
        .removeprefix(f"{column.name} ")
        .removesuffix(" NOT NULL")
        for dialect in (sqlite, postgresql)
    ]
    constraints = ["primary key"] if column.primary_key else []
    constraints += [
        f"→ `{key.target_fullname}`"
        + (f", on delete {key.ondelete.lower()}" if key.ondelete else "")
        for key in column.foreign_keys
    ]
    for constraint in table.constraints:
        if isinstance(constraint, sa.UniqueConstraint) and column in list(constraint.columns):
            others = [f"`{other.name}`" for other in constraint.columns if other is not column]
            constraints.append("unique with " + ", ".join(others) if others else "unique")
    null = "yes" if column.nullable else "no"
    return [f"`{column.name}`", *types, null, "; ".join(constraints) or NOTHING]


#: The three of 1.2, and the one that is made when it is needed.
TABLES = {**schema.metadata.tables, schema.access_limits.name: schema.access_limits}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_the_database_are_those_of_the_code(name: str) -> None:
    expected = [column_row(column) for column in TABLES[name].columns]
    found = table("Database", "column", f"`{name}`")
    require(found, expected, last=1)


def test_no_other_tables_are_described() -> None:
    described = {
        name
        for line in lines(PAGE)
        if line.chapter == "Database" and line.section
        for name in names(line.section)
    }
    assert described == set(TABLES)


def test_key_types_are_those_of_the_code() -> None:
    (row,) = (row for row in table("Database", "column", "`keys`") if row[0] == "`keytype`")
    assert names(row[-1]) == [keytype.value for keytype in KeyType]


def test_revisions_are_those_of_the_code() -> None:
    directory = TOP / "sigul_stack" / "database" / "migrations"
    scripts = list(ScriptDirectory(directory).walk_revisions())[::-1]
    expected = [
        [f"`{script.revision}`", f"`{script.down_revision}`" if script.down_revision else NOTHING]
        for script in scripts
    ]
    require(table("Database", "revision", "Revisions"), expected, last=2)
    assert scripts[-1].revision == schema.HEAD
    assert {script.revision for script in scripts} == schema.KNOWN


def legacy_database(file: Path, *statements: str) -> None:
    shutil.copyfile(held("legacy-site", "server.sqlite"), file)
    change(file, *statements)


def change(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def newer_database(file: Path) -> None:
    create(sqlite_url(file))
    change(file, "UPDATE alembic_version SET version_num = '9999'")


#: How a database comes into each state.
STATES: dict[SchemaState, Callable[[Path], object]] = {
    SchemaState.MISSING: lambda file: None,
    SchemaState.EMPTY: Path.touch,
    SchemaState.LEGACY_NO_KEYTYPE: lambda file: legacy_database(
        file, "ALTER TABLE keys DROP COLUMN keytype"
    ),
    SchemaState.LEGACY: legacy_database,
    SchemaState.CURRENT: lambda file: create(sqlite_url(file)),
    SchemaState.NEWER: newer_database,
}


def outcome(file: Path, work: Callable[..., object], untouched: str) -> str:
    """What `work` does to the database, in the page's words."""
    before = file.read_bytes() if file.exists() else None
    try:
        work(sqlite_url(file), clock=lambda: NOW)
    except DatabaseError:
        assert (file.read_bytes() if file.exists() else None) == before
        return "refused"
    copy = file.with_name(f"{file.name}.backup-20260102T030405Z")
    if file.read_bytes() == before:
        assert not copy.exists()
        return untouched
    assert copy.exists()
    assert schema_state(sqlite_url(file)) is SchemaState.CURRENT
    return "migrated"


def test_states_of_a_database_are_those_of_the_code(tmp_path: Path) -> None:
    expected = []
    for state, make in STATES.items():
        row = [f"`{state.value}`"]
        for work, untouched in ((ensure_usable, "used as it is"), (migrate, "nothing to do")):
            file = tmp_path / f"{state.name}-{work.__name__}"
            make(file)
            assert schema_state(sqlite_url(file)) is state
            row.append(outcome(file, work, untouched))
        expected.append(row)
    assert list(STATES) == list(SchemaState)
    found = table("Database", "state", "Revisions")
    assert all(row[1] for row in found)
    require([[row[0], *row[2:]] for row in found], expected)
    assert "`NAME.backup-YYYYmmddTHHMMSSZ`" in PAGE.read_text("utf-8")


def test_an_added_column_has_a_default(tmp_path: Path) -> None:
    """So an older server can still add keys to what was migrated."""
    STATES[SchemaState.LEGACY_NO_KEYTYPE](tmp_path / "db")
    migrate(sqlite_url(tmp_path / "db"), clock=lambda: NOW)
    change(tmp_path / "db", "INSERT INTO keys (name, fingerprint) VALUES ('old', 'F')")
    with closing(Database(sqlite_url(tmp_path / "db"))) as database, database.read() as reader:
        key = reader.key("old")
    assert key is not None
    assert key.keytype is KeyType.GNUPG
    (row,) = (row for row in table("Database", "revision") if row[0] == f"`{schema.HEAD}`")
    assert "default `gnupg`" in row[2]


# --- Passwords and envelopes ---------------------------------------------------------------------


def test_password_hashes_are_those_of_the_code() -> None:
    _, kind, salt, digest = passwords.hash_password(PASSPHRASE).decode("ascii").split("$")
    assert kind == "6"
    most = f"{passwords.MAX_ROUNDS:,}"
    expected = [
        [
            "rounds",
            f"{passwords.ROUNDS:,}, which are not named in it",
            f"up to {most}, named as `$6$rounds=N$SALT$HASH`; none named means"
            f" {passwords.ROUNDS:,}",
        ],
        ["characters of salt", f"{len(salt)}", f"up to {len(salt)}"],
        ["characters of hash", f"{len(digest)}", f"{len(digest)}"],
        ["bytes of a password", f"1 to {passwords.MAX_PASSWORD_BYTES}, no NUL", "the same"],
    ]
    require(table("Users' passwords", "what"), expected)


def test_worked_example_of_an_envelope_is_what_the_code_makes() -> None:
    (block,) = code_blocks(PAGE, "hex")
    # What stands behind two blanks explains the bytes before them.
    shown = bytes.fromhex("".join(line.partition("  ")[0] for line in block))
    made = envelope.seal(Secret("key"), PASSPHRASE, random=lambda size: bytes(range(size)))
    assert shown.hex(" ", 4) == made.hex(" ", 4)
    assert envelope.open_envelope(shown, PASSPHRASE) == Secret("key")


def packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4, "big") + body


def message(content: bytes, cipher: int = 9, digest: int = 8, mode: int = 0) -> bytes:
    """An envelope of `content`, whose key is a simple SHA-256 where only `content` matters."""
    salted = {0: b"", 1: bytes(8), 3: bytes(9)}.get(mode, bytes(9))
    clear = bytes(18) + content + b"\xd3\x14"
    clear += hashlib.sha1(clear, usedforsecurity=False).digest()
    encryptor = envelope.aes_cfb(hashlib.sha256(PASSPHRASE.reveal()).digest()).encryptor()
    sealed = b"\x01" + encryptor.update(clear) + encryptor.finalize()
    return packet(3, bytes([4, cipher, mode, digest]) + salted) + packet(18, sealed)


def is_read(data: bytes) -> bool:
    """Whether this form of an envelope is understood, though perhaps not opened."""
    try:
        envelope.open_envelope(data, PASSPHRASE)
    except WrongPassphrase:
        return True
    except KeystoreError:
        return False
    return True


def test_forms_of_envelopes_are_those_of_the_code() -> None:
    rows = {row[0]: row[1:] for row in table("Keys' passphrases", "what")}
    literal = packet(11, b"b" + bytes(5) + b"key")
    probes: dict[str, Callable[[int], bytes]] = {
        "cipher": lambda number: message(literal, cipher=number),
        "hash of the string-to-key": lambda number: message(literal, digest=number),
        "string-to-key": lambda number: message(literal, mode=number),
    }
    written = envelope.seal(Secret("key"), PASSPHRASE)[2:]
    writes = (written[1], written[3], written[2])
    for (what, probe), number in zip(probes.items(), writes, strict=True):
        read = {candidate for candidate in range(32) if is_read(probe(candidate))}
        assert numbers(rows[what][1]) == read, f"{what}: {sorted(read)} are read"
        assert numbers(rows[what][0]) == {number}, f"{what}: {number} is written"
    assert written[12] == 0xFF
    assert rows["bytes hashed"][0] == "65,011,712, coded as `ff`"
    assert rows["bytes of the content"][0] == f"up to {envelope.MAX_SECRET:,}"
    assert rows["bytes of the envelope"][1] == f"up to {envelope.MAX_ENVELOPE:,}"


def test_compressions_of_envelopes_are_those_of_the_code() -> None:
    import bz2
    import zlib

    literal = packet(11, b"b" + bytes(5) + b"key")
    raw = zlib.compressobj(wbits=-15)
    forms = [raw.compress(literal) + raw.flush(), zlib.compress(literal), bz2.compress(literal)]
    assert envelope.open_envelope(message(literal), PASSPHRASE) == Secret("key")
    read = {
        number
        for number, form in itertools.product(range(8), forms)
        if is_read(message(packet(8, bytes([number]) + form)))
    }
    (row,) = (row for row in table("Keys' passphrases", "what") if row[0] == "compression")
    assert numbers(row[2]) == read, f"{sorted(read)} are read"


def test_a_keys_own_passphrase_is_as_the_page_says() -> None:
    (field,) = (
        field for field in dataclasses.fields(ServerSettings) if field.name == "passphrase_length"
    )
    text = " ".join(PAGE.read_text("utf-8").split())
    assert f"`passphrase-length` characters ({field.default} by default)" in text
    assert re.fullmatch(rb"[A-Za-z0-9_-]{64}", Secret.random(64).reveal())


# --- Bound passphrases ---------------------------------------------------------------------------


def test_examples_of_bound_passphrases_are_what_the_code_makes() -> None:
    methods = enabled_methods(["test"])
    opens = parse_layer("test,may_unbind=1")
    alternatives = parse_layer("test,may_unbind=1|test,may_unbind=0")
    made = [bind(Secret("key"), binding, methods) for binding in ([alternatives], [opens, opens])]
    shown = code_blocks(PAGE, "json")[:2]
    assert shown == [[secret.reveal().decode()] for secret in made]


def test_limits_of_bound_passphrases_are_those_of_the_code() -> None:
    expected = [
        ["layers", f"{layers.MAX_LAYERS}"],
        ["alternatives in a layer", f"{layers.MAX_ALTERNATIVES}"],
        ["arguments of an alternative", f"{layers.MAX_ARGUMENTS}"],
        ["bytes of the whole", f"{value.MAX_BOUND:,}"],
    ]
    require(table("Bound passphrases", "what"), expected)


def test_binding_methods_are_those_of_the_code() -> None:
    rows = {names(row[0])[0]: row for row in table("Bound passphrases", "method")}
    assert set(rows) == set(BINDING_METHODS)
    token = Token("a", Path("a.pem"), None, None)
    for name, method in (("pkcs11", PKCS11Method({"a": token})), ("tpm", TPMMethod(None))):
        with pytest.raises(MethodFailed, match="it takes: ") as refused:
            method.bind(PASSPHRASE, {"no_argument": "1"})
        assert names(rows[name][2]) == [str(refused.value).partition("it takes: ")[2]]
    assert names(rows["test"][2])[0] == "may_unbind"


# --- Files ---------------------------------------------------------------------------------------


def pattern(name: str) -> re.Pattern[str]:
    """What a name in one of the page's tables stands for; FPR in upper case."""
    text = re.escape(name).replace(r"\*", ".+").replace("NAME", "[A-Za-z]+")
    return re.compile(re.sub("GRIP|FPR", "[0-9A-F]{40}", text))


def below(directory: Path) -> set[str]:
    """All that is in a directory and those below it, but for directories."""
    return {
        str(Path(at, name).relative_to(directory))
        for at, _, files in os.walk(directory)
        for name in files
    }


def test_files_of_ecc_and_rsa_keys_are_those_that_are_written(tmp_path: Path) -> None:
    store = PemStore(tmp_path / "keys")
    store.prepare()
    assert store.path.stat().st_mode & 0o777 == 0o700
    fingerprint = store.generate(KeyType.ECC, PASSPHRASE)
    certificate = held("legacy-site", "ca.pem").read_bytes()
    store.add_certificate(fingerprint, "root", certificate)
    written = {
        path.name.replace(fingerprint, "FPR").replace(".root.", ".NAME."): path
        for path in store.path.iterdir()
    }
    expected = []
    for name in sorted(written, key=lambda name: (name.count("."), "cert" in name)):
        label = re.match(r"-----BEGIN ([A-Z ]+)-----", written[name].read_text())
        assert label
        mode = written[name].stat().st_mode & 0o777
        expected.append([f"`{name}`", f"0{mode:03o}", f"`{label[1]}`"])
    require(table("ECC and RSA keys", "name"), expected, last=1)


#: DER of what the page says of an encrypted private key, but for salt and IV.
ENCRYPTION = {
    "PBES2": "06092a864886f70d01050d",
    "PBKDF2": "06092a864886f70d01050c",
    "HMAC-SHA-256": "06082a864886f70d0209",
    "2048 rounds": "02020800",
    "AES-256-CBC": "060960864801650304012a",
}


def test_private_keys_are_encrypted_as_the_page_says(tmp_path: Path) -> None:
    store = PemStore(tmp_path)
    ours = store.private_file(store.generate(KeyType.ECC, PASSPHRASE))
    theirs = [path for path in held("legacy-site", "keys").iterdir() if path.name.count(".") == 1]
    assert theirs
    for path in (ours, *theirs):
        der = base64.b64decode("".join(path.read_text().splitlines()[1:-1])).hex()
        assert [what for what, code in ENCRYPTION.items() if code not in der] == []


def test_agents_settings_are_those_of_a_new_home() -> None:
    (block,) = code_blocks(PAGE, "conf")
    assert block == AGENT_CONFIGURATION.splitlines()


@pytest.fixture
def settings(tmp_path: Path) -> ServerSettings:
    """A server's settings with all of its state in `tmp_path`, where there is none yet."""
    file = tmp_path / "server.conf"
    file.write_text(
        "[server]\nbridge-hostname: localhost\n"
        f"[database]\ndatabase-path: {tmp_path / 'db'}\n"
        f"[gnupg]\ngnupg-home: {tmp_path / 'gnupg'}\n"
        f"[keys]\nkeys-storage: {tmp_path / 'keys'}\n"
        f"[nss]\nnss-dir: {tmp_path / 'nss'}\nnss-password: x\n"
    )
    for name in ("gnupg", "keys", "nss"):
        (tmp_path / name).mkdir(mode=0o700)
    return load_server(file, system_directory=tmp_path / "none").settings


#: What is in such files where it matters. gpg would refuse to work with this `gpg.conf`, if it
#: read it.
CONTENT = {
    "gpg.conf": "cipher-algo none-such\n",
    "sigul-stack-change.json": '{"before": [], "removing": []}',
}


def sample(home: Path, name: str) -> None:
    """Make a file as `name` in the page's table stands for, where there is none."""
    if not any(pattern(name).fullmatch(there) for there in below(home)):
        (home / name.replace("*", "x")).write_text(CONTENT.get(name, ""))


def in_backup(part: str, row: list[str], members: set[str]) -> bool:
    """Whether the files of a row are in that part of a backup with these members."""
    each = {
        any(pattern(f"{part}/{name}").fullmatch(member) for member in members)
        for name in names(row[0])
    }
    assert len(each) == 1, f"{row[0]}: some are in a backup, some are not"
    return each.pop()


@pytest.mark.system
def test_files_of_a_server_and_which_of_them_a_backup_has(
    settings: ServerSettings, tmp_path: Path
) -> None:
    rows = {name: row for row in table("OpenPGP keys", "name") for name in names(row[0])}
    nss_rows = {name: row for row in table("NSS databases", "name") for name in names(row[0])}
    home = GnuPGHome(settings.gnupg_home, settings=KeySettings("ed25519", 0, "cv25519", 0))
    store = KeyStore(home, PemStore(settings.keys_storage))
    create(sqlite_url(settings.database_path))
    with ExitStack() as cleanup:
        store.prepare()
        cleanup.callback(home.stop_agent)
        database = cleanup.enter_context(closing(Database(sqlite_url(settings.database_path))))
        with database.write() as writer:
            writer.add_user("root", passwords.hash_password(PASSPHRASE), True)
        with key_change(settings.gnupg_home, store, database), database.write() as writer:
            key = store.make(KeyType.GNUPG, PASSPHRASE, UserId("key"))
            writer.add_key("key", KeyType.GNUPG, key.fingerprint)
            writer.add_access("root", "key", envelope.seal(Secret("key"), PASSPHRASE), True)
            note = json.loads((home.path / "sigul-stack-change.json").read_text())
            there = below(home.path)
        unknown = {name for name in there if not any(pattern(row).fullmatch(name) for row in rows)}
        assert not unknown, "docs/storage.md lacks these files of a GnuPG home"
        for name in rows:
            sample(home.path, name)
        for name in nss_rows:
            (tmp_path / "nss" / name.replace("*", "x")).touch()
        made = create_backup(
            settings,
            tmp_path / "backup.tar",
            BackupOptions(nss=tmp_path / "nss"),
            now=NOW,
            made_by="test",
        )
    members = {member.path for member in made.manifest.members}
    for part, chapter, saved in (
        ("gnupg", "OpenPGP keys", "yes"),
        ("nss", "NSS databases", "with `--with-nss`"),
    ):
        found = table(chapter, "name")
        require(
            found, [[*row[:-1], saved if in_backup(part, row, members) else "no"] for row in found]
        )
    assert PASSWORD_FILE_NAME in nss_rows
    assert DATABASE in members
    # What was under way is as the page shows it.
    shown = json.loads("".join(code_blocks(PAGE, "json")[2]))
    assert note.keys() == shown.keys()
    assert note == {"before": [], "removing": []}


@pytest.mark.system
def test_what_stays_of_a_deleted_openpgp_key(settings: ServerSettings) -> None:
    home = GnuPGHome(settings.gnupg_home, settings=KeySettings("ed25519", 0, "", 0))
    home.prepare()
    try:
        fingerprint = home.generate(PASSPHRASE, UserId("key"))
        (secret,) = (home.path / "private-keys-v1.d").iterdir()
        assert b'"65536"' in secret.read_bytes()
        home.delete(fingerprint)
        left = {name for name in below(home.path) if "/" in name}
    finally:
        home.stop_agent()
    assert left == {f"openpgp-revocs.d/{fingerprint}.rev"}
    (row,) = (row for row in table("OpenPGP keys", "name") if "openpgp-revocs.d" in row[0])
    assert "it stays when the key is deleted" in row[1]


@pytest.mark.parametrize("size", [4, 5])
def test_a_payload_has_no_name_wherever_it_is(size: int, tmp_path: Path) -> None:
    spool = Spool(size, in_memory_limit=4, directory=tmp_path)
    spool.write(bytes(size))
    with spool.file:
        assert list(tmp_path.iterdir()) == []
        on_disk = os.fstat(spool.file.fileno()).st_dev == tmp_path.stat().st_dev
        assert on_disk == (size > 4)


# --- What is where -------------------------------------------------------------------------------


def test_places_are_those_of_the_code() -> None:
    defaults = {
        field.name.replace("_", "-"): field.default for field in dataclasses.fields(ServerSettings)
    }
    defaults["nss-dir"] = shared.DAEMON_NSS_DIRECTORY
    parts = {
        "database-path": f"`{DATABASE}`",
        "gnupg-home": "`gnupg/`",
        "keys-storage": "`keys/`",
        "nss-dir": "`nss/` with `--with-nss`",
        "spool-directory": NOTHING,
    }
    found = table("What is where", "what")
    expected = [
        [NOTHING if defaults[option] is None else f"`{defaults[option]}`", part]
        for option, part in parts.items()
    ]
    assert [names(row[1])[0] for row in found] == list(parts)
    require([row[2:] for row in found], expected)


def test_what_else_holds_the_page_exists() -> None:
    rows = table("What holds this page", "section")
    chapters = [line.chapter for line in lines(PAGE) if line.text.startswith("## ")]
    assert [row[0] for row in rows] == chapters[1:-1]
    assert set(chapters) <= set(headings(PAGE))
    for section, tests in rows:
        assert names(tests), section
        for name in names(tests):
            module, _, test = name.partition("::")
            there = functions(TOP / module)
            assert any(fnmatchcase(found, test) for found in there), f"{name}: there is none"
