"""Runs of NSS's own programs, `certutil` and `pk12util`, so that no NSS is initialised in here.

Invariant: what is secret reaches a tool, and comes back from it, in files that exist in memory
alone (`memory_file`): it is in no argument, no environment and on no disk. Of our environment a run
takes `PATH` and NSS's limit on its own iterations, and nothing else.

Must not know what the tools are run for; `store` does.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from ..errors import KeystoreError, NSSError, ToolMissing
from ..system.programs import Finished, run
from ..tools import CERTUTIL

#: Far more than any run takes, even where NSS derives keys with 600,000 iterations.
TIMEOUT_SECONDS: Final = 120.0

_PACKAGES: Final = f"{CERTUTIL.package} (Debian) or nss-tools (Fedora)"

#: The most iterations that NSS derives a key with in what it writes: NSS's own variable.
_MAX_ITERATIONS: Final = "NSS_MAX_MP_PBE_ITERATION_COUNT"

#: Where a file that exists in memory only is opened by name, anew for each reader.
_DESCRIPTORS: Final = Path("/proc/self/fd")


def run_tool(
    tool: str,
    operation: str,
    *arguments: str | int,
    directory: Path,
    iterations: int | None = None,
) -> Finished:
    """Run `tool` in `directory` and wait for its end, at most `TIMEOUT_SECONDS`.

    `operation` is its first argument, such as `-L`. A number among the arguments is a descriptor,
    which the tool opens by name, as often as it likes. `iterations` caps the key derivation of what
    the tool writes into an NSS database; so does NSS's variable NSS_MAX_MP_PBE_ITERATION_COUNT in
    this process's environment, and the lower holds. Raises `ToolMissing`, or `NSSError` where the
    tool does not end or cannot be started; an exit status other than 0 is for the caller to judge.
    """
    if shutil.which(tool) is None:
        raise ToolMissing(f"the program {tool} is not installed", f"install {_PACKAGES}")
    if not _DESCRIPTORS.is_dir():
        raise NSSError(
            f"{tool} cannot be given a password: /proc is not mounted here",
            "mount it (mount -t proc proc /proc)",
        )
    environment = {"LC_ALL": "C.UTF-8"}
    if limits := list(filter(None, (iterations, _iterations_of_environment()))):
        environment[_MAX_ITERATIONS] = str(min(limits))
    words = [named(item) if isinstance(item, int) else item for item in arguments]
    try:
        return run(
            [tool, operation, *words],
            package=_PACKAGES,
            time_limit=TIMEOUT_SECONDS,
            inherit=[item for item in arguments if isinstance(item, int)],
            environment=environment,
            directory=directory,
            timeout_cure=f"is the file system of '{directory}' reachable?",
        )
    except KeystoreError as error:
        raise NSSError(error.problem, error.cure) from None


def named(descriptor: int) -> str:
    """The name under which whoever has the descriptor opens its file anew."""
    return str(_DESCRIPTORS / str(descriptor))


def _iterations_of_environment() -> int | None:
    """The limit that whoever started us sets NSS; None where NSS would not take it for one."""
    text = os.environ.get(_MAX_ITERATIONS, "")
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None
