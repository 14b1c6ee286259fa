"""The manifest of a backup, its JSON form, and the names of files that there may be.

Whatever a manifest says has been checked by `parse`: names lead nowhere but into the part of the
backup that they begin with, no two are the same, and all numbers are in range.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from ..errors import BackupError

FORMAT: Final = "sigul-stack-backup"
#: The forms of the archive: without a signing log, and with one. One that is newer is refused.
_WITHOUT_LOG: Final = 1
_WITH_LOG: Final = 2
NAME: Final = "manifest.json"
DATABASE: Final = "database/server.sqlite"
#: The parts of a backup, each a directory in it.
STATE_PARTS: Final = ("database", "gnupg", "keys")
#: Not unpacked as a directory: `signing_log` takes it piece by piece.
LOG_PART: Final = "signing-log"
OTHER_PARTS: Final = ("configuration", "nss")
PARTS: Final = STATE_PARTS + OTHER_PARTS
#: Longest manifest, in bytes: enough for some fifty thousand keys.
MAX_BYTES: Final = 16 << 20
#: Largest file in a backup, in bytes: what the size of a tar header can say.
MAX_FILE: Final = 8**11 - 1
#: The permissions that a file may have got back: nobody but its owner may ever write.
MODES: Final = 0o644

_STEP = r"(?!\.\.?(?:/|$))[\x21-\x2e\x30-\x7e]{1,90}"
_PATH = re.compile(rf"(?:{'|'.join((*PARTS, LOG_PART))})(?:/{_STEP}){{1,3}}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEXT = re.compile(r"[\x20-\x7e]{0,255}")


@dataclass(frozen=True, slots=True)
class Member:
    """One file: its path in the backup, bytes, SHA-256 in hex, permissions."""

    path: str
    size: int
    sha256: str
    mode: int

    @property
    def part(self) -> str:
        """The part of the backup that it belongs to."""
        return self.path.partition("/")[0]


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key of the database: its name, type and fingerprint."""

    name: str
    keytype: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class LogRecord:
    """The signing log of a backup: its origin, and the number of its leaves."""

    origin: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of a backup. `made_by` is the version of sigul-stack; `schema` the database's.

    `site` is the host name of the bridge that the server works for, `signature` a server's, in
    base64 (`signatures`); both are empty in backups of earlier versions. Those have no
    `signing_log` either.
    """

    created: datetime
    made_by: str
    schema: str
    users: int
    accesses: int
    keys: tuple[KeyRecord, ...]
    members: tuple[Member, ...]
    site: str = ""
    signature: str = ""
    signing_log: LogRecord | None = None

    def summary(self) -> str:
        """One line for a person."""
        total = sum(member.size for member in self.members)
        log = self.signing_log
        return (
            f"made {self.created:%Y-%m-%d %H:%M:%S} UTC by sigul-stack {self.made_by}"
            f"{f' for the bridge {self.site}' if self.site else ''}:"
            f" {self.users} users, {len(self.keys)} keys, {self.accesses} accesses,"
            f" {len(self.members)} files, {total} bytes"
            f"{f', {log.size} leaves of the signing log {log.origin}' if log else ''}"
        )

    def content(self) -> dict[str, Any]:
        """Its fields by name: what is signed, so that of a backup without a log has none."""
        found = asdict(self)
        if self.signing_log is None:
            del found["signing_log"]
        return found

    def as_json(self) -> str:
        """The manifest as it stands in the backup."""
        version = _WITHOUT_LOG if self.signing_log is None else _WITH_LOG
        return json.dumps(
            {"format": FORMAT, "version": version, **self.content()},
            default=lambda value: value.isoformat(),
            indent=1,
        )


def is_path(text: str) -> bool:
    """Tell whether a file of a backup may be called so."""
    return _PATH.fullmatch(text) is not None


def parse(data: bytes) -> Manifest:
    """Read a manifest. Raises `BackupError` where it is damaged, or newer than this version."""
    try:
        document = json.loads(data)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise BackupError(
                "this is no backup of a signing server",
                "name one that `sigul-stack backup create` made, decrypted if it was encrypted",
            )
        if document.get("version") not in (_WITHOUT_LOG, _WITH_LOG):
            raise BackupError(
                "this backup was made by a newer version of sigul-stack", "install that one"
            )
        return _manifest(document)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged("its manifest cannot be read") from None


def damaged(why: str) -> BackupError:
    """The error for a backup that is not as it was made."""
    return BackupError(f"the backup is damaged: {why}", "use another one, nothing was restored")


def _manifest(document: Mapping[str, Any]) -> Manifest:
    members = tuple(_member(entry) for entry in document["members"])
    if len({member.path for member in members}) != len(members):
        raise ValueError("a file stands there twice")
    created = datetime.fromisoformat(document["created"])
    if created.tzinfo is None:
        raise ValueError("a time without a zone")
    return Manifest(
        created,
        _text(document["made_by"]),
        _text(document["schema"]),
        _number(document["users"]),
        _number(document["accesses"]),
        tuple(
            KeyRecord(_text(key["name"]), _text(key["keytype"]), _text(key["fingerprint"]))
            for key in document["keys"]
        ),
        members,
        _text(document.get("site", "")),
        _text(document.get("signature", "")),
        _log(document.get("signing_log")),
    )


def _log(entry: Mapping[str, Any] | None) -> LogRecord | None:
    return None if entry is None else LogRecord(_text(entry["origin"]), _number(entry["size"]))


def _member(entry: Mapping[str, Any]) -> Member:
    path, sha256 = _text(entry["path"]), _text(entry["sha256"])
    mode = _number(entry["mode"])
    if not is_path(path) or not _SHA256.fullmatch(sha256) or mode & ~MODES:
        raise ValueError("a file that may not be there")
    return Member(path, _number(entry["size"]), sha256, mode)


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_FILE:
        raise ValueError("no number of this range")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not _TEXT.fullmatch(value):
        raise ValueError("no text")
    return value
