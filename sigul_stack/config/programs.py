"""Which files a program reads, and who knows which option."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from .files import Files, look_for
from .options import Option, options_of

PROGRAMS = ("client", "bridge", "server")


@dataclass(frozen=True, slots=True)
class Program:
    """A program's configuration: its file's name and the classes that declare its options."""

    file: str
    classes: tuple[type[Any], ...]

    def options(self) -> Iterator[Option]:
        """Every option of the program."""
        for cls in self.classes:
            yield from options_of(cls).values()

    def sections(self) -> set[str]:
        """The names of all sections of the program."""
        return {option.section for option in self.options()}

    def knows(self, section: str, name: str) -> bool:
        """Whether option `name` of `section` means something to the program."""
        return any(o.section == section and o.covers(name) for o in self.options())


def program(name: str) -> Program:
    """What belongs in `NAME.conf`; imports the module of its settings."""
    return Program(f"{name}.conf", import_module(f".{name}", __package__).CLASSES)


def read(name: str, path: Path | None, system_directory: Path) -> tuple[Files, tuple[str, ...]]:
    """The files of program `name` and a warning for whatever in them it does not know.

    `NAME.conf` of `system_directory` may be missing, `path` may not. Raises `ConfigurationError`.
    """
    system_file = system_directory / f"{name}.conf"
    there = look_for(system_file)
    paths = [system_file] if there else []
    if path is not None and path not in paths:
        paths.append(path)
    if not paths:
        state = "does not exist" if there is False else "is where this user may not look"
        raise ConfigurationError(
            f"there is no configuration: '{system_file}' {state} and no other file was"
            " named; write it, or name one with -c"
        )
    hidden = (_hidden(system_file),) if there is None else ()
    files = Files(paths)
    own = program(name)
    sections = own.sections()
    if all(section in sections for _, section in files.sections()) and all(
        own.knows(entry.section, entry.option) for entry in files.entries()
    ):
        return files, hidden
    from .unknown import warnings

    others = [program(other) for other in PROGRAMS if other != name]
    return files, (*hidden, *warnings(files, own, others))


def _hidden(system_file: Path) -> str:
    return (
        f"{system_file}: this user may not look for it, so nothing of it is read; let the user"
        f" enter '{system_file.parent}'"
    )
