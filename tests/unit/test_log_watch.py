"""The bridge's watch: whom it asks when, and what it makes of answers. Real logs, no sockets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from sigul_stack.bridge.log_watch import BUSY_SECONDS, LogWatch, make_witness
from sigul_stack.bridge.session import BridgeResources
from sigul_stack.checks import State
from sigul_stack.config.bridge import BridgeSettings
from sigul_stack.config.shared import NSSSettings
from sigul_stack.errors import SigulError, TransportError
from sigul_stack.evidence import signing_log
from sigul_stack.evidence.leaf import Leaf, Result
from sigul_stack.evidence.signing_log import SigningLog
from sigul_stack.formats.signed_note import LOG_KEY, WITNESS_KEY, PrivateKey
from sigul_stack.health.status_checks import _watched_logs
from sigul_stack.protocol.codec import Fields
from sigul_stack.protocol.status import BridgeStatus, decode_status, encode_status
from sigul_stack.transport import memory
from sigul_stack.transport.stream import ByteStream

SERVER = "server"
KNOWS: Mapping[str, frozenset[str]] = {SERVER: frozenset({"log", "notes"})}


class Bench:
    """A watch, the log that its server has, and the servers that wait."""

    def __init__(self, directory: Path) -> None:
        self.resources = BridgeResources(
            BridgeSettings(nss=NSSSettings(directory="sql:/nonexistent"))
        )
        signing_log.create(directory / "log", "a")
        self.log: SigningLog = SigningLog.open(directory / "log")
        self.answer: Callable[[Mapping[bytes, int]], Mapping[str, bytes]] = self.evidence
        self.asked = 0
        self.watch = LogWatch(self.resources, self._ask)

    def evidence(self, seen: Mapping[bytes, int]) -> Mapping[str, bytes]:
        self.log.append([Leaf("list-users", Result.OK)])
        size = seen.get(self.log.public_key.id, 0)
        return self.log.checkpoint_evidence(size).fields()

    def _ask(self, _server: ByteStream, seen: Mapping[bytes, int]) -> Fields:
        self.asked += 1
        return Fields(dict(self.answer(seen)))

    def wait_at_bridge(self, count: int = 1, name: str = SERVER) -> None:
        for _ in range(count):
            near, _far = memory.pair()
            near.peer = memory.nobody(name)
            self.resources.waiting.add(near)

    def step(self, known: Mapping[str, frozenset[str]] = KNOWS) -> float:
        """Look at what is due now, as if all were."""
        for item in self.watch._watched.values():
            item.due = 0.0
        return self.watch._step(known)

    def complaint(self) -> str:
        (found,) = self.watch.listed(time.monotonic())
        return found.complaint


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path)
    yield found
    found.resources.close()
    found.log.close()


def test_a_server_that_says_no_word_is_not_asked(bench: Bench) -> None:
    bench.wait_at_bridge(3)
    bench.step({SERVER: frozenset({"notes"})})
    bench.step({})
    assert bench.asked == 0
    assert bench.watch.listed(0.0) == ()


def test_one_that_has_said_so_is_asked_each_interval(bench: Bench) -> None:
    bench.wait_at_bridge(3)
    assert 290 < bench.step() <= 300
    assert bench.watch._step(KNOWS) <= 300
    assert bench.asked == 1
    bench.step()
    assert bench.asked == 2
    (found,) = bench.watch.listed(time.monotonic())
    assert (found.common_name, found.size, found.complaint) == (SERVER, 3, "")
    assert found.origin == bench.log.public_key.name
    assert bench.resources.counters.values()["signing_log_checkpoints_total"] == 2
    # Each takes a server, which dials again.
    assert len(bench.resources.waiting) == 1


def test_the_last_server_is_left_to_clients_that_are_here(bench: Bench) -> None:
    bench.wait_at_bridge(1)
    client, _far = memory.pair()
    with bench.resources.budget.connection(client):
        assert bench.step() <= BUSY_SECONDS
        assert bench.asked == 0
    bench.step()
    assert bench.asked == 1


def test_other_servers_are_not_taken_for_it(bench: Bench) -> None:
    bench.wait_at_bridge(3, "another")
    assert bench.step() <= BUSY_SECONDS
    assert bench.asked == 0
    assert len(bench.resources.waiting) == 3


def test_a_log_that_shrinks_is_told_each_interval(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.wait_at_bridge(5)
    old = dict(bench.evidence({}))
    bench.evidence({})
    bench.step()
    bench.answer = lambda _seen: old
    bench.step()
    assert "leaves were taken away" in bench.complaint()
    bench.step()
    assert bench.asked == 2
    assert caplog.text.count("[SIGNING_LOG] the signing log of 'server'") == 2
    assert bench.resources.counters.values()["signing_log_complaints_total"] == 2


def test_a_server_that_says_the_word_no_more(bench: Bench) -> None:
    bench.wait_at_bridge(3)
    bench.step()
    bench.step({SERVER: frozenset({"notes"})})
    assert "shows nothing of the log" in bench.complaint()
    assert bench.asked == 1


def test_asking_that_fails_is_no_complaint(bench: Bench) -> None:
    def fail(_seen: Mapping[bytes, int]) -> Mapping[str, bytes]:
        raise TransportError("it is gone")

    bench.wait_at_bridge(3)
    bench.answer = fail
    assert bench.step() <= 30
    bench.answer = lambda _seen: {}
    bench.step()
    assert bench.complaint() == ""
    assert bench.resources.counters.values()["signing_log_failures_total"] == 2


def test_it_ends_with_the_bridge(bench: Bench) -> None:
    bench.wait_at_bridge(3)
    bench.resources.server_words.learn(SERVER, frozenset({"log"}))
    bench.watch.start()
    end = time.monotonic() + 10
    while not bench.asked and time.monotonic() < end:
        time.sleep(0.01)
    assert bench.asked == 1
    bench.resources.server_words.close()
    assert not bench.resources.server_words.wait({}, 10)


# ------------------------------------------------------------------------------------- its keys


@pytest.mark.parametrize("content", [b"", b"nonsense", b"a log's"])
def test_a_witness_key_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    if content == b"a log's":
        content = PrivateKey.new("x", LOG_KEY).encode().reveal()
    path.write_bytes(content)
    settings = BridgeSettings(
        nss=NSSSettings(directory="sql:/nonexistent"), signing_log_witness_key=path
    )
    with pytest.raises(SigulError, match="cannot be used") as caught:
        make_witness(settings)
    assert "sigul-stack witness key" in caught.value.cure
    path.write_bytes(PrivateKey.new("w", WITNESS_KEY).encode().reveal() + b"\n")
    make_witness(settings)


# ------------------------------------------------------------------------------------- its status


def status(bench: Bench, seconds: float = 0.0) -> BridgeStatus:
    logs = bench.watch.listed(time.monotonic() + seconds)
    found = BridgeStatus("1", 1, "now", 0, (), 0, {}, logs=logs, log_interval=300.0)
    decoded = decode_status(encode_status(found))
    assert isinstance(decoded, BridgeStatus)
    assert decoded == found
    return decoded


def test_health_tells_what_the_watch_has_seen(bench: Bench) -> None:
    assert list(_watched_logs(status(bench))) == []
    bench.step()
    (check,) = _watched_logs(status(bench))
    assert check.state is State.WARNING
    assert "was not looked at yet" in check.finding
    bench.wait_at_bridge(5)
    bench.step()
    (check,) = _watched_logs(status(bench))
    assert (check.state, check.values["signing_log_size"]) == (State.OK, 2)
    (check,) = _watched_logs(status(bench, 1000.0))
    assert check.state is State.WARNING
    bench.answer = lambda _seen: {}
    bench.step()
    (check,) = _watched_logs(status(bench))
    assert check.state is State.FAILED
    assert "shows nothing" in check.finding


def test_a_status_of_a_former_bridge_has_no_logs() -> None:
    found = decode_status(
        b'{"component": "bridge", "version": "1", "pid": 1, "started": "now", "servers": [],'
        b' "servers_waiting": 0, "requests_in_flight": 0, "totals": {}}'
    )
    assert isinstance(found, BridgeStatus)
    assert found.logs == ()
