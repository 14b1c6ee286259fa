"""Each of molecule's scenarios passes, and leaves nothing behind (`default`: test_secrets.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.molecule_runs import TOP, destroy, docker, left_behind, molecule

SCENARIOS = ("sign", "delay", "rotate", "restore")
ELSEWHERE = ("default",)


def test_every_scenario_is_run() -> None:
    there = {path.parent.name for path in Path(TOP, "molecule").glob("*/molecule.yml")}
    assert there == {*SCENARIOS, *ELSEWHERE}


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str) -> None:
    try:
        molecule("test", "-s", scenario)
    finally:
        destroy(scenario)
    assert left_behind(scenario) == []


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("images")
def test_what_a_failed_run_left_is_removed() -> None:
    # What stands at any time of a run: machines, a container, a network and files of others.
    molecule("create", "-s", "sign")
    machines = left_behind("sign")
    site = machines[0].rpartition("-")[0]
    docker("network", "create", "--internal", f"sigul-{site}-inside")
    docker(
        "run", "-d", "--name", f"sigul-{site}-server-setup", "--network", f"sigul-{site}-inside",
        docker("inspect", "-f", "{{.Config.Image}}", machines[0]).strip(), "sleep", "600",
    )  # fmt: skip
    docker(
        "exec", machines[0], "sh", "-c",
        f"mkdir -m 700 '{TOP}/.cache/molecule/sign/{machines[0]}/state'"
        f" && chown 12345 '{TOP}/.cache/molecule/sign/{machines[0]}/state'",
    )  # fmt: skip
    assert len(left_behind("sign")) == len(machines) + 2
    destroy("sign")
    assert left_behind("sign") == []
