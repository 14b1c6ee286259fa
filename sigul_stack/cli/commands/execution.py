"""Running one command: its plan, then its secrets in order, then its request.

What can be found wrong without the server is found before a secret is asked for.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...config.client import ClientSettings
from ...errors import NSSError, SigulError
from ...logevents import tell
from ...records import dataclass
from ...secret import Secret
from ..log_events import ProgramLog
from ..outcome import UNBIND_TEXT, UNBOUND_TEXT
from ..secret_input import NSS_PASSWORD, SecretReader
from .command import Command, SecretPrompt
from .parsing import parser_of
from .planning import Arguments, Call, Planning

if TYPE_CHECKING:
    from ...client.api import Client
    from ...transport.dialling import DialledAhead

log = logging.getLogger(__name__)

#: More than any passphrase file (bytes).
MAX_PASSPHRASE_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The settings and the options before the command."""

    settings: ClientSettings
    secrets: SecretReader
    passphrase_file: Path | None = None
    version_word: int | None = None
    #: How long a request is tried again, in seconds; None: as the settings have it.
    retry_seconds: float | None = None


def execute(command: Command, arguments: Arguments, context: CommandContext) -> None:
    """Run `command`. Raises `SigulError`."""
    for text in command.idle(arguments):
        tell(log, ProgramLog.COMMAND_NOTE, why=text)
    with contextlib.ExitStack() as resources:
        files = (context.passphrase_file, *(_own_file(it, arguments) for it in command.secrets))
        planning = Planning(
            arguments,
            context.settings,
            resources,
            misuse=parser_of(command).error,
            passphrase_files=[file for file in files if file is not None],
            most=lambda: _most_bytes(command.name),
        )
        run = command.plan(planning)
        if run is None:
            return
        proof = planning.open_log_proof()
        open_nss(context)
        secrets = read_secrets(command, arguments, context)
        at_once = command.dials_at_once and planning.is_ready
        client = _client(context, _dial_ahead(context) if at_once else None)
        if proof is not None:
            client = client.proving(proof.keep)
        with _interruptible():
            run(Call(context.settings, arguments, secrets, client, proof))
            if proof is not None:
                proof.write()


def _most_bytes(name: str) -> int | None:
    """The most bytes that the operation of a command takes; None where there is none such."""
    from ...protocol.operations import OPERATIONS

    operation = OPERATIONS.get(name)
    return None if operation is None else operation.max_payload


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


def open_nss(context: CommandContext) -> None:
    """Open NSS: its password, where it is asked for, comes before all other secrets."""
    from ...transport import nss

    nss.open_database(context.settings.nss, ask=lambda: context.secrets.read(NSS_PASSWORD))


def _dial_ahead(context: CommandContext) -> DialledAhead | None:
    """Dial the bridge while the client loads.

    Once all secrets are there, not before: no bridge waits for a person who types, or for a program
    that fetches them.
    """
    from ...transport import nss
    from ...transport.dialling import DialledAhead

    settings = context.settings
    try:
        identity = nss.load_identity(settings.client_cert_nickname)
    except NSSError:  # the request meets it again
        return None
    return DialledAhead(settings, settings.nss, identity)


def _client(context: CommandContext, ahead: DialledAhead | None) -> Client:
    from ...client.api import Client
    from ..progress import progress

    return Client(
        context.settings,
        progress=progress,
        version_word=context.version_word,
        retry_seconds=context.retry_seconds,
        ahead=ahead,
    )


# ------------------------------------------------------------------------------------- secrets


def read_secrets(
    command: Command, arguments: Arguments, context: CommandContext
) -> dict[str, Secret]:
    """The secrets that `command` needs with these `arguments`, read in the row's order."""
    secrets = {}
    for prompt in command.secrets:
        if prompt.when(arguments):
            secrets[prompt.name] = _read(prompt, arguments, context)
    if context.passphrase_file is not None and not any(
        prompt.from_file and prompt.name in secrets for prompt in command.secrets
    ):
        tell(log, ProgramLog.PASSPHRASE_FILE_UNUSED, command=command.name)
    return secrets


def _read(prompt: SecretPrompt, arguments: Arguments, context: CommandContext) -> Secret:
    file = _own_file(prompt, arguments)
    if file is None and prompt.from_file:
        file = context.passphrase_file
    if file is not None:
        return _unbound_passphrase(file, context.settings)
    if prompt.new:
        return context.secrets.read_new(prompt.prompt)
    return context.secrets.read(prompt.prompt, prompt.about)


def _own_file(prompt: SecretPrompt, arguments: Arguments) -> Path | None:
    """The passphrase file that the secret's own argument names."""
    return getattr(arguments, prompt.file_argument) if prompt.file_argument else None


def _unbound_passphrase(path: Path, settings: ClientSettings) -> Secret:
    """The passphrase in the bound passphrase file `path`. Raises `SigulError`."""
    from ...config.reading import read_small
    from ...keystore.bindings import CannotUnbind, enabled_methods, is_bound, unbind

    try:
        data = read_small(path, MAX_PASSPHRASE_FILE)
    except OSError as error:
        raise SigulError(
            f"the passphrase file '{path}' cannot be read: {error.strerror}", "name another with -f"
        ) from error
    bound = Secret(data.strip())
    if not bound:
        raise SigulError(UNBOUND_TEXT, f"'{path}' is empty")
    if not is_bound(bound):
        raise SigulError(UNBOUND_TEXT)
    binding = settings.binding
    try:
        return unbind(bound, enabled_methods(binding.enabled, binding.parameters, binding.secrets))
    except CannotUnbind as error:
        raise SigulError(UNBIND_TEXT, str(error)) from error
