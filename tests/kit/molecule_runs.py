"""Running molecule's scenarios for tests, each bounded in time and gone afterwards.

Everything that a run makes has the name of its scenario in it: containers, networks, and the files
in `.cache/molecule/SCENARIO`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

TOP: Final = Path(__file__).parents[2]
#: What stands before each scenario's name: another than that of a person who runs molecule here.
PREFIX: Final = os.environ.get("SIGUL_MOLECULE_PREFIX", "test")
FILES: Final = TOP / ".cache" / "molecule"
#: Seconds for one step of a scenario on a busy machine; alone it takes a tenth of that.
STEP_SECONDS: Final = 900


def molecule(*arguments: str, seconds: float = STEP_SECONDS, verbosity: int = 0) -> str:
    """Run molecule to its end, which must be success; all that it printed."""
    bin_directory = Path(sys.executable).parent
    done = subprocess.run(
        [
            str(bin_directory / "molecule"),
            *("--base-config", str(TOP / ".config/molecule/config.yml")),
            *arguments,
        ],
        cwd=TOP,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=seconds,
        env={
            **os.environ,
            "PATH": f"{bin_directory}:{os.environ['PATH']}",
            "SIGUL_MOLECULE_PREFIX": PREFIX,
            # Nothing lands outside the checkout.
            "ANSIBLE_HOME": str(TOP / ".cache/ansible"),
            "ANSIBLE_VERBOSITY": str(verbosity),
            "NO_COLOR": "1",
            "COLUMNS": "200",
        },
    )
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, (
        f"molecule {' '.join(arguments)} exited with {done.returncode}:\n{output[-8000:]}"
    )
    return output


def destroy(scenario: str) -> None:
    """Remove what a run of the scenario has left, however it ended."""
    molecule("destroy", "-s", scenario)


def docker(*arguments: str) -> str:
    """What `docker` prints."""
    return subprocess.run(
        ["docker", *arguments], capture_output=True, check=True, timeout=120
    ).stdout.decode(errors="replace")


def left_behind(scenario: str) -> list[str]:
    """Containers, networks and files of a scenario."""
    site = f"{PREFIX}-{scenario}"
    return [
        *docker(
            "ps", "-a", "--filter", f"name=^/(sigul-)?{site}-", "--format", "{{.Names}}"
        ).split(),
        *docker(
            "network", "ls", "--filter", f"name=^sigul-{site}-", "--format", "{{.Name}}"
        ).split(),
        *([str(FILES / scenario)] if (FILES / scenario).exists() else []),
    ]
