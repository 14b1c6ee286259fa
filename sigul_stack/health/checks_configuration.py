"""A component's files: whether they can be read, say what they mean, and keep their secrets."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..config import PROGRAMS, load_bridge, load_client, load_server
from ..config.files import Entry
from ..config.options import Form, Loaded
from ..errors import ConfigurationError
from .layers import Layer, failed, from_text, ok, warning
from .report import Check, State

if TYPE_CHECKING:
    from ..config.bridge import BridgeSettings
    from ..config.client import ClientSettings
    from ..config.server import ServerSettings

#: More than any file with one secret (bytes); what is behind it cannot matter here.
_HEAD: Final = 64 * 1024

#: What a component's own sections are called, for telling whose a file is.
_SECTIONS: Final = {"bridge": "bridge", "server": "server", "client": "client"}


def guess_component(path: Path) -> str:
    """Whose configuration `path` is: told by its name, else by its sections.

    Raises `ConfigurationError` where neither tells.
    """
    for component in _SECTIONS:
        if component in path.stem.lower():
            return component
    from ..config.files import Files

    sections = {name for _path, name in Files([path]).sections()}
    found = [component for component, name in _SECTIONS.items() if name in sections]
    if len(found) == 1:
        return found[0]
    raise ConfigurationError(
        f"{path}: whose configuration this is, neither its name nor its sections tell; say"
        " client, bridge or server before -c"
    )


def load(
    component: str, path: Path | None, user_name: str | None = None
) -> Loaded[ClientSettings] | Loaded[BridgeSettings] | Loaded[ServerSettings]:
    """The settings of a component. Raises `ConfigurationError`."""
    if component == "client":
        return load_client(path, user_name=user_name)
    return load_bridge(path) if component == "bridge" else load_server(path)


def look_at_files(loaded: Loaded[Any], component: str) -> Iterator[Check]:
    """Check what is odd about the files, and the directories that they name."""
    for text in loaded.warnings:
        yield from_text(Layer.CONFIGURATION, State.WARNING, text)
    if component != "client":
        loaded.check_paths()
    files = ", ".join(str(path) for path in loaded.files.paths)
    yield ok(Layer.CONFIGURATION, f"read from {files}")


def look_for_open_secrets(loaded: Loaded[Any], component: str) -> Iterator[Check]:
    """Check that neither the files nor those that they name tell a secret to everybody."""
    clean = True
    for entry in secret_entries(loaded, component):
        is_file = entry.option.endswith("-file")
        path = Path(entry.text).expanduser() if is_file else entry.path
        mode = _mode(path)
        if not entry.text or mode is None or not mode & 0o004:
            continue
        clean = False
        if is_file:
            yield failed(
                Layer.SECRETS,
                f"everybody on this machine may read the secret in '{path}' ({entry.place})",
                f"chmod 0600 '{path}', owned by the user who needs it; then replace the secret",
                path=str(path),
            )
        else:
            yield failed(
                Layer.SECRETS,
                f"everybody on this machine may read {entry.place}, which is a secret",
                f"put it into a file of its own (0600) and name that with {entry.option}-file;"
                " then replace the secret",
                path=str(path),
            )
    if clean:
        yield ok(Layer.SECRETS, "no secret of the configuration lies open")


def look_at_ends(entry: Entry) -> Iterator[Check]:
    """Check that the password file that `entry` names holds the password and nothing else."""
    path = Path(entry.text).expanduser()
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


def secret_entries(loaded: Loaded[Any], component: str) -> Iterator[Entry]:
    """Every entry of the files that holds a secret, or names a file that does."""
    options = [item for item in PROGRAMS[component]().options() if item.form is Form.SECRET]
    for entry in loaded.files.entries():
        if is_pin(entry.option) or any(option.covers(entry.option) for option in options):
            yield entry


def is_pin(option: str) -> bool:
    """Whether an option of `[binding]` holds a token's PIN or names the file with it."""
    return option.removesuffix("-file").endswith("_pin")


def _mode(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
