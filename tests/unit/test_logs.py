"""What log lines look like, and that nothing in a message makes more than one line of it."""

from __future__ import annotations

import io
import logging
import os
import re
import threading
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.cli.logs import MAX_KEPT, set_up_client, set_up_daemon, tell_kept
from sigul_stack.cli.outcome import AnswersTold, report
from sigul_stack.client.rpm_packages import ZeroLengthRPM
from sigul_stack.errors import (
    ConfigurationError,
    RequestRefused,
    SigulError,
    Status,
    as_word,
    printable,
    quoted,
)
from sigul_stack.logcontext import LogContext, work_for

log = logging.getLogger("sigul_stack.test")


def client_lines(verbosity: int) -> list[str]:
    stream = io.StringIO()
    set_up_client(verbosity, stream)
    log.debug("d")
    log.info("i %s", 1)
    log.warning("w")
    logging.getLogger("elsewhere").info("of a library")
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("e\nf")
    return stream.getvalue().splitlines()


def test_client_lines() -> None:
    assert client_lines(0) == ["WARNING: w", "ERROR: e\\nf"]
    assert client_lines(1) == ["INFO: i 1", "WARNING: w", "ERROR: e\\nf"]
    lines = client_lines(3)
    assert lines[:3] == ["DEBUG: d", "INFO: i 1", "WARNING: w"]
    assert len(lines) == 4
    assert lines[3].startswith("ERROR: e\\nf\\nTraceback (most recent call last):")
    assert client_lines(4)[0] == "DEBUG: d"


def _raise(error: SigulError) -> None:
    raise error


def test_at_dash_v_twice_a_client_is_silent_unless_something_is_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert [line.partition("\\n")[0] for line in client_lines(2)] == ["WARNING: w", "ERROR: e"]
    stream = io.StringIO()

    def work() -> None:
        log.info("i")
        if fails:
            raise SigulError("it failed")

    for fails in (False, True):
        set_up_client(2, stream)
        assert report(work) == int(fails)
    assert capsys.readouterr().err == "Error: it failed\n"
    told = stream.getvalue().splitlines()
    assert told[0] == "INFO: i"
    assert told[1].startswith("DEBUG: where it failed:\\nTraceback")
    assert len(told) == 2
    for answer in (
        RequestRefused(Status.USER_NOT_FOUND),
        SigulError("Unable to unbind the passphrase on the client", "why"),
        ZeroLengthRPM("x.rpm"),
        AnswersTold("told"),
    ):
        set_up_client(2, stream)
        log.info("not told")
        assert report(partial(_raise, answer)) == 1
    assert capsys.readouterr().err.splitlines() == [
        "Error: The specified user was not found",
        "Unable to unbind the passphrase on the client",
        "why",
        "Error: Cannot sign zero-length RPM file x.rpm",
    ]
    assert len(stream.getvalue().splitlines()) == 2
    set_up_client(2, stream)
    for number in range(MAX_KEPT + 5):
        log.info("line %d", number)
    tell_kept()
    assert len(stream.getvalue().splitlines()) == 2 + MAX_KEPT


def test_daemon_lines_and_the_request_of_each() -> None:
    stream = io.StringIO()
    set_up_daemon("sigul_bridge", 0, stream=stream, directory=None)

    def request(name: str) -> None:
        work_for(LogContext("c1", name))
        log.info("[BRIDGE_REQUEST] Client connected")

    for name in ("5f3a", "77"):
        thread = threading.Thread(target=request, args=(name,))
        thread.start()
        thread.join()
    log.info("forged\n2024-05-06T07:08:09.123Z INFO [1] line\x1b[2J\u2028")
    log.debug("not at this level")
    lines = stream.getvalue().splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO \[" + str(os.getpid()) + r"\]"
    assert len(lines) == 3
    assert re.fullmatch(stamp + r" \{5f3a\} \[BRIDGE_REQUEST\] Client connected", lines[0])
    assert re.fullmatch(stamp + r" \{77\} \[BRIDGE_REQUEST\] Client connected", lines[1])
    assert re.fullmatch(
        stamp + r" forged\\n2024-05-06T07:08:09.123Z INFO \[1\] line\\x1b\[2J\\u2028", lines[2]
    )


def test_daemon_debug() -> None:
    stream = io.StringIO()
    set_up_daemon("sigul_bridge", 2, stream=stream, directory=None)
    log.debug("seen")
    logging.getLogger("elsewhere").info("of a library")
    assert stream.getvalue().endswith(" seen\n")
    assert stream.getvalue().count("\n") == 1


def test_log_file_survives_rotation(tmp_path: Path) -> None:
    set_up_daemon("sigul_server", 0, stream=None, directory=tmp_path)
    file = tmp_path / "sigul_server.log"
    log.warning("one")
    file.rename(tmp_path / "old")
    log.warning("two")
    assert (tmp_path / "old").read_text().endswith(" one\n")
    assert file.read_text().endswith(" two\n")
    assert file.read_text().count("\n") == 1
    set_up_daemon("sigul_server", 0, stream=None, directory=tmp_path)
    log.warning("three")
    assert file.read_text().count("\n") == 2


def test_a_log_file_is_not_for_everybody(tmp_path: Path) -> None:
    set_up_daemon("sigul_server", 0, stream=None, directory=tmp_path)
    assert (tmp_path / "sigul_server.log").stat().st_mode & 0o007 == 0


def test_no_log_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--internal-log-dir"):
        set_up_daemon("sigul_server", 0, stream=None, directory=tmp_path / "none")


@given(st.text(st.characters()))
def test_printable_gives_one_printable_line(text: str) -> None:
    line = printable(text)
    assert line.isprintable()
    assert len(line.splitlines()) <= 1
    if text.isprintable():
        assert line == text


@given(st.text())
def test_nothing_in_a_name_ends_its_quotes(name: str) -> None:
    found = quoted(name)
    assert found.isprintable()
    assert re.fullmatch(r"'(?:[^'\\]|\\.)*'", found)
    if name.isprintable() and not set(name) & set("'\\"):
        assert found == f"'{name}'"
    assert re.fullmatch(r"'(?:[^'\\]|\\.)*'|[A-Za-z0-9._@:+-]+", as_word(name))


def test_a_long_name_is_cut_in_its_quotes() -> None:
    assert quoted("x" * 100, 10) == "'xxxxxxx...'"
