"""What a program leaves if it is killed, at each of its steps.

    python -m tests.snapshots DIRECTORY INTO PROGRAM ARGUMENT…

runs PROGRAM, a Python program's text, and copies DIRECTORY to INTO/0000, INTO/0001 … before each
of its file operations that finds it other than the copy before. SIGKILL leaves files as the kernel
has them at that moment, which is what a copy reads: so one run gives every state that a kill
between two operations can leave, and none by luck. Operations are what the interpreter tells its
audit hooks; what programs do that it starts is in the copy that follows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

#: Audit events of operations that change files, or may: SQLite and programs write, too.
OPERATIONS = frozenset(
    {
        "open", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename",
        "os.rmdir", "os.symlink", "os.truncate", "sqlite3.connect", "subprocess.Popen",
    }
)  # fmt: skip

Tree = dict[str, bytes | None]


def tree(directory: Path) -> Tree:
    """All files below `directory` with their content, and directories with None."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }


def snapshots(directory: Path, into: Path, program: str, *arguments: str | Path) -> list[Path]:
    """Run `program` to its end; the copies of `directory`, in order, and its end's as the last."""
    into.mkdir()
    words = [directory, into, program, *arguments]
    subprocess.run(
        [sys.executable, "-m", "tests.snapshots", *map(str, words)],
        cwd=Path(__file__).parents[1],
        timeout=100,
        check=True,
    )
    return sorted(into.iterdir())


class _Copier:
    """An audit hook that copies a directory where it has changed."""

    def __init__(self, directory: Path, into: Path) -> None:
        self._directory = directory
        self._into = into
        self._copies = 0
        self._last: Tree | None = None
        self._busy = False

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        reads = event == "open" and not int(str(arguments[2])) & (os.O_ACCMODE | os.O_CREAT)
        if event in OPERATIONS and not reads:
            self.look()

    def look(self) -> None:
        """Copy the directory, unless it is as it was."""
        if self._busy:
            return  # copying is told, too
        self._busy = True
        now = tree(self._directory)
        if now != self._last:
            shutil.copytree(self._directory, self._into / f"{self._copies:04}")
            self._copies += 1
            self._last = now
        self._busy = False


def main() -> None:
    """Run the program of the arguments."""
    directory, into, program, *arguments = sys.argv[1:]
    copier = _Copier(Path(directory), Path(into))
    sys.argv = ["program", *arguments]
    code = compile(program, "program", "exec")
    sys.addaudithook(copier)
    exec(code, {"__name__": "__main__"})  # noqa: S102 - the test's own program
    copier.look()


if __name__ == "__main__":
    main()
