"""`sigul-stack diagnose`: a file for a bug report, with all that is needed and no secret in it.

Each component is examined in a process of its own, for NSS opens one database in a process. What a
document holds is made in `health.bundle`; every one goes through `health.redaction` before it is
written.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import select
import signal
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import SigulError
from .secret_input import disable_core_dumps

if TYPE_CHECKING:
    from ..config.files import Files
    from ..health.redaction import Redactor

    #: Its name in the bundle, what it is, its file, and what that says or why it does not.
    _Component = tuple[str, str, Path, Files | SigulError]
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

#: The directory that the bundle unpacks to.
TOP: Final = "sigul-diagnostics"
#: How long the examination of one component may take, in seconds.
EXAMINATION_SECONDS: Final = 120.0

_USUAL_CONFIGURATIONS: Final = tuple(
    f"/etc/sigul/{component}.conf" for component in ("bridge", "server", "client")
)
_USUAL_LOGS: Final = tuple(f"/var/log/sigul_{component}.log" for component in ("bridge", "server"))

_README: Final = """\
What `sigul-stack diagnose` found. Passwords, passphrases, keys, hashes and names of users and keys
are not collected; what looked like a secret in the rest says [removed]. Look through it before you
give it to anybody: host names, user names of clients and paths are in it.

"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the `diagnose` command."""
    parser = subparsers.add_parser(
        "diagnose",
        help="collect what a bug report needs, without secrets",
        description="Writes a file for a bug report: versions, configuration, doctor's reports,"
        " certificates, the database's layout and counts, listings of directories, ends of logs,"
        " status of daemons. Secrets are left out.",
    )
    parser.add_argument(
        "-c",
        "--config-file",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="a component's configuration (can be repeated; without: those in /etc/sigul)",
    )
    parser.add_argument(
        "--log",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="a log whose end is to be in it (can be repeated; without: those in /var/log)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        default=Path(f"{TOP}.tar.gz"),
        help="what to write (default: %(default)s)",
    )
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Collect and write the bundle, and say what is in it."""
    disable_core_dumps()
    configurations = options.config_file or _those_there(_USUAL_CONFIGURATIONS)
    logs = options.log or _those_there(_USUAL_LOGS)
    texts = dict(_collect(configurations, logs))
    texts = {"README.txt": _README + "".join(f"{name}\n" for name in texts), **texts}
    _write(options.output, texts)
    print(f"wrote {options.output} (only its owner may read it), with:")
    for name in texts:
        print(f"  {name}")
    print("Look through it before you give it to anybody.")
    return 0


def _those_there(names: tuple[str, ...]) -> list[Path]:
    from ..config.files import look_for

    return [path for path in map(Path, names) if look_for(path)]


def _collect(configurations: list[Path], logs: list[Path]) -> Iterator[tuple[str, str]]:
    """Every document by its name, redacted."""
    from ..health.bundle import log_tail, versions

    components = list(_components(configurations))
    redactor = _redactor(components)
    yield "versions.txt", redactor.known(versions())
    for name, component, path, files in components:
        for document, text in _of_component(component, path, files):
            # These are words of this program, of which none should be taken for a secret.
            clean = redactor.known if document.startswith("doctor.") else redactor.clean
            yield f"{name}/{document}", clean(text)
    for number, path in enumerate(logs):
        yield f"logs/{number}-{path.name}", redactor.clean(log_tail(path))


def _components(configurations: list[Path]) -> Iterator[_Component]:
    """The name in the bundle, the component, the file, and what it says or why it cannot."""
    from ..config.files import Files, look_for
    from ..health.checks_configuration import guess_component

    taken: dict[str, int] = {}
    for path in configurations:
        component = guess_component(path)
        taken[component] = number = taken.get(component, 0) + 1
        found: Files | SigulError
        try:
            system = Path(f"/etc/sigul/{component}.conf")
            paths = [system] if look_for(system) and system != path else []
            found = Files([*paths, path])
        except SigulError as error:
            found = error
        yield component if number == 1 else f"{component}-{number}", component, path, found


def _redactor(components: list[_Component]) -> Redactor:
    """A redactor that knows the secrets of all components: one's log may hold another's."""
    from ..health.bundle import directories
    from ..health.checks_configuration import load
    from ..health.redaction import Redactor, known_secrets, secrets_beside

    secrets: list[bytes] = []
    for _name, component, path, files in components:
        if not isinstance(files, SigulError):
            secrets += known_secrets(files)
        # What cannot be read is told in a report, and cannot get into one.
        with contextlib.suppress(SigulError):
            for directory in directories(load(component, path)):
                secrets += secrets_beside(directory)
    return Redactor(secrets)


def _of_component(
    component: str, path: Path, files: Files | SigulError
) -> Iterator[tuple[str, str]]:
    from ..health.bundle import documents
    from ..health.checks_configuration import load
    from ..health.redaction import shown_configuration

    if isinstance(files, SigulError):
        # Its message has the place of what is wrong, and none of its text.
        yield "configuration.txt", f"{files}\n"
    else:
        yield "configuration.txt", shown_configuration(component, files)
    yield from _doctor(component, path)
    try:
        loaded = load(component, path)
    except SigulError:
        return  # doctor's report has said it
    yield from documents(loaded)


def _doctor(component: str, path: Path) -> Iterator[tuple[str, str]]:
    """Doctor's report, made in a child process, for people and for programs."""

    def examine() -> bytes:
        from ..health.doctor import examine
        from .doctor import as_text

        report = examine(component, path)
        return json.dumps([as_text(report), report.as_json()]).encode()

    answer = _in_child(examine, EXAMINATION_SECONDS)
    if answer is None:
        yield "doctor.txt", f"doctor did not finish within {EXAMINATION_SECONDS:g} s, or failed\n"
        return
    text, document = json.loads(answer)
    yield "doctor.txt", f"{text}\n"
    yield "doctor.json", json.dumps(document, indent=2) + "\n"


def _in_child(work: Callable[[], bytes], seconds: float) -> bytes | None:
    """What `work` gives in a child process; None where that fails or takes too long."""
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
        while select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
            piece = pipe.read(65536)
            if not piece:
                break
            data += piece
        else:
            os.kill(child, signal.SIGKILL)
    _pid, status = os.waitpid(child, 0)
    return bytes(data) if status == 0 else None


def _write(target: Path, texts: dict[str, str]) -> None:
    """The bundle, whole or not at all, for its owner alone. Raises `SigulError`."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise SigulError(
            f"'{target}' cannot be written: {error.strerror}; name another with --output"
        ) from error
    temporary = Path(name)
    try:
        with (
            os.fdopen(descriptor, "wb") as file,
            gzip.GzipFile(filename="", fileobj=file, mode="wb") as compressed,
            tarfile.open(fileobj=compressed, mode="w") as archive,
        ):
            for document, text in texts.items():
                data = text.encode("utf-8", "backslashreplace")
                member = tarfile.TarInfo(f"{TOP}/{document}")
                member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
                archive.addfile(member, io.BytesIO(data))
        temporary.replace(target)
    except OSError as error:
        raise SigulError(
            f"'{target}' cannot be written: {error.strerror}; name another with --output"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
