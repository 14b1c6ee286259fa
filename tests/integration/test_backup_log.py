"""A signing log goes into backups of a running server, and back."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.evidence.leaf import LOG_RESTORED, Leaf
from sigul_stack.evidence.log_reader import LogReader, verify_log
from tests.site import Site, module

from .backup_forging import content_of, packed
from .commands_support import ADMIN, done
from .test_backup import PASSPHRASE, config, stack, with_keys, without_state

pytestmark = pytest.mark.once("our own log; test_backup has the archives")

LOG = "server/signing-log"


@pytest.fixture(scope="module")
def keyed(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A stopped site with two keys, whose state no test changes."""
    yield from with_keys(Site.copy(template, tmp_path_factory.mktemp("backup-log") / "site"))


def sign(site: Site, text: str) -> None:
    data = site.path(text)
    data.write_text(text)
    done(site, "sign-data", "-o", f"{data}.sig", "pgp", str(data), secrets=[PASSPHRASE])


def entries(directory: Path) -> list[bytes]:
    """All leaves of a log that is whole."""
    reader = LogReader.open(directory)
    assert reader.public_key is not None
    assert verify_log(reader, reader.public_key).size == reader.size
    return list(reader.entries(0, reader.size))


def audit(site: Site, *arguments: str, code: int = 0) -> str:
    result = site.run(
        *module("stack"), "audit", *arguments, "-c", str(site.path("server.conf")), code=code
    )
    return (result.stdout + result.stderr).decode()


@pytest.fixture
def site(keyed: Site, tmp_path: Path) -> Site:
    return Site.copy(keyed, tmp_path / "site")


def test_taken_while_the_server_runs_and_put_back(site: Site, tmp_path: Path) -> None:
    backup = tmp_path / "backup.tar"
    with site.running():
        sign(site, "before")
        stack(site, "create", *config(site), str(backup))
        taken = entries(site.path(LOG))
        sign(site, "after")
        audit(site, "push", str(tmp_path / "copy"))
        # One more that nobody else has: no backup brings that back.
    now = entries(site.path(LOG))
    assert now[: len(taken)] == taken
    assert len(now) > len(taken)
    listed, _ = stack(site, "list", str(backup))
    assert f"{len(taken)} leaves of the signing log {socket.gethostname()}/signing-log/" in (
        listed.decode()
    )

    # In place there is the same log, and more of it: that is no state to put back.
    _, said = stack(site, "restore", "--unsigned", "--replace", *config(site), str(backup))
    assert f"the signing log that is there has all {len(taken)} leaves of the backup's" in said
    assert entries(site.path(LOG)) == now

    # Lost, it comes from the backup, and is completed before anybody sees that it lacks leaves.
    lost = without_state(site, tmp_path / "lost")
    _, said = stack(lost, "restore", "--unsigned", *config(lost), str(backup))
    assert f"the signing log has the {len(taken)} leaves that it had then" in said
    assert "audit complete --from" in said
    assert "audit new-origin" in said
    assert entries(lost.path(LOG)) == taken
    audit(lost, "complete", "--from", str(tmp_path / "copy"))
    *completed, last = entries(lost.path(LOG))
    assert completed == now
    assert Leaf.parse(last).op == LOG_RESTORED
    with lost.running():
        sign(lost, "again")
    assert entries(lost.path(LOG))[: len(now)] == now


def test_another_log_in_place_is_moved_aside_when_told(site: Site, tmp_path: Path) -> None:
    backup = tmp_path / "backup.tar"
    stack(site, "create", *config(site), str(backup))
    taken = entries(site.path(LOG))
    shutil.rmtree(site.path(LOG))
    # A server that has lost its log begins another one, of which a client complains.
    with site.running():
        result = site.sigul("list-users", secrets=[ADMIN], code=None)
        assert result.returncode != 0
        assert b"signing log" in result.stderr
    other = entries(site.path(LOG))
    for path in ("server/gnupg", "server/keys", "server/server.sqlite"):
        place = site.path(path)
        place.rename(place.with_name(f"{place.name}-away"))
    _, said = stack(site, "restore", "--unsigned", *config(site), str(backup), code=1)
    assert "signing-log' is there already; stop the server and give --replace" in said
    assert not site.path("server/server.sqlite").exists()
    _, said = stack(site, "restore", "--unsigned", "--replace", *config(site), str(backup))
    assert entries(site.path(LOG)) == taken
    [aside] = site.path("server").glob("signing-log.before-*")
    assert f"what was there before: {aside}" in said
    assert entries(aside) == other


def test_a_backup_of_before_has_none_and_changes_none(site: Site, tmp_path: Path) -> None:
    backup = tmp_path / "backup.tar"
    stack(site, "create", *config(site), str(backup))
    manifest, files = content_of(backup.read_bytes())
    old = {path: data for path, data in files.items() if not path.startswith("signing-log/")}
    assert len(old) < len(files)
    text = packed_manifest(manifest, old)
    before = entries(site.path(LOG))
    data = packed(text, old)
    stack(site, "restore", "--unsigned", "--replace", *config(site), "-", stdin=data)
    assert entries(site.path(LOG)) == before
    lost = without_state(site, tmp_path / "lost")
    _, said = stack(lost, "restore", "--unsigned", *config(lost), "-", stdin=data)
    assert "signing log" not in said
    assert not lost.path(LOG).exists()


def packed_manifest(manifest: object, files: dict[str, bytes]) -> str:
    """The manifest of a backup without a log, as versions before the log wrote it."""
    import dataclasses

    changed = dataclasses.replace(
        manifest,  # type: ignore[type-var]
        signing_log=None,
        members=tuple(item for item in manifest.members if item.path in files),  # type: ignore[attr-defined]
    )
    text = changed.as_json()  # type: ignore[attr-defined]
    assert '"version": 1' in text
    assert "signing_log" not in text
    return str(text)


def test_an_unencrypted_backup_is_said_to_hold_its_key(site: Site, tmp_path: Path) -> None:
    _, said = stack(site, "create", *config(site), str(tmp_path / "backup.tar"))
    assert "the signing log's key are as on the server's disk" in said


def test_a_damaged_log_is_no_backup(site: Site, tmp_path: Path) -> None:
    tile = site.path(LOG) / "tail"
    data = bytearray(tile.read_bytes())
    data[-3] ^= 1
    tile.write_bytes(data)
    _, said = stack(site, "create", *config(site), str(tmp_path / "backup.tar"), code=1)
    assert "leaves were lost" in said
    assert not list(tmp_path.glob("backup.tar*"))
