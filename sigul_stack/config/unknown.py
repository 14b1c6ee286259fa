"""Warnings about what a program does not know in its files, and about where it may belong.

An option that is misspelt or stands in the wrong section would otherwise be ignored in silence
(fault 17): each gets a warning that names its place and, where it can be told, the right one.
Imported only when there is something to say.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from .fields import OptionForm, Program
from .ini import Advice, ConfigEntry, ConfigFiles

#: How alike two names must be, of 1, for one to be taken for a misspelling of the other.
ALIKE = 0.75


def warnings(
    files: ConfigFiles, program: Program[Any], others: Sequence[Program[Any]]
) -> Iterator[Advice]:
    """One sentence for each unknown section and option in `files`."""
    known = program.sections()
    for path, section in files.sections():
        if section not in known:
            yield Advice(
                f"{path}: section [{section}] is unknown and ignored",
                _section_cure(section, program, others),
            )
    for entry in files.entries():
        if entry.section == "DEFAULT":
            if any(program.knows(section, entry.option) for section in known):
                continue
        elif program.knows(entry.section, entry.option):
            continue
        elif entry.section not in known and not any(
            program.knows(section, entry.option) for section in known
        ):
            continue  # the warning about its section says enough
        yield Advice(f"{entry.place} is unknown and ignored", _option_cure(entry, program, others))


def _section_cure(section: str, program: Program[Any], others: Sequence[Program[Any]]) -> str:
    for other in others:
        if section in other.sections():
            return f"it belongs in {other.file}"
    close = difflib.get_close_matches(section.lower(), sorted(program.sections()), 1, ALIKE)
    if close:
        return f"did you mean [{close[0]}]?"
    return "the sections here are " + ", ".join(f"[{s}]" for s in sorted(program.sections()))


def _option_cure(entry: ConfigEntry, program: Program[Any], others: Sequence[Program[Any]]) -> str:
    for option in program.options():
        if option.covers(entry.option):
            return f"it belongs in section [{option.section}]"
    for other in others:
        for option in other.options():
            if option.covers(entry.option):
                return f"it belongs in section [{option.section}] of {other.file}"
    here = _names(program, entry.section)
    close = difflib.get_close_matches(entry.option, here, 1, ALIKE)
    if close:
        return f"did you mean {close[0]}?"
    for section in sorted(program.sections()):
        close = difflib.get_close_matches(entry.option, _names(program, section), 1, ALIKE)
        if close:
            return f"did you mean {close[0]} of section [{section}]?"
    return "correct its name or remove it"


def _names(program: Program[Any], section: str) -> list[str]:
    names: list[str] = []
    for option in program.options():
        if option.section == section:
            names += option.prefixes if option.form is OptionForm.FAMILY else option.names
    return names
