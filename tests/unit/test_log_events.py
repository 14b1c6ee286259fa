"""The log's events: the table of them in docs, every call that tells one, and hostile values.

Where the table differs, the failure prints it as docs/log-events.md should have it.
"""

from __future__ import annotations

import ast
import importlib
import json
import logging
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.cli.log_format import (
    MAX_TEXT,
    ClientFormatter,
    DaemonFormatter,
    JSONFormatter,
    LineFormatter,
)
from sigul_stack.logcontext import LogContext, about
from sigul_stack.logevents import LogEvent, Told
from tests.imports import PACKAGE as NAME
from tests.imports import TOP

PACKAGE = TOP / NAME
PAGE = TOP / "docs" / "log-events.md"
TREES = {path: ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
#: What logs without an event.
METHODS = frozenset({"debug", "info", "warning", "warn", "error", "exception", "critical", "fatal"})
#: Where `tell` itself is.
CORE = PACKAGE / "logevents.py"


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__")


def is_table(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and any(
        isinstance(base, ast.Name) and base.id == LogEvent.__name__ for base in node.bases
    )


#: The modules that have events, and the tables in them, by the tables' names.
TABLES: dict[str, tuple[str, type[LogEvent]]] = {
    node.name: (name_of(path), getattr(importlib.import_module(name_of(path)), node.name))
    for path, tree in TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.ClassDef) and is_table(node)
}
EVENTS = [event for _module, table in TABLES.values() for event in table]


def package_of(module: str) -> str:
    return module.removeprefix("sigul_stack.").removesuffix(".log_events")


def row(package: str, event: LogEvent) -> str:
    text = event.text.replace("|", "\\|")
    text = re.sub(r"\{(\w+)(![a-z])?(:[^}]*)?\}", r"{\1}", text)
    return f"| `{event.event}` | {logging.getLevelName(event.level)} | {package} | `{text}` |"


def test_the_table_is_of_these_events() -> None:
    rows = sorted(
        (package_of(module), event.event, row(package_of(module), event))
        for module, table in TABLES.values()
        for event in table
    )
    lines = PAGE.read_text("utf-8").partition("## The events")[2].splitlines()
    found = [line for line in lines if line.startswith("| `")]
    wanted = [line for _package, _name, line in rows]
    assert found == wanted, "the table should be:\n" + "\n".join(wanted)


def test_names_are_plain_and_each_is_of_one_event() -> None:
    names = [event.event for event in EVENTS]
    assert len(names) > 150
    assert len(set(names)) == len(names), sorted({n for n in names if names.count(n) > 1})
    # No table has two members of one value, of which the second would be an alias.
    members = [member for _module, table in TABLES.values() for member in table.__members__]
    assert len(members) == len(names)
    for event in EVENTS:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", event.event)
        assert event.event != "library"
        assert event.level in {
            logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL
        }  # fmt: skip
        assert event.text.isprintable()


def test_fields_have_names_that_every_form_of_the_log_can_have() -> None:
    for event in EVENTS:
        for field in event.fields:
            assert re.fullmatch(r"[a-z][a-z0-9_]{0,50}", field), event
        for _text, field, spec, conversion in string.Formatter().parse(event.text):
            assert conversion in (None, "q", "p", "t"), event
            # A string has no format: whatever it is, it is shown whole.
            assert field is None or not spec or re.fullmatch(r"g|\.\d+f", spec), event


# --- The calls -----------------------------------------------------------------------------------


def events_named(node: ast.expr, function: ast.AST | None) -> Iterator[LogEvent]:
    """The events that an argument of `tell` may be: named, or in a variable of the function."""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            table = TABLES.get(part.value.id)
            if table is not None:
                yield table[1][part.attr]
        elif isinstance(part, ast.Name) and function is not None and part.id not in TABLES:
            for assigned in ast.walk(function):
                if isinstance(assigned, ast.Assign | ast.AnnAssign) and assigned.value is not None:
                    targets = (
                        assigned.targets if isinstance(assigned, ast.Assign) else [assigned.target]
                    )
                    if any(isinstance(t, ast.Name) and t.id == part.id for t in targets):
                        yield from events_named(assigned.value, None)


def calls() -> Iterator[tuple[str, ast.Call, list[LogEvent]]]:
    """Every call of `tell`: where, and with which events."""
    for path, tree in TREES.items():
        if path == CORE or not imports_tell(tree):
            continue
        for node in ast.walk(tree):
            if not (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "tell"
            ):
                continue
            place = f"{path.relative_to(TOP)}:{node.lineno}"
            assert len(node.args) == 2, place
            # The innermost function, else the module: what is assigned there.
            around = [
                f
                for f in ast.walk(tree)
                if isinstance(f, ast.FunctionDef) and f.lineno <= node.lineno <= (f.end_lineno or 0)
            ]
            found = list(events_named(node.args[1], around[-1] if around else None))
            yield place, node, found or list(events_named(node.args[1], tree))


def imports_tell(tree: ast.AST) -> bool:
    return any(
        isinstance(node, ast.ImportFrom)
        and node.module == "logevents"
        and any(alias.name == "tell" for alias in node.names)
        for node in ast.walk(tree)
    )


def test_every_call_has_the_fields_of_its_event() -> None:
    used = set()
    wrong = []
    for place, call, events in calls():
        assert events, f"{place}: which event is this?"
        names = {word.arg for word in call.keywords} - {"exc_info"}
        assert None not in names, f"{place}: name the fields"
        used |= set(events)
        wrong += [
            f"{place}: {event.event} has {event.fields}, not {sorted(map(str, names))}"
            for event in events
            if names != set(event.fields)
        ]
    assert not wrong, "\n".join(wrong)
    # Made by hand, for it is told about no request, whatever the thread works for.
    assert {event.event for event in EVENTS} - {event.event for event in used} <= {"log-lines-lost"}


def test_nobody_logs_without_an_event() -> None:
    found = [
        f"{path.relative_to(TOP)}:{node.lineno}"
        for path, tree in TREES.items()
        if path != CORE
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (
            (
                node.func.attr in METHODS | {"log"}
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in {"log", "_log", "logger", "_logger", "LOG", "logging"}
            )
            or (
                node.func.attr in METHODS
                and isinstance(node.func.value, ast.Call)
                and isinstance(node.func.value.func, ast.Attribute)
                and node.func.value.func.attr == "getLogger"
            )
        )
    ]
    assert not found


# --- Hostile values ------------------------------------------------------------------------------

HOSTILE = (
    "a\nb",
    "it's",
    "'; 2026-12-01T00:00:00.000Z INFO [1] {0123456789abcdef} forged",
    "{id} {0} {x!q} %s %(x)s",
    "\x1b[2J\x00\x7f\x85",
    " INFO [1] {abc} forged",
    "\u2028\u2029\u202e\r\n\v\f",
    "\ud800 lone",
    "\\' \\\\'",
    '"}, "event": "forged"',
    "x" * 100_000,
    "\U0001f600" * 100_000,
    "",
)
WORD = r"[A-Za-z0-9._@:+-]+"
PATH = r"[A-Za-z0-9._@:+/~^,=-]+"
QUOTED = r"'(?:[^'\\]|\\.)*'"


def record_of(event: LogEvent, value: str) -> logging.LogRecord:
    """A record of `event` with `value` in each field that may be a string."""
    numbers = {
        field: spec
        for _text, field, spec, _conversion in string.Formatter().parse(event.text)
        if spec
    }
    told = Told(event, {field: 7 if field in numbers else value for field in event.fields})
    return logging.LogRecord("sigul_stack.test", event.level, "", 0, told, None, None)


def shape(event: LogEvent) -> str:
    """What the text of `event` is, whatever its fields hold."""
    parts = []
    for text, field, spec, conversion in string.Formatter().parse(event.text):
        parts.append(re.escape(text))
        if field is not None:
            forms = {None: f"(?:{WORD}|{QUOTED})", "q": QUOTED, "p": f"(?:{PATH}|{QUOTED})"}
            parts.append(".*" if spec else forms.get(conversion, ".*"))
    return "".join(parts)


def check(event: LogEvent, value: str) -> None:
    with about(LogContext("c1", "0123456789abcdef")):
        record = record_of(event, value)
        formats: list[LineFormatter] = [DaemonFormatter(), ClientFormatter(tracebacks=True)]
        for form in formats:
            line = form.format(record)
            assert line.isprintable()
            assert re.fullmatch(rf".*\{{0123456789abcdef\}} {shape(event)}", line)
            assert len(form.within(record, 8000)) <= 8000
        json_form = JSONFormatter("bridge")
        for line in (json_form.format(record), json_form.within(record, 8000).decode("ascii")):
            assert line.isascii()
            assert line.isprintable()
            members = json.loads(line)
            assert list(members) == [
                "time", "level", "component", "pid", "event", "request", "connection", "text",
                "fields",
            ]  # fmt: skip
            assert members["event"] == event.event
            assert set(members["fields"]) == set(event.fields)
            assert len(members["text"]) <= MAX_TEXT
            assert all(len(str(v)) <= MAX_TEXT for v in members["fields"].values())
        assert len(json_form.within(record, 8000)) <= 8000


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_value_makes_one_line_of_every_event(value: str) -> None:
    for event in EVENTS:
        check(event, value)


@given(st.sampled_from(EVENTS), st.text(st.characters(), max_size=60))
def test_any_value_makes_one_line_of_any_event(event: LogEvent, value: str) -> None:
    check(event, value)
