"""The GnuPG home: keys are made, imported, changed and deleted whole, with the real gpg."""

from __future__ import annotations

import datetime
import hashlib
import logging
import operator
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest

from sigul_stack.errors import (
    ConfigurationError,
    KeystoreError,
    RequestRefused,
    Status,
    ToolMissing,
    WrongPassphrase,
)
from sigul_stack.keystore.gnupg import GnuPGHome, KeySettings, UserId, directory, scratch
from sigul_stack.keystore.gnupg.agent import AgentConnection, SecretKeyDamaged
from sigul_stack.keystore.storage import locked_keys
from sigul_stack.secret import Secret
from sigul_stack.system import wall
from sigul_stack.system.programs import MAX_OUTPUT, ToolTimeout
from tests.held_data import held
from tests.site import wait_until

from .gnupg_support import (
    CURVES,
    LEGACY_KEY,
    Outside,
    agents,
    gnupg_home,
    legacy_home,
    legacy_passphrase,
    openpgp_key,
    outside_home,
)

PASSPHRASE = Secret("nKRGmQ9C_Vds-apcVaS6ioMsNNha-OypuKkhvZHOzt4Ek0qF0K6MAakUCcxjoaKc")
NAME = UserId("release")
FAR = datetime.date(2099, 5, 6)
#: A user for whom nothing here is meant.
NOBODY = 65534


@pytest.fixture
def home(tmp_path: Path) -> Iterator[GnuPGHome]:
    with gnupg_home(tmp_path / "gnupg") as home:
        yield home


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Outside]:
    with outside_home(tmp_path / "person") as person:
        yield person


def secret_files(home: GnuPGHome) -> set[str]:
    return {path.stem for path in (home.path / "private-keys-v1.d").glob("*.key")}


def assert_consistent(home: GnuPGHome) -> None:
    """No half-made key, no scratch home, no agent but the home's own."""
    assert not list(home.path.glob(".new-*"))
    listed = {part.keygrip for key in home.list_keys() for part in key.parts}
    assert secret_files(home) == listed
    assert len(agents(home.path)) <= 1


def assert_signs(home: GnuPGHome, fingerprint: str, passphrase: Secret = PASSPHRASE) -> None:
    signature = BytesIO()
    openpgp_key(home, fingerprint, passphrase).detach_sign(BytesIO(b"data"), signature, armor=False)
    assert signature.getvalue()
    with pytest.raises(WrongPassphrase):
        openpgp_key(home, fingerprint, Secret("wrong")).detach_sign(
            BytesIO(b"data"), signature, armor=False
        )


# --- The home itself ---------------------------------------------------------------------------


def test_a_new_home_is_private_and_keeps_no_passphrases(home: GnuPGHome) -> None:
    assert home.path.stat().st_mode & 0o777 == 0o700
    settings = (home.path / "gpg-agent.conf").read_text().splitlines()
    assert {"allow-loopback-pinentry", "default-cache-ttl 0", "max-cache-ttl 0"} <= set(settings)
    # That would also weaken what people's passphrases protect.
    assert not any(line.startswith("s2k-count") for line in settings)
    home.prepare()
    assert home.fingerprints() == frozenset()


def test_an_empty_directory_that_is_there_becomes_a_home(tmp_path: Path) -> None:
    (tmp_path / "gnupg").mkdir(mode=0o755)
    with gnupg_home(tmp_path / "gnupg") as home:
        assert home.path.stat().st_mode & 0o777 == 0o700


def test_an_existing_home_is_checked_and_left_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), legacy_home(tmp_path / "gnupg") as home:
        for name in ("gpg.conf", "gpg-agent.conf"):
            original = held("legacy-site", "gnupg", name).read_bytes()
            assert (home.path / name).read_bytes() == original
        (told,) = caplog.records
        assert "add: auto-expand-secmem" in told.getMessage()
        (home.path / "gpg-agent.conf").write_text("# max-cache-ttl 0\n  max-cache-ttl 600\n")
        home.prepare()
        assert "max-cache-ttl 0" in caplog.text


def test_a_home_that_others_may_read_is_refused(home: GnuPGHome) -> None:
    home.path.chmod(0o750)
    with pytest.raises(KeystoreError, match=r"chmod 700"):
        home.prepare()


