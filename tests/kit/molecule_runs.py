"""Running molecule for tests, each run bounded in time, and what it has made gone afterwards.

All scenarios are about one site (.config/molecule), whose containers, networks and files have its
name.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

TOP: Final = Path(__file__).parents[2]
#: Where the checkout lies tells its site from others', as scripts/site does it.
ID: Final = hashlib.sha256(os.fsencode(TOP.resolve())).hexdigest()[:4]
#: What the site's name begins with: another than that of a person who runs molecule here.
PREFIX: Final = os.environ.get("SIGUL_MOLECULE_PREFIX", f"test-{ID}")
SITE: Final = f"{PREFIX}-site"
FILES: Final = TOP / ".cache" / "molecule" / SITE
#: Seconds for one step on a busy machine; alone it takes a tenth of that.
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


def destroy() -> None:
    """Remove what runs have left, however they ended."""
    molecule("destroy")


def docker(*arguments: str) -> str:
    """What `docker` prints."""
    return subprocess.run(
        ["docker", *arguments], capture_output=True, check=True, timeout=120
    ).stdout.decode(errors="replace")


def left_behind() -> list[str]:
    """Containers, networks and files of the site."""
    return [
        *docker(
            "ps", "-a", "--filter", f"name=^/(sigul-)?{SITE}-", "--format", "{{.Names}}"
        ).split(),
        *docker(
            "network", "ls", "--filter", f"name=^sigul-{SITE}-", "--format", "{{.Name}}"
        ).split(),
        *([str(FILES)] if FILES.exists() else []),
    ]
