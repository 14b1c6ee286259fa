"""Debian roots: from signed packages with mmdebstrap, or on top of an image that is given."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Final

from . import engine
from .commands import FETCH_SECONDS, run
from .components import SUITE, UNWANTED

_CHECKOUT: Final = Path(__file__).parent.parent.parent
FINISH: Final = Path(__file__).with_name("finish.sh")
COMPILE: Final = Path(__file__).with_name("compile_modules.py")

_COMPILING: Final = 'chroot "$1" python3 - <"$SIGUL_COMPILE"'
_HINT: Final = "is the Debian mirror reached? DEBIAN_MIRROR names another"


def bootstrap(packages: Iterable[str], output: Path, epoch: int) -> None:
    """Make a root of these packages and write its archive to `output`.

    `finish` and `run_in` make others of it: it still has all that installing needs.
    """
    options = ("--variant=essential", "--format=tar", "--skip=output/dev")
    _mmdebstrap(options, packages, [_COMPILING], output, {"SOURCE_DATE_EPOCH": str(epoch)}, _HINT)


def finish(below: Path, packages: Iterable[str], output: Path, epoch: int) -> None:
    """Add packages to the root in the archive `below`, and take out what only installing needs.

    Writes the archive of that to `output`.
    """
    packages = tuple(packages)
    groups = [[name for name in group if name not in packages] for group in UNWANTED]
    unwanted = " ".join(f"'{' '.join(group)}'" for group in groups)
    _mmdebstrap(
        (*_on_top_of(below), "--format=tar"),
        packages,
        [_COMPILING, f'chroot "$1" sh -s -- {unwanted} <"$SIGUL_FINISH"'],
        output,
        {"SOURCE_DATE_EPOCH": str(epoch)},
        _HINT,
    )


def run_in(
    below: Path,
    packages: Iterable[str],
    hooks: Iterable[str],
    environment: Mapping[str, str],
    hint: str,
) -> None:
    """Add packages to the root in the archive `below`, run mmdebstrap's hooks, throw it away."""
    options = (*_on_top_of(below), "--format=null")
    _mmdebstrap(options, packages, hooks, "-", environment, f"{_HINT}; {hint}")


def _on_top_of(archive: Path) -> tuple[str, ...]:
    # mmdebstrap's own way of saying that a root is there already. Such an archive has no /dev, and
    # mmdebstrap needs one to have devices in there for packages' scripts.
    return (
        *("--variant=custom", "--skip=check/empty", f"--setup-hook=tar-in '{archive}' /"),
        '--setup-hook=mkdir -p "$1/dev"',
    )


def _mmdebstrap(
    options: Iterable[str],
    packages: Iterable[str],
    hooks: Iterable[str],
    output: str | Path,
    environment: Mapping[str, str],
    hint: str,
) -> None:
    """Signatures are checked by apt, with the keys of debian-archive-keyring. Mirror and proxy are
    those of this machine's apt.
    """
    sources = run([_CHECKOUT / "scripts" / "debian-sources", SUITE], hint=_HINT)
    proxies = [
        f"--aptopt={line}"
        for line in run(["apt-config", "dump"], hint=_HINT).decode().splitlines()
        if line.startswith(("Acquire::http::Proxy", "Acquire::https::Proxy"))
    ]
    run(
        [
            *(*_apart(), "mmdebstrap", "--quiet", *options),
            # Nothing of a root that the machine breaks down under is kept.
            "--dpkgopt=force-unsafe-io",
            *(f"--include={package}" for package in packages),
            *proxies,
            *(f"--customize-hook={hook}" for hook in hooks),
            *(SUITE, output, "-"),
        ],
        seconds=FETCH_SECONDS,
        given=sources,
        # Sets in one order, so that compiled modules always have the same bytes.
        environment={
            "PYTHONHASHSEED": "0",
            "SIGUL_COMPILE": str(COMPILE),
            "SIGUL_FINISH": str(FINISH),
            **environment,
        },
        hint=hint,
    )


def _apart() -> tuple[str, ...]:
    """What begins a command that mounts things: for root, a mount namespace of its own.

    Whatever is mounted there is gone with it, however it ends. Who is not root gets one from
    mmdebstrap.
    """
    return ("unshare", "--mount", "--propagation", "private", "--") if os.geteuid() == 0 else ()


def extend(image: str, packages: Iterable[str], output: IO[bytes]) -> None:
    """Write the archive of the root that an image becomes with these packages.

    apt runs in a container, with the mirror that the image names. The CA bundle of this machine is
    mounted below /run, nothing of which gets into a layer.
    """
    bundle = Path(
        os.environ.get("SSL_CERT_FILE")
        or os.environ.get("PIP_CERT")
        or "/etc/ssl/certs/ca-certificates.crt"
    )
    options = ["--network", "host", "--env", "DEBIAN_FRONTEND=noninteractive"]
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        if name in os.environ:
            options += ["--env", name]
    apt = "apt-get -q -o Acquire::Retries=3"
    if bundle.exists():
        options += ["--volume", f"{bundle}:/run/host-ca.pem:ro"]
        apt += " -o Acquire::https::CaInfo=/run/host-ca.pem"
    script = (
        f'set -eu\n{apt} update\n{apt} install -y --no-install-recommends "$@"\nset --\n'
        f"PYTHONHASHSEED=0 python3 - <<'END'\n{COMPILE.read_text()}END\n{FINISH.read_text()}"
    )
    engine.change(image, options, ["sh", "-c", script, "extend", *packages], output)