@pytest.mark.parametrize(
    ("file", "line"),
    [("gpg-agent.conf", "no-allow-loopback-pinentry"), ("common.conf", "use-keyboxd")],
)
def test_a_home_with_settings_that_cannot_work_is_refused(
    home: GnuPGHome, file: str, line: str
) -> None:
    with (home.path / file).open("a") as configuration:
        configuration.write(f"\n  {line}\n")
    with pytest.raises(KeystoreError, match=f"{file}.*{line}.*remove that line"):
        home.prepare()


def test_a_home_where_none_can_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KeystoreError, match=r"key store in .*file/gnupg"):
        GnuPGHome(tmp_path / "file" / "gnupg").prepare()


def assert_works(home: GnuPGHome, person: Outside) -> None:
    fingerprint = home.generate(PASSPHRASE, NAME)
    assert_signs(home, fingerprint)
    imported = person.make_key("imported")
    assert home.import_secret(person.export_secret(imported), Secret(""), PASSPHRASE)
    assert home.fingerprints() == {fingerprint, imported}
    assert_consistent(home)


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory with a path of 20 bytes, whatever pytest and the user are called."""
    directory = Path(tempfile.mkdtemp(prefix="sigul-tests-", dir="/tmp"))
    link = Path(f"/tmp/{secrets.token_hex(7)}x")
    assert len(str(link)) == 20
    link.symlink_to(directory)
    yield link
    link.unlink()
    shutil.rmtree(directory)


# A home's own sockets fit up to 86 bytes, those of a scratch home in it up to 72.
@pytest.mark.parametrize("length", [71, 72, 73, 74, 85, 86, 87, 88, 120, 200])
def test_paths_as_long_as_a_socket_and_longer(
    short_directory: Path, person: Outside, length: int
) -> None:
    path = short_directory / ("d" * (length - 21))
    assert len(str(path)) == length
    with gnupg_home(path) as home:
        assert_works(home, person)
    assert not (path / "S.gpg-agent").exists()


@pytest.mark.root
def test_nobody_takes_the_place_of_short_names(
    short_directory: Path, person: Outside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user is first with each name that he can think of, and with his home behind it."""
    monkeypatch.setattr(directory, "_SHORT_NAMES", short_directory)
    short_directory.chmod(0o1777)
    deep = tmp_path / ("d" * 120)
    link = hashlib.sha256(os.fsencode(deep)).hexdigest()[:32]
    his = short_directory / "his"
    his.mkdir(mode=0o700)
    for name in (f"sigul-gnupg-{os.geteuid()}", f"sigul-gnupg-{os.geteuid()}.aaaaaaaa"):
        (short_directory / name).mkdir(mode=0o700)
        (short_directory / name / link).symlink_to(his)
        os.chown(short_directory / name, NOBODY, NOBODY)
    with gnupg_home(deep) as home:
        assert_works(home, person)
        assert len(agents(short_directory)) == 1
    assert list(his.iterdir()) == []


@pytest.mark.parametrize("kind", ["open to others", "a link"])
def test_a_place_for_short_names_that_others_may_use_is_passed_over(
    kind: str, short_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "_SHORT_NAMES", short_directory)
    known = short_directory / f"sigul-gnupg-{os.geteuid()}"
    if kind == "a link":
        known.symlink_to(tmp_path)
    else:
        known.mkdir()
        known.chmod(0o770)
    path = tmp_path / ("d" * 120)
    short = directory.short_path(path)
    assert short.readlink() == path
    assert short.parent != known
    assert stat.S_IMODE(short.parent.lstat().st_mode) == 0o700
    assert directory.short_path(path) == short


def await_one_agent(directory: Path) -> None:
    """That of a home where a key was made has ended its work, and perhaps not yet its process."""
    wait_until(lambda: len(agents(directory)) == 1, 30, "one agent alone")


