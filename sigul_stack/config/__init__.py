"""Settings of the three programs: typed, frozen, every mistake in a file named with its cure.

`load_client`, `load_bridge` and `load_server` read a program's files and give `Loaded` settings
together with warnings about what the files hold beyond that; `PROGRAMS` is the registry of the
three, for code that takes any of them. Options are declared as fields of the settings classes (in
`client`, `bridge`, `server`, `shared`); `options` is how. `unknown` says where a misplaced option
belongs. Nothing here touches NSS, a database or the network, and nothing looks for directories
until `Loaded.check_paths()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..errors import ConfigurationError
from . import misleading, unknown
from .fields import Loaded, Program
from .ini import Advice, ConfigFiles, look_for

if TYPE_CHECKING:
    from .bridge import BridgeSettings
    from .client import ClientSettings
    from .server import ServerSettings

S = TypeVar("S")

#: Where the system's own files are.
SYSTEM_DIRECTORY: Final = Path("/etc/sigul")


def _client() -> Program[ClientSettings]:
    from .client import PROGRAM

    return PROGRAM


def _bridge() -> Program[BridgeSettings]:
    from .bridge import PROGRAM

    return PROGRAM


def _server() -> Program[ServerSettings]:
    from .server import PROGRAM

    return PROGRAM


#: The programs by name, each imported when it is asked for: a client needs no one else's settings.
PROGRAMS: Final[Mapping[str, Callable[[], Program[Any]]]] = MappingProxyType(
    {"client": _client, "bridge": _bridge, "server": _server}
)


def load_client(
    path: Path | None, *, system_directory: Path = SYSTEM_DIRECTORY, user_name: str | None = None
) -> Loaded[ClientSettings]:
    """A client's settings; `user_name`, if given, takes the place of the option. See `load`."""
    return load(_client(), path, system_directory=system_directory, user_name=user_name)


def load_bridge(
    path: Path | None, *, system_directory: Path = SYSTEM_DIRECTORY
) -> Loaded[BridgeSettings]:
    """A bridge's settings. See `load`."""
    return load(_bridge(), path, system_directory=system_directory)


def load_server(
    path: Path | None, *, system_directory: Path = SYSTEM_DIRECTORY
) -> Loaded[ServerSettings]:
    """A server's settings. See `load`."""
    return load(_server(), path, system_directory=system_directory)


def load(
    program: Program[S],
    path: Path | None,
    *,
    system_directory: Path = SYSTEM_DIRECTORY,
    user_name: str | None = None,
) -> Loaded[S]:
    """A program's settings: `NAME.conf` of `system_directory`, if there is one, then `path`.

    Raises `ConfigurationError`.
    """
    from .shared import tls_warnings

    files, found = read(program, path, system_directory)
    try:
        settings, odd = program.from_files(files, user_name)
    except ConfigurationError as error:
        if not found:
            raise
        # What is lacking may be there, under a name that is not known.
        raise ConfigurationError(
            error.problem, f"{error.cure}; besides, {found[0]}", error.symbol
        ) from None
    return Loaded(
        settings,
        (*found, *tls_warnings(files), *misleading.warnings(files, program), *odd),
        files,
    )


def read(
    program: Program[S], path: Path | None, system_directory: Path
) -> tuple[ConfigFiles, tuple[Advice, ...]]:
    """The files of a program and a warning for whatever in them it does not know.

    `NAME.conf` of `system_directory` may be missing, `path` may not. Raises `ConfigurationError`.
    """
    system_file = system_directory / program.file
    there = look_for(system_file)
    paths = [system_file] if there else []
    if path is not None and path not in paths:
        paths.append(path)
    if not paths:
        state = "does not exist" if there is False else "is where this user may not look"
        raise ConfigurationError(
            f"there is no configuration: '{system_file}' {state} and no other file was named",
            "write it, or name one with -c",
        )
    odd = []
    if there is None:
        odd.append(
            Advice(
                f"{system_file}: this user may not look for it, so nothing of it is read",
                f"let the user enter '{system_file.parent}'",
            )
        )
    files = ConfigFiles(paths)
    odd += files.odd
    odd += unknown.warnings(
        files, program, lambda: [make() for name, make in PROGRAMS.items() if name != program.name]
    )
    return files, tuple(odd)
