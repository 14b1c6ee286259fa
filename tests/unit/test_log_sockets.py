"""Lines to journald and syslog: what is sent to a real socket, and what becomes of what is not."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.cli import log_sockets
from sigul_stack.cli.log_events import ProgramLog
from sigul_stack.cli.log_format import DaemonFormatter, JSONFormatter
from sigul_stack.cli.log_sockets import MAX_SYSLOG, JournalHandler, SyslogHandler
from sigul_stack.cli.logs import set_up_client, set_up_daemon
from sigul_stack.errors import ConfigurationError
from sigul_stack.logcontext import LogContext, about
from sigul_stack.logevents import tell
from tests.journal import fields_of

pytestmark = pytest.mark.usefixtures("logging_as_before")

log = logging.getLogger("sigul_stack.test")
ID = "0123456789abcdef"
FORGED = "x\n\nMESSAGE=forged\nSIGUL_REQUEST\n\x01\x00\x00\x00\x00\x00\x00\x00y\n\u2028\ud800"


class Listener:
    """What listens at a socket: journald or syslog."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket: socket.socket | None = None
        self.begin()

    def begin(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(os.fspath(self.path))
        self.socket.setblocking(False)

    def end(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.path.unlink()
            self.socket = None

    def taken(self) -> list[bytes]:
        assert self.socket is not None
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.socket.recv(1 << 20))
        return found


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    listener = Listener(tmp_path / "journal")
    monkeypatch.setattr(log_sockets, "JOURNAL_SOCKET", listener.path)
    yield listener
    listener.end()


@pytest.fixture
def syslog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    listener = Listener(tmp_path / "syslog")
    monkeypatch.setattr(log_sockets, "SYSLOG_SOCKET", listener.path)
    yield listener
    listener.end()


def set_up(*sockets: str, json: bool = False) -> None:
    set_up_daemon("sigul_bridge", 0, stream=None, directory=None, json=json, sockets=sockets)


def store(path: str = "/srv", user_id: int = 7) -> None:
    tell(log, ProgramLog.STORE_MADE, path=path, user_id=user_id)


def test_the_journal_has_each_field(journal: Listener) -> None:
    set_up("journald")
    with about(LogContext("c1", ID)):
        store(FORGED)
    [data] = journal.taken()
    fields = fields_of(data)
    message = fields.pop("MESSAGE").decode()
    assert re.fullmatch(rf"\S+Z INFO \[{os.getpid()}\] \{{{ID}\}} Made '[^']*' for user 7", message)
    assert message.isprintable()
    assert fields == {
        "PRIORITY": b"6",
        "SYSLOG_IDENTIFIER": b"sigul_bridge",
        "SIGUL_COMPONENT": b"bridge",
        "SIGUL_EVENT": b"store-made",
        "SIGUL_REQUEST": ID.encode(),
        "SIGUL_CONNECTION": b"c1",
        "SIGUL_FIELD_PATH": FORGED.encode("utf-8", "backslashreplace"),
        "SIGUL_FIELD_USER_ID": b"7",
    }


def test_of_a_library_there_is_its_name_and_of_an_error_its_traceback(journal: Listener) -> None:
    set_up("journald")
    try:
        raise ValueError("why\nnot")
    except ValueError:
        logging.getLogger("elsewhere").exception("it %s", "failed")
    fields = fields_of(journal.taken()[0])
    assert fields["SIGUL_EVENT"] == b"library"
    assert fields["SIGUL_FIELD_LOGGER"] == b"elsewhere"
    assert fields["PRIORITY"] == b"3"
    assert fields["SIGUL_TRACEBACK"].endswith(b"ValueError: why\nnot")
    assert "SIGUL_REQUEST" not in fields


@pytest.mark.parametrize("json_form", [False, True])
def test_a_datagram_has_its_limit_whatever_is_in_it(
    journal: Listener, syslog: Listener, json_form: bool
) -> None:
    set_up("journald", "syslog", json=json_form)
    for value in ("\U0001f600" * 100_000, "'" * 100_000, "\0" * 100_000):
        try:
            raise ValueError(value)
        except ValueError as error:
            logging.getLogger("elsewhere").error(value, exc_info=error)
        store(value)
    for data in journal.taken():
        assert len(data) < 1 << 16
        fields_of(data)
    lines = syslog.taken()
    assert len(lines) == 6
    for data in lines:
        head, _, line = data.partition(b": ")
        assert len(line) <= MAX_SYSLOG
        assert re.fullmatch(rb"<(27|30)>sigul_bridge\[\d+\]", head)
        assert line.decode("utf-8").isprintable()
        if json_form:
            assert json.loads(line)["event"] in {"library", "store-made"}


def test_a_line_of_syslog_is_one_of_a_file(syslog: Listener) -> None:
    set_up("syslog")
    with about(LogContext("c1")):
        store(FORGED)
        log.critical("odd\nline")
    first, second = (data.decode() for data in syslog.taken())
    head = rf"sigul_bridge\[{os.getpid()}\]: \S+Z"
    assert re.fullmatch(rf"<30>{head} INFO \[\d+\] \{{c1\}} Made '[^']*' for user 7", first)
    assert re.fullmatch(rf"<26>{head} CRITICAL \[\d+\] \{{c1\}} odd\\nline", second)


@pytest.mark.parametrize("what", ["journald", "syslog"])
def test_where_nothing_listens_at_start_it_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for name in ("JOURNAL_SOCKET", "SYSLOG_SOCKET"):
        monkeypatch.setattr(log_sockets, name, tmp_path / "none")
    with pytest.raises(ConfigurationError, match=f"{what}.*No such file.*take {what} out"):
        set_up(what)


def test_what_is_lost_is_told(syslog: Listener) -> None:
    """While nothing listens, lines are lost; the next one that is taken stands behind that."""
    set_up("syslog")
    store("/a")
    syslog.end()
    with about(LogContext("c1")):
        for path in ("/b", "/c"):
            store(path)
        syslog.begin()
        store("/d")
        store("/e")
    lines = [data.decode().partition("] ")[2] for data in syslog.taken()]
    assert lines == [
        "2 lines before this one were lost: the system's log did not take them",
        "{c1} Made '/d' for user 7",
        "{c1} Made '/e' for user 7",
    ]


def test_started_again_between_two_lines_nothing_is_lost(syslog: Listener) -> None:
    set_up("syslog")
    store("/a")
    syslog.end()
    syslog.begin()
    store("/b")
    assert len(syslog.taken()) == 1


def test_what_does_not_read_holds_nobody_up(syslog: Listener) -> None:
    """Its socket is full at some time. What was told by then it has."""
    set_up("syslog")
    told = 5000
    for _ in range(told):
        store()
    taken = len(syslog.taken())
    assert 0 < taken < told
    store("/last")
    lost, last = (data.decode() for data in syslog.taken())
    assert f"] {told - taken} lines before this one were lost" in lost
    assert last.endswith("Made '/last' for user 7")


def test_a_child_tells_what_it_lost_itself(syslog: Listener) -> None:
    set_up("syslog")
    syslog.end()
    store("/lost")
    syslog.begin()
    if not (child := os.fork()):
        code = 1
        try:
            store("/of-the-child")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    [line] = syslog.taken()
    assert f"sigul_bridge[{child}]: ".encode() in line
    store("/of-the-parent")
    assert len(syslog.taken()) == 2


def test_a_line_of_json() -> None:
    form = JSONFormatter("server")
    record = logging.LogRecord("sigul_stack.x", 30, "", 0, "a %s", ("b\nc",), None)
    record.created, record.msecs = 1714979289.0, 123.9
    record.process = 7
    assert form.format(record) == (
        '{"time": "2024-05-06T07:08:09.123Z", "level": "WARNING", "component": "server", "pid": 7,'
        ' "event": "library", "text": "a b\\\\nc", "fields": {"logger": "sigul_stack.x"}}'
    )


def test_handlers_take_a_path(tmp_path: Path) -> None:
    listener = Listener(tmp_path / "s")
    record = logging.LogRecord("x", 15, "", 0, "text", None, None)
    for made in (
        JournalHandler("sigul_server", DaemonFormatter(), listener.path),
        SyslogHandler("sigul_server", DaemonFormatter(), listener.path),
    ):
        made.handle(record)
        made.close()
    first, second = listener.taken()
    assert fields_of(first)["PRIORITY"] == b"7"
    assert second.startswith(b"<31>sigul_server[")
    listener.end()


def test_a_client_tells_json_too(capfd: pytest.CaptureFixture[str]) -> None:
    import sys

    set_up_client(0, sys.stderr, json=True)
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("it failed")
    [line] = capfd.readouterr().err.splitlines()
    members = json.loads(line)
    assert (members["component"], members["text"]) == ("client", "it failed")
    assert "traceback" not in members
    set_up_client(3, sys.stderr, json=True)
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("it failed")
    members = json.loads(capfd.readouterr().err)
    assert members["traceback"].endswith("ValueError: why")


def test_what_is_no_datagram_of_the_journal_is_found() -> None:
    """`fields_of` itself: it takes nothing on trust."""
    good = b"A\n" + struct.pack("<Q", 1) + b"x\n"
    assert fields_of(good) == {"A": b"x"}
    for wrong in (b"A=x\n", good + good, good[:-1], b"a\n" + good[2:], good[:-1] + b"y"):
        with pytest.raises(AssertionError):
            fields_of(wrong)
