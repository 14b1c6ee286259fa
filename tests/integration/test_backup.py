"""Backups of a running site: made under load, checked, restored, and signed with afterwards."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sigul_stack.backup import archive
from sigul_stack.backup.manifest import Member
from tests.site import Site, module

from .commands_support import (
    ADMIN,
    assert_consistent,
    change_database,
    database_content,
    done,
    gpg_in,
    secret_parts,
    stored_fingerprints,
)

PASSPHRASE = "key-passphrase"


def stack(site: Site, *arguments: str, code: int = 0, **further: object) -> tuple[bytes, str]:
    """Run `sigul-stack backup`; its standard output and error."""
    result = site.run(*module("stack"), "backup", *arguments, code=code, **further)  # type: ignore[arg-type]
    return result.stdout, result.stderr.decode()


def config(site: Site) -> tuple[str, str]:
    return "-c", str(site.path("server.conf"))


def make_keys(site: Site) -> None:
    for name, keytype in (("pgp", "gnupg"), ("ecc", "ECC")):
        done(
            site, "new-key", "--key-admin", "admin", "--key-type", keytype, name,
            secrets=[ADMIN, PASSPHRASE],
        )  # fmt: skip


def signs(site: Site, directory: Path) -> None:
    """Sign with the restored key, and have gpg verify the signature with its public key."""
    data = directory / "data"
    data.write_bytes(b"to be signed")
    signature = directory / "data.sig"
    done(site, "sign-data", "-o", str(signature), "pgp", str(data), secrets=[PASSPHRASE])
    home = directory / "gnupg-verify"
    home.mkdir(mode=0o700)
    public = directory / "public.asc"
    public.write_bytes(done(site, "get-public-key", "pgp", secrets=[PASSPHRASE]))
    gpg_in(home, "--import", str(public))
    gpg_in(home, "--verify", str(signature), str(data))


def with_keys(site: Site, server: str = "") -> Iterator[Site]:
    """The site, stopped and with two keys, until it is removed; `server` are options of its own."""
    sections = {"gnupg": "gnupg-key-type: ed25519\ngnupg-subkey-type:\n"}
    site.extra = {"server": {"server": server, **sections} if server else sections}
    site.configure()
    with site.running():
        make_keys(site)
    yield site
    shutil.rmtree(site.directory)


def without_state(site: Site, directory: Path) -> Site:
    """A copy of a site, in a new directory, whose server has lost everything."""
    copy = Site.copy(site, directory)
    shutil.rmtree(copy.path("server"))
    copy.path("server/spool").mkdir(parents=True)
    copy.path("server/keys").mkdir(mode=0o700)
    return copy


@pytest.fixture(scope="module")
def keyed(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A stopped site with two keys, whose state no test changes."""
    yield from with_keys(Site.copy(template, tmp_path_factory.mktemp("backup") / "site"))


