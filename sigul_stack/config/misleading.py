"""Warnings about values that are possible, and hardly what was meant."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ..errors import ConfigurationError
from .fields import OptionForm, Program
from .ini import COMMENT_RULE, Advice, ConfigEntry, ConfigFiles
from .values import secret_file


def warnings(files: ConfigFiles, program: Program[Any]) -> Iterator[Advice]:
    """One for each value with a comment in it, and for each secret's file that is empty."""
    for entry in files.entries():
        if files.get(entry.section, entry.option) is not entry:
            continue
        for option in program.options:
            if option.section == entry.section and option.covers(entry.option):
                if option.form is not OptionForm.SECRET:
                    yield from _comment(entry)
                elif entry.option.endswith("-file"):
                    yield from _empty(entry)


def _comment(entry: ConfigEntry) -> Iterator[Advice]:
    if entry.holds_comment:
        yield Advice(f"{entry.place}: the value is {entry.text!r}", COMMENT_RULE, possible=True)


def _empty(entry: ConfigEntry) -> Iterator[Advice]:
    from .values import path

    with contextlib.suppress(ConfigurationError, OSError):
        file = path(entry)
        # A FIFO can be read once, and was.
        if file.is_file() and not secret_file(entry):
            yield Advice(
                f"{entry.place}: '{file}' is empty, so that the secret is the empty one",
                f"write the secret into it, or {entry.option.removesuffix('-file')}: with nothing"
                " behind it where there is none",
                possible=True,
            )
