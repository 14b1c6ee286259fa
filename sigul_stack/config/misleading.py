"""Warnings about values that are possible, and hardly what was meant.

Of a secret nothing is told but how its file begins or ends.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterator
from typing import Any, Final

from ..errors import ConfigurationError
from .fields import Option, OptionForm, Program
from .ini import COMMENT_RULE, Advice, ConfigEntry, ConfigFiles
from .values import path, secret_file

#: Values in quotation marks, and with a variable as shells have them where a path's part begins.
_QUOTED: Final = re.compile(r"(?P<mark>[\"'])[^\"']*(?P=mark)")
_VARIABLE: Final = re.compile(r"(?:^|/)\$\{?[A-Za-z_]")
_MARKS: Final = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def warnings(files: ConfigFiles, program: Program[Any]) -> Iterator[Advice]:
    """One for each value that is not read as it stands, or hardly meant so, and each odd secret."""
    for entry in files.entries():
        if files.get(entry.section, entry.option) is not entry:
            continue
        for option in program.options:
            if option.section == entry.section and option.covers(entry.option):
                if option.form is not OptionForm.SECRET:
                    yield from _read_otherwise(option, entry) or (
                        *_comment(entry),
                        *_shell(entry),
                    )
                elif entry.option.endswith("-file"):
                    yield from _odd_secret(entry)


def _read_otherwise(option: Option, entry: ConfigEntry) -> tuple[Advice, ...]:
    """Warn of a value that cannot be right as it stands, and is read as another one."""
    with contextlib.suppress(ConfigurationError):  # of one that something else took the place of
        reading = option.read(entry)
        if reading.odd:
            return (Advice(reading.odd, reading.cure),)
    return ()


def _shell(entry: ConfigEntry) -> Iterator[Advice]:
    """Warn of what a shell would take out of a value, and nothing does here."""
    value = f"{entry.place}: the value is {entry.text!r}"
    if _QUOTED.fullmatch(entry.text):
        yield Advice(value, "leave the quotation marks out: they are in the value", possible=True)
    if _VARIABLE.search(entry.text):
        cure = "write it out, or begin a path with ~/: variables are not replaced here"
        yield Advice(value, cure, possible=True)


def _comment(entry: ConfigEntry) -> Iterator[Advice]:
    if entry.holds_comment:
        yield Advice(f"{entry.place}: the value is {entry.text!r}", COMMENT_RULE, possible=True)


def _odd_secret(entry: ConfigEntry) -> Iterator[Advice]:
    with contextlib.suppress(ConfigurationError, OSError):
        file = path(entry)
        # A FIFO can be read once, and was.
        if not file.is_file():
            return
        secret = secret_file(entry).reveal()
        odd, cure = "", "write nothing but the secret into it"
        if not secret:
            odd = "is empty, so that the secret is the empty one"
            cure = (
                f"write the secret into it, or {entry.option.removesuffix('-file')}: with nothing"
                " behind it where there is none"
            )
        elif secret.startswith(_MARKS):
            odd = "begins with a byte order mark, which counts as part of the secret"
            cure = "save it without one"
        elif secret != secret.strip():
            odd = "has blanks or line ends around the secret, which count as part of it"
        if odd:
            yield Advice(f"{entry.place}: '{file}' {odd}", cure, possible=True)
