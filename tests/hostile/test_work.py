"""That the tools of the tests here see what they are to see."""

from __future__ import annotations

import pytest

from sigul_stack.errors import Status
from tests.hostile.conftest import KEY, AttackerFactory, Ground, passphrase
from tests.hostile.work import Honest

pytestmark = pytest.mark.once("the tests' own tools")


def test_an_honest_request_that_fails_fails_the_test(ground: Ground) -> None:
    told: list[tuple[str, object]] = []
    honest = Honest(ground.site, KEY, {"alice": "wrong"}, told, before=[1.0])
    with (
        pytest.raises(AssertionError, match="an honest request failed"),
        honest.during("nothing"),
    ):
        pass
    assert told == []


def test_latency_is_told_beside_that_of_calm(
    ground: Ground, honest: Honest, capsys: pytest.CaptureFixture[str]
) -> None:
    with honest.during("nothing", least=1):
        pass
    line = capsys.readouterr().out
    assert line.startswith("LATENCY nothing: ")
    assert "; without attack " in line
    honest.properties.clear()  # no attack: not for the report


def test_a_crowd_trickles_reads_slowly_and_hears_the_bridge(
    ground: Ground, attacker: AttackerFactory
) -> None:
    crowd = attacker(ground.site, "alice", "crowd")
    sign = {
        "op": "sign-data", "user": "alice", "fields": {"key": KEY.encode()},
        "secrets": {"passphrase": passphrase("alice").encode()}, "payload": b"0123456789",
    }  # fmt: skip
    koji = {"fields": {"key": KEY.encode(), "koji-instance": b"none"}, "op": "sign-rpm"}
    slow, heard, stalled = crowd.run(
        scripts=[
            {**sign, "trickle": 2, "pause": 0.05, "read_pause": 0.05},
            {**sign, **koji, "hear": True},
            {**sign, **koji, "hear": True, "stop": "request", "length": 1000},
        ]
    )
    assert (slow["error"], slow["result"]["status"]) == (None, Status.OK)
    assert slow["seconds"] > 5 * 0.05
    for client in (heard, stalled):
        assert client["error"] is None
        assert "koji" in client["result"]["bridge"].lower()
