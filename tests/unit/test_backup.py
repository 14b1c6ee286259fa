"""A backup's file: what is written is read back, and nothing else is taken for a backup."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sigul_stack.backup import archive
from sigul_stack.backup.manifest import KeyRecord, Manifest, Member, is_path, parse
from sigul_stack.backup.unpack import unpack, verify_backup
from sigul_stack.errors import BackupError

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CONTENT = {
    "database/server.sqlite": b"not quite a database",
    "gnupg/pubring.kbx": bytes(512),
    f"gnupg/private-keys-v1.d/{'A' * 40}.key": b"x" * 1000,
    f"keys/{'a' * 40}.pem": b"",
}


def manifest_of(content: dict[str, bytes]) -> Manifest:
    members = tuple(
        Member(path, len(data), hashlib.sha256(data).hexdigest(), 0o600)
        for path, data in content.items()
    )
    keys = (KeyRecord("release", "gnupg", "AA"),)
    return Manifest(NOW, "1.0", "current", 1, 1, keys, members)


def header(name: str, size: int, **further: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    for attribute, value in further.items():
        setattr(info, attribute, value)
    return info.tobuf(tarfile.USTAR_FORMAT)


def member(name: str, data: bytes, **further: object) -> bytes:
    return header(name, len(data), **further) + data + bytes(-len(data) % 512)


def tar(content: dict[str, bytes], manifest: Manifest | None = None) -> bytes:
    text = (manifest or manifest_of(content)).as_json().encode()
    return (
        member("manifest.json", text)
        + b"".join(member(name, data) for name, data in content.items())
        + bytes(1024)
    )


def unpacked(data: bytes, directory: Path) -> Manifest:
    stream = io.BytesIO(data)
    manifest = archive.read_manifest(stream)
    parts = ("database", "gnupg", "keys")
    unpack(stream, manifest, {part: directory / part for part in parts})
    return manifest


def refusal(data: bytes, directory: Path) -> str:
    with pytest.raises(BackupError) as caught:
        unpacked(data, directory)
    return str(caught.value)


def test_what_is_written_is_read_back_and_any_tar_reads_it(tmp_path: Path) -> None:
    sources = []
    for path, data in CONTENT.items():
        file = tmp_path / "from" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        file.chmod(0o640 if path.startswith("keys") else 0o600)
        sources.append(archive.describe(file, path))
    manifest = dataclasses.replace(
        manifest_of({}), members=tuple(source.member for source in sources)
    )
    stream = io.BytesIO()
    archive.write(stream, manifest, sources)

    (tmp_path / "to").mkdir()
    assert unpacked(stream.getvalue(), tmp_path / "to") == manifest
    for path, data in CONTENT.items():
        file = tmp_path / "to" / path
        assert file.read_bytes() == data
        assert file.stat().st_mode & 0o777 == (0o640 if path.startswith("keys") else 0o600)
    assert (tmp_path / "to/gnupg/private-keys-v1.d").stat().st_mode & 0o777 == 0o700
    stream.seek(0)
    with tarfile.open(fileobj=stream) as reading:
        assert reading.getnames() == ["manifest.json", *CONTENT]
        assert {entry.mode for entry in reading} == {0o600}


def test_a_file_that_changes_meanwhile_is_an_error(tmp_path: Path) -> None:
    for changed in (b"longer than before", b"other!", b""):
        file = tmp_path / "pubring.kbx"
        file.write_bytes(b"before")
        source = archive.describe(file, "gnupg/pubring.kbx")
        file.write_bytes(changed)
        manifest = dataclasses.replace(manifest_of({}), members=(source.member,))
        with pytest.raises(BackupError, match="changed while it was backed up"):
            archive.write(io.BytesIO(), manifest, [source])


def test_only_plain_files_are_backed_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BackupError, match="not a plain file"):
        archive.describe(tmp_path / "pipe", "gnupg/pipe")
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        archive.describe(tmp_path / "link", "gnupg/link")


@pytest.mark.parametrize(
    "path",
    ["gnupg/a", "keys/.hidden", "gnupg/a/b/c", "nss/key4.db", "configuration/0-server.conf"],
)
def test_paths_that_may_be(path: str) -> None:
    assert is_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "", "gnupg", "gnupg/", "/gnupg/a", "gnupg//a", "gnupg/..", "gnupg/../a", "gnupg/./a",
        "gnupg/a/../../../etc/passwd", "../gnupg/a", "etc/passwd", "gnupg/a/b/c/d", "gnupg/a\nb",
        "gnupg/" + "a" * 91, "gnupg/ü", "gnupg/a b", "gnupg/a\0", "gnupg/a\n",
    ],
)  # fmt: skip
def test_paths_that_may_not_be(path: str) -> None:
    assert not is_path(path)


# ------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "name", ["../outside", "/tmp/outside", "gnupg/../../outside", "etc/passwd"]
)
def test_a_path_that_leads_outside_is_refused(name: str, tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    assert "manifest cannot be read" in refusal(tar({**CONTENT, name: b"x"}), inside)
    # ... and where the manifest is right but the file's header is not.
    text = manifest_of(CONTENT).as_json().encode()
    other = member("manifest.json", text) + member(name, b"not quite a database") + bytes(1024)
    assert "is where database/server.sqlite should be" in refusal(other, inside)
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
        tarfile.DIRTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_SPARSE, b"\0",
    ],
)  # fmt: skip
def test_anything_but_a_plain_file_is_refused(kind: bytes, tmp_path: Path) -> None:
    text = manifest_of(CONTENT).as_json().encode()
    name, data = next(iter(CONTENT.items()))
    bad = member(name, data, type=kind, linkname="/etc/passwd")
    assert "is not a plain file" in refusal(member("manifest.json", text) + bad, tmp_path)
    assert not list((tmp_path / "database").iterdir())


def test_a_backup_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = tar(CONTENT)
    for number, end in enumerate(range(0, len(whole) - 1, 500)):
        directory = tmp_path / str(number)
        directory.mkdir()
        assert "ends too early" in refusal(whole[:end], directory)


def test_every_changed_byte_of_a_file_is_noticed(tmp_path: Path) -> None:
    whole = tar(CONTENT)
    start = whole.index(b"not quite")
    for number, position in enumerate((start, start + 15, whole.index(b"xxxx") + 999)):
        changed = bytearray(whole)
        changed[position] ^= 1
        directory = tmp_path / str(number)
        directory.mkdir()
        assert "is not what it was" in refusal(bytes(changed), directory)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: b"", "ends too early"),
        (lambda data: b"\x1f\x8b" + bytes(600), "no backup"),
        (lambda data: bytes(2048), "no backup"),
        (lambda data: data + b"more", "something behind"),
        (lambda data: data + bytes(2 << 20), "something behind"),
        (lambda data: member("manifest.json", b"{}") + data, "no backup of a signing server"),
        (lambda data: member("manifest.json", b"[1]") + data, "no backup of a signing server"),
        (lambda data: member("manifest.json", b"[" * 100_000) + data, "cannot be read"),
        (lambda data: header("manifest.json", 17 << 20) + data, "no backup"),
        (lambda data: data[len(data) // 2 // 512 * 512 :], "no backup"),
    ],
)
def test_what_is_no_backup_is_refused(
    change: Callable[[bytes], bytes], why: str, tmp_path: Path
) -> None:
    assert why in refusal(change(tar(CONTENT)), tmp_path)


def test_a_backup_larger_than_the_disk_is_refused_before_it_is_read(tmp_path: Path) -> None:
    huge = dataclasses.replace(
        manifest_of({}), members=(Member("gnupg/pubring.kbx", 8**11 - 1, "0" * 64, 0o600),)
    )
    text = huge.as_json().encode()
    # On a disk with more than 8 GiB free it is the data that is missing.
    said = refusal(member("manifest.json", text) + header("gnupg/pubring.kbx", 8**11 - 1), tmp_path)
    assert "bytes free at" in said or "ends too early" in said


def test_there_is_no_room_for_a_hundred_huge_files(tmp_path: Path) -> None:
    huge = tuple(
        Member(f"gnupg/private-keys-v1.d/{n:040X}.key", 8**11 - 1, "0" * 64, 0o600)
        for n in range(10_000)
    )
    text = dataclasses.replace(manifest_of({}), members=huge).as_json().encode()
    assert "bytes free at" in refusal(member("manifest.json", text), tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("members", [{"path": "gnupg/a", "size": -1, "sha256": "0" * 64, "mode": 384}]),
        ("members", [{"path": "gnupg/a", "size": 1, "sha256": "0" * 63, "mode": 384}]),
        ("members", [{"path": "gnupg/a", "size": 1, "sha256": "0" * 64, "mode": 0o4755}]),
        ("members", [{"path": "gnupg/a", "size": 1, "sha256": "0" * 64, "mode": 0}] * 2),
        ("members", [{"path": "gnupg/a", "size": True, "sha256": "0" * 64, "mode": 0}]),
        ("members", None),
        ("users", "1"),
        ("keys", [{"name": "a"}]),
        ("created", "yesterday"),
        ("created", "2026-01-02"),
        ("schema", "\x1b[0m"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(name: str, value: object) -> None:
    document = json.loads(manifest_of(CONTENT).as_json())
    assert parse(json.dumps(document).encode()) == manifest_of(CONTENT)
    with pytest.raises(BackupError, match="manifest cannot be read"):
        parse(json.dumps({**document, name: value}).encode())


def test_a_newer_form_is_told() -> None:
    document = json.loads(manifest_of(CONTENT).as_json())
    with pytest.raises(BackupError, match="newer version"):
        parse(json.dumps({**document, "version": 3}).encode())


def test_a_backup_without_a_database_is_not_whole(tmp_path: Path) -> None:
    without = {path: data for path, data in CONTENT.items() if not path.startswith("database")}
    with pytest.raises(BackupError, match="its database is not what the manifest says"):
        verify_backup(io.BytesIO(tar(without)))
    assert archive.read_manifest(io.BytesIO(tar(without))).users == 1
