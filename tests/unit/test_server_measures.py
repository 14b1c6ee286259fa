"""What a worker tells of its request, what its supervisor makes of it, and of what it cannot be."""

from __future__ import annotations

import math
import struct
import threading
import time

import pytest

from sigul_stack.errors import SigulError
from sigul_stack.metrics import Counters, ServerCount
from sigul_stack.observe.exposition import Samples, text
from sigul_stack.protocol.operations import BRIDGE_OPERATIONS, OPERATIONS
from sigul_stack.protocol.status import ServerStatus
from sigul_stack.server.measures import FILE_SECONDS, MAX_REQUEST_LABELS, FileTurns, ServerMeasures
from sigul_stack.server.phases import UNKNOWN, Measured, Outcome, Phase, Phases, decode
from sigul_stack.system.pipes import BadEvent

PHASES = len(Phase)


def status() -> ServerStatus:
    """A server's, at its start."""
    return ServerStatus(
        version="1",
        pid=1,
        started="2026-12-01T00:00:00+00:00",
        workers_attached=0,
        workers_dialling=0,
        workers_busy=0,
        workers=(),
        totals=Counters(ServerCount).values(),
    )


def samples_of(measures: ServerMeasures, *, names: bool = False) -> Samples:
    """Its samples."""
    return measures.samples(status(), spooled=5, spool_limit=None, names=names)


def lines_of(measures: ServerMeasures, *, names: bool = False) -> list[str]:
    """The lines about requests in the text."""
    lines = text(samples_of(measures, names=names)).decode().splitlines()
    return [line for line in lines if line.startswith("sigul_server_requests_total")]


# ------------------------------------------------------------------------------- in the worker


def test_a_request_is_told_as_it_was() -> None:
    phases = Phases()
    with phases.measured(Phase.UNLOCK), phases.measured(Phase.STORE):
        time.sleep(0.02)
    phases.op, phases.version, phases.outcome = "sign-data", 1, Outcome.OK
    phases.proven = phases.unlogged = True
    told = decode(phases.encode())
    assert (told.op, told.version, told.outcome) == ("sign-data", "1", Outcome.OK)
    assert told.proven
    assert told.unlogged
    assert told.seconds.keys() == {Phase.UNLOCK, Phase.STORE}
    # What is inside another phase is its own alone.
    assert told.seconds[Phase.STORE] >= 0.02 > told.seconds[Phase.UNLOCK]


def test_a_request_that_went_nowhere_has_failed() -> None:
    assert decode(Phases().encode()) == Measured(Outcome.FAILED)


def test_what_is_no_operation_is_not_told() -> None:
    phases = Phases()
    phases.op = "alice's secret"
    assert decode(phases.encode()).op == UNKNOWN
    for op in (*OPERATIONS, *BRIDGE_OPERATIONS):
        phases.op = op
        assert decode(phases.encode()).op == op


def test_a_phase_that_raises_counts_and_comes_twice() -> None:
    phases = Phases()
    for _ in range(2):
        with pytest.raises(SigulError), phases.measured(Phase.SIGN):
            time.sleep(0.01)
            raise SigulError("no")
    assert decode(phases.encode()).seconds[Phase.SIGN] >= 0.02


def test_threads_add_up() -> None:
    phases = Phases()
    together = threading.Barrier(3)

    def work() -> None:
        with phases.measured(Phase.SIGN):
            together.wait(10)
            time.sleep(0.02)

    threads = [threading.Thread(target=work) for _ in range(3)]
    with phases.measured(Phase.REPLY):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    told = decode(phases.encode()).seconds
    assert told[Phase.SIGN] >= 0.06
    assert told[Phase.REPLY] >= 0.02


# ---------------------------------------------------------------------------- hostile workers