@pytest.mark.parametrize("taken", [False, True], ids=["free", "taken"])
def test_a_short_name_that_is_cleaned_away_does_not_stop_the_agent_s_work(
    taken: bool, short_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "_SHORT_NAMES", short_directory)
    with gnupg_home(tmp_path / ("d" * 120)) as home:
        fingerprint = home.generate(PASSPHRASE, NAME)
        await_one_agent(short_directory)
        known = directory.short_path(home.path).parent
        shutil.rmtree(known)
        if taken:
            known.mkdir(mode=0o755)  # as somebody else's would be
        for _ in range(2):
            assert_signs(home, fingerprint)
        await_one_agent(short_directory)


def test_many_processes_start_one_agent(home: GnuPGHome) -> None:
    fingerprint = home.generate(PASSPHRASE, NAME)
    home.stop_agent()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: assert_signs(home, fingerprint), range(32)))
    assert len(agents(home.path)) == 1


def test_the_agent_can_be_stopped_and_comes_back(home: GnuPGHome) -> None:
    fingerprint = home.generate(PASSPHRASE, NAME)
    home.stop_agent()
    home.stop_agent()
    for _ in range(200):
        if not agents(home.path):
            break
        time.sleep(0.05)
    assert agents(home.path) == []
    assert_signs(home, fingerprint)


def test_a_passphrase_is_not_kept(home: GnuPGHome) -> None:
    fingerprint = home.generate(PASSPHRASE, NAME)
    for _ in range(3):
        assert_signs(home, fingerprint)


# --- Making keys -------------------------------------------------------------------------------


def test_a_key_as_the_default_settings_make_it(tmp_path: Path, person: Outside) -> None:
    with gnupg_home(tmp_path / "gnupg", KeySettings()) as home:
        fingerprint = home.generate(
            PASSPHRASE, UserId("Lab Release", "for tests", "release@example.org"), FAR
        )
        assert re.fullmatch("[0-9A-F]{40}", fingerprint)
        assert home.fingerprints() == {fingerprint}
        assert_signs(home, fingerprint)
        person.gpg("--import", data=home.public(fingerprint))
    listing = person.gpg("--with-colons", "--list-keys").decode()
    assert "Lab Release (for tests) <release@example.org>" in listing
    pub, sub = (line.split(":") for line in listing.splitlines() if line[:3] in ("pub", "sub"))
    for record in (pub, sub):
        assert record[2:4] == ["2048", "1"]
        assert datetime.datetime.fromtimestamp(int(record[6]), datetime.UTC).date() == FAR
    assert pub[11] == "scESCA"  # itself signs and certifies; the rest, by its subkey
    assert sub[11] == "esa"


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        (KeySettings("RSA", 1024, "", 0), [("1024", "1")]),
        (KeySettings("RSA", 3072, "ELG", 1024), [("3072", "1"), ("1024", "16")]),
        (CURVES, [("255", "22"), ("255", "18")]),
        (KeySettings("nistp256", 0, "nistp384", 0, "Sign"), [("256", "19"), ("384", "18")]),
    ],
)
def test_other_kinds_of_keys(
    tmp_path: Path, settings: KeySettings, kinds: list[tuple[str, str]]
) -> None:
    with gnupg_home(tmp_path / "gnupg", settings) as home:
        fingerprint = home.generate(PASSPHRASE, NAME)
        listing = home.run(["--with-colons", "--list-keys"]).output.decode()
        assert_signs(home, fingerprint)
    records = [line.split(":") for line in listing.splitlines() if line[:3] in ("pub", "sub")]
    assert [(record[2], record[3]) for record in records] == kinds
    assert {record[6] for record in records} == {""}


@pytest.mark.parametrize(
    "name",
    ["k", "1", "%commit", "a (b)", "Ünïcode", "  x  ", "\\n", "#x", "a\u3000b", "a\u2028pub"],
)
def test_any_key_name_will_do_as_a_user_id(home: GnuPGHome, name: str) -> None:
    home.generate(PASSPHRASE, UserId(name))
    assert f"::{name.strip()}::".replace("\\", "\\x5c") in home.run(
        ["--with-colons", "--list-keys"]
    ).output.decode("utf-8")


