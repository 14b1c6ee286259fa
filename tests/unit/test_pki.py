"""`sigul_stack.pki` without a single NSS database: names, passwords, files, the tools' runner."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from sigul_stack.cli import pki as command
from sigul_stack.errors import ConfigurationError, NSSError, ToolMissing
from sigul_stack.pki import (
    DatabaseKind,
    LeafRequest,
    NSSDatabase,
    Permissions,
    Role,
    make_password_file,
    make_site,
    read_password,
)
from sigul_stack.pki.certificate_info import covers, is_authority, key_id
from sigul_stack.pki.contents import check_nickname
from sigul_stack.pki.leaf import general_name
from sigul_stack.pki.nss_tools import named, run_tool
from sigul_stack.pki.password_files import PASSWORD_FILE_NAME, write_file
from sigul_stack.secret import Secret
from sigul_stack.system.programs import memory_file

MAX_ITERATIONS = "NSS_MAX_MP_PBE_ITERATION_COUNT"
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def self_signed(*names: x509.GeneralName, common: str = "bridge.example.org") -> x509.Certificate:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


# ------------------------------------------------------------------------------ what is asked for


def test_host_name_and_further_names_become_sans_once() -> None:
    request = LeafRequest(
        Role.BRIDGE, "bridge.example.org", ("bridge", "192.0.2.7", "bridge.example.org", "::1")
    )
    assert [str(name.value) for name in request.alternative_names] == [
        "bridge.example.org",
        "bridge",
        "192.0.2.7",
        "::1",
    ]
    kinds = [type(name) for name in request.alternative_names]
    assert kinds == [x509.DNSName, x509.DNSName, x509.IPAddress, x509.IPAddress]


def test_a_users_name_is_no_host_name() -> None:
    assert LeafRequest(Role.CLIENT, "admin").alternative_names == ()


def test_a_server_that_nobody_could_check_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--san"):
        LeafRequest(Role.SERVER, "The Signing Server")
    assert LeafRequest(Role.SERVER, "The Signing Server", ("server",)).alternative_names


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "https://bridge",
        "bridge:44334",
        "-a",
        "a..b",
        "a" * 64,
        "ä.org",
        "1.2.3.400",
        ".".join(["abcdefgh"] * 29),
        "*.example.org",
    ],
)
def test_what_is_no_host_name_is_no_san(name: str) -> None:
    with pytest.raises(ConfigurationError, match="neither a host name nor an IP address"):
        general_name(name)


@pytest.mark.parametrize("name", ["", "x" * 65, "ad\0min", "ädmin", "a\nb"])
def test_impossible_common_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="printable"):
        LeafRequest(Role.CLIENT, name)


def test_lifetime_and_key_size_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="lifetime"):
        LeafRequest(Role.CLIENT, "admin", lifetime=timedelta(0))
    with pytest.raises(ConfigurationError, match="1024"):
        LeafRequest(Role.CLIENT, "admin", key_bits=1024)


@pytest.mark.parametrize("nickname", ["", " a", "a ", "NSS Certificate DB:x", "-n", "a\nb"])
def test_nicknames_that_nss_would_take_apart_are_refused(nickname: str) -> None:
    with pytest.raises(ConfigurationError):
        check_nickname(nickname)


def test_a_site_with_an_impossible_name_makes_nothing(tmp_path: Path) -> None:
    for bad in ({"users": ["../../etc"]}, {"users": ["a"], "bridge_names": ["a b"]}):
        with pytest.raises(ConfigurationError):
            make_site(tmp_path / "site", bridge="bridge", server="server", **bad)  # type: ignore[arg-type]
    assert not (tmp_path / "site").exists()


# ---------------------------------------------------------------------------- what is in there


def test_names_are_compared_as_tls_does() -> None:
    certificate = self_signed(
        x509.DNSName("Bridge.example.org"),
        x509.DNSName("*.lab.example.org"),
        general_name("192.0.2.7"),
    )
    for name in ("bridge.example.org", "BRIDGE.example.org.", "a.lab.example.org", "192.0.2.7"):
        assert covers(name, certificate), name
    for name in ("example.org", "lab.example.org", "a.b.lab.example.org", "192.0.2.8", "bridge"):
        assert not covers(name, certificate), name
    assert covers("bridge.example.org", self_signed()), "without SANs, the CN counts"
    assert not covers("bridge.example.org", self_signed(x509.DNSName("other"))), "with, it does not"


def test_old_authorities_are_known_by_having_issued_themselves() -> None:
    assert is_authority(self_signed())


def test_key_id_is_what_nss_keeps_the_key_under() -> None:
    # Of the CA in the legacy site, as `certutil -K` shows it.
    from tests.held_data import held

    pem = held("legacy-site", "ca.pem").read_bytes()
    assert key_id(x509.load_pem_x509_certificate(pem)) == "c249c58bdcdfb157dfc8976467a911670d4b8223"


# ------------------------------------------------------------------------------------- databases


@pytest.mark.parametrize(
    ("names", "kind", "words"),
    [
        ((), DatabaseKind.MISSING, ("does not contain a valid NSS database", "sigul-stack pki")),
        (("cert8.db", "key3.db", "secmod.db"), DatabaseKind.DBM, ("old format", "pki convert")),
        (("key4.db",), DatabaseKind.INCOMPLETE, ("backup",)),
        (("cert9.db", "cert8.db"), DatabaseKind.INCOMPLETE, ("backup",)),
        (("cert9.db", "key4.db", "cert8.db", "key3.db"), DatabaseKind.SQL, ()),
    ],
)
def test_kinds_of_databases_are_told_apart(
    tmp_path: Path, names: tuple[str, ...], kind: DatabaseKind, words: tuple[str, ...]
) -> None:
    for name in names:
        (tmp_path / name).touch()
    for prefix in ("", "sql:", "dbm:"):
        database = NSSDatabase(f"{prefix}{tmp_path}")
        assert database.recognise() is kind
        if words:
            with pytest.raises(NSSError) as raised:
                database.require()
            assert all(word in str(raised.value) for word in (*words, str(tmp_path)))
        else:
            database.require()


def test_a_file_in_a_directorys_place_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert NSSDatabase(tmp_path / "file").recognise() is DatabaseKind.MISSING


def test_no_database_without_a_password(tmp_path: Path) -> None:
    database = NSSDatabase(tmp_path / "new", Secret(""))
    with pytest.raises(NSSError, match="without a password"), database.making():
        pass
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------------------------- passwords


@pytest.mark.parametrize("content", [b"pass word", b"pass word\n", b"pass word\r\n"])
def test_one_line_end_is_not_part_of_a_password(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pw").write_bytes(content)
    assert read_password(tmp_path / "pw") == Secret("pass word")


@pytest.mark.parametrize("content", [b"a\nb", b"a\n\n", b"a\0b", b"x" * 5000])
def test_what_is_no_password_file_is_refused_without_showing_it(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "pw").write_bytes(content)
    with pytest.raises(ConfigurationError) as raised:
        read_password(tmp_path / "pw")
    assert content.decode() not in str(raised.value)


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="none-there"):
        read_password(tmp_path / "none-there")


def test_made_password_files_hold_the_password_alone_and_are_kept(tmp_path: Path) -> None:
    password = make_password_file(tmp_path / "new", Permissions())
    path = tmp_path / "new" / PASSWORD_FILE_NAME
    assert path.read_bytes() == password.reveal()
    assert len(password.reveal()) == 43
    assert b"\n" not in password.reveal()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert make_password_file(tmp_path / "new", Permissions()) == password
    assert list((tmp_path / "new").iterdir()) == [path]


def test_modes_open_the_directory_as_far_as_the_files(tmp_path: Path) -> None:
    wanted = Permissions.parse(f"{os.getuid()}:{os.getgid()}", "0640")
    make_password_file(tmp_path / "new", wanted)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "new" / PASSWORD_FILE_NAME).stat().st_mode) == 0o640
    assert (wanted.uid, wanted.gid) == (os.getuid(), os.getgid())


@pytest.mark.parametrize("mode", ["0777", "0400", "rw", "0602", "8"])
def test_modes_that_make_no_sense_are_refused(mode: str) -> None:
    with pytest.raises(ConfigurationError, match="0640"):
        Permissions.parse(None, mode)


def test_owners_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no-such-user"):
        Permissions.parse("no-such-user", None)
    with pytest.raises(ConfigurationError, match="no-such-group"):
        Permissions.parse("root:no-such-group", None)


# ----------------------------------------------------------------------------------------- tools


def test_a_missing_tool_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    database = NSSDatabase(tmp_path / "new", Secret("a password"))
    with pytest.raises(ToolMissing, match="libnss3-tools"), database.making():
        pass
    assert not list(tmp_path.rglob("*.db"))


@pytest.mark.system
def test_memory_files_are_read_again_and_again_and_written(tmp_path: Path) -> None:
    with memory_file(b"twice\n") as given, memory_file() as empty:
        script = 'cat "$1" "$1" "$1" > "$2"'
        outcome = run_tool("sh", "-c", script, "sh", given, empty, directory=tmp_path)
        assert (outcome.returncode, outcome.stderr) == (0, "")
        assert Path(named(empty)).read_bytes() == b"twice\n" * 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.system
def test_tools_inherit_neither_environment_nor_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGUL_TEST_PASSWORD", "do not hand on")
    monkeypatch.delenv(MAX_ITERATIONS, raising=False)
    outcome = run_tool("sh", "-c", "env", directory=tmp_path, iterations=1000)
    assert "do not hand on" not in outcome.stdout.decode()
    assert f"{MAX_ITERATIONS}=1000" in outcome.stdout.decode().splitlines()
    outcome = run_tool("sh", "-c", "exec < /dev/tty", directory=tmp_path)
    assert outcome.returncode != 0


@pytest.mark.system
@pytest.mark.parametrize(
    ("given", "asked", "handed_on"),
    [
        (None, None, None), ("5", None, "5"), ("5", 1000, "5"), ("5000", 1000, "1000"),
        ("", 1000, "1000"), ("many", None, None), ("-5", None, None), ("0", 1000, "1000"),
    ],
)  # fmt: skip
def test_tools_inherit_nsss_own_limit_on_iterations(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    asked: int | None,
    handed_on: str | None,
) -> None:
    """The lower one of what the environment and the caller say."""
    monkeypatch.delenv(MAX_ITERATIONS, raising=False)
    if given is not None:
        monkeypatch.setenv(MAX_ITERATIONS, given)
    outcome = run_tool("sh", "-c", "env", directory=tmp_path, iterations=asked)
    told = [
        line for line in outcome.stdout.decode().splitlines() if line.startswith(MAX_ITERATIONS)
    ]
    assert told == ([] if handed_on is None else [f"{MAX_ITERATIONS}={handed_on}"])


def test_importing_pki_neither_runs_nor_imports_nss() -> None:
    script = (
        "import sys, sigul_stack.pki as pki; pki.make_site; import sigul_stack.cli.pki;"
        "sys.exit('nss' in sys.modules or 'nss.nss' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# ---------------------------------------------------------------------------------- command line


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="sigul-stack")
    command.add_parser(top.add_subparsers(required=True))
    return top


COMMANDS = (
    *("site", "init-ca", "issue", "import", "export", "list", "check"),
    *("renew", "renew-ca", "rollover", "remove", "convert"),
)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["pki", name, "--help"])
    assert ended.value.code == 0
    assert f"Example:\n  sigul-stack pki {name} " in capsys.readouterr().out


@pytest.mark.parametrize("years", ["0", "-1", "300", "nan", "inf", "two"])
def test_lifetimes_are_sensible(years: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["pki", "init-ca", "--dir", "x", "--years", years])
    assert ended.value.code == 2
    assert "number of years" in capsys.readouterr().err


def test_default_lifetimes_are_ten_years_and_two() -> None:
    args = parser().parse_args(
        ["pki", "site", "--dir", "x", "--bridge", "b", "--server", "s", "--user", "a"]
    )
    assert args.ca_years == timedelta(days=3650)
    assert args.years == timedelta(days=730)


def test_import_says_what_it_lacks(tmp_path: Path) -> None:
    for words, message in (
        ([], "nothing to import"),
        (["--cert", "a"], "go together"),
        (["--cert", "a", "--key", "b", "--pkcs12", "c"], "either"),
    ):
        args = parser().parse_args(["pki", "import", "--into", str(tmp_path / "new"), *words])
        with pytest.raises(ConfigurationError, match=message):
            args.func(args)
    assert not (tmp_path / "new").exists()


def test_check_of_nothing_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = parser().parse_args(["pki", "check", str(tmp_path), "--role", "client", "--json"])
    assert args.func(args) == 1
    (finding,) = json.loads(capsys.readouterr().out)
    assert (finding["severity"], finding["topic"]) == ("error", "database")


# --------------------------------------------------------------------------------- files, whole


def test_what_a_killed_writer_left_is_removed_and_what_one_writes_is_not(tmp_path: Path) -> None:
    left, written = tmp_path / ".file.killed", tmp_path / ".file.writes"
    left.write_text("half")
    other = tmp_path / ".other.abc"
    other.touch()
    with written.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_file(tmp_path / "file", b"whole", Permissions())
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "file", other, written])
    assert (tmp_path / "file").read_bytes() == b"whole"
