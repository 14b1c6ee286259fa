"""A site of the kit that is watched, as `make up MONITORING=1` makes it: its server is killed.

The other alerts are fired in tests/faults/test_alerts.py, by faults of a site without containers.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.kit.conftest import built_images
from tests.kit.molecule_runs import docker
from tests.site import free_port, wait_until

from ..checkout import TOP

pytestmark = [
    pytest.mark.kit,
    pytest.mark.long("roles", "site.yml", "playbooks/down.yml", "images", "sigul_stack/observe"),
    pytest.mark.timeout(900),  # A deployment with Ansible takes minutes.
]

SITE = f"watched-{os.getpid()}"
#: Seconds for Prometheus to look, and for an alert to be told.
SOON = 120.0
#: As the role has them, but for the times.
FAST = dict.fromkeys(("SigulBridgeNoWaitingServer", "SigulServerNotRunning"), "5s")
LABEL = "label=org.sigul-stack.site"


@dataclass
class Watched:
    """The site: its variables, and where its pages are."""

    variables: Path
    page: int
    prometheus: int
    alertmanager: int

    def playbook(self, name: str, *options: str) -> str:
        done = subprocess.run(
            [
                Path(sys.executable).parent / "ansible-playbook", "-i", "inventories/ci",
                "-e", f"@{self.variables}", *options, name,
            ],
            cwd=TOP, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
            env={**os.environ, "ANSIBLE_HOME": str(TOP / ".cache/ansible"), "ANSIBLE_NOCOLOR": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        return done.stdout

    def firing(self) -> set[str]:
        """The names of alerts that Alertmanager has."""
        return {one["labels"]["alertname"] for one in get(self.alertmanager, "/api/v2/alerts")}

    def up(self) -> dict[str, str]:
        """What Prometheus reads, and how that is."""
        targets = get(self.prometheus, "/api/v1/targets")["data"]["activeTargets"]
        return {one["labels"]["job"]: one["health"] for one in targets}


def get(port: int, path: str) -> Any:
    """A document from a port of this machine."""
    url = f"http://127.0.0.1:{port}{path}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def watched(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    images = built_images("bridge", "server", "client", "monitoring")
    files = tmp_path_factory.mktemp("watched")
    ports = [free_port() for _ in range(3)]
    site = Watched(files / "given.json", *ports)
    given = {
        "sigul_site": SITE,
        "sigul_root": str(files / "root"),
        "sigul_control": str(files / "control"),
        "sigul_image_prefix": images["bridge"].rpartition("/")[0],
        "images_build": False,
        "sigul_monitoring": True,
        "monitoring_page_port": ports[0],
        "monitoring_prometheus_port": ports[1],
        "monitoring_alertmanager_port": ports[2],
        "monitoring_interval_seconds": 2,
        "monitoring_for": FAST,
    }
    site.variables.write_text(json.dumps(given))
    try:
        site.playbook("site.yml")
        yield site
    finally:
        site.playbook("playbooks/down.yml", "-e", "down_state=true")


def test_a_second_run_changes_nothing(watched: Watched) -> None:
    said = watched.playbook("site.yml", "--tags", "bridge,server,clients,monitoring")
    assert "changed=0" in said, said[-3000:]


def test_all_is_read_and_well(watched: Watched) -> None:
    well = {"sigul-bridge": "up", "sigul-files": "up"}

    def all_up() -> bool:
        # Just after a start the gate is there, and what is behind it may not be.
        with contextlib.suppress(OSError):
            return watched.up() == well and watched.firing() is not None
        return False

    wait_until(all_up, SOON, "all that Prometheus reads being up")
    wait_until(lambda: not watched.firing() & set(FAST), SOON, "a start without alerts")
    status = get(watched.page, "/status.json")
    assert status["connections"]["waiting_server"] >= 1


def test_a_server_that_is_killed_and_started(watched: Watched) -> None:
    docker("kill", f"sigul-{SITE}-server")
    wait_until(lambda: set(FAST) <= watched.firing(), SOON, "both alerts")
    docker("start", f"sigul-{SITE}-server")
    wait_until(lambda: not set(FAST) & watched.firing(), SOON, "their end")


def test_containers_are_confined(watched: Watched) -> None:
    names = [f"sigul-{SITE}-monitoring-{one}" for one in CONTAINERS]
    for found in json.loads(docker("inspect", *names)):
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"]
        assert host["Memory"] and host["SecurityOpt"] == ["no-new-privileges"]
        assert not found["Config"]["User"].startswith("0")
        role = found["Name"].rpartition("-")[2]
        networks = {name.rpartition("-")[2] for name in found["NetworkSettings"]["Networks"]}
        assert networks == ({"monitoring", "watch"} if role == "gate" else {"monitoring"})
        written = {one["Destination"] for one in found["Mounts"] if one["RW"]}
        assert written <= {"/state"}
        bound = [port for ports in (host["PortBindings"] or {}).values() for port in ports]
        assert {port["HostIp"] for port in bound} == ({"127.0.0.1"} if role == "gate" else set())
    internal = docker("network", "inspect", f"sigul-{SITE}-monitoring", "-f", "{{.Internal}}")
    assert internal.strip() == "true"


def test_containers_become_healthy(watched: Watched) -> None:
    def healthy() -> bool:
        names = [f"sigul-{SITE}-monitoring-{one}" for one in CONTAINERS]
        said = docker("inspect", "-f", "{{.State.Health.Status}}", *names).split()
        return said == ["healthy"] * len(CONTAINERS)

    wait_until(healthy, SOON, "the containers' health")


def test_it_is_watched_no_more(watched: Watched) -> None:
    watched.playbook("site.yml", "--tags", "monitoring", "-e", '{"sigul_monitoring": false}')
    left = docker("ps", "--all", "--filter", f"{LABEL}={SITE}", "--format", "{{.Names}}").split()
    # As the other tests need it, before this one is judged.
    watched.playbook("site.yml", "--tags", "monitoring")
    assert sorted(left) == [f"sigul-{SITE}-{one}" for one in ("bridge", "client", "server")]


CONTAINERS = ("alertmanager", "files", "gate", "prometheus")
