"""What becomes of a site that has lost something: each way of docs/recovery.md, on real sites.

More than 5 s, most of them: daemons are started, some twice, and certificates made.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.site import Site, module

from .commands_support import (
    ADMIN,
    AUTHENTICATION,
    done,
    failure,
    gpg_in,
    refused,
    rows,
    secret_parts,
    stored_fingerprints,
)
from .test_backup import PASSPHRASE, config, make_keys, signs, stack

pytestmark = pytest.mark.once("ways of administration, on both sides of the database")

USERS = ("admin", "alice", "rescue")
ALICES = "alice-key-passphrase"


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A stopped site with two keys and a user of them, whose state no test changes.

    `rescue` has a certificate, and is no user.
    """
    site = Site.make(tmp_path_factory.mktemp("recovery") / "site", USERS, workers=2)
    site.extra = {"server": {"gnupg": "gnupg-key-type: ed25519\ngnupg-subkey-type:\n"}}
    site.configure()
    with site.running():
        make_keys(site)
        done(site, "new-user", "--with-password", "alice", secrets=[ADMIN, "alice-pw"])
        for key in ("pgp", "ecc"):
            done(site, "grant-key-access", key, "alice", secrets=[PASSPHRASE, ALICES])
    yield site
    shutil.rmtree(site.directory)


@pytest.fixture
def site(keyed: Site, tmp_path: Path) -> Iterator[Site]:
    """Such a site for one test, not running, with a client's configuration for each user."""
    site = Site.copy(keyed, tmp_path / "site")
    for user in USERS:
        site.client_configuration(user, user)
    yield site
    site.stop_all()


def signs_as(site: Site, user: str, passphrase: str, tmp_path: Path) -> None:
    """Sign with `pgp` as a user who has a certificate."""
    (tmp_path / "text").write_text("text")
    done(
        site, "sign-data", "-o", str(tmp_path / f"{user}.sig"), "pgp", str(tmp_path / "text"),
        secrets=[passphrase], config=f"{user}.conf",
    )  # fmt: skip
    assert (tmp_path / f"{user}.sig").stat().st_size


# ----------------------------------------------------------------------------- what people know


def test_a_user_who_lost_a_passphrase_gets_another(site: Site, tmp_path: Path) -> None:
    with site.running():
        done(site, "revoke-key-access", "pgp", "alice", secrets=[PASSPHRASE])
        done(site, "grant-key-access", "pgp", "alice", secrets=[PASSPHRASE, "another-one"])
        signs_as(site, "alice", "another-one", tmp_path)
        assert failure(
            site, "get-public-key", "pgp", secrets=[ALICES], config="alice.conf"
        ) == AUTHENTICATION  # fmt: skip


def test_a_key_whose_administrator_lost_the_passphrase(site: Site, tmp_path: Path) -> None:
    """Another user of the key still signs; made its administrator, that one gives it to others."""
    with site.running():
        done(site, "new-user", "rescue", secrets=[ADMIN])
        grant = ("grant-key-access", "pgp", "rescue")
        signs_as(site, "alice", ALICES, tmp_path)
        assert failure(site, *grant, secrets=[ALICES, "theirs"], config="alice.conf")
        done(site, "modify-key-user", "--key-admin", "yes", "alice", "pgp", secrets=[ADMIN])
        done(site, *grant, secrets=[ALICES, "theirs"], config="alice.conf")
        signs_as(site, "rescue", "theirs", tmp_path)
        done(site, "revoke-key-access", "pgp", "admin", secrets=[ALICES], config="alice.conf")
        done(
            site, "grant-key-access", "pgp", "admin", secrets=[ALICES, "another-one"],
            config="alice.conf",
        )  # fmt: skip
        signs_as(site, "admin", "another-one", tmp_path)


