"""The files to sign: what the lines of `sign-object` mean in the workspace."""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import Rejected
from .workflow import plain

#: More files than anybody signs in a step.
MAX_FILES = 100_000
#: What a signature's name has beyond its file's.
ENDING = ".asc"
#: What the name of a log's proof has beyond its signature's.
PROOF_ENDING = ".tlog-proof"


def find_files(lines: str, workspace: Path, exclude: Sequence[str]) -> list[Path]:
    """The files that the lines name, each once, as absolute paths. Raises `Rejected`.

    A line is a file; or a directory, for every regular file below it that `exclude` does not
    match; or, with a `*` in it, all that it expands to. All have to be inside the workspace.
    """
    found: dict[Path, None] = {}
    for line in lines.splitlines():
        name = line.strip()
        if not name:
            continue
        if "\0" in name:
            raise Rejected("sign-object has a NUL byte")
        for path in _expanded(name, workspace):
            _check_inside(path, workspace)
            for file in _below(path, exclude) if path.is_dir() else _itself(path):
                found[file] = None
                if len(found) > MAX_FILES:
                    raise Rejected(f"sign-object names more than {MAX_FILES} files")
    if not found:
        raise Rejected("sign-object names no file: its directories are empty, or excluded")
    for file in found:
        if file.with_name(file.name + ENDING) in found:
            raise Rejected(
                f"both '{shown(file, workspace)}' and '{shown(file, workspace)}{ENDING}' are to be"
                " signed, but the second would be the signature of the first: name one of them"
            )
    return list(found)


def shown(path: Path, workspace: Path) -> str:
    """A file's name as the log has it."""
    with contextlib.suppress(ValueError):
        path = path.relative_to(workspace)
    return plain(os.fsencode(path).decode("utf-8", "backslashreplace"))


def _expanded(name: str, workspace: Path) -> list[Path]:
    # Not resolved: a link to a file gets its signature beside itself.
    if "*" not in name:
        return [Path(os.path.normpath(workspace / name))]
    # Nothing but `*` is special.
    pattern = "*".join(glob.escape(part) for part in name.split("*"))
    # Not Path.glob, which takes no absolute pattern.
    paths = sorted(glob.glob(str(workspace / pattern)))  # noqa: PTH207
    if not paths:
        raise Rejected(f"nothing matches '{plain(name)}' of sign-object")
    names = set(paths)
    # Those of an earlier run are no files to sign.
    others = [
        path
        for path in paths
        if not (path.endswith(ENDING) and path[: -len(ENDING)] in names)
        and not (_is_proof(path) and path[: -len(ENDING + PROOF_ENDING)] in names)
    ]
    return [Path(os.path.normpath(path)) for path in others]


def _is_proof(path: str) -> bool:
    """Tell whether a name is that of a proof beside a signature."""
    return path.endswith(ENDING + PROOF_ENDING)


def _check_inside(path: Path, workspace: Path) -> None:
    real = Path(os.path.realpath(path))
    if workspace != real and workspace not in real.parents:
        raise Rejected(f"'{shown(path, workspace)}' is outside of the workspace")
    if workspace != path and workspace not in path.parents:
        raise Rejected(f"'{shown(path, workspace)}' is outside of the workspace")


def _itself(path: Path) -> Iterator[Path]:
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise Rejected(
            f"'{plain(str(path))}' of sign-object cannot be signed: {error.strerror}"
        ) from None
    if not regular:
        raise Rejected(f"'{plain(str(path))}' of sign-object is neither file nor directory")
    yield path


def _below(top: Path, exclude: Sequence[str]) -> Iterator[Path]:
    """Every regular file below a directory, sorted; links are neither taken nor followed.

    Nothing of a `.git` directory: git would take signatures there for its own files.
    """

    def refuse(error: OSError) -> None:
        raise Rejected(f"'{plain(str(error.filename))}' cannot be read: {error.strerror}")

    for directory, names, files in os.walk(top, onerror=refuse):
        names[:] = sorted(name for name in names if name != ".git")
        for name in sorted(files):
            path = Path(directory, name)
            excluded = any(fnmatch.fnmatchcase(name, pattern) for pattern in exclude)
            excluded = excluded or _is_proof(name)
            if not excluded and stat.S_ISREG(path.lstat().st_mode):
                yield path
