"""Running one command: files opened, secrets read in order, one request made, in that order.

What can be found wrong without the server is found before a secret is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from ...config.client import ClientSettings
from ...errors import SigulError
from ...secret import Secret
from ..secret_input import NSS_PASSWORD, SecretReader
from .model import Arguments, Ask, Command

if TYPE_CHECKING:
    from ...client.api import Client

log = logging.getLogger(__name__)

#: More than any passphrase file (bytes).
MAX_PASSPHRASE_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a command is run in: the settings and the options before the command."""

    settings: ClientSettings
    secrets: SecretReader
    passphrase_file: Path | None = None
    protocol_version: int | None = None


@dataclass(frozen=True, slots=True)
class Invocation:
    """What a command's function is given.

    `secrets` has those that the table names and that were asked for. `payload` is the open file
    of the operand that is read, `output` where the reply's payload goes, `prepared` what the
    command's `prepare` returned.
    """

    settings: ClientSettings
    arguments: Arguments
    secrets: Mapping[str, Secret]
    client: Client
    payload: BinaryIO
    output: BinaryIO
    prepared: Any = None


def execute(command: Command, arguments: Arguments, surroundings: Surroundings) -> None:
    """Run `command`. Raises `SigulError`."""
    run = _function(command.run)
    if command.local:
        run(surroundings.settings)
        return
    if command.check is not None:
        _function(command.check)(arguments)
    with contextlib.ExitStack() as stack:
        payload = output = source = None
        unread = command.unread is not None and command.unread(arguments)
        for operand in command.operands:
            if operand.reads and not unread:
                named = getattr(arguments, operand.name)
                source = Path(named[0] if operand.many else named)
                payload = stack.enter_context(open_payload(source))
        binary = command.output(arguments) if command.output is not None else None
        if binary is not None:
            output = stack.enter_context(
                _output(command, arguments, surroundings, source, payload, binary=binary)
            )
        prepared = _function(command.prepare)(arguments) if command.prepare else None
        client = _client(surroundings)
        secrets = read_secrets(command, arguments, surroundings)
        if payload is not None:
            payload = stack.enter_context(_seekable(payload))
        invocation = Invocation(
            surroundings.settings,
            arguments,
            secrets,
            client,
            cast(BinaryIO, payload),
            cast(BinaryIO, output),
            prepared,
        )
        with _interruptible():
            run(invocation)


def _output(
    command: Command,
    arguments: Arguments,
    surroundings: Surroundings,
    source: Path | None,
    payload: BinaryIO | None,
    *,
    binary: bool,
) -> contextlib.AbstractContextManager[BinaryIO]:
    """Where the reply's payload goes. Raises `SigulError` where it would destroy what is read."""
    from ...client.output import open_output, open_successor, overwrites

    place = arguments.output
    replaced = source if command.replaces else None
    kept = [getattr(arguments, ask.file_argument) for ask in command.secrets if ask.file_argument]
    kept += [surroundings.passphrase_file, None if command.replaces else source]
    for file in filter(None, kept):
        if overwrites(place or replaced, file):
            name = "standard output" if place is None else f"'{place}'"
            raise SigulError(
                f"writing to {name} would destroy '{file}', which is read; nothing was changed:"
                " give -o another file"
            )
    if replaced is None or payload is None:
        return open_output(place, binary=binary)
    return open_successor(replaced, place, read=os.fstat(payload.fileno()))


def _function(name: str) -> Callable[..., Any]:
    """The function that a row of the table names as `MODULE:FUNCTION`."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(
        importlib.import_module(f".{module}", __package__), function
    )
    return found


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end the process at once.

    NSS waits in C code, where Python would act on the signal only when the wait is over. Nothing
    is lost: an output has no name before it is complete.
    """
    old = signal.getsignal(signal.SIGINT)
    if old is not signal.default_int_handler:  # ignored, as in the background of a shell
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)


def _client(surroundings: Surroundings) -> Client:
    """A client, with NSS open: its password, where it is asked for, comes before all others."""
    from ...client.api import Client
    from ...protocol.codec import PROTOCOL_VERSION
    from ...transport import nss
    from ..progress import progress

    nss.open_database(
        surroundings.settings.nss, ask=lambda: surroundings.secrets.read(NSS_PASSWORD)
    )
    version = surroundings.protocol_version
    return Client(
        surroundings.settings,
        progress=progress,
        protocol_version=PROTOCOL_VERSION if version is None else version,
    )


def read_secrets(
    command: Command, arguments: Arguments, surroundings: Surroundings
) -> dict[str, Secret]:
    """The secrets that `command` needs with these `arguments`, read in the table's order."""
    secrets = {}
    for ask in command.secrets:
        if ask.when(arguments):
            secrets[ask.name] = _read(ask, arguments, surroundings)
    if surroundings.passphrase_file is not None and not any(
        ask.from_file and ask.name in secrets for ask in command.secrets
    ):
        log.info("-f has no use here: %s does not ask for a key passphrase", command.name)
    return secrets


def _read(ask: Ask, arguments: Arguments, surroundings: Surroundings) -> Secret:
    own_file = getattr(arguments, ask.file_argument) if ask.file_argument else None
    if own_file is not None:
        return unbound_passphrase(own_file, surroundings.settings)
    if ask.from_file and surroundings.passphrase_file is not None:
        return unbound_passphrase(surroundings.passphrase_file, surroundings.settings)
    if ask.new:
        return surroundings.secrets.read_new(ask.prompt)
    return surroundings.secrets.read(ask.prompt)


def unbound_passphrase(path: Path, settings: ClientSettings) -> Secret:
    """The passphrase in the bound passphrase file `path`. Raises `SigulError`."""
    from ...keystore.bindings import CannotUnbind, enabled_methods, is_bound, unbind

    try:
        with path.open("rb") as file:
            data = file.read(MAX_PASSPHRASE_FILE)
    except OSError as error:
        raise SigulError(
            f"the passphrase file '{path}' cannot be read: {error.strerror}; name another with -f"
        ) from error
    bound = Secret(data.strip())
    if not is_bound(bound):
        raise SigulError("Passphrase file is unbound!")
    binding = settings.binding
    try:
        return unbind(bound, enabled_methods(binding.enabled, binding.parameters, binding.secrets))
    except CannotUnbind as error:
        raise SigulError(f"Unable to unbind the passphrase on the client: {error}") from error


def open_payload(path: Path) -> BinaryIO:
    """The file `path`, open for reading. Raises `SigulError`."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise SigulError(
            f"'{path}' cannot be read: {error.strerror}; name a file that you may read"
        ) from error
    return file


@contextlib.contextmanager
def _seekable(file: BinaryIO) -> Iterator[BinaryIO]:
    """`file` itself where its length can be told, else a temporary file with all that comes."""
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        yield file
        return
    import shutil
    import tempfile

    with tempfile.TemporaryFile() as spool:
        try:
            shutil.copyfileobj(file, spool, 1 << 20)
            spool.seek(0)
        except OSError as error:
            raise SigulError(
                f"the input cannot be kept in '{tempfile.gettempdir()}': {error.strerror}; make"
                " room there, set TMPDIR, or give a plain file as input"
            ) from error
        yield cast(BinaryIO, spool)
