"""Wheels of distributions that have none for Linux: built in a Debian root that is thrown away.

The root has the compiler and the headers; no image is made from it. pip is this machine's, with
this machine's settings: registry, proxy, certificates.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from . import debian
from .commands import run
from .components import COMPILED, COMPILED_WITH
from .programs import CONSTRAINTS, REGISTRY_HINT, pip

#: Nothing that tells where it was compiled, and sets in one order when Cython writes C: so that the
#: bytes are always the same. The modules only call libraries, where more than -O1 gains nothing.
_FLAGS: Final = {"CFLAGS": "-g0 -O1", "LDFLAGS": "-Wl,--strip-all", "PYTHONHASHSEED": "0"}
_WITHIN: Final = "/build"
#: What the distributions are built with; they ask for no other.
_BACKENDS: Final = ("Cython", "setuptools")


def build(directory: Path, below: Path, epoch: int) -> None:
    """Put the wheels of `COMPILED` into `wheels` below a directory that is there.

    `below` is the archive of a Debian root, to which the compiler is added.

    Raises `BuildError` where mirror or registry are not reached, or it does not compile.
    """
    settings = _settings()
    own = run([pip()[0], "-c", "import pip; print(pip.__path__[0])"]).decode().strip()
    pip_here = "python3 -m pip --no-input --quiet --no-cache-dir"
    hashes = "--require-hashes --constraint constraints.txt"
    # Not in isolation, where pip would fetch what compiles without asking for hashes.
    script = (
        f"cd {_WITHIN} && export PYTHONPATH={_WITHIN}"
        f" && {pip_here} install {hashes} --only-binary :all: --target . {' '.join(_BACKENDS)}"
        f" && exec {pip_here} wheel {hashes} --no-build-isolation --no-deps"
        f" --no-binary {','.join(COMPILED)} --wheel-dir wheels {' '.join(COMPILED)}"
    )
    hooks = [
        f'mkdir -p "$1{_WITHIN}/wheels"',
        f"copy-in {own} {_WITHIN}",
        f"upload {CONSTRAINTS} {_WITHIN}/constraints.txt",
        *_certificates(settings),
        f"chroot \"$1\" sh -c '{script}'",
        f"copy-out {_WITHIN}/wheels {directory}",
    ]
    debian.run_in(
        below,
        COMPILED_WITH,
        hooks,
        {**settings, **_FLAGS, "SOURCE_DATE_EPOCH": str(epoch), "HOME": _WITHIN},
        hint=REGISTRY_HINT,
    )


def _settings() -> dict[str, str]:
    """What pip is set to on this machine, as the variables that mean the same."""
    found = {}
    for line in run([*pip(), "config", "list"]).decode().splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in ("global", "wheel", ":env:"):
            found[f"PIP_{key.upper().replace('-', '_')}"] = str(ast.literal_eval(value))
    return found


def _certificates(settings: Mapping[str, str]) -> Iterable[str]:
    """Hooks that put the CA bundles which pip may ask for where it looks for them."""
    names = (os.environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"))
    for name in dict.fromkeys(filter(None, (settings.get("PIP_CERT"), *names))):
        if Path(name).is_file():
            yield f'mkdir -p "$1{Path(name).parent}"'
            yield f"upload {name} {name}"
