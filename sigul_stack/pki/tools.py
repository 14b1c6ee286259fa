"""Runs NSS's own programs, `certutil` and `pk12util`, so that no NSS is initialised in here.

Invariant: what is secret reaches a tool, and comes back from it, in files that exist in memory
alone (`MemoryFile`): it is in no argument, no environment and on no disk. Every run has a limit in
time, no terminal to ask at, and an environment of its own, which takes `PATH` and NSS's limit on
its own iterations from ours and nothing else.

Must not know what the tools are run for; `store` does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ..errors import NSSError, ToolMissing
from ..secret import Secret
from ..tools import CERTUTIL

#: Far more than any run takes, even where NSS derives keys with 600,000 iterations.
TIMEOUT_SECONDS: Final = 120.0

_PACKAGES: Final = f"{CERTUTIL.package} (Debian) or nss-tools (Fedora)"

#: The most iterations that NSS derives a key with in what it writes: NSS's own variable.
_MAX_ITERATIONS: Final = "NSS_MAX_MP_PBE_ITERATION_COUNT"

#: Where a file that exists in memory only is opened by name, anew for each reader.
_DESCRIPTORS: Final = Path("/proc/self/fd")


class MemoryFile:
    """A file without a name on any disk, which a tool reads or writes as if it had one.

    Not a pipe: the tools open their password file more than once.
    """

    def __init__(self, content: bytes = b"") -> None:
        self.descriptor = os.memfd_create("sigul-pki", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(self.descriptor), "wb") as file:
            file.write(content)

    @property
    def path(self) -> str:
        """The name under which a tool that inherits the descriptor opens the file."""
        return str(_DESCRIPTORS / str(self.descriptor))

    def read(self) -> bytes:
        """All that the file holds now."""
        return Path(self.path).read_bytes()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a tool's run ended; `errors` is what it wrote to standard error."""

    command: str
    status: int
    output: str
    errors: str

    @property
    def reason(self) -> str:
        """The tool's own last word, for a message."""
        said = (self.errors.strip() or self.output.strip()).splitlines()
        return f"{self.command}: {said[-1] if said else f'exit status {self.status}'}"

    def names(self, error: str) -> bool:
        """Whether the tool gave this NSS error, for example `SEC_ERROR_BAD_PASSWORD`."""
        return error in self.errors or error in self.output


def run_tool(
    tool: str,
    operation: str,
    *arguments: str | MemoryFile,
    directory: Path,
    iterations: int | None = None,
) -> Outcome:
    """Run `tool` in `directory` and wait for its end, at most `TIMEOUT_SECONDS`.

    `operation` is its first argument, such as `-L`, which names the run in messages. `iterations`
    caps the key derivation of what the tool writes into an NSS database; so does NSS's variable
    NSS_MAX_MP_PBE_ITERATION_COUNT in this process's environment, and the lower holds. Raises
    `ToolMissing`, or `NSSError` where the tool does not end or cannot be started; an exit status
    other than 0 is for the caller to judge.
    """
    program = shutil.which(tool)
    if program is None:
        raise ToolMissing(f"the program {tool} is not installed; install {_PACKAGES}")
    if not _DESCRIPTORS.is_dir():
        raise NSSError(
            f"{tool} cannot be given a password: /proc is not mounted here; mount it (mount -t proc"
            " proc /proc)"
        )
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
    limits = [iterations, _iterations_of_environment()]
    if wanted := [limit for limit in limits if limit is not None]:
        environment[_MAX_ITERATIONS] = str(min(wanted))
    files = [argument for argument in arguments if isinstance(argument, MemoryFile)]
    words = [item.path if isinstance(item, MemoryFile) else item for item in arguments]
    try:
        done = subprocess.run(
            [program, operation, *words],
            cwd=directory,
            env=environment,
            pass_fds=[file.descriptor for file in files],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
            # The tools ask at the terminal when a password is refused: let there be none.
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise NSSError(
            f"{tool} {operation} in '{directory}' did not end within {TIMEOUT_SECONDS:g} s; is the"
            " file system of that directory reachable?"
        ) from None
    except OSError as error:
        raise NSSError(f"{tool} cannot be run in '{directory}': {error.strerror}") from error
    return Outcome(
        f"{tool} {operation}",
        done.returncode,
        done.stdout.decode("utf-8", "replace"),
        done.stderr.decode("utf-8", "replace"),
    )


def _iterations_of_environment() -> int | None:
    """What whoever started us allows NSS; None where that is nothing that NSS would take."""
    text = os.environ.get(_MAX_ITERATIONS, "")
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


def password_file(password: Secret | None) -> MemoryFile:
    """`password` as the tools' `-f`, `-k` and `-w` want it; none is the empty password."""
    return MemoryFile(password.reveal() if password is not None else b"")
