"""A canary's state file, which may hold anything, and what becomes of it; its metrics."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from sigul_stack.checks import Check, State
from sigul_stack.errors import SigulError
from sigul_stack.health.canary_result import CanaryResult, canary_checks, keep, read

GOOD: dict[str, Any] = {
    "failed": "", "seconds": {"sign": 0.5, "verify": 0.25}, "success": True,
    "success_time": 1000.0, "time": 1000.0,
}  # fmt: skip


def looked(path: Path, most: float = 3600) -> Check:
    """The one check of a state file."""
    (found,) = canary_checks(path, most)
    return found


def written(path: Path, **changed: object) -> Path:
    """A state file of now with these members."""
    now = time.time()
    path.write_text(json.dumps({**GOOD, "time": now, "success_time": now, **changed}))
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff", b"[]", b"null", b"{}", b"[" * 10_000, b"x" * 100_000, b'"\\ud800"',
        *(
            json.dumps({**GOOD, name: value}).encode()
            for name, value in [
                ("success", 1), ("success", "true"), ("failed", None), ("failed", ["x"]),
                ("time", "1"), ("time", True), ("time", -1), ("time", 1e300),
                ("time", float("nan")),
                ("time", float("inf")), ("time", 10**400), ("success_time", None),
                ("seconds", []), ("seconds", {"sign": "1"}), ("seconds", {"other": 1}),
                ("seconds", {"sign": float("nan")}),
            ]
        ),
    ],
)  # fmt: skip
def test_what_is_no_result_is_refused_and_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state"
    path.write_bytes(content)
    with pytest.raises(SigulError, match="is no state file of a canary"):
        read(path)
    keep(CanaryResult(False, failed="sign: refused"), path, None)
    assert looked(path).state is State.FAILED


def test_what_is_no_file_is_refused_and_replaced(tmp_path: Path) -> None:
    """A link is replaced, not followed; what cannot be replaced is told."""
    target = tmp_path / "target"
    target.write_text("somebody's")
    (tmp_path / "link").symlink_to(target)
    keep(CanaryResult(True), tmp_path / "link", None)
    assert not (tmp_path / "link").is_symlink()
    assert target.read_text() == "somebody's"
    (tmp_path / "directory").mkdir()
    for path in (tmp_path / "directory", tmp_path / "none" / "state"):
        with pytest.raises(SigulError, match="cannot be written"):
            keep(CanaryResult(True), path, None)
    with pytest.raises(SigulError, match="cannot be read"):
        read(tmp_path / "directory")
    assert read(tmp_path / "none") is None


def test_what_is_told_of_it(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert "no canary has run" in looked(path).finding
    assert looked(written(path)).finding.endswith("s ago (sign 0.500 s, verify 0.250 s)")
    assert looked(written(path)).state is State.OK
    old = looked(written(path, time=time.time() - 100), most=99)
    assert (old.state, "is the limit" in old.finding) == (State.FAILED, True)
    ahead = looked(written(path, time=time.time() + 3600))
    assert (ahead.state, "in the future" in ahead.finding) == (State.FAILED, True)
    bad = looked(written(path, success=False, failed="sign: \x1b[2Jrefused", success_time=0))
    assert "\x1b" not in bad.finding
    assert bad.finding.endswith("refused; the last good one was never")


def test_the_last_success_outlasts_failures(tmp_path: Path) -> None:
    path, metrics = tmp_path / "state", tmp_path / "canary.prom"
    first = keep(CanaryResult(True, {"sign": 0.5, "verify": 0.25, "log": 0.125}), path, metrics)
    assert first.time == first.success_time > 0
    assert 'sigul_canary_phase_seconds{phase="log"} 0.125' in metrics.read_text()
    second = keep(CanaryResult(False, {"sign": 0.5}, "verify: no"), path, metrics)
    assert second.success_time == first.time < second.time
    assert read(path) == second
    text = metrics.read_text()
    assert "sigul_canary_success 0.0" in text
    assert 'phase="log"' not in text
    # A clock that was ahead does not keep a canary from ever being old.
    written(path, success_time=time.time() + 3600)
    assert keep(CanaryResult(False), path, None).success_time == 0


def test_both_are_whole_or_as_they_were(tmp_path: Path) -> None:
    """Where metrics cannot be written, the result is kept all the same, and the old ones stay."""
    path = tmp_path / "state"
    with pytest.raises(SigulError, match=r"none/canary\.prom' cannot be written"):
        keep(CanaryResult(True), path, tmp_path / "none" / "canary.prom")
    assert looked(path).state is State.OK
    assert list(tmp_path.iterdir()) == [path]
