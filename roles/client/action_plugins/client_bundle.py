"""Ansible action: the archive of one user's bundle, made on the control machine.

It is made again only if something in it is not as it should be. What is in it is in no argument, in
no result and in no file but the archive.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ansible.plugins.action import ActionBase

FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700
#: What a directory of the archive has instead of a content.
DIRECTORY: Final = None

Members = dict[str, bytes | None]


class ActionModule(ActionBase):
    """The action."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Compare the archive with what it should hold, and make it."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        archive = Path(self._task.args["archive"])
        texts: Mapping[str, str] = self._task.args["texts"]
        files: Mapping[str, str] = self._task.args["files"]
        wanted: Members = {name: text.encode() for name, text in texts.items()}
        for name, file in files.items():
            directory = str(Path(name).parent)
            if directory != ".":
                wanted[directory] = DIRECTORY
            wanted[name] = self._content(file)
        found = members(archive)
        result["changed"] = found != wanted or archive.stat().st_mode & 0o777 != FILE_MODE
        result["diff"] = [
            {"before_header": name, "after_header": name, "before": before, "after": text}
            for name, text in texts.items()
            if (before := (found.get(name) or b"").decode()) != text
        ]
        if result["changed"] and not self._task.check_mode:
            make_directory(archive.parent)
            write(archive, wanted)
        return result

    def _content(self, file: str) -> bytes:
        # Of a file that Ansible vault has encrypted, what is in it: decrypted in memory, for
        # get_real_file, as `copy` has it, writes that into a file.
        held: bytes = self._loader._get_file_contents(file)[0]
        return held


def members(archive: Path) -> Members:
    """What an archive holds, as far as it is as it should be; nothing where there is none."""
    held: Members = {}
    try:
        with tarfile.open(archive, "r:gz") as reading:
            for member in reading:
                file = reading.extractfile(member) if member.isfile() else None
                if member.mode != (FILE_MODE if file else DIRECTORY_MODE):
                    return {}
                held[member.name] = file.read() if file else DIRECTORY
    except (OSError, EOFError, tarfile.TarError):
        return {}
    return held


def make_directory(directory: Path) -> None:
    """Make a directory and those above it. One that is there is its user's own, and kept."""
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir()
        directory.chmod(DIRECTORY_MODE)


def write(archive: Path, held: Members) -> None:
    """Write an archive whole or not at all, for nobody else to read."""
    descriptor, name = tempfile.mkstemp(prefix=f".{archive.name}.", dir=archive.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz") as writing:
                for path, content in sorted(held.items()):
                    member = tarfile.TarInfo(path)
                    member.mtime = int(time.time())
                    if content is DIRECTORY:
                        member.type, member.mode = tarfile.DIRTYPE, DIRECTORY_MODE
                        writing.addfile(member)
                    else:
                        member.mode, member.size = FILE_MODE, len(content)
                        writing.addfile(member, io.BytesIO(content))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(archive)
    finally:
        temporary.unlink(missing_ok=True)
