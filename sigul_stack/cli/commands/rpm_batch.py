"""The RPMs of one `sign-rpms`: which of them are the same one, and where each is signed to.

An RPM that is named twice, or whose copy lies beside it in another directory (as noarch and source
packages do, once for each arch), is signed once. Another RPM of the same file name costs itself:
there is one place for both. Nothing is written over an RPM that was named, but by its own signed
form.
"""

from __future__ import annotations

import filecmp
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ...client.output_file import identity, identity_of
from ...errors import SigulError
from ...kojihub import NEVRA

#: An RPM: the state of its file, its name in Koji, or why it cannot be signed.
Found = os.stat_result | NEVRA | SigulError

_ELSEWHERE: Final = "sign it by itself, into another directory"


class Batch:
    """The RPMs that were named, by their names; `found` is what is to be signed, or told of."""

    def __init__(self) -> None:
        self.found: dict[str, Found] = {}
        #: The RPM that is signed to each file name.
        self.names: dict[str, str] = {}
        #: Files that nothing else may be written over, by their identity.
        self._files: dict[str, tuple[int, ...] | None] = {}

    def add(self, rpm: str, state: Found) -> None:
        """Add what `rpm` names; nothing where it is there already."""
        if isinstance(state, SigulError):
            self.found.setdefault(rpm, state)
            return
        name = state.file_name if isinstance(state, NEVRA) else Path(rpm).name
        other = self.names.get(name)
        if other is not None and self._same(other, rpm, state):
            return
        if isinstance(state, os.stat_result):
            self._files[rpm] = identity_of(state)
        if other is None:
            self.names[name] = rpm
            self.found[rpm] = state
        else:
            self.found[rpm] = SigulError(
                f"it would be signed to the same file as '{other}', which is another RPM",
                _ELSEWHERE,
            )

    def _same(self, other: str, rpm: str, state: os.stat_result | NEVRA) -> bool:
        """Whether `rpm` is the RPM `other` once more: the same file, or a copy of it."""
        there = self.found[other]
        if not (isinstance(state, os.stat_result) and isinstance(there, os.stat_result)):
            return isinstance(state, NEVRA) and state == there
        if (state.st_dev, state.st_ino) == (there.st_dev, there.st_ino):
            return True
        if not (stat.S_ISREG(state.st_mode) and stat.S_ISREG(there.st_mode)):
            return False
        try:
            return state.st_size == there.st_size and filecmp.cmp(other, rpm, shallow=False)
        except OSError:
            return False

    def targets(self, directory: Path) -> Mapping[str, Path]:
        """The file in `directory` that each RPM is signed to.

        Raises `SigulError` where that is another RPM that was named, by whatever name: an RPM's own
        place is none to refuse, for it is replaced, as `sign-rpm` does.
        """
        targets = {rpm: directory / name for name, rpm in self.names.items()}
        for rpm, target in targets.items():
            there = identity(target)
            if there in self._files.values() and there not in (None, self._files.get(rpm)):
                what = "that one" if target in map(Path, self._files) else "a link to it"
                raise SigulError(
                    f"'{rpm}', signed, would take the place of another RPM that is to be signed:"
                    f" '{target}' is {what}",
                    "name another directory",
                )
        return targets
