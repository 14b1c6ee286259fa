"""What a daemon tells that it has loaded, and what health says where other files are there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from sigul_stack.checks import State
from sigul_stack.config import load_bridge
from sigul_stack.config.digests import digests
from sigul_stack.health.status_checks import _not_loaded
from sigul_stack.protocol.status import BridgeStatus, decode_status, encode_status


def test_what_was_changed_and_not_loaded_is_named(tmp_path: Path) -> None:
    (tmp_path / "nss").mkdir()
    certificates = tmp_path / "nss/cert9.db"
    certificates.write_bytes(b"old")
    file = tmp_path / "bridge.conf"
    file.write_text(f"[nss]\nnss-dir: {tmp_path}/nss\nnss-password: x\n")
    loaded = load_bridge(file)
    told = digests(loaded)
    assert {str(file), str(certificates)} <= told.keys()
    status = BridgeStatus("1", 7, "2026", 0, (), 0, {}, loaded=told)
    assert decode_status(encode_status(status)) == status
    context = cast("Any", SimpleNamespace(component="bridge", loaded=loaded))
    assert list(_not_loaded(context, status)) == []

    certificates.write_bytes(b"new")
    [check] = _not_loaded(context, status)
    assert check.state is State.WARNING
    assert check.values == {"unloaded": str(certificates)}
    # A daemon of a former version does not tell.
    former = BridgeStatus("1", 7, "2026", 0, (), 0, {})
    assert list(_not_loaded(context, former)) == []
