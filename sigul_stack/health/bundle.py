"""What a bug report needs to be understood: one component's documents, still to be redacted.

Nothing here raises for what it finds: that something cannot be read is a finding, too. No private
key, password, envelope or hash is read into a document, and no name of a user or a key.
"""

from __future__ import annotations

import contextlib
import json
import platform
import stat
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from .. import __version__
from ..config.client import ClientSettings
from ..config.options import Loaded
from ..config.server import ServerSettings
from ..errors import SigulError
from ..pki.certificates import CertificateInfo
from ..pki.database import NSSDatabase
from ..tools import TOOLS
from ..transport import nss
from ..transport.status import read_status

#: Most files that a listing shows.
MAX_LISTED: Final = 1000
#: How much of a log's end is shown, in bytes.
LOG_BYTES: Final = 256 * 1024
#: How long a daemon may take to tell its status, in seconds.
_STATUS_SECONDS: Final = 5.0

_PACKAGES: Final = ("python-nss-ng", "python-nss", "cryptography", "SQLAlchemy", "alembic")

#: A document's name, and what makes it.
Documents = Iterator[tuple[str, str]]


def versions() -> str:
    """What this runs with."""
    lines = [
        f"sigul-stack {__version__}",
        f"Python {platform.python_version()} ({sys.executable})",
        f"NSS {nss.library_version()}",
        f"system {platform.platform()}",
    ]
    with contextlib.suppress(OSError):
        lines.append(f"distribution {platform.freedesktop_os_release().get('PRETTY_NAME', '')}")
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            lines.append(f"{name} {metadata.version(name)}")
    for tool in TOOLS:
        path = tool.find()
        lines.append(
            f"{tool.name} {tool.version() if path else 'missing'} ({path or tool.package})"
        )
    return "\n".join(lines) + "\n"


def documents(loaded: Loaded[Any]) -> Documents:
    """All about a component but its configuration, doctor's report and logs."""
    settings = loaded.settings
    database = NSSDatabase(settings.nss.directory, settings.nss.password)
    yield "certificates.json", _guarded(lambda: _certificates(database))
    if isinstance(settings, ServerSettings):
        yield "database.json", _guarded(lambda: _database(settings))
    socket = None if isinstance(settings, ClientSettings) else settings.status_socket
    if socket is not None:
        yield (
            "status.json",
            _guarded(lambda: read_status(socket, _STATUS_SECONDS).decode("utf-8", "replace")),
        )
    yield "files.txt", "\n".join(_listing(directories(loaded))) + "\n"


def directories(loaded: Loaded[Any]) -> tuple[Path, ...]:
    """Where a component keeps anything."""
    settings = loaded.settings
    found = [NSSDatabase(settings.nss.directory).directory]
    found += [path.parent for path in loaded.files.paths]
    if isinstance(settings, ServerSettings):
        found += [settings.gnupg_home, settings.keys_storage]
        if settings.database_url is None:
            found.append(settings.database_path.parent)
        if settings.spool_directory is not None:
            found.append(settings.spool_directory)
    return tuple(dict.fromkeys(found))


def _guarded(make: Callable[[], str]) -> str:
    try:
        return make()
    except SigulError as error:
        return f"{error}\n"


def _certificates(database: NSSDatabase) -> str:
    try:
        held = database.certificates()
    except SigulError:
        # Their names and dates can be told without the password.
        held = NSSDatabase(database.directory).certificates()
    return json.dumps([_certificate(item) for item in held], indent=2) + "\n"


def _certificate(item: CertificateInfo) -> dict[str, object]:
    return {
        "nickname": item.nickname,
        "subject": item.certificate.subject.rfc4514_string(),
        "names": list(item.names),
        "issuer": item.certificate.issuer.rfc4514_string(),
        # Apart, for a long hexadecimal number looks like a secret.
        "serial": ":".join(_pairs(item.serial)),
        "not_before": item.not_before.isoformat(),
        "not_after": item.not_after.isoformat(),
        "authority": item.is_authority,
        "has_private_key": item.has_private_key,
        "trust": item.trust,
    }


def _pairs(number: str) -> list[str]:
    even = number if len(number) % 2 == 0 else f"0{number}"
    return [even[place : place + 2] for place in range(0, len(even), 2)]


def _database(settings: ServerSettings) -> str:
    from ..database import Database, SchemaState, schema_state, sqlite_url

    url = sqlite_url(settings.database_path)
    if settings.database_url is not None:
        url = settings.database_url.reveal().decode("utf-8")
    state = schema_state(url)
    found: dict[str, object] = {"layout": state.value}
    if state in (SchemaState.CURRENT, SchemaState.LEGACY):
        with contextlib.closing(Database(url)) as database, database.read() as reader:
            users, keys = reader.users(), reader.keys()
            found["users"] = len(users)
            found["administrators"] = sum(user.admin for user in users)
            found["keys"] = {
                kind: sum(key.keytype.value == kind for key in keys)
                for kind in sorted({key.keytype.value for key in keys})
            }
            found["accesses"] = sum(len(reader.key_users(key.name)) for key in keys)
    return json.dumps(found, indent=2) + "\n"


def _listing(found: tuple[Path, ...]) -> Iterator[str]:
    count = 0
    for directory in found:
        yield _described(directory)
        try:
            below = sorted(directory.rglob("*") if _is_own(directory) else directory.iterdir())
        except OSError as error:
            yield f"  cannot be read: {error.strerror}"
            continue
        for path in below:
            if (count := count + 1) > MAX_LISTED:
                yield f"  (more than {MAX_LISTED} files: the rest is left out)"
                return
            yield f"  {_described(path)}"


def _is_own(directory: Path) -> bool:
    """Whether all below `directory` is Sigul's: it is no place where others keep theirs, too."""
    return len(directory.parts) > 3 and not str(directory).startswith("/etc/")


def _described(path: Path) -> str:
    try:
        found = path.lstat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    when = datetime.fromtimestamp(found.st_mtime, UTC)
    return (
        f"{stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid} {found.st_size:>10}"
        f" {when:%Y-%m-%dT%H:%M:%SZ} {path}"
    )


def log_tail(path: Path) -> str:
    """The end of a log, in whole lines."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_BYTES))
            data = file.read(LOG_BYTES)
    except OSError as error:
        return f"'{path}' cannot be read: {error.strerror}\n"
    if size > LOG_BYTES:
        data = data.partition(b"\n")[2]
    return data.decode("utf-8", "replace")
