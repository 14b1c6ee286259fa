"""Checks of a component's files: can they be read, are they right, do they keep their secrets?"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ..checks import Check, failed, ok, warning
from ..config import PROGRAMS
from ..config.fields import OptionForm
from ..config.ini import ConfigFiles
from ..config.secrecy import is_pin
from ..config.shared import TLS_VERSIONS
from ..errors import ConfigurationError
from ..system.wall import Support
from ..tools import GPG, GPG_AGENT, GPGCONF, tools_of
from .steps import CheckContext, Layer

#: More than any file with one secret (bytes); what is behind it cannot matter here.
_HEAD: Final = 64 * 1024


def guess_component(path: Path) -> str:
    """The component whose configuration `path` is: told by its name, else by its sections.

    Raises `ConfigurationError` where neither tells.
    """
    for component in PROGRAMS:
        if component in path.stem.lower():
            return component
    sections = {name for _path, name in ConfigFiles([path]).sections()}
    found = [component for component in PROGRAMS if component in sections]
    if len(found) == 1:
        return found[0]
    raise ConfigurationError(
        f"{path}: whose configuration this is, neither its name nor its sections tell",
        "say client, bridge or server before -c",
    )


def file_checks(context: CheckContext[Any]) -> Iterator[Check]:
    """Check what is odd about the files, and the directories that they name."""
    loaded = context.loaded
    for advice in loaded.warnings:
        yield warning(Layer.CONFIGURATION, advice.problem, advice.cure)
    if loaded.settings.nss.max_tls != TLS_VERSIONS[-1]:
        yield warning(
            Layer.CONFIGURATION,
            f"nss-max-tls is {loaded.settings.nss.max_tls}, so no newer TLS is ever used",
            "remove the line, which peers of 1.2 do not need: they get that version anyhow",
        )
    if context.component != "client":
        if loaded.settings.nss.min_tls != TLS_VERSIONS[0]:
            session = "outer" if context.component == "bridge" else "inner"
            yield warning(
                Layer.CONFIGURATION,
                f"nss-min-tls is {loaded.settings.nss.min_tls}, so clients that go no further than"
                f" TLS 1.2 get no {session} session: siguldry's (sigul-pesign-bridge), and Sigul"
                " before this one unless told otherwise",
                "set nss-min-tls to tls1.2, which those that know TLS 1.3 do not use; leave it"
                " where the site has no other clients",
            )
        loaded.check_paths()
    yield ok(Layer.CONFIGURATION, f"read from {', '.join(map(str, loaded.files.paths))}")


def tool_checks(component: str, bindings: tuple[str, ...]) -> Iterator[Check]:
    """Check that the programs that operations need are there."""
    for tool in tools_of(component, bindings):
        if (path := tool.find()) is not None:
            version = tool.version()
            yield ok(
                Layer.TOOLS,
                " ".join(filter(None, (tool.name, version, f"({path}) for {tool.unavailable}"))),
                **{
                    "tool": tool.name,
                    "path": str(path),
                    "version": version,
                    "package": tool.package,
                },
            )
            continue
        # A server does not start without GnuPG; of the others each costs its own operations.
        judge = failed if tool in (GPG, GPGCONF, GPG_AGENT) else warning
        yield judge(
            Layer.TOOLS,
            f"{tool.name} is missing; until it is there, not available: {tool.unavailable}",
            f"install the package {tool.package}",
            tool=tool.name,
            package=tool.package,
        )


def wall_checks(has: Support) -> Iterator[Check]:
    """Check that this kernel (`has`) keeps holes in programs from leading further."""
    lacks = has.lacks()
    for problem, cure in lacks:
        yield warning(Layer.WALLS, problem, cure)
    if not lacks:
        yield ok(Layer.WALLS, f"programs run behind walls (Landlock ABI {has.landlock}, seccomp)")


def secret_checks(context: CheckContext[Any]) -> Iterator[Check]:
    """Check that neither the files nor those that they name tell a secret to everybody."""
    options = PROGRAMS[context.component]().options
    secrets = [item for item in options if item.form is OptionForm.SECRET]
    clean = True
    for entry in context.loaded.files.entries():
        if not (is_pin(entry.option) or any(item.covers(entry.option) for item in secrets)):
            continue
        is_file = entry.option.endswith("-file")
        path = Path(entry.text).expanduser() if is_file else entry.path
        if not entry.text or not _is_open_to_all(path):
            continue
        clean = False
        if is_file:
            finding = f"everybody on this machine may read the secret in '{path}' ({entry.place})"
            cure = f"chmod 0600 '{path}', owned by the user who needs it; then replace the secret"
        else:
            finding = f"everybody on this machine may read {entry.place}, which is a secret"
            cure = (
                f"put it into a file of its own (0600) and name that with {entry.option}-file;"
                " then replace the secret"
            )
        yield failed(Layer.SECRETS, finding, cure, path=str(path))
    if clean:
        yield ok(Layer.SECRETS, "no secret of the configuration lies open")


def password_file_checks(path: Path) -> Iterator[Check]:
    """Check that a password file holds the password and nothing else."""
    if not path.is_file():  # a FIFO was read, and gives it once
        return
    with path.open("rb") as file:
        data = file.read(_HEAD)
    for end, name in ((b"\n", "a line end"), (b"\0", "a NUL byte")):
        if data.endswith(end):
            yield warning(
                Layer.PASSWORD,
                f"'{path}' ends with {name}, which is left out here and which certutil and others"
                " may take for part of the password",
                "write the password into it and nothing else: printf %s, not echo",
            )


def _is_open_to_all(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False