def test_a_key_whose_passphrases_are_all_lost(site: Site, tmp_path: Path) -> None:
    """It is gone. Its revocation certificate is there, in the clear, and its name free again."""
    ((fingerprint,),) = rows(site, "SELECT fingerprint FROM keys WHERE name = 'pgp'")
    with site.running():
        public = done(site, "get-public-key", "pgp", secrets=[PASSPHRASE])
        # No administrator's password is one of its passphrases.
        refused(site, AUTHENTICATION, "change-passphrase", "pgp", secrets=[ADMIN, "another-one"])
        done(site, "delete-key", "pgp", secrets=[ADMIN])
        done(
            site, "new-key", "--key-admin", "admin", "--key-type", "gnupg", "pgp",
            secrets=[ADMIN, PASSPHRASE],
        )  # fmt: skip
        signs(site, tmp_path)
    # gpg puts a colon before its first line, so that nobody imports it by mistake.
    revocation = site.path(f"server/gnupg/openpgp-revocs.d/{fingerprint}.rev").read_text()
    certificate = "-----BEGIN" + revocation.partition(":-----BEGIN")[2]
    home = tmp_path / "somebody"
    home.mkdir(mode=0o700)
    gpg_in(home, "--import", data=public)
    assert gpg_in(home, "--with-colons", "--list-keys").stdout.count(b"\npub:r:") == 0
    # It misses a trust database, which is nothing to this.
    gpg_in(home, "--import", data=certificate.encode(), code=None)
    assert b"pub:r:" in gpg_in(home, "--with-colons", "--list-keys").stdout


def test_a_user_who_lost_the_password_gets_another(site: Site) -> None:
    with site.running():
        done(site, "modify-user", "alice", "--admin", "yes", secrets=[ADMIN])
        done(site, "modify-user", "alice", "--change-password", secrets=[ADMIN, "another-one"])
        done(site, "list-users", secrets=["another-one"], config="alice.conf")


def test_a_site_without_an_administrator_gets_one_on_the_server(site: Site) -> None:
    with site.running():
        site.run(
            *module("server_add_admin"), "-c", str(site.path("server.conf")), "--batch",
            "-n", "rescue", secrets=["rescue-pw"],
        )  # fmt: skip
        done(
            site, "modify-user", "admin", "--change-password", secrets=["rescue-pw", "another-one"],
            config="rescue.conf",
        )  # fmt: skip
        assert done(site, "list-users", secrets=["another-one"]) == b"admin\nalice\nrescue\n"
        done(site, "delete-user", "rescue", secrets=["another-one"])
        # Keys are no administrator's: who knew a passphrase knows it still.
        done(site, "get-public-key", "pgp", secrets=[PASSPHRASE])


# --------------------------------------------------------------------------- certificates


def issue(site: Site, directory: str, role: str, name: str) -> None:
    site.run(
        *module("stack"), "pki", "issue", "--ca", str(site.path("pki/ca")),
        "--into", str(site.path(f"pki/{directory}")), "--role", role, "--name", name,
    )  # fmt: skip


def test_databases_of_certificates_are_made_anew(site: Site, tmp_path: Path) -> None:
    """A password that is lost loses its database: the CA issues what nobody can open any more."""
    components = {
        "bridge": ("bridge", site.bridge_name),
        "server": ("server", site.server_name),
        "clients/admin": ("client", "admin"),
    }
    for directory, (role, name) in components.items():
        site.path(f"pki/{directory}/nss-password").unlink()
        shutil.rmtree(site.path(f"pki/{directory}"))
        issue(site, directory, role, name)
    with site.running():
        signs(site, tmp_path)


def test_a_site_that_lost_its_ca_gets_another(site: Site, tmp_path: Path) -> None:
    """All certificates at once, with the daemons stopped; users, keys and passwords stay."""
    with site.running():  # Until a certificate ends, nothing needs the CA's key.
        shutil.rmtree(site.path("pki/ca"))
        done(site, "list-users", secrets=[ADMIN])
    for name in ("bridge", "server", "clients"):
        site.path(f"pki/{name}").rename(site.path(f"pki/{name}.old"))
    site.run(
        *module("stack"), "pki", "site", "--dir", str(site.path("pki")), "--bridge",
        site.bridge_name, "--server", site.server_name, "--user", *USERS,
    )  # fmt: skip
    with site.running():
        signs(site, tmp_path)
        signs_as(site, "alice", ALICES, tmp_path)
        # Who has a certificate of the old one is let in no more.
        old = site.path("client.conf").read_text().replace("pki/clients/", "pki/clients.old/")
        site.path("old.conf").write_text(old)
        assert failure(site, "list-users", secrets=[ADMIN], config="old.conf")


