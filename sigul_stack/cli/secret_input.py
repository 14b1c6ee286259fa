"""Asking for passwords and passphrases: on the terminal without echo, or from standard input.

In batch mode each secret is read from a file descriptor up to the NUL byte that ends it, and not
a byte further: what follows is the next secret's, or another reader's. A secret is never echoed,
logged or put into a message; how much of one was seen is not told either.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..config.reading import read_small
from ..config.values import strip_one_end
from ..errors import ConfigurationError, SigulError, printable
from ..records import replace
from ..secret import Secret

if TYPE_CHECKING:
    from ..config.shared import NSSSettings

#: The most that a field of the protocol carries (bytes).
MAX_SECRET_LENGTH = 255
#: Times that a new secret is asked for, in which its two entries have to agree.
ATTEMPTS = 3

#: Seconds until Ctrl-C is acted upon, at most.
_INTERRUPTED_AFTER = 0.5

#: The prompt for the NSS database's password.
NSS_PASSWORD = "NSS database password"  # noqa: S105 - a prompt


class SecretInputError(SigulError):
    """A secret could not be read; the message says what was seen and how to give it."""


class Asker(Protocol):
    """Something that can ask a person, as `Terminal` does."""

    def ask(self, prompt: str) -> bytes:
        """The bytes that the person typed, without the line's end."""

    def say(self, text: str) -> None:
        """Show a line of text."""


class Terminal:
    """A terminal to ask on without echo. Restores its settings whatever happens."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    @contextlib.contextmanager
    def controlling(cls) -> Iterator[Terminal]:
        """The process's controlling terminal. Raises `SecretInputError` where there is none."""
        try:
            descriptor = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            raise SecretInputError(
                "there is no terminal to ask for a secret on",
                "give secrets on standard input with --batch, each ended by a NUL byte",
            ) from None
        try:
            yield cls(descriptor)
        finally:
            os.close(descriptor)

    def say(self, text: str) -> None:
        """Show a line of text."""
        _write(self._descriptor, f"{printable(text)}\n")

    def ask(self, prompt: str) -> bytes:
        """Show `prompt` and read one line without echo; gives its bytes without the line's end.

        Raises `SecretInputError` at the end of input.
        """
        import termios

        old = termios.tcgetattr(self._descriptor)
        silent = termios.tcgetattr(self._descriptor)
        silent[3] &= ~termios.ECHO
        silent[3] |= termios.ECHONL | termios.ICANON
        try:
            # Flushes what was typed before: it was not meant for this prompt.
            termios.tcsetattr(self._descriptor, termios.TCSAFLUSH, silent)
            _write(self._descriptor, f"{printable(prompt)}: ")
            line = _read(self._descriptor, 65536)
        finally:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, old)
        if not line.endswith(b"\n"):
            _write(self._descriptor, "\n")
            raise SecretInputError("input ended before the secret did", "type it and press Enter")
        return line[:-1]


def _read(descriptor: int, size: int) -> bytes:
    """Read as `os.read` does, but be interrupted at any time.

    Python acts on a signal between two of its own steps. One that comes just before `read` waits
    would wait with it, and Ctrl-C would do nothing: so this waits in short pieces.
    """
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    while not waiting.poll(_INTERRUPTED_AFTER * 1000):
        pass
    return os.read(descriptor, size)


def _write(descriptor: int, text: str) -> None:
    data = text.encode()
    while data:
        data = data[os.write(descriptor, data) :]


