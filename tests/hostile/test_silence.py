"""Connections that show a certificate and then say nothing."""

from __future__ import annotations

import pytest

from tests.hostile.conftest import AttackerFactory, Ground
from tests.hostile.work import Honest

pytestmark = pytest.mark.once("the bridge's own threads and limits")
SILENT = 40


def test_connections_that_say_nothing_hold_nobody_up(
    ground: Ground, honest: Honest, attacker: AttackerFactory
) -> None:
    """Fewer than any limit; so nobody is refused, and nobody waits."""
    crowd = attacker(ground.site, "mallory", "crowd")
    with honest.during(f"{SILENT} silent connections"):
        crowd.start(scripts=[{"stop": "connected"}], each=SILENT)
        for _ in range(SILENT):
            crowd.wait_for("stalled")
    crowd.go(SILENT)
    assert [client["error"] for client in crowd.result()] == [None] * SILENT
