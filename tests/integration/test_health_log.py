"""What `health server` and `doctor server` tell of a signing log, in all its states."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sigul_stack.evidence.leaf import Leaf, Result
from sigul_stack.evidence.pushed import PUSHED, note_push
from sigul_stack.evidence.signing_log import SigningLog, create
from tests.site import Site, module

pytestmark = pytest.mark.once("what our program reads and says")

LEAVES = 300


@pytest.fixture
def log(site: Site) -> Path:
    """The log of a server that does not run."""
    directory = site.path("server/signing-log")
    create(directory, site.server_name)
    with SigningLog.open(directory) as log:
        log.append([Leaf("sign-data", Result.OK, file=f"{n}.tar") for n in range(LEAVES - 1)])
    return directory


def found(site: Site, *options: str, program: str = "health") -> list[dict[str, Any]]:
    """The checks of the signing log."""
    result = site.run(
        *module("stack"), program, "server", "-c", str(site.path("server.conf")), "--json",
        *options, code=None,  # no server runs, which other checks tell
    )  # fmt: skip
    report = json.loads(result.stdout)
    return [item for item in report["checks"] if item["layer"] == "signing log"]


def test_a_log_that_is_well(site: Site, log: Path) -> None:
    opened, pushed = found(site)
    assert (opened["state"], pushed["state"]) == ("ok", "ok")
    assert opened["values"]["log_leaves"] == LEAVES
    assert opened["values"]["log_origin"].startswith(f"{site.server_name}/signing-log/")
    assert 0 <= opened["values"]["checkpoint_age_seconds"] < 600
    assert "never pushed" in pushed["finding"]
    # A server has it open meanwhile.
    with SigningLog.open(log):
        assert [item["state"] for item in found(site)] == ["ok", "ok"]


def test_a_log_that_nobody_else_has(site: Site, log: Path) -> None:
    note_push(log, 100, "/srv/copy", datetime.now(UTC) - timedelta(days=3))
    _opened, pushed = found(site)
    assert pushed["state"] == "warning"
    assert "100 leaves were pushed to /srv/copy 3 days ago" in pushed["finding"]
    assert "audit push" in pushed["cure"]
    assert pushed["values"]["pushed_leaves"] == 100
    assert pushed["values"]["push_age_seconds"] >= 3 * 86400
    assert [item["state"] for item in found(site, program="doctor")] == ["ok", "warning"]
    for limit in ("4", "0"):
        assert found(site, "--warn-push", limit)[1]["state"] == "ok"
    # What is no note of a push counts for nothing; a log of now is given time.
    (log / PUSHED).write_text("[]")
    assert [item["state"] for item in found(site)] == ["ok", "ok"]
    assert found(site, "--warn-push", "0.00000001")[1]["state"] == "warning"


def test_a_log_that_others_may_read(site: Site, log: Path) -> None:
    (log / "key").chmod(0o644)
    log.chmod(0o777)
    checks = found(site, program="doctor")
    assert [item["state"] for item in checks] == ["ok", "ok", "warning", "warning"]
    assert "may write" in checks[2]["finding"]
    assert "may read" in checks[3]["finding"]


def _cut(log: Path) -> None:
    tail = log / "tail"
    tail.write_bytes(tail.read_bytes()[:-1])


def _other_tile(log: Path) -> None:
    tile = log / "tile/1/000.p/1"
    tile.write_bytes(bytes(len(tile.read_bytes())))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_cut, "leaves were lost"),
        (_other_tile, "its tiles are not those of its checkpoint"),
        (lambda log: (log / "tile/1/000.p/1").unlink(), "is missing"),
        (lambda log: (log / "key.pub").unlink(), "key.pub, is not there"),
        (lambda log: (log / "checkpoint").write_text("nothing"), "no signed note"),
    ],
)
def test_a_damaged_log(site: Site, log: Path, damage: Callable[[Path], object], why: str) -> None:
    damage(log)
    for program in ("health", "doctor"):
        first, second = found(site, program=program)
        assert first["state"] == "failed"
        assert why in first["finding"]
        assert "docs/runbooks.md" in first["cure"]
        assert (second["state"], second["finding"]) == ("unknown", "not looked at")


def test_no_log(site: Site) -> None:
    missing, _pushed = found(site)
    assert missing["state"] == "failed"
    assert "there is no signing log in" in missing["finding"]
    # Whoever asks doctor may not have started it yet.
    [missing] = found(site, program="doctor")
    assert missing["state"] == "ok"