# ------------------------------------------------------------------------------ stores, backups


def test_a_server_that_lost_its_database(site: Site, tmp_path: Path) -> None:
    """Nobody can open the keys that are left; with a backup's database everybody can."""
    backup = tmp_path / "backup.tar"
    stack(site, "create", "--unencrypted", *config(site), str(backup))
    site.path("server/server.sqlite").unlink()
    site.run(*module("server_create_db"), "-c", str(site.path("server.conf")))
    site.run(
        *module("server_add_admin"), "-c", str(site.path("server.conf")), "--batch",
        "-n", "admin", secrets=[ADMIN],
    )  # fmt: skip
    with site.running() as (_, server):
        assert "but not in the database" in server.text
        refused(site, AUTHENTICATION, "get-public-key", "pgp", secrets=[PASSPHRASE])
    stack(site, "restore", "--unsigned", "--replace", *config(site), str(backup))
    with site.running():
        signs(site, tmp_path)


def test_a_server_that_lost_its_keys(site: Site, tmp_path: Path) -> None:
    """The database alone signs nothing; with a backup's keys it does, or the keys are deleted."""
    backup = tmp_path / "backup.tar"
    stack(site, "create", "--unencrypted", *config(site), str(backup))
    before = secret_parts(site)
    shutil.rmtree(site.path("server/gnupg"))
    shutil.rmtree(site.path("server/keys"))
    site.configure()
    with site.running() as (_, server):
        assert "is in the database, but not in" in server.text
        assert failure(
            site, "sign-data", "-o", str(tmp_path / "no.sig"), "pgp", str(backup),
            secrets=[PASSPHRASE],
        )  # fmt: skip
        done(site, "delete-key", "ecc", secrets=[ADMIN])
    stack(site, "restore", "--unsigned", "--replace", *config(site), str(backup))
    assert secret_parts(site) == before
    with site.running():
        signs(site, tmp_path)


def test_a_site_that_lost_the_key_to_its_backups(site: Site, tmp_path: Path) -> None:
    """They are gone, and the next one is for another key."""
    homes = [tmp_path / "lost", tmp_path / "new"]
    made = []
    try:
        for home in homes:
            home.mkdir(mode=0o700)
            gpg_in(home, "--passphrase", "", "--quick-gen-key", "keeper", "future-default",
                   "default", "0")  # fmt: skip
            public = tmp_path / f"{home.name}.asc"
            public.write_bytes(gpg_in(home, "--armor", "--export").stdout)
            made.append(tmp_path / f"{home.name}.tar.gpg")
            stack(site, "create", "--recipient-file", str(public), *config(site), str(made[-1]))
        assert gpg_in(homes[1], "--decrypt", str(made[0]), code=2).stdout == b""
        clear = gpg_in(homes[1], "--decrypt", str(made[1])).stdout
    finally:
        for home in homes:
            subprocess.run(
                ["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], check=True, timeout=30
            )
    before = stored_fingerprints(site)
    stack(site, "restore", "--unsigned", "--replace", *config(site), "-", stdin=clear)
    assert stored_fingerprints(site) == before


def test_a_site_that_lost_the_key_that_signs_backups(site: Site, tmp_path: Path) -> None:
    """Another one signs the next; what the lost one signed is checked as ever."""
    key = tmp_path / "key"
    site.extra["server"] = {**site.extra["server"], "server": f"backup-signing-key: {key}\n"}
    site.configure()
    told = []
    for number in range(2):
        stack(site, "make-key", str(key))
        stack(site, "create", *config(site), str(tmp_path / f"{number}.tar"))
        told.append(json.loads((tmp_path / f"{number}.tar.sig").read_text())["signature"])
        key.unlink()
    assert len(set(told)) == 2
    for number in range(2):
        verify = ("verify", "--verify-key", f"{key}.pub", str(tmp_path / f"{number}.tar"))
        assert "\nsigned by the key " in stack(site, *verify)[1]
