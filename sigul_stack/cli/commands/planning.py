"""The arguments, files, secrets and client that a command is planned and run with."""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn, cast

from ...errors import SigulError
from ...secret import Secret

if TYPE_CHECKING:
    from ...client.api import Client
    from ...config.client import ClientSettings

Arguments = argparse.Namespace


@dataclass(frozen=True, slots=True)
class Call:
    """The input of a command's run: `secrets` are those of its row that were asked for, by name."""

    settings: ClientSettings
    arguments: Arguments
    secrets: Mapping[str, Secret]
    client: Client


class Planning:
    """The input of a command's plan. What it opens stays open until the command has run."""

    def __init__(
        self,
        arguments: Arguments,
        settings: ClientSettings,
        resources: contextlib.ExitStack,
        *,
        misuse: Callable[[str], NoReturn],
        passphrase_files: Sequence[Path],
    ) -> None:
        self.arguments = arguments
        self.settings = settings
        #: Ends the process with exit code 2 and a usage message, for a reason.
        self.misuse = misuse
        self._resources = resources
        self._passphrase_files = passphrase_files

    def open_input(self, path: str) -> InputFile:
        """The file `path`, open for reading. Raises `SigulError`."""
        return self.keep_input(Path(path), open_input(Path(path)))

    def keep_input(self, path: Path, file: BinaryIO) -> InputFile:
        """`file`, which is `path`, as what is read; it is closed at the command's end."""
        self._resources.enter_context(file)
        return InputFile(path, file, self._resources)

    def open_output(self, *, binary: bool, source: Path | None = None) -> BinaryIO:
        """The output for the reply's payload: `-o FILE`, or standard output.

        Raises `SigulError` where it would destroy what is read, `source` or a passphrase file.
        """
        from ...client.output_file import open_output

        place = self.arguments.output
        self._refuse_to_destroy(place, source)
        return self._resources.enter_context(open_output(place, binary=binary))

    def open_successor(self, source: InputFile) -> BinaryIO:
        """The output for the new form of `source`: `-o FILE`, or the place of `source` itself.

        Raises `SigulError` where it would destroy a passphrase file.
        """
        from ...client.output_file import open_successor

        place = self.arguments.output
        self._refuse_to_destroy(place or source.path)
        return self._resources.enter_context(open_successor(source.path, place, read=source.state))

    def _refuse_to_destroy(self, place: Path | None, source: Path | None = None) -> None:
        from ...client.output_file import overwrites

        for file in filter(None, (*self._passphrase_files, source)):
            if overwrites(place, file):
                output = self.arguments.output
                name = "standard output" if output is None else f"'{output}'"
                raise SigulError(
                    f"writing to {name} would destroy '{file}', which is read",
                    "nothing was changed: give -o another file",
                )


class InputFile:
    """A file that a command reads, open from its plan to its end; `state` is its at opening."""

    def __init__(self, path: Path, file: BinaryIO, resources: contextlib.ExitStack) -> None:
        self.path = path
        self.state = os.fstat(file.fileno())
        self._file = file
        self._resources = resources

    def seekable(self) -> BinaryIO:
        """The file where its length can be told, else a temporary file with all that comes.

        To be called once secrets have been read, which may come from the same pipe. Raises
        `SigulError`.
        """
        if stat.S_ISREG(self.state.st_mode):
            return self._file
        import shutil
        import tempfile

        spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the command's end
        self._resources.enter_context(spool)
        try:
            shutil.copyfileobj(self._file, spool, 1 << 20)
            spool.seek(0)
        except OSError as error:
            raise SigulError(
                f"the input cannot be kept in '{tempfile.gettempdir()}': {error.strerror}",
                "make room there, set TMPDIR, or give a plain file as input",
            ) from error
        return cast(BinaryIO, spool)


def open_input(path: Path) -> BinaryIO:
    """The file `path`, open for reading. Raises `SigulError`."""
    try:
        return path.open("rb")
    except OSError as error:
        raise SigulError(
            f"'{path}' cannot be read: {error.strerror}", "name a file that you may read"
        ) from error


#: Makes a command's request and prints the result. Raises `SigulError`.
Run = Callable[[Call], None]
#: Checks and opens what the arguments name, before secrets are asked for; gives what is to be run
#: then, or None where all is done without a server. Raises `SigulError`.
Plan = Callable[[Planning], Run | None]
