"""What the tests of one kind of signature each share: a running site with a key, and programs."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.site import PROGRAM_SECONDS, Site

from .commands_support import ADMIN, done, leftovers


@contextlib.contextmanager
def site_with_keys(template: Site, directory: Path, **keys: str) -> Iterator[Site]:
    """A running site of its own with `keys` (name to type), each with the passphrase `NAME-pw`."""
    site = Site.copy(template, directory / "site")
    with site.running():
        for name, keytype in keys.items():
            done(site, "new-key", name, "--key-type", keytype, secrets=[ADMIN, f"{name}-pw"])
        yield site
        assert leftovers(site) == []


def public_key(site: Site, key: str) -> bytes:
    """A key's public part, as the site prints it."""
    return done(site, "get-public-key", key, secrets=[f"{key}-pw"])


def program(
    *command: str | Path,
    code: int = 0,
    data: bytes = b"",
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program, which must exit with `code`; a `code` other than 0 means any other."""
    finished = subprocess.run(
        [*map(str, command)], input=data, capture_output=True, timeout=PROGRAM_SECONDS,
        check=False, cwd=cwd, env={**os.environ, "LC_ALL": "C", **(environment or {})},
    )  # fmt: skip
    assert (finished.returncode == 0) == (code == 0), finished.stdout + finished.stderr
    return finished
