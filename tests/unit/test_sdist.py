"""The sdist is the whole checkout: who has nothing else can run its tests."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

from ..checkout import TOP, own_files


def test_the_sdist_holds_every_file_of_the_checkout_and_no_other(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)],
        cwd=TOP, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = tmp_path.iterdir()
    with tarfile.open(archive) as tar:
        members = {member.name.partition("/")[2]: member for member in tar if not member.isdir()}
    members.pop("PKG-INFO")
    own = {str(path.relative_to(TOP)): path for path in own_files()}
    assert sorted(members) == sorted(own)
    for name, path in own.items():
        if path.is_symlink():
            assert members[name].linkname == str(path.readlink()), name
            continue
        executable = bool(path.stat().st_mode & 0o100)
        assert bool(members[name].mode & 0o100) == executable, f"{name}: who may run it"
        assert members[name].size == path.stat().st_size, name
