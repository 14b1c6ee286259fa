"""Signatures of backups: whoever did not make one cannot have it restored."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.site import Site

from .backup_forging import content_of, forged, packed
from .commands_support import change_database, gpg_in, stored_fingerprints
from .test_backup import stack, with_keys, without_state

UNSIGNED = "whoever wrote a backup has the server that it is restored to; give --verify-key KEY"


def config(site: Site) -> tuple[str, str]:
    return "-c", str(site.path("server.conf"))


@pytest.fixture(scope="module")
def signing(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A stopped site with two keys and a key that signs backups, whose state no test changes."""
    site = Site.copy(template, tmp_path_factory.mktemp("signing") / "site")
    key = site.path("backup-key")
    _, said = stack(site, "make-key", str(key))
    assert "made the key " in said
    yield from with_keys(site, f"backup-signing-key: {key}\n")


@pytest.fixture(scope="module")
def public(signing: Site) -> Path:
    return signing.path("backup-key.pub")


@pytest.fixture(scope="module")
def backup(signing: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("signed") / "backup.tar"
    _, said = stack(signing, "create", "--unencrypted", *config(signing), str(path))
    assert "not signed" not in said
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["backup.tar", "backup.tar.sig"]
    return path


@pytest.fixture
def empty(signing: Site, tmp_path: Path) -> Site:
    """A site whose server has lost everything."""
    return without_state(signing, tmp_path / "site")


def test_keys_are_their_owners_alone_and_openssl_reads_them(signing: Site, public: Path) -> None:
    private = signing.path("backup-key")
    assert private.stat().st_mode & 0o777 == 0o600
    told = subprocess.run(
        ["openssl", "pkey", "-in", str(private), "-pubout"],
        capture_output=True, check=True, timeout=30,
    )  # fmt: skip
    assert told.stdout == public.read_bytes()
    before = private.read_bytes()
    _, said = stack(signing, "make-key", str(private), code=1)
    assert "cannot be made (File exists)" in said
    assert private.read_bytes() == before


@pytest.mark.once("our own signatures, which cryptography makes")
def test_restore_asks_who_made_it(signing: Site, empty: Site, public: Path, backup: Path) -> None:
    for arguments in ((), ("--unsigned", "--verify-key", str(public))):
        _, said = stack(empty, "restore", *arguments, *config(empty), str(backup), code=1)
        assert UNSIGNED in said
    assert not empty.path("server/server.sqlite").exists()
    _, said = stack(
        empty,
        "restore",
        "--verify-key",
        str(public),
        *config(empty),
        "-",
        stdin=backup.read_bytes(),
    )
    assert "\nsigned by the key " in said
    assert f"for the bridge {signing.bridge_name}: " in said
    assert stored_fingerprints(empty) == stored_fingerprints(signing)


def test_one_of_before_is_restored_when_told(
    signing: Site, empty: Site, public: Path, backup: Path
) -> None:
    manifest, files = content_of(backup.read_bytes())
    document = json.loads(manifest.as_json())
    del document["signature"], document["site"]
    # As earlier versions took it from the home.
    old = forged(packed(json.dumps(document), files), {"gnupg/gpg-agent.conf": b"use-agent\n"})
    _, said = stack(
        empty, "restore", "--verify-key", str(public), *config(empty), "-", stdin=old, code=1
    )
    assert "the backup is not signed; use one that is; --unsigned restores this one" in said
    _, said = stack(empty, "verify", "-", stdin=old)
    assert "who made it was not checked: give --verify-key KEY" in said
    stack(empty, "restore", "--unsigned", *config(empty), "-", stdin=old)
    assert stored_fingerprints(empty) == stored_fingerprints(signing)


@pytest.mark.once("our own signatures, which cryptography makes")
def test_what_was_changed_is_refused(
    signing: Site, empty: Site, public: Path, backup: Path, tmp_path: Path
) -> None:
    """Each change leaves it whole: for who may write where backups are, that is all it takes."""
    data = backup.read_bytes()
    manifest, files = content_of(data)
    key = next(name for name in files if name.startswith("keys/") and name.count(".") == 1)
    other = Site.copy(signing, tmp_path / "other")
    change_database(other, "UPDATE users SET sha512_password = NULL")
    intruders = other.path("server/server.sqlite").read_bytes()
    document = json.loads(manifest.as_json())
    document["signature"] = "AAAA"
    changed = {
        "a database": forged(data, {"database/server.sqlite": intruders}),
        "a file less": forged(data, {key.replace(".pem", ".public.pem"): None}),
        "the time": forged(data, {}, created=manifest.created.replace(year=2030)),
        "the site": forged(data, {}, site="bridge.other.example.org"),
        "the version": forged(data, {}, made_by="9.9"),
        "no signature": packed(json.dumps(document), files),
    }
    for what, bad in changed.items():
        for arguments in (("verify",), ("restore", *config(empty))):
            _, said = stack(empty, *arguments, "--verify-key", str(public), "-", stdin=bad, code=1)
            assert "the backup is not signed by a key in" in said, what
    assert not empty.path("server/server.sqlite").exists()


@pytest.mark.once("our own signatures, which cryptography makes")
def test_another_sites_backup_is_refused(
    signing: Site, empty: Site, backup: Path, tmp_path: Path
) -> None:
    stack(signing, "make-key", str(tmp_path / "others"))
    _, said = stack(
        empty, "restore", "--verify-key", str(tmp_path / "others.pub"), *config(empty),
        str(backup), code=1,
    )  # fmt: skip
    assert "is not signed by a key in" in said
    assert "another site's server made it" in said
    # A private key, or none, is no key to verify with.
    for name, content in (("none", b""), ("private", (tmp_path / "others").read_bytes())):
        (tmp_path / name).write_bytes(content)
        _, said = stack(empty, "verify", "--verify-key", str(tmp_path / name), str(backup), code=1)
        assert "does not hold the public keys of backups and nothing else" in said


def test_an_encrypted_backup_is_checked_by_who_cannot_open_it(
    signing: Site, empty: Site, public: Path, backup: Path, tmp_path: Path
) -> None:
    home = tmp_path / "recipient"
    home.mkdir(mode=0o700)
    try:
        gpg_in(
            home, "--passphrase", "", "--quick-gen-key", "keeper", "future-default", "default", "0"
        )
        keeper = tmp_path / "keeper.asc"
        keeper.write_bytes(gpg_in(home, "--armor", "--export").stdout)
        path = tmp_path / "backup.tar.gpg"
        stack(signing, "create", *config(signing), "--recipient-file", str(keeper), str(path))
        clear = gpg_in(home, "--decrypt", str(path)).stdout
    finally:
        subprocess.run(
            ["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], check=True, timeout=30
        )
    verify = ("verify", "--verify-key", str(public), str(path))
    _, said = stack(empty, *verify)
    assert said.startswith("signed by the key ")
    assert f"for the bridge {signing.bridge_name}: the file is as it was made" in said
    whole, signature = path.read_bytes(), Path(f"{path}.sig").read_bytes()
    for bad in (whole[:-1], whole + b"\0", whole[:99] + bytes([whole[99] ^ 1]) + whole[100:], b""):
        path.write_bytes(bad)
        _, said = stack(empty, *verify, code=1)
        assert "the file is not the one that was signed" in said
    path.write_bytes(whole)
    document = json.loads(signature)
    for name, value in (("created", "2030-01-01T00:00:00+00:00"), ("site", "x"), ("size", 1)):
        Path(f"{path}.sig").write_text(json.dumps({**document, name: value}))
        _, said = stack(empty, *verify, code=1)
        assert "is not signed by a key in" in said
    # The signature of the manifest is none of the file, nor the other way round.
    inside = json.loads(content_of(clear)[0].as_json())["signature"]
    Path(f"{path}.sig").write_text(json.dumps({**document, "signature": inside}))
    _, said = stack(empty, *verify, code=1)
    assert "is not signed by a key in" in said
    for bad_file in (b"", b"[]", b"[" * 60_000, b'{"format": 1}'):
        Path(f"{path}.sig").write_bytes(bad_file)
        _, said = stack(empty, *verify, code=1)
        assert "is no signature of a backup" in said
    Path(f"{path}.sig").unlink()
    _, said = stack(empty, *verify, code=1)
    assert "backup.tar.gpg.sig' cannot be read (No such file or directory)" in said
    # Decrypted, what is inside is signed as well.
    stack(empty, "restore", "--verify-key", str(public), *config(empty), "-", stdin=clear)
    assert stored_fingerprints(empty) == stored_fingerprints(signing)


@pytest.mark.once("our own signatures, which cryptography makes")
def test_a_new_key_signs_and_what_the_old_one_signed_stays(
    signing: Site, public: Path, backup: Path, tmp_path: Path
) -> None:
    site = Site.copy(signing, tmp_path / "site")
    key = tmp_path / "key"
    shutil.copy(signing.path("backup-key"), key)
    shutil.copy(public, tmp_path / "key.pub")
    key.unlink()
    stack(site, "make-key", str(key))
    site.extra["server"] = {**site.extra["server"], "server": f"backup-signing-key: {key}\n"}
    site.configure()
    new = tmp_path / "new.tar"
    stack(site, "create", *config(site), str(new))
    for path in (new, backup):
        _, said = stack(site, "verify", "--verify-key", str(tmp_path / "key.pub"), str(path))
        assert "\nsigned by the key " in said
    _, said = stack(site, "verify", "--verify-key", str(public), str(new), code=1)
    assert "is not signed by a key in" in said


@pytest.mark.once("our own signatures, which cryptography makes")
def test_no_key_no_backup(signing: Site, tmp_path: Path) -> None:
    """A server that is to sign does not make a backup that is not signed, or by anybody's key."""
    site = Site.copy(signing, tmp_path / "site")
    causes = {
        None: "cannot be read",
        b"no key": "holds no private key that signs backups",
        signing.path("backup-key").read_bytes(): "everybody on this machine may read the key",
    }
    for content, cause in causes.items():
        key = tmp_path / "key"
        if content is not None:
            key.write_bytes(content)
            key.chmod(0o600 if content == b"no key" else 0o644)
        site.extra["server"] = {**site.extra["server"], "server": f"backup-signing-key: {key}\n"}
        site.configure()
        _, said = stack(site, "create", *config(site), str(tmp_path / "b.tar"), code=1)
        assert cause in said
        assert not (tmp_path / "b.tar").exists()