@pytest.fixture(scope="module")
def backup(keyed: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it."""
    directory = tmp_path_factory.mktemp("backups")
    output, said = stack(keyed, "create", *config(keyed), str(directory))
    (path,) = directory.iterdir()
    assert output.decode() == f"{path}\n"
    assert "1 users, 2 keys, 2 accesses" in said
    return path


@pytest.fixture
def empty(keyed: Site, tmp_path: Path) -> Site:
    """A site whose server has lost everything."""
    return without_state(keyed, tmp_path / "site")


@pytest.mark.once("our own archive")
def test_a_backup_tells_what_it_holds(keyed: Site, backup: Path) -> None:
    assert backup.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(r"sigul-\d{8}T\d{6}Z\.tar", backup.name)
    _, said = stack(keyed, "verify", str(backup))
    assert said.startswith("whole: made 20")
    listed, _ = stack(keyed, "list", str(backup))
    assert set(re.findall(r"^  key (\w+) \((\w+), (\w+)\)$", listed.decode(), re.M)) == {
        (name, keytype, fingerprint)
        for name, keytype, fingerprint in (row[1:] for row in database_content(keyed)[1])
    }
    told = json.loads(stack(keyed, "list", "--json", str(backup))[0])
    with tarfile.open(backup) as reading:
        assert reading.getnames() == ["manifest.json", *(item["path"] for item in told["members"])]
    names = {item["path"] for item in told["members"]}
    assert {f"keys/{name}" for name in secret_parts(keyed) if name.endswith(".pem")} <= names
    assert not [name for name in names if "S.gpg-agent" in name or "lock" in name]


def test_made_under_load_destroyed_and_restored(template: Site, tmp_path: Path) -> None:
    site = Site.copy(template, tmp_path / "site")
    site.extra = {"server": {"gnupg": "gnupg-key-type: ed25519\ngnupg-subkey-type:\n"}}
    site.configure()
    backups = [tmp_path / f"backup-{number}.tar" for number in range(2)]
    with site.running():
        make_keys(site)
        stop = threading.Event()
        changes = 0

        def change() -> None:
            nonlocal changes
            while not stop.is_set():
                for command in (
                    ("new-key", "--key-admin", "admin", "passing"),
                    ("delete-key", "passing"),
                ):
                    secrets = [ADMIN, PASSPHRASE] if command[0] == "new-key" else [ADMIN]
                    done(site, *command, secrets=secrets)
                    changes += 1

        changing = threading.Thread(target=change)
        changing.start()
        try:
            for path in backups:
                stack(site, "create", *config(site), str(path))
        finally:
            stop.set()
            changing.join(60)
        assert changes > 0
        done(site, "list-users", secrets=[ADMIN])  # a decision that no backup has
    shutil.rmtree(site.path("server"))
    for path in backups:
        site.configure()
        shutil.rmtree(site.path("server/gnupg"))
        stack(site, "restore", "--unsigned", *config(site), str(path))
        assert_consistent(site)
        if path is not backups[-1]:
            shutil.rmtree(site.path("server"))
    with site.running():
        # Its log lacks what was decided since, and a client has seen that.
        data = tmp_path / "unsigned"
        data.write_bytes(b"to be signed")
        lost = site.sigul("sign-data", "pgp", str(data), secrets=[PASSPHRASE], code=1)
        assert b"witness accept" in lost.stderr
        origin = site.path("server/signing-log/key.pub").read_text().partition("+")[0]
        config_file = str(site.path("client.conf"))
        site.run(*module("stack"), "witness", "accept", "-c", config_file, origin)
        signs(site, tmp_path)
    site.stop_all()


def test_restored_through_pipes(keyed: Site, empty: Site, tmp_path: Path) -> None:
    data, _ = stack(
        keyed, "create", "--with-configuration", "--with-nss", "--unencrypted", *config(keyed), "-"
    )
    others = tmp_path / "others"
    stack(empty, "restore", "--unsigned", *config(empty), "--others", str(others), "-", stdin=data)
    assert database_content(empty) == database_content(keyed)
    assert secret_parts(empty) == secret_parts(keyed)
    assert stored_fingerprints(empty) == stored_fingerprints(keyed)
    assert (others / "configuration/0-server.conf").read_bytes() == keyed.path(
        "server.conf"
    ).read_bytes()
    for name in ("key4.db", "nss-password"):
        assert (others / "nss" / name).read_bytes() == (
            keyed.path("pki/server") / name
        ).read_bytes()
    for path in (empty.path("server/gnupg"), empty.path("server/keys"), others):
        assert path.stat().st_mode & 0o777 == 0o700
    assert empty.path("server/server.sqlite").stat().st_mode & 0o777 == 0o600
    assert not [path for path in empty.path("server").iterdir() if path.name.startswith(".")]
    # A second time nothing is overwritten.
    _, said = stack(empty, "restore", "--unsigned", *config(empty), "-", stdin=data, code=1)
    assert "is there already; stop the server and give --replace" in said


def test_replaced_and_what_was_there_is_aside(keyed: Site, backup: Path, tmp_path: Path) -> None:
    site = Site.copy(keyed, tmp_path / "site")
    change_database(site, "UPDATE users SET name = 'other'")
    before = database_content(site)
    _, said = stack(site, "restore", "--unsigned", "--replace", *config(site), str(backup))
    assert database_content(site) == database_content(keyed)
    aside = [Path(path) for path in re.findall(r"^what was there before: (.*)$", said, re.M)]
    assert {path.name.partition(".before-")[0] for path in aside} == {
        "server.sqlite", "gnupg", "keys",
    }  # fmt: skip
    for path in aside:
        path.replace(path.with_name(path.name.partition(".before-")[0] + "-old"))
    site.path("server/server.sqlite").unlink()
    site.path("server/server.sqlite-old").rename(site.path("server/server.sqlite"))
    assert database_content(site) == before


def test_encrypted_to_a_recipient(keyed: Site, empty: Site, tmp_path: Path) -> None:
    home = tmp_path / "recipient"
    home.mkdir(mode=0o700)
    try:
        gpg_in(
            home, "--passphrase", "", "--quick-gen-key", "keeper", "future-default", "default", "0"
        )
        public = tmp_path / "keeper.asc"
        public.write_bytes(gpg_in(home, "--armor", "--export").stdout)
        stack(keyed, "create", *config(keyed), "--recipient-file", str(public), str(tmp_path))
        (path,) = tmp_path.glob("*.tar.gpg")
        assert b"ustar" not in path.read_bytes()
        _, said = stack(keyed, "verify", str(path), code=1)
        assert "decrypted first: gpg --decrypt" in said
        clear = gpg_in(home, "--decrypt", str(path)).stdout
        stack(empty, "restore", "--unsigned", *config(empty), "-", stdin=clear)
        assert stored_fingerprints(empty) == stored_fingerprints(keyed)
        public.write_text("no key")
        _, said = stack(
            keyed, "create", *config(keyed), "--recipient-file", str(public),
            str(tmp_path / "none.tar.gpg"), code=1,
        )  # fmt: skip
        assert "one OpenPGP public key that can encrypt" in said
        assert not list(tmp_path.glob("*none*"))
    finally:
        subprocess.run(
            ["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], check=True, timeout=30
        )


# ----------------------------------------------------------------- what must not pass for a backup


def _no_pem(site: Site) -> None:
    next(path for path in site.path("server/keys").iterdir() if path.name.count(".") == 1).unlink()


def _no_gnupg(site: Site) -> None:
    next(site.path("server/gnupg/private-keys-v1.d").iterdir()).unlink()


def _empty_gnupg(site: Site) -> None:
    next(site.path("server/gnupg/private-keys-v1.d").iterdir()).write_bytes(b"")


def _empty_pem(site: Site) -> None:
    next(
        path for path in site.path("server/keys").iterdir() if path.name.count(".") == 1
    ).write_bytes(b"")


def _other_public(site: Site) -> None:
    next(site.path("server/keys").glob("*.public.pem")).write_bytes(b"")


def _no_users(site: Site) -> None:
    change_database(site, "DELETE FROM key_accesses")
    change_database(site, "DELETE FROM users")


def _no_database(site: Site) -> None:
    site.path("server/server.sqlite").unlink()


def _empty_database(site: Site) -> None:
    site.path("server/server.sqlite").write_bytes(b"")


def _no_home(site: Site) -> None:
    shutil.rmtree(site.path("server/gnupg"))


def _link(site: Site) -> None:
    path = site.path("server/gnupg/pubring.kbx")
    path.rename(site.path("pubring.kbx"))
    path.symlink_to(site.path("pubring.kbx"))


@pytest.mark.once("our own reading of archives")
@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_no_pem, "secret part of these keys is not in the backup: ecc"),
        (_no_gnupg, "secret part of these keys is not in the backup: pgp"),
        (_empty_gnupg, "pgp|holds no secret key"),
        (_empty_pem, "holds no private key"),
        (_other_public, "is not the public key of"),
        (_no_users, "there is no administrator"),
        (_no_database, "there is no database"),
        (_empty_database, "its database is not what|no tables|damaged|not a Sigul|no such table"),
        (_no_home, "there is no directory '.*/server/gnupg'"),
        (_link, "is a symbolic link"),
    ],
)
def test_an_empty_or_incomplete_backup_is_an_error(
    keyed: Site, tmp_path: Path, damage: Callable[[Site], None], why: str
) -> None:
    site = Site.copy(keyed, tmp_path / "site")
    damage(site)
    target = tmp_path / "backup"
    target.mkdir()
    output, said = stack(site, "create", *config(site), str(target), code=1)
    assert re.search(why, said), said
    assert said.count("\n") == 1
    assert output == b""
    assert not list(target.iterdir())


@pytest.mark.once("our own reading of archives")
@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: data[: len(data) // 2], "ends too early"),
        (lambda data: data[:-1536], "ends too early"),
        (
            lambda data: data.replace(b"(protected-private-key", b"(protected-privatE-key", 1),
            "is not what it was",
        ),
        (
            lambda data: without_member(data, "gnupg/private-keys-v1.d/"),
            "secret part of these keys",
        ),
        (lambda data: without_member(data, "database/"), "its database is not what"),
    ],
)
def test_a_damaged_backup_is_not_restored(
    backup: Path, empty: Site, damage: Callable[[bytes], bytes], why: str
) -> None:
    before = sorted(empty.path("server").rglob("*"))
    damaged = damage(backup.read_bytes())
    _, said = stack(empty, "restore", "--unsigned", *config(empty), "-", stdin=damaged, code=1)
    assert re.search(why, said), said
    assert sorted(empty.path("server").rglob("*")) == before


def without_member(data: bytes, prefix: str) -> bytes:
    """The same backup, right in itself, without the files that begin with `prefix`."""
    stream = io.BytesIO(data)
    manifest = archive.read_manifest(stream)
    files = {item.path: b"".join(pieces) for item, pieces in archive.read_files(stream, manifest)}
    kept: list[Member] = [item for item in manifest.members if not item.path.startswith(prefix)]
    assert len(kept) < len(manifest.members)
    changed = dataclasses.replace(manifest, members=tuple(kept))
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in {
            "manifest.json": changed.as_json().encode(),
            **{item.path: files[item.path] for item in kept},
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return output.getvalue()