class SecretReader:
    """Reads the secrets of one command, in the order they are asked for.

    With `batch` they come from the file descriptor `stdin`; otherwise a person is asked, on
    `terminal` or, if that is None, on the controlling terminal.
    """

    def __init__(self, *, batch: bool, stdin: int = 0, terminal: Asker | None = None) -> None:
        self._batch = batch
        self._stdin = stdin
        self._terminal = terminal

    def read(self, what: str, about: str = "") -> Secret:
        """An existing secret; `what` names it: "Administrator's password".

        Where that may be another one's name as well, `about` says which one it is. Raises
        `SecretInputError`.
        """
        named = f"{what} ({about})" if about else what
        if self._batch:
            return read_until_nul(self._stdin, named)
        with self._asker() as terminal:
            if about:
                terminal.say(f"{about[0].upper()}{about[1:]}:")
            return _checked(terminal.ask(what), named)

    def read_new(self, what: str) -> Secret:
        """A new secret, which must not be empty; a person is asked for it twice.

        Raises `SecretInputError`.
        """
        if self._batch:
            secret = read_until_nul(self._stdin, what)
            if not secret:
                raise SecretInputError(f"{what}: a new secret must not be empty", "give some text")
            return secret
        with self._asker() as terminal:
            for _ in range(ATTEMPTS):
                secret = _checked(terminal.ask(what), what)
                if not secret:
                    terminal.say("It must not be empty; try again.")
                elif secret == _checked(terminal.ask(f"{what} (again)"), what):
                    return secret
                else:
                    terminal.say("The two are not the same; try again.")
        raise SecretInputError(f"{what}: the two entries never agreed", "start again")

    def _asker(self) -> contextlib.AbstractContextManager[Asker]:
        if self._terminal is not None:
            return contextlib.nullcontext(self._terminal)
        return Terminal.controlling()


def read_until_nul(descriptor: int, what: str) -> Secret:
    """The bytes of `descriptor` up to the next NUL, which is read too, and nothing after it.

    Raises `SecretInputError` where the input ends first, or the secret is longer than a field of
    the protocol.
    """
    value = bytearray()
    while True:
        try:
            byte = _read(descriptor, 1)
        except OSError as error:
            raise SecretInputError(
                f"{what} cannot be read from standard input: {error.strerror}", _HOW
            ) from error
        if byte == b"\0":
            return Secret(bytes(value))
        if not byte:
            raise SecretInputError(
                f"{what}: input ended before the NUL byte that has to end a secret; {_seen(value)}",
                _HOW,
            )
        value += byte
        if len(value) > MAX_SECRET_LENGTH:
            newline = " and there was a newline in it" if b"\n" in value else ""
            raise SecretInputError(
                f"{what}: no NUL byte ended it after {MAX_SECRET_LENGTH} bytes, the most that a"
                f" secret may have{newline}",
                _HOW,
            )


def read_secret_file(path: Path, what: str) -> Secret:
    """The secret in a file, which is `what`, without one line end. Raises `ConfigurationError`."""
    try:
        secret = Secret(strip_one_end(read_small(path, MAX_SECRET_LENGTH + 2)))
    except OSError as error:
        raise ConfigurationError(
            f"'{path}' cannot be read: {error.strerror}", f"name a file that holds the {what}"
        ) from error
    if not secret:
        raise ConfigurationError(f"'{path}' is empty", f"name a file that holds the {what}")
    return secret


def read_word(descriptor: int, what: str) -> str:
    """A word that is no secret, read as one is; a line's end may also end it.

    Raises `SecretInputError`.
    """
    value = bytearray()
    while (byte := _read(descriptor, 1)) not in (b"\0", b"\n"):
        value += byte
        if not byte or len(value) > MAX_SECRET_LENGTH:
            raise SecretInputError(
                f"{what}: neither a NUL byte nor a line's end came after at most"
                f" {MAX_SECRET_LENGTH} bytes",
                _HOW,
            )
    return value.decode("utf-8", "backslashreplace")


_HOW = r"end each secret with NUL, for example: printf 'password\0' | sigul --batch COMMAND"


def _seen(value: bytearray) -> str:
    if not value:
        return "nothing was there"
    if value.endswith(b"\n"):
        return "there was a newline instead, as `echo password |` gives it"
    return "there was text, but no NUL after it"


def _checked(value: bytes, what: str) -> Secret:
    if len(value) > MAX_SECRET_LENGTH:
        raise SecretInputError(
            f"{what}: longer than {MAX_SECRET_LENGTH} bytes, the most that a secret may have",
            "use a shorter one",
        )
    return Secret(value)


def with_nss_password(settings: NSSSettings, reader: SecretReader) -> NSSSettings:
    """`settings` with the NSS password, asked for where the configuration has none.

    For programs that go into the background or fork before NSS is opened. Where there is no
    terminal to ask on, the settings stay as they are: the database may have no password.
    """
    if settings.password is not None:
        return settings
    try:
        return replace(settings, password=reader.read(NSS_PASSWORD))
    except SecretInputError:
        return settings
