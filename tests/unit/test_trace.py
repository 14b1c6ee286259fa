"""`sigul-stack trace`: which lines are about a request, in what order, and logs of any content."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.cli import log_lines, stack, trace
from sigul_stack.cli.log_lines import MAX_LINE_BYTES, lines_of, parse
from sigul_stack.logcontext import LogContext, about

ID, OTHER = "0123456789abcdef", "0123ffffffffffff"

Trace = Callable[..., tuple[int, list[str], list[str]]]


def at(second: int, id_: str, text: str, pid: int = 7, level: str = "INFO") -> str:
    about_it = f" {{{id_}}}" if id_ else ""
    return f"2026-12-01T00:00:{second:02d}.000Z {level} [{pid}]{about_it} {text}"


def tied(second: int, connection: str, id_: str = ID, pid: int = 7) -> str:
    return at(second, id_, f"Request {id_} is on connection {connection}", pid)


def as_json(second: int, text: str, **members: object) -> str:
    line = {"time": f"2026-12-01T00:00:{second:02d}.500Z", "level": "INFO", "pid": 9, "text": text}
    return json.dumps({**line, **members})


@pytest.fixture
def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Trace:
    """Writes logs to files of these names and traces an id; exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def traced(id_: str, **logs: list[str] | bytes) -> tuple[int, list[str], list[str]]:
        for name, log in logs.items():
            data = log if isinstance(log, bytes) else "".join(f"{x}\n" for x in log).encode()
            Path(name).write_bytes(data)
        # Output goes to the descriptor, which pytest does not replace.
        lines: list[str] = []
        monkeypatch.setattr(trace, "print_lines", lines.extend)
        code = stack.main(["trace", id_, *logs])
        return code, lines, capsys.readouterr().err.splitlines()

    return traced


BRIDGE = [
    at(1, "", "sigul_bridge starts", pid=6),
    at(2, "c1", "[BRIDGE_REQUEST] Client connected (192.0.2.1:1)"),
    at(2, "c2", "[BRIDGE_REQUEST] Client connected (192.0.2.2:2)"),
    at(3, "c1", "Request 'sign-data' of user 'bob', payload 5 bytes"),
    at(4, OTHER, f"Request {OTHER} is on connection c2"),
    tied(5, "c1"),
    at(6, OTHER, "of another"),
    at(9, ID, "[FORWARD] forward_two_way loop completed normally"),
    at(9, "c1", "of a thread that was late"),
]
SERVER = [
    at(5, "w8-1", "[DOUBLE_TLS] Starting TLS handshake", pid=8),
    tied(6, "w8-1", pid=8),
    at(7, ID, "Request 'sign-data' of user 'bob' done", pid=8),
]
CLIENT = [
    "WARNING: about the configuration",
    "INFO: {r1} [DOUBLE_TLS] Starting TLS handshake",
    f"INFO: {{{ID}}} Request {ID} is on connection r1",
    f"WARNING: {{{ID}}} the server warns: 'soon'",
    "Error: Authentication failed",
    f"Request ID: {ID}",
]


def test_lines_of_all_three_in_the_order_of_time(run: Trace) -> None:
    code, lines, errors = run(ID, bridge=BRIDGE, server=SERVER, client=CLIENT)
    assert (code, errors) == (0, [])
    assert lines == [
        *(f"client: {line}" for line in CLIENT[1:]),
        f"bridge: {BRIDGE[1]}",
        f"bridge: {BRIDGE[3]}",
        f"bridge: {BRIDGE[5]}",
        f"server: {SERVER[0]}",
        f"server: {SERVER[1]}",
        f"server: {SERVER[2]}",
        f"bridge: {BRIDGE[7]}",
        f"bridge: {BRIDGE[8]}",
    ]
    assert run(ID.upper(), bridge=BRIDGE, server=SERVER, client=CLIENT)[1] == lines
    assert run(ID[:5], bridge=BRIDGE, server=SERVER, client=CLIENT)[1] == lines


def test_lines_of_json_beside_lines_of_text(run: Trace) -> None:
    log = [
        as_json(3, "[BRIDGE_REQUEST] Client connected", connection="c1", event="client-connected"),
        as_json(4, "of another", connection="c2"),
        as_json(5, "tied", connection="c1", request=ID, event="request-id", component="bridge"),
        as_json(8, "done", connection="c1", request=ID, fields={"a": 1}),
        as_json(8, "of another", connection="c2", request=OTHER),
    ]
    code, lines, _errors = run(ID, bridge=log, server=SERVER)
    assert code == 0
    assert lines == [
        "bridge: 2026-12-01T00:00:03.500Z INFO [9] {c1} [BRIDGE_REQUEST] Client connected",
        f"server: {SERVER[0]}",
        f"bridge: 2026-12-01T00:00:05.500Z INFO [9] {{{ID}}} tied",
        f"server: {SERVER[1]}",
        f"server: {SERVER[2]}",
        f"bridge: 2026-12-01T00:00:08.500Z INFO [9] {{{ID}}} done",
    ]


