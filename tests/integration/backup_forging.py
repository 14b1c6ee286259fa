"""Backups that nobody made with `sigul-stack backup create`: right in themselves, and hostile."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
from collections.abc import Mapping

from sigul_stack.backup import archive
from sigul_stack.backup.manifest import Manifest, Member


def content_of(data: bytes) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest of a backup, and its files."""
    stream = io.BytesIO(data)
    manifest = archive.read_manifest(stream)
    return manifest, {
        item.path: b"".join(pieces) for item, pieces in archive.read_files(stream, manifest)
    }


def forged(data: bytes, changes: Mapping[str, bytes | None], **manifest: object) -> bytes:
    """The same backup with other files (None: without it), and a manifest that is right for it."""
    was, files = content_of(data)
    files |= {path: content for path, content in changes.items() if content is not None}
    files = {path: content for path, content in files.items() if changes.get(path, b"") is not None}
    members = tuple(
        Member(path, len(content), hashlib.sha256(content).hexdigest(), 0o600)
        for path, content in files.items()
    )
    now = dataclasses.replace(was, members=members, **manifest)  # type: ignore[arg-type]
    return packed(now.as_json(), files)


def packed(manifest: str, files: Mapping[str, bytes]) -> bytes:
    """The tar file of a manifest and files."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in {"manifest.json": manifest.encode(), **files}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return output.getvalue()
