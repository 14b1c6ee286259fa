"""Warnings about what a program does not know in its files, and about where it may belong.

An option that is misspelt or stands in the wrong section would otherwise be ignored in silence
(fault 17): each gets a warning that names its place and, where it can be told, the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .fields import Program
from .ini import Advice, ConfigEntry, ConfigFiles

#: How alike two names must be, of 1, for one to be taken for a misspelling of the other.
ALIKE = 0.75


def warnings(
    files: ConfigFiles, program: Program[Any], others: Callable[[], Sequence[Program[Any]]]
) -> Iterator[Advice]:
    """One sentence for each unknown section and option in `files`.

    `others` gives the other programs; it is called only where there is something to say.
    """
    known = program.sections()
    for path, section in files.sections():
        if section not in known:
            yield Advice(
                f"{path}: section [{section}] is unknown and ignored",
                _section_cure(section, known, others()),
            )
    for entry in files.entries():
        if program.knows(entry.section, entry.option):
            continue
        anywhere = any(program.knows(section, entry.option) for section in known)
        if entry.section == "DEFAULT" and anywhere:
            continue
        if entry.section not in (*known, "DEFAULT") and not anywhere:
            continue  # the warning about its section says enough
        yield Advice(
            f"{entry.place} is unknown and ignored", _option_cure(entry, program, others())
        )


def _section_cure(section: str, known: set[str], others: Sequence[Program[Any]]) -> str:
    for other in others:
        if section in other.sections():
            return f"it belongs in {other.file}"
    if close := _closest(section.lower(), sorted(known)):
        return f"did you mean [{close}]?"
    return "the sections here are " + ", ".join(f"[{s}]" for s in sorted(known))


def _option_cure(entry: ConfigEntry, program: Program[Any], others: Sequence[Program[Any]]) -> str:
    for option in program.options:
        if option.covers(entry.option):
            return f"it belongs in section [{option.section}]"
    for other in others:
        for option in other.options:
            if option.covers(entry.option):
                return f"it belongs in section [{option.section}] of {other.file}"
    if close := _closest(entry.option, _names(program, entry.section)):
        return f"did you mean {close}?"
    for section in sorted(program.sections()):
        if close := _closest(entry.option, _names(program, section)):
            return f"did you mean {close} of section [{section}]?"
    return "correct its name or remove it"


def _names(program: Program[Any], section: str) -> list[str]:
    return [
        name
        for option in program.options
        if option.section == section
        for name in (*option.prefixes, *option.names)
    ]


def _closest(name: str, known: Sequence[str]) -> str | None:
    """The one of `known` that is enough like `name` to be meant."""
    import difflib  # few files have a misspelling

    return next(iter(difflib.get_close_matches(name, known, 1, ALIKE)), None)
