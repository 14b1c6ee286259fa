"""Whose containers and networks are: the filter that the roles ask before they touch anything."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "roles/component/filter_plugins/sigul_engine.py"
SITE, ROOT = "org.sigul-stack.site", "org.sigul-stack.root"


@pytest.fixture(scope="module")
def engine_filter() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sigul_engine", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def container(name: str, source: str = "", **labels: str) -> dict[str, Any]:
    mounts = [{"Source": source}] if source else []
    return {"Names": [f"/{name}"], "Labels": labels, "Mounts": mounts}


OURS = [
    container("sigul-x-bridge", "/a/bridge/etc", **{SITE: "x", ROOT: "/a"}),
    container("sigul-x-bridge", "/a/bridge/etc", **{SITE: "x", ROOT: "/a/"}),
    # Of an earlier version, without the label; and those of other sites.
    container("sigul-x-server", "/a/server/state", **{SITE: "x"}),
    container("sigul-x-2-bridge", "/b/bridge/etc", **{SITE: "x-2", ROOT: "/b"}),
    container("sigul-other", "/b"),
]
FOREIGN = [
    container("sigul-x-bridge", "/b/bridge/etc", **{SITE: "x", ROOT: "/b"}),
    container("sigul-x-bridge", "/ab/bridge/etc", **{SITE: "x"}),
    container("sigul-x-server-setup", "/b/server/state"),
    container("sigul-x-client"),
    # Another name, and our files.
    container("sigul-y-bridge", "/a/bridge/etc", **{SITE: "y", ROOT: "/a"}),
]


@pytest.mark.parametrize("found", OURS)
def test_what_is_ours_or_of_no_concern(engine_filter: ModuleType, found: dict[str, Any]) -> None:
    assert engine_filter.engine_faults({"containers": [found]}, "x", "/a") == []


@pytest.mark.parametrize("found", FOREIGN)
def test_what_is_another_s(engine_filter: ModuleType, found: dict[str, Any]) -> None:
    [fault] = engine_filter.engine_faults({"containers": [found]}, "x", "/a")
    assert found["Names"][0][1:] in fault and "sigul_" in fault


def test_networks_and_engines(engine_filter: ModuleType) -> None:
    networks = [
        {"Name": "sigul-x-inside", "Labels": {SITE: "x", ROOT: "/b"}},
        {"Name": "sigul-x-outside", "Labels": {SITE: "x"}},
    ]
    [fault] = engine_filter.engine_faults({"networks": networks}, "x", "/a")
    assert "sigul-x-inside" in fault
    assert engine_filter.unowned_network({"networks": networks}, "sigul-x-outside")
    rootless = {"host_info": {"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]}}
    [fault] = engine_filter.engine_faults(rootless, "x", "/a")
    assert "rootless" in fault


def test_selinux_s_volumes(engine_filter: ModuleType) -> None:
    mounts = [{"source": "/a", "target": "/b", "read_only": True}, {"source": "/c", "target": "/d"}]
    assert engine_filter.shared_volumes(mounts) == ["/a:/b:ro,z", "/c:/d:rw,z"]
