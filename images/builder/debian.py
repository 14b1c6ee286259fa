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

_HINT: Final = "is the Debian mirror reached? DEBIAN_MIRROR names another"


def bootstrap(packages: Iterable[str], output: Path, epoch: int) -> None:
    """Make a root of these packages and write its archive to `output`."""
    unwanted = " ".join(f"'{' '.join(group)}'" for group in UNWANTED)
    _mmdebstrap(
        packages,
        [f'chroot "$1" sh -s -- {unwanted} <"$SIGUL_FINISH"'],
        ("--format=tar", output),
        {"SOURCE_DATE_EPOCH": str(epoch), "SIGUL_FINISH": str(FINISH)},
        _HINT,
    )


def run_in(
    packages: Iterable[str], hooks: Iterable[str], environment: Mapping[str, str], hint: str
) -> None:
    """Make a root of these packages, run mmdebstrap's hooks in it, and throw it away."""
    _mmdebstrap(packages, hooks, ("--format=null", "-"), environment, f"{_HINT}; {hint}")


def _mmdebstrap(
    packages: Iterable[str],
    hooks: Iterable[str],
    output: tuple[str, str | Path],
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
    form, target = output
    run(
        [
            *("mmdebstrap", "--quiet", "--variant=essential", form),
            # Nothing of a root that the machine breaks down under is kept.
            "--dpkgopt=force-unsafe-io",
            f"--include={','.join(packages)}",
            *proxies,
            *(f"--customize-hook={hook}" for hook in hooks),
            *(SUITE, target, "-"),
        ],
        seconds=FETCH_SECONDS,
        given=sources,
        environment=environment,
        hint=hint,
    )


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
        f"{FINISH.read_text()}"
    )
    engine.change(image, options, ["sh", "-c", script, "extend", *packages], output)
