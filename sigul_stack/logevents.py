"""Events of the log: each has a stable name, a level, and one text with its fields in it.

Each package lists its own in a module `log_events`, as members of a subclass of `LogEvent`:

    class BridgeLog(LogEvent):
        CLIENT_CONNECTED = "client-connected", INFO, "[BRIDGE_REQUEST] Client connected ({address})"

    tell(log, BridgeLog.CLIENT_CONNECTED, address="198.51.100.7:40404")

In a line of text the fields stand where the text has them; in a line of JSON they are values of
their own besides (`cli.logs`). What a field holds may come from a peer. So a string in a text is
one plain word, or in quotes that nothing in it can end; `{name!t}` has it as it is, for an error's
text and others of our own words. No field may hold a secret.
"""

from __future__ import annotations

import enum
import logging
import string
from collections.abc import Mapping
from typing import Any

from .errors import as_word, quoted

#: What a field may be. None stands for what is not known.
Value = str | int | float | bool | None

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR


class LogEvent(enum.Enum):
    """One kind of line. A member's value: its name, its level (of `logging`), its text."""

    def __init__(self, event: str, level: int, text: str) -> None:
        self.event = event
        self.level = level
        self.text = text

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields, in the order of the text."""
        parsed = string.Formatter().parse(self.text)
        return tuple(dict.fromkeys(field for _, field, _, _ in parsed if field))


class _Formatter(string.Formatter):
    """`str.format` in which a string is escaped unless the text says `!t`; `!q`: always quoted."""

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion == "t":
            return str(value)
        if conversion == "q":
            return quoted(str(value))
        return as_word(value) if isinstance(value, str) else value


_FORMATTER = _Formatter()


class Told:
    """The message of a log record that `tell` made: an event and its fields."""

    __slots__ = ("event", "fields")

    def __init__(self, event: LogEvent, fields: Mapping[str, Value]) -> None:
        self.event = event
        self.fields = fields

    def __str__(self) -> str:
        return _FORMATTER.vformat(self.event.text, (), self.fields)


def tell(
    log: logging.Logger, event: LogEvent, *, exc_info: bool | BaseException = False, **fields: Value
) -> None:
    """Log an event; `fields` are those that its text names, all of them, and no others."""
    if log.isEnabledFor(event.level):
        log.log(event.level, Told(event, fields), exc_info=exc_info, stacklevel=2)