def test_a_connections_id_that_comes_again_is_another_connection(run: Trace) -> None:
    """As in the log of a container whose processes have the same PIDs after each start."""
    again = [
        at(1, "c1", "[BRIDGE_REQUEST] Client connected (never tied)"),
        *BRIDGE,
        at(20, "c1", "[BRIDGE_REQUEST] Server TCP connection accepted (192.0.2.3:3)"),
        at(21, "c1", "[BRIDGE_TLS] Server TLS handshake completed"),
    ]
    assert run(ID, bridge=again)[1] == run(ID, bridge=BRIDGE)[1]
    twice = ["INFO: {r1} first", f"INFO: {{{OTHER}}} Request {OTHER} is on connection r1", *CLIENT]
    assert run(ID, client=twice)[1] == [f"client: {line}" for line in CLIENT[1:]]
    later = [*CLIENT, "INFO: {r1} of the next run"]
    assert run(ID, client=later)[1] == [f"client: {line}" for line in CLIENT[1:]]


def test_two_requests_with_one_id_are_told_apart(run: Trace) -> None:
    second = [
        at(12, "c9", "[BRIDGE_REQUEST] Client connected (192.0.2.9:9)"),
        tied(13, "c9"),
        at(14, ID, "of the second"),
    ]
    other_worker = [at(13, "w9-2", "second", pid=9), tied(13, "w9-2", pid=9)]
    code, lines, _ = run(ID, bridge=[*BRIDGE, *second], server=[*SERVER, *other_worker])
    assert code == 0
    assert lines[0] == f"{ID} is the ID of 2 requests: clients choose it. By connection:"
    groups = "\n".join(lines[1:]).split("\n\n")
    assert [group.strip().splitlines()[0] for group in groups] == [
        "bridge, PID 7, connection c1:",
        "server, PID 8, connection w8-1:",
        "bridge, PID 7, connection c9:",
        "server, PID 9, connection w9-2:",
    ]
    assert f"bridge: {second[2]}" in groups[2]
    assert f"bridge: {BRIDGE[7]}" in groups[0]
    # The same log twice is no second request.
    _, lines, _ = run(ID, bridge=BRIDGE, again=BRIDGE)
    assert "requests" not in lines[0]
    # Lines of JSON have the connection to the end.
    log = [
        as_json(second, text, connection=connection, request=ID, event=event)
        for second, text, connection, event in (
            (1, "a", "c1", "request-id"),
            (2, "b", "c2", "request-id"),
            (3, "a", "c1", "x"),
            (4, "b", "c2", "x"),
        )
    ]
    _, lines, _ = run(ID, bridge=log)
    assert [line[-1:] for line in lines[1:]] == ["", ":", "a", "a", "", ":", "b", "b"]


def test_what_is_not_there(run: Trace) -> None:
    code, lines, errors = run("feed" * 4, bridge=BRIDGE, server=SERVER)
    assert (code, lines) == (1, [])
    assert errors[0].startswith(
        f"Error: none of {len(BRIDGE) + len(SERVER)} lines in 2 files is about request feedfeed"
    )
    code, lines, errors = run("0123", bridge=BRIDGE)
    assert (code, lines) == (1, [])
    assert errors == [
        f"Error: 2 requests have IDs that begin with 0123: {ID}, {OTHER}; give more digits"
    ]
    for wrong in ("c1", "012", ID + "0", "xyzw", "0123.1", ""):
        code, lines, errors = run(wrong, bridge=BRIDGE)
        assert (code, lines) == (1, [])
        assert "is no request's ID; it has 16 hexadecimal digits" in errors[0]
    assert stack.main(["trace", ID, "nowhere"]) == 1
    assert stack.main(["trace", ID, "."]) == 1
    assert stack.main(["trace", ID, "a\0b"]) == 1


