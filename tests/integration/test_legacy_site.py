"""A site made by a 1.2 server: opened as it is, used, changed, and still readable the old way.

See tests/data/legacy-site/README.md: its users, keys, passwords and passphrases. What is stored in
which form is in docs/storage.md.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from sigul_stack.keystore.envelope import open_envelope
from sigul_stack.secret import Secret
from tests.held_data import held
from tests.site import Site
from tests.unit.test_envelope import old_form

from .commands_support import (
    AUTHENTICATION,
    Gpg,
    assert_consistent,
    change_database,
    database_content,
    done,
    end_agent,
    fingerprint_of,
    gpg_in,
    openssl,
    person,
    refused,
    rows,
    verifies,
)

RELEASE = "590E47224B3E643159772BDF3B6BFAAF4F1C07C7"
IMA = "f6597b0096217da182ac23243ca4c79778c380dd"
CODESIGN = "b805eb5b0243e0df10c7dc5f51f12460bd0d90f1"
ROOT = "rootroot"
ALL_USERS = "proxy-usernames: root\n"


def expected(name: str) -> bytes:
    """What the 1.2 server printed, without the note of its exit code."""
    text = held("legacy-site", "expected", name).read_bytes()
    return re.sub(rb"rc=0 .*\n\Z", b"", text)


class LegacySite(Site):
    """A site whose bridge has an old configuration: no `server-cn`.

    (Its certificates all have the name localhost, the client's too.)
    """

    def configure(self) -> None:
        super().configure()
        bridge = self.path("bridge.conf")
        bridge.write_text(bridge.read_text().replace("server-cn: localhost\n", ""))


def legacy_site(
    directory: Path, server: str = "", binding: str = "", nss: Path | None = None
) -> Site:
    """A copy of the site, configured as its 1.2 server was, with further lines for the server.

    Its NSS databases are as they were then, or those below `nss`.
    """
    site = LegacySite(
        directory / "site",
        bridge_name="localhost",
        server_name="localhost",
        admin="root",
        admin_password=ROOT,
    )
    for source, target in (
        ("gnupg", "server/gnupg"),
        ("keys", "server/keys"),
        ("server.sqlite", "server/server.sqlite"),
    ):
        copy_writable(held("legacy-site", source), site.path(target))
    for source, target in (("bridge", "bridge"), ("server", "server"), ("client", "clients/root")):
        copy_writable((nss or held("legacy-site", "nss")) / source, site.path("pki") / target)
    for name in ("bridge", "server", "clients/root"):
        # With the line's end that an editor leaves there.
        (site.path("pki") / name / "nss-password").write_text("nss-pw\n")
    sections = {"server": server} | ({"binding": binding} if binding else {})
    site.extra = {"server": sections}
    site.configure()
    return site


def copy_writable(source: Path, target: Path) -> None:
    """Copy a file or directory of the shared data, for its owner to change."""
    if source.is_dir():
        shutil.copytree(source, target)
        for directory, _, files in os.walk(target):
            Path(directory).chmod(0o700)
            for file in files:
                (Path(directory) / file).chmod(0o600)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


@pytest.fixture(scope="module")
def few_rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site's NSS databases, but a key is derived from their password with one round.

    Opening them is 40 % of what these tests cost. The tests without this fixture open the old ones.
    """
    directory = tmp_path_factory.mktemp("few-rounds")
    password = directory / "password"
    password.write_text("nss-pw")
    for name in ("bridge", "server", "client"):
        copy_writable(held("legacy-site", "nss", name), directory / name)
        subprocess.run(
            ["certutil", "-W", "-d", f"sql:{directory / name}", "-f", password, "-@", password],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
    return directory


@pytest.fixture(scope="module")
def running(few_rounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The running site, which must be left as it was; its client may speak for all users."""
    site = legacy_site(tmp_path_factory.mktemp("legacy"), ALL_USERS, nss=few_rounds)
    before = database_content(site)
    with site.running():
        yield site
    assert database_content(site) == before
    assert_consistent(site)


@pytest.fixture
def own(few_rounds: Path, tmp_path: Path) -> Iterator[Site]:
    """A site of the test's own, not running."""
    site = legacy_site(tmp_path, ALL_USERS, nss=few_rounds)
    yield site
    site.stop_all()


@pytest.fixture
def gpg(tmp_path: Path) -> Iterator[Gpg]:
    """A person's own GnuPG home, with the key `release` as the 1.2 server printed it."""
    with person(tmp_path / "person", expected("release.asc.out")) as home:
        yield home


def as_user(user: str) -> dict[str, list[str]]:
    return {"options": ["-u", user]}


# ------------------------------------------------------------------------------------ as it is


@pytest.mark.once("rights and the database")
def test_its_bridge_warns_that_any_certificate_may_be_the_servers(running: Site) -> None:
    assert "[bridge] server-cn is not set" in running.processes[0].text


@pytest.mark.once("rights and the database")
def test_its_lists(running: Site) -> None:
    assert done(running, "list-users", secrets=[ROOT]) == b"alice\nbob\nops\nroot\n"
    assert done(running, "list-users", secrets=["ops-pw"], **as_user("ops")) == (
        b"alice\nbob\nops\nroot\n"
    )
    assert done(running, "list-keys", secrets=[ROOT]) == (
        b"codesign (RSA)\nima (ECC)\nrelease (gnupg)\n"
    )
    assert done(running, "list-key-users", "release", secrets=["release-pw"]) == (
        b"alice\nbob\nroot\n"
    )
    assert done(running, "list-key-users", "--password", "ima", secrets=[ROOT]) == b"root\n"
    assert (
        done(running, "list-key-users", "codesign", secrets=["codesign-pw"], **as_user("alice"))
        == b"alice\n"
    )


@pytest.mark.once("rights and the database")
@pytest.mark.parametrize(
    ("user", "key", "answer"),
    [
        ("root", "release", b"Access defined, key administrator: yes\n"),
        ("alice", "release", b"Access defined, key administrator: no\n"),
        ("bob", "release", b"Access defined, key administrator: no\n"),
        ("root", "codesign", b"No access defined\n"),
        ("alice", "codesign", b"Access defined, key administrator: yes\n"),
    ],
)
def test_its_accesses(running: Site, user: str, key: str, answer: bytes) -> None:
    assert done(running, "key-user-info", user, key, secrets=[ROOT]) == answer


@pytest.mark.once("rights and the database")
@pytest.mark.parametrize(
    ("user", "admin"), [("root", "yes"), ("ops", "yes"), ("alice", "no"), ("bob", "no")]
)
def test_its_users(running: Site, user: str, admin: str) -> None:
    assert done(running, "user-info", user, secrets=[ROOT]) == f"Administrator: {admin}\n".encode()


@pytest.mark.once("rights and the database")
@pytest.mark.parametrize(
    ("user", "password"),
    [("root", "ops-pw"), ("ops", ROOT), ("alice", "alice-pw"), ("bob", ""), ("carol", ROOT)],
)
def test_who_is_no_administrator_there(running: Site, user: str, password: str) -> None:
    refused(running, AUTHENTICATION, "list-users", secrets=[password], **as_user(user))


@pytest.mark.parametrize(
    ("key", "user", "passphrase", "printed"),
    [
        ("release", "root", "release-pw", "release.asc.out"),
        ("release", "alice", "alice-release-pw", "release.asc.out"),
        ("ima", "root", "ima-pw", "ima.out"),
        ("codesign", "alice", "codesign-pw", "codesign.out"),
    ],
)
def test_each_passphrase_opens_its_key(
    running: Site, tmp_path: Path, key: str, user: str, passphrase: str, printed: str
) -> None:
    public = done(running, "get-public-key", key, secrets=[passphrase], **as_user(user))
    if key == "release":
        # GnuPG versions differ in the order of packets, and in armour.
        with person(tmp_path / "person") as own:
            assert fingerprint_of(own, public) == fingerprint_of(own, expected(printed)) == RELEASE
    else:
        assert public == expected(printed)


@pytest.mark.parametrize(
    ("user", "passphrase"),
    [("root", "release-pw"), ("alice", "alice-release-pw")],
)
def test_release_signs_and_decrypts(
    running: Site, gpg: Gpg, tmp_path: Path, user: str, passphrase: str
) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"some data\n" * 1000)
    command = ["sign-data", "release", str(data), "-o", str(tmp_path / "signature")]
    done(running, *command, secrets=[passphrase], **as_user(user))
    assert gpg.signer(tmp_path / "signature", data) == RELEASE
    signed = done(running, "sign-text", "release", str(data), secrets=[passphrase], **as_user(user))
    assert gpg.signer("-", data=signed) == RELEASE
    message = tmp_path / "message"
    message.write_bytes(gpg("--encrypt", "--recipient", RELEASE, data=b"hidden\n"))
    clear = done(running, "decrypt", "release", str(message), secrets=[passphrase], **as_user(user))
    assert clear == b"hidden\n"


@pytest.mark.parametrize(
    ("user", "key", "passphrase"),
    [
        ("root", "release", "alice-release-pw"),
        ("alice", "release", "release-pw"),
        ("ops", "release", "release-pw"),
        ("root", "codesign", "codesign-pw"),
        ("alice", "ima", "ima-pw"),
        # It opens only where the method `test` is enabled.
        ("bob", "release", "bob-release-pw"),
    ],
)
def test_who_is_refused_there(running: Site, user: str, key: str, passphrase: str) -> None:
    refused(
        running, AUTHENTICATION, "sign-data", "-a", key, "/etc/hostname",
        secrets=[passphrase], **as_user(user),
    )  # fmt: skip


@pytest.mark.once("rights and the database")
def test_alice_is_no_administrator_of_release(running: Site) -> None:
    refused(
        running, AUTHENTICATION, "list-key-users", "release",
        secrets=["alice-release-pw"], **as_user("alice"),
    )  # fmt: skip


# ---------------------------------------------------------------------- name check, and bindings


@pytest.mark.once("rights, names and the database")
def test_the_name_check(tmp_path: Path) -> None:
    site = legacy_site(tmp_path)

    def may_speak_for_alice() -> bool:
        result = site.sigul(
            "list-key-users", "codesign", options=["-u", "alice"], secrets=["codesign-pw"],
            code=None,
        )  # fmt: skip
        refusal = b"Error: Authentication failed\n"
        assert result.stderr == (refusal if result.returncode else b"")
        return result.returncode == 0

    for lines, may in (
        ("lenient-username-check: no\nproxy-usernames: somebody, else\n", False),
        ("lenient-username-check: yes\n", True),
        ("proxy-usernames: somebody, root\n", True),
    ):
        site.extra["server"]["server"] = lines
        site.configure()
        with site.running():
            assert may_speak_for_alice() is may, lines
            # For whom the certificate is, the name check is no hurdle.
            assert done(site, "list-key-users", "ima", secrets=["ima-pw"]) == b"root\n"


@pytest.mark.once("rights, names and the database")
def test_bob_signs_where_the_method_test_is_enabled(tmp_path: Path, gpg: Gpg) -> None:
    site = legacy_site(tmp_path, ALL_USERS, "enabled: test\n")
    (tmp_path / "data").write_bytes(b"data")
    with site.running():
        done(
            site, "sign-data", "release", str(tmp_path / "data"), "-o", str(tmp_path / "signature"),
            secrets=["bob-release-pw"], **as_user("bob"),
        )  # fmt: skip
        assert gpg.signer(tmp_path / "signature", tmp_path / "data") == RELEASE
        refused(
            site, AUTHENTICATION, "get-public-key", "release", secrets=["wrong"], **as_user("bob")
        )


# --------------------------------------------------------------------------------- its keys change


def test_its_keys_expire_are_renamed_and_deleted(own: Site, gpg: Gpg, tmp_path: Path) -> None:
    with own.running():
        done(own, "change-key-expiration", "release", "--expire-date", "2077-07-07",
             secrets=["release-pw"])  # fmt: skip
        gpg("--import", data=done(own, "get-public-key", "release", secrets=["release-pw"]))
        (primary,) = [line for line in gpg.listed(RELEASE) if line[0] == "pub"]
        assert datetime.fromtimestamp(int(primary[6]), UTC).date() == date(2077, 7, 7)
        for old, new in (("release", "r2"), ("ima", "i2"), ("codesign", "c2")):
            done(own, "modify-key", old, "--new-name", new, secrets=[ROOT])
        assert done(own, "list-keys", secrets=[ROOT]) == b"c2 (RSA)\ni2 (ECC)\nr2 (gnupg)\n"
        (tmp_path / "data").write_bytes(b"data")
        done(own, "sign-data", "r2", str(tmp_path / "data"), "-o", str(tmp_path / "signature"),
             secrets=["release-pw"])  # fmt: skip
        assert gpg.signer(tmp_path / "signature", tmp_path / "data") == RELEASE
        assert done(own, "get-public-key", "i2", secrets=["ima-pw"]) == expected("ima.out")
        assert_consistent(own)
        for key in ("r2", "i2", "c2"):
            done(own, "delete-key", key, secrets=[ROOT])
            assert_consistent(own)
    assert list(own.path("server/keys").iterdir()) == []
    assert list(own.path("server/gnupg/private-keys-v1.d").iterdir()) == []
    assert gpg_in(own.path("server/gnupg"), "--list-keys").stdout == b""


def test_passphrases_change_and_accesses_are_granted(own: Site, tmp_path: Path) -> None:
    with own.running():
        done(own, "change-passphrase", "release", secrets=["release-pw", "new-pw"])
        refused(own, AUTHENTICATION, "get-public-key", "release", secrets=["release-pw"])
        done(own, "grant-key-access", "release", "ops", secrets=["new-pw", "ops-release-pw"])
        for user, passphrase in (("root", "new-pw"), ("ops", "ops-release-pw")):
            done(own, "sign-data", "-a", "release", "/etc/hostname",
                 secrets=[passphrase], **as_user(user))  # fmt: skip
        refused(own, "This is the only user with access to this key", "revoke-key-access", "ima",
                "root", secrets=["ima-pw"])  # fmt: skip
        refused(own, "The specified user can access one or more keys", "delete-user", "bob",
                secrets=[ROOT])  # fmt: skip
        done(own, "revoke-key-access", "release", "bob", "--password", secrets=[ROOT])
        done(own, "delete-user", "bob", secrets=[ROOT])


# ------------------------------------------------------------------------- what 1.2 makes of ours


def test_what_is_written_is_what_a_1_2_server_reads(own: Site, tmp_path: Path) -> None:
    schema = rows(own, "SELECT sql FROM sqlite_master WHERE tbl_name != 'alembic_version'")
    with own.running():
        done(own, "new-user", "carol", "--with-password", secrets=[ROOT, "carol-pw"])
        done(own, "modify-user", "alice", "--change-password", secrets=[ROOT, "alice-new-pw"])
        done(own, "grant-key-access", "release", "carol", secrets=["release-pw", "carol-r-pw"])
        done(own, "new-key", "ours", "--key-type", "RSA", secrets=[ROOT, "ours-pw"])
        done(own, "new-key", "gpg-ours", secrets=[ROOT, "gpg-ours-pw"])
    # The tables are as they were.
    assert rows(own, "SELECT sql FROM sqlite_master WHERE tbl_name != 'alembic_version'") == schema
    # Passwords: SHA-512 crypt with a salt of 16 characters, as bytes.
    for name, password in (("carol", "carol-pw"), ("alice", "alice-new-pw")):
        ((stored, kind),) = rows(
            own, "SELECT sha512_password, typeof(sha512_password) FROM users WHERE name = ?", name
        )
        assert kind == "blob"
        assert isinstance(stored, bytes)
        assert re.fullmatch(rb"\$6\$[./0-9A-Za-z]{16}\$[./0-9A-Za-z]{86}", stored)
        assert verifies(password, stored)

    def passphrase(user: str, key: str, secret: str) -> str:
        """The key's own passphrase, by plain gpg."""
        ((sealed, kind),) = rows(
            own,
            "SELECT encrypted_passphrase, typeof(encrypted_passphrase) FROM key_accesses"
            " JOIN users ON users.id = user_id JOIN keys ON keys.id = key_id"
            " WHERE users.name = ? AND keys.name = ?",
            user,
            key,
        )
        assert kind == "blob"
        assert isinstance(sealed, bytes)
        with person(tmp_path / "old-server") as gpg:
            return gpg(f"--passphrase={secret}", "--decrypt", data=sealed).decode()

    # Envelopes: the old ones and the new one hold the same passphrase.
    release = passphrase("root", "release", "release-pw")
    assert passphrase("carol", "release", "carol-r-pw") == release
    # It opens the key by plain gpg, in the home as the server has left it.
    home = own.path("server/gnupg")
    (tmp_path / "data").write_bytes(b"data")

    def sign(fingerprint: str, secret: str) -> None:
        signature = gpg_in(
            home, f"--passphrase={secret}", "--local-user", fingerprint, "--detach-sign", "-o", "-",
            data=b"data",
        ).stdout  # fmt: skip
        public = gpg_in(home, "--export", fingerprint).stdout
        (tmp_path / "signature").write_bytes(signature)
        with person(tmp_path / "verifier", public) as gpg:
            assert gpg.signer(tmp_path / "signature", tmp_path / "data") == fingerprint

    ((ours,),) = rows(own, "SELECT fingerprint FROM keys WHERE name = 'gpg-ours'")
    try:
        sign(RELEASE, release)
        sign(str(ours), passphrase("root", "gpg-ours", "gpg-ours-pw"))
    finally:
        end_agent(home)
    # And openssl opens a key in PEM with its passphrase.
    ((found,),) = rows(own, "SELECT fingerprint FROM keys WHERE name = 'ours'")
    secret = passphrase("root", "ours", "ours-pw")
    private = own.path(f"server/keys/{found}.pem")
    public = openssl("pkey", "-in", str(private), "-passin", f"pass:{secret}", "-pubout")
    assert public == own.path(f"server/keys/{found}.public.pem").read_bytes()


def test_settings_of_the_gnupg_home_are_left_alone(own: Site) -> None:
    with own.running():
        done(own, "sign-data", "-a", "release", "/etc/hostname", secrets=["release-pw"])
    for name in ("gpg.conf", "gpg-agent.conf"):
        assert (own.path("server/gnupg") / name).read_bytes() == (
            held("legacy-site", "gnupg", name).read_bytes()
        )


# --------------------------------------------------------------------------------- before 1.1


@pytest.mark.once("rights, names and the database")
def test_a_database_without_key_types_is_migrated_with_a_backup(
    own: Site, gpg: Gpg, tmp_path: Path
) -> None:
    path = own.path("server/server.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM key_accesses WHERE key_id IN"
                         " (SELECT id FROM keys WHERE keytype != 'gnupg')")  # fmt: skip
        database.execute("DELETE FROM keys WHERE keytype != 'gnupg'")
        database.execute("ALTER TABLE keys DROP COLUMN keytype")
    for file in own.path("server/keys").iterdir():
        file.unlink()
    before = database_content(own)
    shutil.copyfile(path, tmp_path / "before")
    with own.running():
        said = own.processes[-1].text
        assert "The database was migrated" in said
        assert done(own, "list-keys", secrets=[ROOT]) == b"release (gnupg)\n"
        (tmp_path / "data").write_bytes(b"data")
        done(own, "sign-data", "release", str(tmp_path / "data"), "-o",
             str(tmp_path / "signature"), secrets=["release-pw"])  # fmt: skip
        assert gpg.signer(tmp_path / "signature", tmp_path / "data") == RELEASE
        done(own, "new-key", "ecc", "--key-type", "ECC", secrets=[ROOT, "ecc-pw"])
        assert done(own, "list-keys", secrets=[ROOT]) == b"ecc (ECC)\nrelease (gnupg)\n"
    (backup,) = [
        file for file in path.parent.iterdir()
        if file.name.startswith("server.sqlite") and file != path
    ]  # fmt: skip
    assert str(backup) in said
    with contextlib.closing(sqlite3.connect(f"file:{backup}?mode=ro", uri=True)) as database:
        kept = [
            database.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - three names
            for table in ("users", "keys", "key_accesses")
        ]
    assert kept == before
    # Done once, it is not done again.
    with own.running():
        assert "migrated" not in own.processes[-1].text


def test_an_access_of_0_x_is_encrypted_anew_at_its_first_unlock(tmp_path: Path) -> None:
    site = legacy_site(tmp_path, ALL_USERS)
    sign = ("sign-data", "release", "/etc/hostname")
    alice: dict[str, object] = {"options": ["-u", "alice"]}
    passphrase = Secret("alice-release-pw")
    query = (
        "SELECT key_accesses.id, encrypted_passphrase FROM key_accesses, keys, users"
        " WHERE key_id = keys.id AND keys.name = 'release'"
        " AND user_id = users.id AND users.name = 'alice'"
    )
    with site.running():

        def stored() -> object:
            return rows(site, query)[0][1]

        ((access, sealed),) = rows(site, query)
        assert isinstance(sealed, bytes)
        old = old_form(open_envelope(sealed, passphrase).reveal(), passphrase)
        change_database(
            site, "UPDATE key_accesses SET encrypted_passphrase = ? WHERE id = ?", old, access
        )
        refused(site, AUTHENTICATION, *sign, secrets=["wrong"], **alice)
        assert stored() == old
        found: bytes | None = None
        for _request in range(2):
            assert done(site, *sign, secrets=["alice-release-pw"], **alice)
            now = stored()
            assert isinstance(now, bytes)
            # AES-256, and the secret that was there; the second request leaves it alone.
            assert now[:6] == bytes.fromhex("8c0d04090308")
            assert open_envelope(now, passphrase) == open_envelope(sealed, passphrase)
            assert found in (None, now)
            found = now
        refused(site, AUTHENTICATION, *sign, secrets=["wrong"], **alice)
