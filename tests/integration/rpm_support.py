"""RPM packages for tests, made by rpmbuild, and what rpm says of signed ones."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.site import PROGRAM_SECONDS

_SPEC = """\
Name: {name}
Version: 1.2
Release: 3
{epoch}
Summary: A package for tests
License: Apache-2.0
{arch}
{source}

%description
For tests.

%install
mkdir -p %{{buildroot}}/opt/{name}/empty
printf '#!/bin/sh\\n' > %{{buildroot}}/opt/{name}/program
printf 'content of {name}\\n' > %{{buildroot}}/opt/{name}/file
: > %{{buildroot}}/opt/{name}/nothing
ln -s file %{{buildroot}}/opt/{name}/link
{more}

%files
/opt/{name}
"""


def run(
    *command: str | Path, code: int | None = 0, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program, which must exit with `code` (None: any)."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, timeout=PROGRAM_SECONDS, cwd=cwd,
        check=False, stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    assert code is None or done.returncode == code, (command, done.stdout, done.stderr)
    return done


def build(
    directory: Path,
    name: str = "sample",
    *,
    source: bool = False,
    epoch: int | None = None,
    more: str = "",
    macros: Sequence[tuple[str, str]] = (),
) -> Path:
    """Build a package, `noarch` or with `source` a source package; its file."""
    top = directory / f"build-{name}-{'source' if source else 'binary'}"
    top.mkdir(parents=True)
    (top / "text").write_text("a source\n")
    spec = top / f"{name}.spec"
    spec.write_text(
        _SPEC.format(
            name=name,
            epoch="" if epoch is None else f"Epoch: {epoch}",
            arch="BuildArch: noarch",
            source="Source0: text" if source else "",
            more=more,
        )
    )
    defined = [
        ("_topdir", str(top)), ("_sourcedir", str(top)), ("_tmppath", str(top)),
        # rpm 4.18 has it so by itself; version 6 is not for these tests.
        ("_rpmformat", "4"), *macros,
    ]  # fmt: skip
    options = [word for key, value in defined for word in ("--define", f"{key} {value}")]
    run("rpmbuild", "-bs" if source else "-bb", "--nodeps", *options, spec)
    (built,) = (top / ("SRPMS" if source else "RPMS")).rglob("*.rpm")
    found = directory / built.name
    built.rename(found)
    return found


class Rpm:
    """A database of rpm's with public keys, which has nothing to do with the machine's."""

    def __init__(self, directory: Path, *public: bytes) -> None:
        self._database = directory / "rpmdb"
        self._database.mkdir(parents=True)
        for number, key in enumerate(public):
            file = directory / f"key-{number}.asc"
            file.write_bytes(key)
            self("rpmkeys", "--import", file)

    def __call__(
        self, program: str, *words: str | Path, code: int | None = 0
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one of rpm's programs."""
        return run(program, "--dbpath", self._database, *words, code=code)

    def signatures(self, package: Path) -> list[str]:
        """What `rpm -Kv` says of a package, which must be all good: one line a signature."""
        lines = self("rpm", "-Kv", package).stdout.decode().splitlines()[1:]
        assert lines
        for line in lines:
            assert line.endswith(": OK"), lines
        return [line.strip() for line in lines if "Signature" in line]

    def installs(self, package: Path) -> None:
        """`rpm -i --test` takes a binary package."""
        said = self("rpm", "-i", "--test", "--nodeps", package)
        # Debian's rpm says besides that alien is the right program.
        for word in (b"error", b"warning", b"NOKEY"):
            assert word not in said.stderr, said.stderr

    def query(self, package: Path, form: str) -> str:
        """What a package's headers hold."""
        return self("rpm", "-qp", "--qf", form, package).stdout.decode()
