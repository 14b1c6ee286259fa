"""Ansible action: one user's bundle, made on the control machine.

An archive; or, with a file that holds its passphrase, encrypted as GitHub actions take it, with the
NSS database's password in its configuration. It is made again only if something in it is not as it
should be. What is in it is in no argument, in no result and in no file but the bundle.
"""

from __future__ import annotations

import configparser
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ansible.errors import AnsibleActionFail
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
        encrypted = None
        if self._task.args.get("passphrase"):
            password = wanted.pop("nss-password") or b""
            encrypted = Encrypted(self._content(self._task.args["passphrase"]))
            texts = {encrypted.CONFIGURATION: texts["client.conf"]}
            configuration = with_password(texts[encrypted.CONFIGURATION], password)
            wanted = {
                **{f".sigul/{Path(name).name}": self._content(file)
                   for name, file in files.items() if name != "nss-password"},
                encrypted.CONFIGURATION: configuration,
            }  # fmt: skip
            found = encrypted.members(archive)
        else:
            found = members(archive)
        result["changed"] = found != wanted or archive.stat().st_mode & 0o777 != FILE_MODE
        result["diff"] = [
            {"before_header": name, "after_header": name, "before": before, "after": text}
            for name, text in texts.items()
            if encrypted is None and (before := (found.get(name) or b"").decode()) != text
        ]
        if result["changed"] and not self._task.check_mode:
            make_directory(archive.parent)
            if encrypted is None:
                write(archive, archived(wanted))
            else:
                write(archive, encrypted.packed(wanted))
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


def with_password(text: str, password: bytes) -> bytes:
    """A client's configuration with the password of its NSS database."""
    parser = configparser.RawConfigParser()
    parser.read_string(text)
    parser.set("nss", "nss-password", password.decode())
    output = io.StringIO()
    parser.write(output)
    return output.getvalue().encode()


class Encrypted:
    """What makes and opens a bundle for GitHub actions."""

    CONFIGURATION: Final = ".sigul/client.conf"

    def __init__(self, passphrase: bytes) -> None:
        # Not at the top: whoever makes other bundles needs no gpg.
        from sigul_stack import bundle
        from sigul_stack.errors import SigulError
        from sigul_stack.secret import Secret

        self._bundle, self._error = bundle, SigulError
        self._passphrase = Secret(passphrase)

    def members(self, file: Path) -> Members:
        """The files of a bundle; nothing where there is none that opens."""
        try:
            found = self._bundle.unpack(file.read_bytes(), self._passphrase).members
        except (OSError, self._error):
            return {}
        return {name: content for name, content in found.items() if content is not DIRECTORY}

    def packed(self, held: Members) -> bytes:
        """A bundle of these files."""
        files = {name: content for name, content in held.items() if content is not None}
        try:
            return self._bundle.pack(files, self._passphrase)
        except self._error as error:
            raise AnsibleActionFail(f"no bundle can be made: {error}") from None


def archived(held: Members) -> bytes:
    """A compressed archive."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w:gz") as writing:
        for path, content in sorted(held.items()):
            member = tarfile.TarInfo(path)
            member.mtime = int(time.time())
            if content is DIRECTORY:
                member.type, member.mode = tarfile.DIRTYPE, DIRECTORY_MODE
                writing.addfile(member)
            else:
                member.mode, member.size = FILE_MODE, len(content)
                writing.addfile(member, io.BytesIO(content))
    return output.getvalue()


def write(archive: Path, content: bytes) -> None:
    """Write a bundle whole or not at all, for nobody else to read."""
    descriptor, name = tempfile.mkstemp(prefix=f".{archive.name}.", dir=archive.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(archive)
    finally:
        temporary.unlink(missing_ok=True)
