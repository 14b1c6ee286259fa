"""The arguments, files, secrets and client that a command is planned and run with."""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn, cast

from ...errors import SigulError
from ...records import dataclass
from ...secret import Secret

if TYPE_CHECKING:
    from ...client.api import Client
    from ...config.client import ClientSettings
    from .log_proofs import ProofOutput

Arguments = argparse.Namespace

#: What `-` stands for where a file is read or written.
STANDARD_INPUT: Final = Path("/dev/stdin")
STANDARD_OUTPUT: Final = Path("/dev/stdout")
#: Names of standard input: opened by them, a plain file would be read from its beginning again.
_STANDARD_INPUTS: Final = frozenset({"/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"})
_COPY_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Call:
    """The input of a command's run: `secrets` are those of its row that were asked for, by name."""

    settings: ClientSettings
    arguments: Arguments
    secrets: Mapping[str, Secret]
    client: Client
    #: Where the log's proof goes, if it is wanted.
    proof: ProofOutput | None = None


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
        most: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.arguments = arguments
        self.settings = settings
        #: Ends the process with exit code 2 and a usage message, for a reason.
        self.misuse = misuse
        self._resources = resources
        self._passphrase_files = passphrase_files
        self._most = most
        self._inputs: list[Path] = []
        #: Whether all inputs are plain files, which nobody has to wait for.
        self.is_ready = True

    def open_input(self, path: str) -> InputFile:
        """The file `path`, or standard input for `-`, open for reading. Raises `SigulError`."""
        place = STANDARD_INPUT if path == "-" else Path(path)
        return self.keep_input(place, open_input(place))

    def keep_input(self, path: Path, file: BinaryIO) -> InputFile:
        """`file`, which is `path`, as what is read; it is closed at the command's end."""
        self._resources.enter_context(file)
        self._inputs.append(path)
        source = InputFile(path, file, self._resources, self._most)
        self.is_ready &= source.is_plain
        return source

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

    def open_log_proof(self) -> ProofOutput | None:
        """The output for the log's proof, where `--log-proof FILE` names one.

        Raises `SigulError` where it would destroy what is read, or is the output itself.
        """
        place: Path | None = getattr(self.arguments, "log_proof", None)
        if place is None:
            return None
        from ...client.output_file import open_output
        from .log_proofs import ProofOutput

        if place == getattr(self.arguments, "output", None):
            raise SigulError(f"'{place}' cannot be both output and proof", "name two files")
        self._refuse_to_destroy(place, option="--log-proof")
        for source in self._inputs:
            self._refuse_to_destroy(place, source, option="--log-proof")
        output = self._resources.enter_context(open_output(place, binary=False))
        return ProofOutput(output)

    def _refuse_to_destroy(
        self, place: Path | None, source: Path | None = None, *, option: str = "-o"
    ) -> None:
        from ...client.output_file import overwrites

        for file in filter(None, (*self._passphrase_files, source)):
            if overwrites(place, file):
                name = "standard output" if place is None else f"'{place}'"
                raise SigulError(
                    f"writing to {name} would destroy '{file}', which is read",
                    f"nothing was changed: give {option} another file",
                )


class InputFile:
    """A file that a command reads, open from its plan to its end; `state` is its at opening.

    `most` tells how many bytes the command may send; None: any number.
    """

    def __init__(
        self,
        path: Path,
        file: BinaryIO,
        resources: contextlib.ExitStack,
        most: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._most = most
        self.path = path
        self.state = os.fstat(file.fileno())
        self._file = file
        self._resources = resources

    @property
    def is_plain(self) -> bool:
        """Whether its length can be told: files of /proc say 0 bytes, and have some."""
        return stat.S_ISBLK(self.state.st_mode) or (
            stat.S_ISREG(self.state.st_mode) and self.state.st_size > 0
        )

    def seekable(self) -> BinaryIO:
        """The file where its length can be told, else a temporary file with all that comes.

        To be called once secrets have been read, which may come from the same pipe. Raises
        `SigulError`.
        """
        if self.is_plain:
            return self._file
        import tempfile

        spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the command's end
        self._resources.enter_context(spool)
        try:
            for piece in self._pieces(Path(tempfile.gettempdir())):
                spool.write(piece)
            spool.seek(0)
        except OSError as error:
            raise SigulError(
                f"the input cannot be kept in '{tempfile.gettempdir()}': {error.strerror}",
                "make room there, set TMPDIR, or give a plain file as input",
            ) from error
        return cast(BinaryIO, spool)

    def _pieces(self, spool: Path) -> Iterator[bytes]:
        """All that comes, as long as it is not more than may be sent and half of `spool` holds."""
        import shutil

        room = shutil.disk_usage(spool).free // 2
        most, came = self._most(), 0
        while True:
            try:
                piece = self._file.read(_COPY_BYTES)
            except OSError as error:
                raise _unreadable(self.path, error) from error
            if not piece:
                return
            came += len(piece)
            if most is not None and came > most:
                raise SigulError(
                    f"'{self.path}' has more than {most} bytes, the most that this command sends",
                    "give an input that ends before",
                )
            if came > room:
                raise SigulError(
                    f"'{self.path}' has more than {room} bytes, half of what is free in '{spool}',"
                    " where it is kept until its length is known",
                    "make room there, set TMPDIR, or give a plain file as input",
                )
            yield piece


def open_input(path: Path) -> BinaryIO:
    """The file `path`, open for reading; of standard input what has not been read of it.

    Raises `SigulError`, also where it is a device that never ends.
    """
    try:
        file = os.fdopen(os.dup(0), "rb") if str(path) in _STANDARD_INPUTS else path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    refuse_endless(path, file)
    return file


def refuse_endless(path: Path, file: BinaryIO) -> None:
    """Close `file`, which is `path`, and raise `SigulError`, where it is a device without an end.

    That is any but a terminal and /dev/null.
    """
    found = os.fstat(file.fileno())
    if not stat.S_ISCHR(found.st_mode) or os.isatty(file.fileno()):
        return
    if found.st_rdev != Path(os.devnull).stat().st_rdev:
        file.close()
        raise SigulError(
            f"'{path}' is a device, which has no end", "name a file, or give a pipe that ends"
        )


def _unreadable(path: Path, error: OSError) -> SigulError:
    return SigulError(f"'{path}' cannot be read: {error.strerror}", "name a file that you may read")


def standard_output_or_path(text: str) -> Path:
    """The place that `-o TEXT` names; `-` is standard output, and `./-` a file of that name."""
    return STANDARD_OUTPUT if text == "-" else Path(text)


#: Makes a command's request and prints the result. Raises `SigulError`.
Run = Callable[[Call], None]
#: Checks and opens what the arguments name, before secrets are asked for; gives what is to be run
#: then, or None where all is done without a server. Raises `SigulError`.
Plan = Callable[[Planning], Run | None]
