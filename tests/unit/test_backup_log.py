"""The signing log in a backup: what is taken is put back, and nothing else passes for it."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sigul_stack.backup import archive, log_members
from sigul_stack.backup.log_members import LogSources, extends, log_sources
from sigul_stack.backup.manifest import LOG_PART, LogRecord, Manifest, Member
from sigul_stack.backup.unpack import unpack
from sigul_stack.errors import BackupError
from sigul_stack.evidence.leaf import Leaf, Result
from sigul_stack.evidence.log_reader import LogReader, verify_log
from sigul_stack.evidence.signing_log import SigningLog, create

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
#: Leaves of a member here: two bundles.
MEMBER_LEAVES = 512


@pytest.fixture(scope="module", autouse=True)
def small_members() -> Iterator[None]:
    """Have members as small as can be, so that a log of some has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_members, "_LEAVES", MEMBER_LEAVES)
        yield


def append(directory: Path, count: int) -> None:
    with SigningLog.open(directory) as log:
        log.append([Leaf("sign-data", Result.OK, file=f"{n}.tar") for n in range(count)])


def log_of(directory: Path, size: int) -> Path:
    create(directory, "server.example.org")
    append(directory, size - 1)
    return directory


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of two members and a part of a bundle."""
    return log_of(tmp_path_factory.mktemp("log") / "log", 2 * MEMBER_LEAVES + 100)


def manifest_of(record: LogRecord | None, members: tuple[Member, ...]) -> Manifest:
    return Manifest(NOW, "1.0", "current", 1, 1, (), members, "", "", record)


def written(log: LogSources) -> bytes:
    """A backup of nothing but a log."""
    stream = io.BytesIO()
    members = tuple(source.member for source in log.sources)
    archive.write(stream, manifest_of(log.record, members), log.sources)
    return stream.getvalue()


def restored(data: bytes, directory: Path | None) -> Manifest:
    stream = io.BytesIO(data)
    manifest = archive.read_manifest(stream)
    unpack(stream, manifest, {} if directory is None else {LOG_PART: directory})
    return manifest


def entries_of(directory: Path) -> list[bytes]:
    reader = LogReader.open(directory)
    return list(reader.entries(0, reader.size))


# Ends of bundles, of members, and a log that has begun just now.
@pytest.mark.parametrize(
    "size", [1, 255, 256, 257, MEMBER_LEAVES, MEMBER_LEAVES + 1, 2 * MEMBER_LEAVES + 100]
)
def test_a_log_is_put_back_and_goes_on(tmp_path: Path, size: int) -> None:
    log = log_of(tmp_path / "log", size)
    sources = log_sources(log)
    data = written(sources)
    back = tmp_path / "back"
    manifest = restored(data, back)
    assert manifest.signing_log == sources.record
    assert sources.record.size == size
    assert entries_of(back) == entries_of(log)
    key = LogReader.open(log).public_key
    assert key is not None
    assert verify_log(LogReader.open(back), key).size == size
    files = [path for path in back.iterdir() if path.is_file()]
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == {
        "key": 0o600, "key.pub": 0o644, "checkpoint": 0o644, "tail": 0o600,
    }  # fmt: skip
    assert back.stat().st_mode & 0o777 == 0o700
    append(back, 300)
    assert verify_log(LogReader.open(back), key).size == size + 300
    assert extends(back, log)
    assert not extends(log, back)


def test_what_is_appended_meanwhile_is_not_taken(tmp_path: Path) -> None:
    log = log_of(tmp_path / "log", 300)
    before = entries_of(log)
    sources = log_sources(log)
    append(log, 2 * MEMBER_LEAVES)  # the tail of then is a bundle now
    restored(written(sources), tmp_path / "back")
    assert entries_of(tmp_path / "back") == before
    assert extends(log, tmp_path / "back")
    # Taken a second time, what was full is not read again.
    again = log_sources(log, log_sources(log))
    assert again.record.size == 300 + 2 * MEMBER_LEAVES
    restored(written(again), tmp_path / "later")
    assert entries_of(tmp_path / "later") == entries_of(log)


def test_another_log_does_not_extend_it(tmp_path: Path, log: Path) -> None:
    other = log_of(tmp_path / "other", 2 * MEMBER_LEAVES + 200)
    assert not extends(other, log)
    assert not extends(tmp_path / "none", log)
    # The same key, and another history.
    fork = tmp_path / "fork"
    restored(written(log_sources(log)), fork)
    longer = tmp_path / "longer"
    shutil.copytree(fork, longer)
    append(fork, 3)
    append(longer, 4)
    assert not extends(longer, fork)
    assert extends(longer, log)


def reordered(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: files[path] for path in reversed(files)}


def _set(path: str, content: Callable[[bytes], bytes]) -> Callable[..., dict[str, bytes]]:
    def change(files: dict[str, bytes]) -> dict[str, bytes]:
        return {**files, f"{LOG_PART}/{path}": content(files.get(f"{LOG_PART}/{path}", b""))}

    return change


def _without(path: str) -> Callable[..., dict[str, bytes]]:
    return lambda files: {name: data for name, data in files.items() if not name.endswith(path)}


def _last_bit(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_set("entries/000000", _last_bit), "are not those that its checkpoint is over"),
        (_set("entries/000002", lambda data: data[:-1]), "are cut off"),
        (_set("entries/000002", lambda data: data + b"\0\1x"), "more leaves than"),
        (_set("entries/000001", lambda data: b""), "are cut off"),
        (_set("entries/000003", lambda data: b"\0\1x"), "more leaves than|are cut off"),
        (_without("entries/000002"), "lacks leaves"),
        (_without("entries/000000"), "is not where it belongs"),
        (_without("/key"), "is not where it belongs"),
        (reordered, "is not where it belongs"),
        (_set("checkpoint", lambda data: data.replace(b"\n1124\n", b"\n1123\n")), "not signed by"),
        (_set("checkpoint", lambda data: b"x" * 70000), "is not where it belongs"),
        (_set("key.pub", lambda data: b"nothing"), "its signing log"),
        (_set("key", lambda data: b"nothing"), "no private key"),
        (lambda files: {}, "lacks leaves, or its keys"),
    ],
)
def test_what_is_no_log(
    tmp_path: Path, log: Path, change: Callable[..., dict[str, bytes]], why: str
) -> None:
    sources = log_sources(log)
    files = change({source.member.path: b"".join(source.pieces()) for source in sources.sources})
    members = tuple(
        Member(path, len(data), hashlib.sha256(data).hexdigest(), 0o600)
        for path, data in files.items()
    )
    contents = [
        archive.describe_pieces(log, lambda data=data: iter((data,)), path, 0o600)
        for path, data in files.items()
    ]
    stream = io.BytesIO()
    archive.write(stream, manifest_of(sources.record, members), contents)
    for directory in (None, tmp_path / "back"):
        with pytest.raises(BackupError, match=why):
            restored(stream.getvalue(), directory)
        # A log that is not proven has no checkpoint, and so is none.
        assert directory is None or not (directory / "checkpoint").exists()


def test_the_key_of_another_log(tmp_path: Path, log: Path) -> None:
    other = log_of(tmp_path / "other", 5)
    mixed = tmp_path / "mixed"
    shutil.copytree(log, mixed)
    shutil.copy(other / "key", mixed / "key")
    with pytest.raises(BackupError, match="its private key is not that of its public key"):
        restored(written(log_sources(mixed)), None)


def test_another_log_than_the_manifest_says(log: Path) -> None:
    sources = log_sources(log)
    for record in (None, LogRecord(sources.record.origin, 5), LogRecord("x", sources.record.size)):
        with pytest.raises(BackupError, match="another one than the manifest says"):
            restored(written(LogSources(record, sources.sources)), None)  # type: ignore[arg-type]