def body(
    outcome: int = 0, version: int = 1, flags: int = 0, seconds: float = 0.1, op: bytes = b""
) -> bytes:
    """What a worker might tell."""
    return struct.pack(f"!BBB{PHASES}d", outcome, version, flags, *PHASES * [seconds]) + op


def test_what_is_told_here_is_taken() -> None:
    assert decode(body(op=b"list-users")).op == "list-users"
    assert decode(body(version=255)).version == UNKNOWN
    assert decode(body(seconds=math.nan)).seconds == {}


@pytest.mark.parametrize(
    "told",
    [
        b"",
        body()[:-1],
        body(outcome=4),
        body(version=2),
        body(version=254),
        body(flags=4),
        body(seconds=-0.1),
        body(seconds=math.inf),
        body(seconds=1e300),
        body(op=b"no-operation"),
        body(op=b"list-users\n"),
        body(op=b"\xff" * 4000),
    ],
)
def test_what_no_worker_tells_is_refused(told: bytes) -> None:
    with pytest.raises(BadEvent):
        decode(told)


# --------------------------------------------------------------------------- in the supervisor


def test_requests_are_counted_by_what_is_known() -> None:
    measures = ServerMeasures()
    done = Measured(Outcome.OK, "sign-data", "1", proven=True, seconds={Phase.SIGN: 0.3})
    for user in ("alice", "alice", "bob"):
        measures.request(done, user)
    measures.request(Measured(Outcome.REFUSED, "sign-data", "1"), "mallory")
    measures.lost("sign-data", "1", ended=True)
    measures.lost("anything", UNKNOWN, ended=False)
    name = "sigul_server_requests_total"
    assert lines_of(measures) == [
        f'{name}{{op="sign-data",result="ended",version="1"}} 1.0',
        f'{name}{{op="sign-data",result="ok",version="1"}} 3.0',
        f'{name}{{op="sign-data",result="refused",version="1"}} 1.0',
        f'{name}{{op="unknown",result="failed",version="unknown"}} 1.0',
    ]
    # Who has not proven who he is has no name.
    named = lines_of(measures, names=True)
    assert f'{name}{{op="sign-data",result="ok",user="alice",version="1"}} 2.0' in named
    assert not any("mallory" in line for line in named)
    assert (
        'sigul_server_phase_seconds_count{phase="sign"} 3.0' in text(samples_of(measures)).decode()
    )


def test_users_that_are_too_many_are_counted_together() -> None:
    measures = ServerMeasures()
    for number in range(2000):
        user = f"{number}".rjust(255, "x")
        measures.request(Measured(Outcome.OK, "change-key-expiration", "1", proven=True), user)
    lines = lines_of(measures, names=True)
    assert len(lines) == MAX_REQUEST_LABELS + 1
    assert sum(float(line.rpartition(" ")[2]) for line in lines) == 2000
    # With the longest names there are, the text is less than a status socket takes at once.
    assert len(text(samples_of(measures, names=True))) < 128 * 1024


def test_there_is_no_limit_and_no_log_where_there_is_none() -> None:
    shown = text(samples_of(ServerMeasures())).decode()
    assert "sigul_server_spool_limit_bytes" not in shown
    assert "sigul_server_signing_log_leaves" not in shown
    assert "\nsigul_server_spool_bytes 5.0\n" in shown


def test_a_file_is_written_in_turn(caplog: pytest.LogCaptureFixture) -> None:
    turns = FileTurns()
    assert turns.is_due()
    assert not turns.is_due()
    assert FILE_SECONDS - 5 < turns.remaining() <= FILE_SECONDS
    turns.soon()
    assert turns.is_due()
    with caplog.at_level("INFO", logger="sigul_stack.server.measures"):
        for failure in ("", "no room", "no room", "", "", "gone"):
            turns.ended(failure)
    assert [record.getMessage() for record in caplog.records] == [
        "Metrics cannot be given: no room; the server goes on",
        "The metrics' file is written again",
        "Metrics cannot be given: gone; the server goes on",
    ]