@pytest.mark.parametrize(
    "user_id",
    [UserId("a\nKey-Length: 1"), UserId("a\n%no-protection"), UserId("a", email="a@b> <c@d"),
     UserId("a", comment="\r"), UserId("")],
)  # fmt: skip
def test_a_user_id_that_cannot_be(home: GnuPGHome, user_id: UserId) -> None:
    with pytest.raises(KeystoreError):
        home.generate(PASSPHRASE, user_id)
    assert home.list_keys() == []
    assert_consistent(home)


def test_a_key_cannot_have_expired_when_it_is_made(home: GnuPGHome) -> None:
    with pytest.raises(KeystoreError, match="check the user ID, the expiry date"):
        home.generate(PASSPHRASE, NAME, datetime.date(2001, 2, 3))
    assert_consistent(home)


@pytest.mark.parametrize(
    "settings",
    [KeySettings(key_type="RSA\nx"), KeySettings(subkey_type="a b"), KeySettings(key_type=""),
     KeySettings(key_type="cv25519"), KeySettings(key_usage="sign\n%x")],
)  # fmt: skip
def test_settings_that_gpg_could_misunderstand(home: GnuPGHome, settings: KeySettings) -> None:
    with pytest.raises(ConfigurationError, match="gnupg-"):
        GnuPGHome(home.path, settings=settings).generate(PASSPHRASE, NAME)
    assert_consistent(home)


def test_new_keys_need_no_slow_passphrase_hashing(home: GnuPGHome) -> None:
    home.generate(PASSPHRASE, NAME)
    keys = list((home.path / "private-keys-v1.d").iterdir())
    assert len(keys) == 2
    for path in keys:
        assert '"65536"' in path.read_text("latin-1")  # the count of the passphrase's hashing


def break_protection(file: Path) -> None:
    """Take a byte of the salt away, as agents do to one in 7,000 keys that they write."""
    data, count = re.subn(
        rb'\(sha1 (#[0-9A-F]{16}#|"(\\.|[^"\\])*")', b"(sha1 #00112233445566#", file.read_bytes()
    )
    assert count == 1
    file.write_bytes(data)


