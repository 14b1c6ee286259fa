"""Events of the log: each has a stable name, a level, and one text with its fields in it.

Each package lists its own in a module `log_events`, as members of a subclass of `LogEvent`:

    class BridgeLog(LogEvent):
        CLIENT_CONNECTED = "client-connected", INFO, "[BRIDGE_REQUEST] Client connected ({address})"

    tell(log, BridgeLog.CLIENT_CONNECTED, address="198.51.100.7:40404")

In a line of text the fields stand where the text has them; in a line of JSON they are values of
their own besides (`cli.logs`). What a field holds may come from a peer. So a string in a text is
one plain word, or in quotes that nothing in it can end; with `{name!q}` it has quotes always, with
`{name!p}` none for a path; `{name!t}` has it as it is, for an error's text and others of our own
words. Of a long string the begin is kept (`MAX_VALUE`). No field may hold a secret.
"""

from __future__ import annotations

import enum
import logging
import re
import string
from collections.abc import Mapping
from typing import Any, Final

from .errors import as_word, quoted

#: What a field may be. None stands for what is not known.
Value = str | int | float | bool | None

DEBUG, INFO, WARNING = logging.DEBUG, logging.INFO, logging.WARNING
ERROR, CRITICAL = logging.ERROR, logging.CRITICAL


#: The most of a string that a field keeps, in characters.
MAX_VALUE: Final = 2000
#: Whether a wrong field is an error: only in tests, which also look at every call.
strict = False


class LogEvent(enum.Enum):
    """One kind of line. A member's value: its name, its level (of `logging`), its text."""

    def __init__(self, event: str, level: int, text: str) -> None:
        self.event = event
        self.level = level
        self.text = text
        parsed = string.Formatter().parse(text)
        #: The names of the fields, in the order of the text.
        self.fields = tuple(dict.fromkeys(field for _, field, _, _ in parsed if field))


class _Formatter(string.Formatter):
    """`str.format` in which a string is escaped unless the text says `!t`.

    `!q` is always quoted; `!p` is like a word, and may have what paths and packages' names have.
    """

    def get_value(self, key: int | str, _args: Any, fields: Any) -> Any:
        return fields.get(key)

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion == "t":
            return str(value)
        if conversion == "q":
            return quoted(str(value))
        if conversion == "p":
            return value if _PATH.fullmatch(str(value)) else quoted(str(value))
        return as_word(value) if isinstance(value, str) else value

    def format_field(self, value: Any, format_spec: str) -> str:
        return format(value, format_spec if isinstance(value, int | float) else "")


_FORMATTER: Final = _Formatter()
_PATH: Final = re.compile(r"[A-Za-z0-9._@:+/~^,=-]+")


class Told:
    """The message of a log record that `tell` made: an event and its fields."""

    __slots__ = ("event", "fields")

    def __init__(self, event: LogEvent, fields: Mapping[str, Value]) -> None:
        self.event = event
        self.fields = {
            name: bounded(value) if isinstance(value, str) else value
            for name, value in fields.items()
        }

    def __str__(self) -> str:
        return _FORMATTER.vformat(self.event.text, (), self.fields)


def bounded(text: str, limit: int = MAX_VALUE) -> str:
    """`text` in at most `limit` characters; where that leaves some out, it ends in `...`."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def tell(
    log: logging.Logger, event: LogEvent, *, exc_info: bool | BaseException = False, **fields: Value
) -> None:
    """Log an event; `fields` are those that its text names, all of them, and no others.

    A field that is missing is told as None. Raises `TypeError` for wrong ones, if `strict`.
    """
    if strict and fields.keys() != set(event.fields):
        raise TypeError(f"{event} has the fields {event.fields}, and is told {tuple(fields)}")
    if log.isEnabledFor(event.level):
        log.log(event.level, Told(event, fields), exc_info=exc_info, stacklevel=2)
