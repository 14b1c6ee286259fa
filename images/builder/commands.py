"""Running programs: with a limit, and with their last words where they fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

#: Seconds that fetching and installing packages may take.
FETCH_SECONDS: Final = 900
#: Seconds that a step without the network may take.
LOCAL_SECONDS: Final = 300

_LAST_WORDS: Final = 3000

#: What pip, apt and mmdebstrap say where nothing is reached. Wrong hashes are another thing.
_NO_NETWORK: Final = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError|Unable to connect"
    r"|Temporary failure (?:in name resolution|resolving)|Could not (?:resolve|connect to)"
)
_WRONG_HASHES: Final = "DO NOT MATCH THE HASHES"


class BuildError(Exception):
    """Why there are no images, with what to do about it."""


def run(
    command: Sequence[str | Path],
    *,
    seconds: int = LOCAL_SECONDS,
    given: bytes | None = None,
    output: IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
    hint: str = "",
) -> bytes:
    """What a program prints, or nothing where that goes to the file `output`.

    It inherits the environment, without settings of Python's (`inherited`), and gets `environment`.
    Raises `BuildError` with the end of its standard error and `hint` where it fails, takes longer
    than `seconds`, or is not there; in one line where it reached no network.
    """
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            [str(part) for part in command],
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            stdout=subprocess.PIPE if output is None else output,
            stderr=subprocess.PIPE,
            env={**inherited(os.environ), **(environment or {})},
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError:
        raise BuildError(f"{name} is not installed; run `scripts/bootstrap kit`") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"{name} did not finish within {seconds} s; {hint}") from None
    if done.returncode:
        said = (done.stderr + (done.stdout or b"")).decode("utf-8", "replace").strip()
        if _NO_NETWORK.search(said) and _WRONG_HASHES not in said:
            raise BuildError(
                f"{name} found no network, and something has to be fetched: connect this machine,"
                " or set http_proxy and https_proxy"
            )
        raise BuildError(f"{said[-_LAST_WORDS:]}\n{name} failed ({done.returncode}); {hint}")
    return done.stdout or b""


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """What programs get of this process's environment: all but what Python reads.

    Hooks of mmdebstrap run Python in the new root: with PYTHONDONTWRITEBYTECODE, say, a layer would
    lack the compiled modules that it has elsewhere.
    """
    return {name: text for name, text in environment.items() if not name.startswith("PYTHON")}


def say(text: str) -> None:
    """One line for who watches."""
    # In one piece: several steps may talk at once.
    sys.stderr.write(f"images: {text}\n")


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is done, and how long it took."""
    began = time.monotonic()
    say(f"{what} …")
    yield
    say(f"{what}: {time.monotonic() - began:.1f} s")