@pytest.fixture
def breaking(home: GnuPGHome, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that has the next so many secret keys broken as soon as they were written."""
    verify, left = AgentConnection.verify, [0]

    def break_and_verify(agent: AgentConnection, keygrip: str, passphrase: Secret) -> None:
        if left[0]:
            left[0] -= 1
            (file,) = home.path.glob(f".new-*/private-keys-v1.d/{keygrip}.key")
            break_protection(file)
        verify(agent, keygrip, passphrase)

    monkeypatch.setattr(AgentConnection, "verify", break_and_verify)
    return lambda count: operator.setitem(left, 0, count)


def test_a_new_key_that_does_not_open_is_made_anew(
    home: GnuPGHome, breaking: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    breaking(2)
    assert_signs(home, home.generate(PASSPHRASE, NAME))
    assert caplog.text.count("no passphrase opens the secret key any more") == 2
    breaking(3)
    with pytest.raises(SecretKeyDamaged, match="no passphrase opens"):
        home.generate(PASSPHRASE, NAME)
    assert len(home.list_keys()) == 1
    assert_consistent(home)


def test_an_imported_key_that_does_not_open_is_imported_anew(
    home: GnuPGHome, person: Outside, breaking: Callable[[int], None]
) -> None:
    data = person.gpg("--export-secret-keys", person.make_key("release"), passphrase="")
    breaking(2)
    assert_signs(home, home.import_secret(data, Secret(""), PASSPHRASE))
    assert_consistent(home)


def test_a_key_that_does_not_open_any_more_says_so(home: GnuPGHome) -> None:
    fingerprint = home.generate(PASSPHRASE, NAME)
    for file in home.path.glob("private-keys-v1.d/*.key"):
        break_protection(file)
    with pytest.raises(KeystoreError, match="no passphrase opens it") as caught:
        assert_signs(home, fingerprint)
    assert "backup" in caught.value.cure


def test_many_keys_at_once(home: GnuPGHome) -> None:
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda n: home.generate(PASSPHRASE, UserId(f"k{n}")), range(6)))
    assert home.fingerprints() == set(made)
    assert_consistent(home)


# --- Importing keys ----------------------------------------------------------------------------


@pytest.mark.parametrize("passphrase", ["file passphrase", "ä%\\ \"'x", "x" * 200])
@pytest.mark.parametrize("armor", [True, False])
def test_an_imported_key_gets_its_own_passphrase(
    home: GnuPGHome, person: Outside, passphrase: str, armor: bool
) -> None:
    fingerprint = person.make_key("imported", passphrase)
    data = person.export_secret(fingerprint, passphrase=passphrase, armor=armor)
    assert home.import_secret(data, Secret(passphrase), PASSPHRASE) == fingerprint
    assert home.fingerprints() == {fingerprint}
    assert_signs(home, fingerprint)
    assert_consistent(home)
    assert all(part.secret for key in home.list_keys() for part in key.parts)
    keys = list((home.path / "private-keys-v1.d").iterdir())
    assert len(keys) == 2
    for path in keys:
        assert '"65536"' in path.read_text("latin-1")


def test_a_file_without_a_passphrase_can_be_imported(home: GnuPGHome, person: Outside) -> None:
    fingerprint = person.make_key("imported")
    home.import_secret(person.export_secret(fingerprint), Secret("whatever"), PASSPHRASE)
    assert_signs(home, fingerprint)


def test_a_key_without_its_primary_secret_can_be_imported(home: GnuPGHome, person: Outside) -> None:
    fingerprint = person.make_key("offline")
    person.gpg("--quick-add-key", fingerprint, "ed25519", "sign")
    data = person.gpg("--export-secret-subkeys", fingerprint)
    home.import_secret(data, Secret(""), PASSPHRASE)
    assert_signs(home, fingerprint)
    home.delete(fingerprint)
    assert_consistent(home)


@pytest.mark.parametrize("given", ["wrong", "", "x" * 254])
def test_a_wrong_passphrase_of_the_file(home: GnuPGHome, person: Outside, given: str) -> None:
    data = person.export_secret(person.make_key("imported", "right"), passphrase="right")
    with pytest.raises(RequestRefused) as raised:
        home.import_secret(data, Secret(given), PASSPHRASE)
    assert raised.value.status == Status.IMPORT_PASSPHRASE_ERROR
    assert home.list_keys() == []
    assert_consistent(home)


def test_what_is_no_secret_key(home: GnuPGHome, person: Outside) -> None:
    one, two = person.make_key("one"), person.make_key("two")
    secret = person.export_secret(one, armor=False)
    for data in (
        b"", b"garbage", b"\xff" * 1000, secret[:-1], secret[: secret.index(b"\xb4\x15one ")],
        *(secret[:cut] for cut in range(10, len(secret) // 2, 40)),
        b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n=AAAA\n-----END PGP PRIVATE KEY BLOCK-----\n",
        person.gpg("--export", one), person.gpg("--armor", "--export", one),
        person.export_secret(one, two), secret + person.gpg("--export", two),
        person.gpg("--symmetric", data=secret, passphrase="x"),
    ):  # fmt: skip
        with pytest.raises(RequestRefused) as raised:
            home.import_secret(data, Secret(""), PASSPHRASE)
        assert raised.value.status == Status.INVALID_IMPORT
    assert home.list_keys() == []
    assert_consistent(home)


def test_a_key_that_is_there_cannot_be_imported(home: GnuPGHome, person: Outside) -> None:
    fingerprint = person.make_key("imported")
    data = person.export_secret(fingerprint)
    home.import_secret(data, Secret(""), PASSPHRASE)
    with pytest.raises(RequestRefused) as raised:
        home.import_secret(data, Secret(""), Secret("another"))
    assert raised.value.status == Status.ALREADY_EXISTS
    assert_signs(home, fingerprint)
    assert_consistent(home)


def test_of_imports_of_one_key_at_once_one_succeeds(home: GnuPGHome, person: Outside) -> None:
    data = person.export_secret(person.make_key("imported"))

    def attempt(_: int) -> object:
        try:
            return home.import_secret(data, Secret(""), PASSPHRASE)
        except RequestRefused as error:
            return error.status

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(attempt, range(4)))
    assert found.count(Status.ALREADY_EXISTS) == 3
    (fingerprint,) = home.fingerprints()
    assert_signs(home, fingerprint)
    assert_consistent(home)


# --- Deleting ----------------------------------------------------------------------------------


def test_a_deleted_key_is_gone_and_can_come_back(home: GnuPGHome, person: Outside) -> None:
    """Fault 21: a key that was not really deleted could not be imported again."""
    fingerprint, other = person.make_key("imported"), home.generate(PASSPHRASE, NAME)
    data = person.export_secret(fingerprint)
    for _ in range(2):
        home.import_secret(data, Secret(""), PASSPHRASE)
        home.delete(fingerprint)
        assert home.fingerprints() == {other}
        assert home.key(fingerprint) is None
        assert_consistent(home)


def test_deleting_finishes_what_was_broken_off(
    home: GnuPGHome, caplog: pytest.LogCaptureFixture
) -> None:
    fingerprint = home.generate(PASSPHRASE, NAME)
    home.run(["--yes", "--delete-secret-keys", fingerprint])
    home.delete(fingerprint)
    assert home.list_keys() == []
    assert not caplog.records
    home.delete(fingerprint)
    assert fingerprint in caplog.text


# --- Expiration --------------------------------------------------------------------------------


def expirations(home: GnuPGHome, fingerprint: str) -> list[datetime.date | None]:
    key = home.key(fingerprint)
    assert key is not None
    return [
        datetime.datetime.fromtimestamp(part.expires, datetime.UTC).date() if part.expires else None
        for part in key.parts
    ]


def test_expiration_of_a_key_and_of_its_subkey(home: GnuPGHome) -> None:
    fingerprint = home.generate(PASSPHRASE, NAME, FAR)
    sooner = datetime.date(2098, 1, 1)
    home.change_expiration(fingerprint, PASSPHRASE, sooner)
    assert expirations(home, fingerprint) == [sooner, FAR]
    home.change_expiration(fingerprint, PASSPHRASE, None, subkey=1)
    assert expirations(home, fingerprint) == [sooner, None]
    home.change_expiration(fingerprint, PASSPHRASE, None)
    assert expirations(home, fingerprint) == [None, None]
    home.change_expiration(fingerprint, PASSPHRASE, sooner, subkey=1)
    assert expirations(home, fingerprint) == [None, sooner]


def test_a_day_is_the_same_one_wherever_the_machine_is(
    home: GnuPGHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands for a machine whose noon is on the day before, in UTC.
    (tmp_path / "far").mkdir()
    gpg = tmp_path / "far" / "gpg"
    gpg.write_text(f'#!/bin/sh\nTZ="${{TZ:-XXX-14}}" exec {shutil.which("gpg")} "$@"\n')
    gpg.chmod(0o755)
    monkeypatch.setenv("PATH", str(gpg.parent), prepend=os.pathsep)
    monkeypatch.delenv("TZ", raising=False)
    fingerprint = home.generate(PASSPHRASE, NAME, FAR)
    sooner = datetime.date(2050, 1, 2)
    home.change_expiration(fingerprint, PASSPHRASE, sooner)
    assert expirations(home, fingerprint) == [sooner, FAR]


def test_an_expiration_that_cannot_be_changed(home: GnuPGHome) -> None:
    fingerprint = home.generate(PASSPHRASE, NAME, FAR)
    with pytest.raises(WrongPassphrase):
        home.change_expiration(fingerprint, Secret("wrong"), None)
    with pytest.raises(KeystoreError, match="date in the future"):
        home.change_expiration(fingerprint, PASSPHRASE, datetime.date(2001, 2, 3))
    for subkey in (2, -1):
        with pytest.raises(KeystoreError, match="there is no subkey"):
            home.change_expiration(fingerprint, PASSPHRASE, None, subkey=subkey)
    with pytest.raises(KeystoreError, match="is not in"):
        home.change_expiration("0" * 40, PASSPHRASE, None)
    assert expirations(home, fingerprint) == [FAR, FAR]


def test_an_expired_key_says_so_and_can_be_revived(home: GnuPGHome, person: Outside) -> None:
    long_ago = ("--faked-system-time", "20200101T000000")
    person.gpg(*long_ago, "--quick-gen-key", "short-lived", "ed25519", "sign", "seconds=1")
    fingerprint = person.list_keys()[0].fingerprint
    home.import_secret(person.export_secret(fingerprint), Secret(""), PASSPHRASE)
    with pytest.raises(KeystoreError, match="change-key-expiration"):
        openpgp_key(home, fingerprint, PASSPHRASE).detach_sign(BytesIO(b"x"), BytesIO(), armor=True)
    home.change_expiration(fingerprint, PASSPHRASE, FAR)
    assert_signs(home, fingerprint)


# --- Killed, failing and hostile surroundings --------------------------------------------------

#: Makes a key in the home that it is given, and is killed once the named function is called.
KILLED = """
import os, signal, sys
from pathlib import Path
from sigul_stack.keystore.gnupg import GnuPGHome, KeySettings, UserId, home, scratch
from sigul_stack.secret import Secret
def die(*arguments, **more):
    os.kill(os.getpid(), signal.SIGKILL)
place = home if hasattr(home, sys.argv[2]) else scratch
setattr(place, sys.argv[2], die)
GnuPGHome(Path(sys.argv[1]), settings=KeySettings("ed25519", 0, "cv25519", 0)).generate(
    Secret("passphrase"), UserId("killed"))
"""


@pytest.mark.parametrize("when", ["write_whole", "move_in", "_link_secrets", "_import_public"])
def test_a_kill_leaves_nothing_half_made(
    home: GnuPGHome, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = home.generate(PASSPHRASE, NAME)
    killed = subprocess.run([sys.executable, "-c", KILLED, home.path, when], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert home.fingerprints() == {before}
    assert list(home.path.glob(".new-*"))
    home.prepare()
    assert "left by a process that was killed" in caplog.text
    assert home.fingerprints() == {before}
    for _ in range(200):
        if len(agents(home.path)) <= 1:
            break
        time.sleep(0.05)
    assert_consistent(home)


def test_a_kill_when_the_key_is_there_leaves_it_whole(home: GnuPGHome) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, home.path, "_keep_revocation"], timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    home.prepare()
    (fingerprint,) = home.fingerprints()
    assert_signs(home, fingerprint, Secret("passphrase"))


def test_keys_in_the_making_are_no_leftovers(home: GnuPGHome) -> None:
    with scratch.scratch_home(home) as making:
        home.prepare()
        assert making.path.exists()
    assert not making.path.exists()


def test_a_failure_while_moving_in_leaves_nothing(
    home: GnuPGHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for step in ("_link_secrets", "_import_public", "_keep_revocation", "sync_keys"):
        with monkeypatch.context() as patched:
            patched.setattr(scratch, step, fail)
            with pytest.raises(KeystoreError, match="No space left"):
                home.generate(PASSPHRASE, NAME)
        assert home.list_keys() == []
        assert_consistent(home)


def test_changes_wait_for_one_another_but_not_for_ever(home: GnuPGHome) -> None:
    impatient = GnuPGHome(home.path, settings=CURVES, time_limit=0.2)
    with locked_keys(home.path, 1), pytest.raises(KeystoreError, match="try again later"):
        impatient.delete("0" * 40)


def test_without_gpg_its_package_is_named(
    home: GnuPGHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="install the package gnupg"):
        home.list_keys()
    monkeypatch.undo()


@pytest.fixture
def pretend_gpg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that is run instead of gpg, to be written."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    program = directory / "gpg"
    program.touch(mode=0o700)
    return program


def test_a_gpg_that_hangs_is_ended_with_all_its_children(pretend_gpg: Path, tmp_path: Path) -> None:
    children = tmp_path / "children"
    pretend_gpg.write_text(f"#!/bin/sh\nsleep 1000 &\necho $! $$ >{children}\nwait\n")
    with pytest.raises(ToolTimeout, match=r"gpg did not finish within 0.5 s"):
        GnuPGHome(tmp_path, time_limit=0.5).run(["--version"])
    for number in children.read_text().split():
        for _ in range(200):
            state = Path("/proc", number, "stat")
            if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
                break
            time.sleep(0.05)
        else:
            pytest.fail(f"process {number} still runs")


@pytest.mark.parametrize("output", ["", ">&2"])
def test_a_gpg_that_writes_without_end_is_ended(
    pretend_gpg: Path, tmp_path: Path, output: str
) -> None:
    pretend_gpg.write_text(f"#!/bin/sh\nexec yes {output}\n")
    with pytest.raises(KeystoreError, match=f"more than {MAX_OUTPUT} bytes"):
        GnuPGHome(tmp_path).run(["--version"])


def test_secrets_are_in_no_argument_and_no_environment(
    home: GnuPGHome,
    pretend_gpg: Path,
    tmp_path: Path,
    person: Outside,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = tmp_path / "seen"
    seen.touch()
    # All that the stand-in may do besides what gpg may.
    monkeypatch.setattr(wall, "DEVICES", (*wall.DEVICES, seen))
    pretend_gpg.write_text(
        f'#!/bin/sh\n{{ printf "%s\\n" "$@"; env; }} >>{seen}\nPATH=${{PATH#*:}} exec gpg "$@"\n'
    )
    fingerprint = home.generate(PASSPHRASE, NAME)
    home.change_expiration(fingerprint, PASSPHRASE, FAR)
    assert_signs(home, fingerprint)
    imported = person.make_key("imported", "file passphrase")
    data = person.export_secret(imported, passphrase="file passphrase")
    seen.write_text("")
    home.import_secret(data, Secret("file passphrase"), PASSPHRASE)
    home.change_expiration(fingerprint, PASSPHRASE, None)
    home.delete(imported)
    assert_signs(home, fingerprint)
    text = seen.read_text()
    assert "--import" in text
    assert "--passphrase-fd" in text
    assert PASSPHRASE.reveal().decode() not in text
    assert "file passphrase" not in text


# --- The agent's wall --------------------------------------------------------------------------


def agent_number(home: GnuPGHome) -> int:
    """Process ID of the agent of a home."""
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rw") as stream:
        connection.connect(str(home.agent_socket()))
        assert stream.readline().startswith("OK")
        stream.write("GETINFO pid\n")
        stream.flush()
        return int(stream.readline().removeprefix("D "))


def test_the_agent_is_behind_a_wall_and_outlives_each_gpg(home: GnuPGHome) -> None:
    fingerprint = home.generate(PASSPHRASE, NAME)
    number = agent_number(home)
    assert_signs(home, fingerprint)
    assert_signs(home, fingerprint)
    assert agent_number(home) == number
    status = Path(f"/proc/{number}/status").read_text()
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)
    limits = Path(f"/proc/{number}/limits").read_text()
    assert re.search(r"^Max core file size +[01] +[01] ", limits, re.MULTILINE)


def test_the_agents_configuration_names_no_file_elsewhere(tmp_path: Path) -> None:
    path, outside = tmp_path / "gnupg", tmp_path / "outside"
    with gnupg_home(path) as home:
        fingerprint = home.generate(PASSPHRASE, NAME)
        home.stop_agent()
        with (path / "gpg-agent.conf").open("a") as file:
            file.write(f"log-file {outside}\nverbose\n")
        assert_signs(home, fingerprint)
        assert not outside.exists()


# --- An existing site --------------------------------------------------------------------------


def test_the_key_of_an_existing_site(tmp_path: Path, person: Outside) -> None:
    passphrase = legacy_passphrase()
    with legacy_home(tmp_path / "gnupg") as home:
        assert home.fingerprints() == {LEGACY_KEY}
        expected = held("legacy-site", "expected", "release.asc.out").read_bytes()
        assert home.public(LEGACY_KEY).strip() in expected
        assert_signs(home, LEGACY_KEY, passphrase)
        home.change_expiration(LEGACY_KEY, passphrase, FAR)
        home.change_expiration(LEGACY_KEY, passphrase, FAR, subkey=1)
        assert expirations(home, LEGACY_KEY) == [FAR, FAR]
        with home.agent() as agent:  # so that it can be taken elsewhere
            key = home.key(LEGACY_KEY)
            assert key is not None
            agent.change_passphrase(key.parts[0].keygrip, passphrase, PASSPHRASE)
        data = home.run(["--export-secret-subkeys", LEGACY_KEY], passphrase=passphrase).output
        assert len(data) > 1000
        home.delete(LEGACY_KEY)
        assert home.list_keys() == []
        assert_consistent(home)
