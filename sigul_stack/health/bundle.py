"""The documents of a bug report: each component's configuration, doctor's report, and more.

Each component is examined in a process of its own, for NSS opens one database in a process. Nothing
here raises for what it finds: that something cannot be read is told, too. No private key, password,
envelope or hash is read into a document, and no name of a user or a key. Every document goes
through `redaction`.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import select
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from .. import __version__
from ..config import PROGRAMS, SYSTEM_DIRECTORY, load
from ..config.client import ClientSettings
from ..config.fields import Loaded
from ..config.ini import ConfigFiles, look_for
from ..config.server import ServerSettings
from ..errors import SigulError
from ..pki.certificate_info import CertificateInfo
from ..pki.nss_directory import NSSDatabase
from ..system.processes import KILL_AFTER_SECONDS, kill_and_reap
from ..tools import TOOLS
from ..transport import nss
from ..transport.status_socket import read_status
from .configuration_checks import guess_component
from .examination import examine
from .redaction import Redactor, known_secrets, secrets_beside, shown_configuration
from .report_text import as_json, doctor_text

#: Most files that a listing shows.
MAX_LISTED: Final = 1000
#: How much of a log's end is shown, in bytes.
LOG_BYTES: Final = 256 * 1024
#: How long a daemon may take to tell its status, in seconds.
_STATUS_SECONDS: Final = 5.0

_PACKAGES: Final = ("python-nss-ng", "python-nss", "cryptography", "SQLAlchemy", "alembic")

#: How long the examination of one component may take, in seconds.
EXAMINATION_SECONDS: Final = 120.0

#: Longest report of an examination, in bytes.
_MAX_ANSWER: Final = 4 * 1024**2

#: A document's name and text.
Document = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Component:
    """A component whose configuration is `path`, by its `name` in the bundle.

    `files` and `loaded` are what could be read of it, or the error.
    """

    name: str
    component: str
    path: Path
    files: ConfigFiles | SigulError
    loaded: Loaded[Any] | SigulError


def collect(configurations: Iterable[Path], logs: Iterable[Path]) -> Iterator[Document]:
    """Every document, redacted. Raises `ConfigurationError` for a file that is no component's."""
    components = list(_components(configurations))
    redactor = _redactor(components)
    yield "versions.txt", redactor.known(versions())
    for item in components:
        for document, text in _of_component(item):
            # These are words of this program, of which none should be taken for a secret.
            clean = redactor.known if document.startswith("doctor.") else redactor.clean
            yield f"{item.name}/{document}", clean(text)
    for number, path in enumerate(logs):
        yield f"logs/{number}-{path.name}", redactor.clean(log_tail(path))


def _components(configurations: Iterable[Path]) -> Iterator[_Component]:
    taken: dict[str, int] = {}
    for path in configurations:
        component = guess_component(path)
        taken[component] = number = taken.get(component, 0) + 1
        files: ConfigFiles | SigulError
        loaded: Loaded[Any] | SigulError
        try:
            system = SYSTEM_DIRECTORY / f"{component}.conf"
            files = ConfigFiles([*([system] if look_for(system) and system != path else []), path])
        except SigulError as error:
            files = error
        try:
            loaded = load(PROGRAMS[component](), path)
        except SigulError as error:
            loaded = error
        name = component if number == 1 else f"{component}-{number}"
        yield _Component(name, component, path, files, loaded)


def _redactor(components: list[_Component]) -> Redactor:
    """A redactor that knows the secrets of all components: one's log may hold another's."""
    secrets: list[bytes] = []
    for item in components:
        if isinstance(item.files, ConfigFiles):
            secrets += known_secrets(item.files)
        # What cannot be read is told in a report, and cannot get into one.
        if isinstance(item.loaded, Loaded):
            for directory in directories(item.loaded):
                secrets += secrets_beside(directory)
    return Redactor(secrets)


def _of_component(item: _Component) -> Iterator[Document]:
    if isinstance(item.files, SigulError):
        # Its message has the place of what is wrong, and none of its text.
        yield "configuration.txt", f"{item.files}\n"
    else:
        yield "configuration.txt", shown_configuration(item.component, item.files)
    yield from _doctor(item)
    if isinstance(item.loaded, SigulError):
        return  # doctor's report has said it
    settings = item.loaded.settings
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
    yield "files.txt", "\n".join(_listing(directories(item.loaded))) + "\n"


def _doctor(item: _Component) -> Iterator[Document]:
    """Doctor's report, made in a child process, for people and for programs."""

    def reports() -> bytes:
        report = examine(item.component, item.path)
        return f"{doctor_text(report)}\0{as_json(report)}".encode()

    answer = _in_child(reports, EXAMINATION_SECONDS)
    if answer is None:
        yield "doctor.txt", f"doctor did not finish within {EXAMINATION_SECONDS:g} s, or failed\n"
        return
    # It has opened what others may write: what it says is text and nothing else.
    text, _, document = answer.decode("utf-8", "replace").partition("\0")
    yield "doctor.txt", f"{text}\n"
    yield "doctor.json", f"{document}\n"


def _in_child(work: Callable[[], bytes], seconds: float) -> bytes | None:
    """The result of `work` in a child process; None where that fails, or is too long or late."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(work())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    data = bytearray()
    end = time.monotonic() + seconds
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while len(data) <= _MAX_ANSWER:
            if not select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                break
            piece = pipe.read(65536)
            if not piece:
                code = kill_and_reap(child, KILL_AFTER_SECONDS)
                return bytes(data) if code == 0 else None
            data += piece
    kill_and_reap(child)
    return None


def versions() -> str:
    """The versions of this package and of what it runs with."""
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


def directories(loaded: Loaded[Any]) -> tuple[Path, ...]:
    """The directories in which a component keeps anything."""
    settings = loaded.settings
    found = [NSSDatabase(settings.nss.directory).directory]
    found += [path.parent for path in loaded.files.paths]
    if isinstance(settings, ServerSettings):
        found += [settings.gnupg_home, settings.keys_storage, settings.signing_log_directory]
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
        "serial": bytes.fromhex(item.serial.zfill(len(item.serial) + len(item.serial) % 2)).hex(
            ":"
        ),
        "not_before": item.not_before.isoformat(),
        "not_after": item.not_after.isoformat(),
        "authority": item.is_authority,
        "has_private_key": item.has_private_key,
        "trust": item.trust,
    }


def _database(settings: ServerSettings) -> str:
    from ..database import Database, SchemaState, schema_state
    from ..server.services import database_url

    url = database_url(settings)
    state = schema_state(url)
    found: dict[str, object] = {"layout": state.value}
    if state in (SchemaState.CURRENT, SchemaState.LEGACY):
        with contextlib.closing(Database(url)) as database, database.read() as reader:
            users, keys = reader.users(), reader.keys()
            found["users"] = len(users)
            found["administrators"] = sum(user.admin for user in users)
            found["keys"] = {
                kind: sum(key.keytype == kind for key in keys)
                for kind in sorted({str(key.keytype) for key in keys})
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
    """Tell whether all below `directory` is Sigul's: no place where others keep theirs, too."""
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
        if not stat.S_ISREG(path.stat().st_mode):
            return f"'{path}' is no plain file\n"
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_BYTES))
            data = file.read(LOG_BYTES)
    except OSError as error:
        return f"'{path}' cannot be read: {error.strerror}\n"
    if size > LOG_BYTES:
        data = data.partition(b"\n")[2]
    return data.decode("utf-8", "replace")