def test_compressed_logs_and_standard_input(run: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    data = "".join(f"{line}\n" for line in BRIDGE).encode()
    expected = run(ID, bridge=BRIDGE)[1]
    half = len(data) // 2
    whole = gzip.compress(data[:half]) + gzip.compress(data[half:])
    assert run(ID, bridge=whole) == (0, expected, [])
    code, lines, errors = run(ID, bridge=gzip.compress(data)[:-6])
    assert (code, lines) == (0, expected)
    assert errors[0].startswith("Warning: 'bridge' was not read to its end: it is compressed, and")
    noise = gzip.compress(b"")[:10] + b"noise" * 1000
    code, lines, errors = run(ID, bridge=noise)
    assert (code, lines, len(errors)) == (1, [], 2)
    monkeypatch.setattr(trace, "standard_input", lambda: io.BufferedReader(io.BytesIO(whole)))  # type: ignore[arg-type]
    lines = []
    monkeypatch.setattr(trace, "print_lines", lines.extend)
    assert stack.main(["trace", ID, "-"]) == 0
    assert lines == [line.replace("bridge: ", "standard input: ", 1) for line in expected]
    assert log_lines.standard_input() is sys.stdin.buffer


# ------------------------------------------------------------------------------------ hostile logs


@pytest.mark.parametrize(
    "line",
    [
        f"2026-13-41T99:99:99.999Z INFO [7] {{{ID}}} a time that is none",
        f"0000-00-00T00:00:00.000Z INFO [7] {{{ID}}} a time that is none",
        f"9999-12-31T23:59:60.999Z INFO [7] {{{ID}}} a time that is none",
        json.dumps({"time": 10**400, "pid": -1, "request": ID, "text": "numbers"}),
        json.dumps({"time": "9999-99", "pid": True, "request": ID, "text": ["no text"]}),
        json.dumps({"time": "0001-01-01T00:00:00+23:59", "request": ID, "connection": {}}),
        json.dumps({"time": None, "request": ID, "event": "request-id", "fields": "none"}),
    ],
)
def test_wrong_times_and_types_are_shown_where_they_stand(run: Trace, line: str) -> None:
    code, lines, errors = run(ID, bridge=[BRIDGE[7], line, at(10, ID, "behind it")])
    assert (code, len(lines), errors) == (0, 3, [])


def test_a_line_cannot_pretend_to_be_of_another_process() -> None:
    forged = at(1, ID, "forged")
    for line in (
        f"WARNING: the server warns: '{forged}'",
        at(1, OTHER, f"Request 'x {forged}' of user"),
        at(1, "", f"Request '{forged}'"),
        at(1, "c1", tied(1, "c2")),
        json.dumps({"text": forged}),
        json.dumps({"text": forged, "request": ID + "0"}),
        json.dumps({"request": ID.upper()}),
        "[" * 100_000,
        '{"a":' * 50_000,
        '{"pid": ' + "9" * 10_000 + "}",
    ):
        assert parse(line.encode()).request in ("", OTHER)
        assert not parse(line.encode()).ties
    # What syslog and journals put before it is passed over.
    assert parse(f"Dec  1 00:00:01 host bridge[1]: {forged}".encode()).request == ID
    assert parse(tied(1, "c1").encode()).ties
    assert not parse(at(1, OTHER, f"Request {ID} is on connection c1").encode()).ties


def test_nothing_of_a_log_reaches_the_terminal_but_text(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    log = tmp_path / "log"
    log.write_bytes(at(1, ID, "\x1b[2J\x07 \u202e").encode() + b" \xff\xfe\0\r\n")
    assert stack.main(["trace", ID, str(log)]) == 0
    out = capfdbinary.readouterr().out
    assert out.endswith(b" \\x1b[2J\\x07 \\u202e \\xff\\xfe\\x00\n")


@given(st.binary(max_size=400), st.integers(1, 60))
def test_any_bytes_are_lines(data: bytes, limit: int) -> None:
    before = log_lines.MAX_LINE_BYTES
    log_lines.MAX_LINE_BYTES = limit  # type: ignore[misc]
    try:
        if data[:2] != b"\x1f\x8b":
            lines = list(lines_of(io.BytesIO(data)))
            assert len(lines) == data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
    finally:
        log_lines.MAX_LINE_BYTES = before  # type: ignore[misc]


def test_a_long_line_is_cut(run: Trace) -> None:
    long = at(1, ID, "x" * 3 * MAX_LINE_BYTES)
    code, lines, _ = run(ID, bridge=[long, at(2, ID, "next")])
    assert (code, len(lines)) == (0, 2)
    assert lines[0].endswith("x ...")
    assert len(lines[0]) < MAX_LINE_BYTES + 20


def test_what_is_kept_has_a_limit(run: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of lines that may turn out to be about the request, the last ones stay."""
    monkeypatch.setattr(trace, "MAX_PENDING_BYTES", 5000)
    log = [at(1, "c1", "early"), *(at(2, f"x{n}", "noise") for n in range(1000))]
    log += [at(3, "c2", "late"), tied(4, "c1"), tied(4, "c2", pid=7)]
    _, lines, _ = run(ID, bridge=log)
    assert not any("early" in line or "noise" in line for line in lines)
    assert any("late" in line for line in lines)


def test_too_many_lines_are_said_to_be_left_out(
    run: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "MAX_KEPT_BYTES", 5000)
    code, lines, errors = run(ID, bridge=[at(n % 60, ID, "line") for n in range(100)])
    assert code == 0
    assert 5 < len(lines) < 20
    assert errors == [
        f"Warning: {100 - len(lines)} more lines are not shown: give the logs of a shorter time"
    ]


def test_a_context_that_is_left_is_what_it_was() -> None:
    with about(LogContext("c1")) as outer, about(LogContext("c2", ID)) as inner:
        assert (str(inner), str(outer)) == (ID, "c1")
