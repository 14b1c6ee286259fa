"""A conversation with gpg-agent: signing, and what gpg itself cannot be asked for plainly.

The latter are: changing the passphrase of one secret key, where gpg does not tell whether it wants
the old passphrase or the new one; whether a passphrase opens one; and ending the agent. The
protocol is Assuan: lines of text, of at most 1000 bytes, over a Unix socket (GnuPG manual, "Agent's
Assuan Protocol"). Whether the agent runs is for the caller to see to.

A signature is no proof that the passphrase was right: an agent that keeps passphrases in memory
does not ask for one. What it signed without asking is given to nobody before it has tried the
passphrase.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ...errors import KeystoreError, WrongPassphrase
from ...secret import Secret
from ...system.programs import ended_with_programs
from ...tools import RAISE_SIGNING_TIMEOUT
from .output import CORRUPTED_PROTECTION, PASSPHRASE_ERRORS, error_code

#: The longest line of the protocol in bytes, and the bytes of data that surely fit in one.
_MAX_LINE = 1000
_DATA_BYTES = 300
#: More than any signature, in bytes.
_MAX_DATA = 1 << 16


class SecretKeyDamaged(KeystoreError):
    """No passphrase opens a secret key: the agent has written it so, or its file was changed.

    Of the keys that the agents of GnuPG 2.2.40 and 2.4.7 write, one in 7,000 is like that: a byte
    of the salt is lost (counted here, with 40,000 changes of a passphrase).
    """


class AgentFailure(KeystoreError):
    """The agent refused to do something, for the reason `text` in its words."""

    def __init__(self, text: str) -> None:
        super().__init__(f"gpg-agent failed: {text}", "look for its messages")
        self.text = text


class AgentConnection:
    """One connection to the agent that listens at `path`.

    `time_limit` in seconds is for all of the conversation. Raises `KeystoreError` where there is
    nobody to talk to, and in every method where the agent fails or takes too long.
    """

    def __init__(self, path: Path, time_limit: float) -> None:
        self._deadline = time.monotonic() + time_limit
        self._socket = socket.socket(socket.AF_UNIX)
        self._buffer = b""
        #: What came in D lines of the last command, and what the agent asked for in it.
        self._data = bytearray()
        self._asked: set[str] = set()
        self._watched = ExitStack()
        try:
            self._wait()
            self._socket.connect(str(path))
            self._reply({})
        except (OSError, KeystoreError) as error:
            self._socket.close()
            late = isinstance(error, TimeoutError)
            cure = RAISE_SIGNING_TIMEOUT if late else "look for its messages"
            raise KeystoreError(f"gpg-agent does not answer at {path} ({error})", cure) from error

    def __enter__(self) -> AgentConnection:
        try:
            self._watched.enter_context(ended_with_programs(self._abort))
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._watched.close()
        self._socket.close()

    def _abort(self) -> None:
        """End the conversation from another thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def change_passphrase(self, keygrip: str, old: Secret, new: Secret) -> None:
        """Protect the secret key `keygrip` with `new` instead of `old`, which may be missing.

        Raises `WrongPassphrase` if `old` does not open the key.
        """
        self._command("OPTION pinentry-mode=loopback")
        self._command(f"PASSWD {keygrip}", {"PASSPHRASE": old, "NEW_PASSPHRASE": new})

    def verify(self, keygrip: str, passphrase: Secret) -> None:
        """See that the secret key `keygrip` can be opened with `passphrase`.

        Raises `WrongPassphrase` if not with this one, `SecretKeyDamaged` if with none.
        """
        self._command("OPTION pinentry-mode=loopback")
        self._command(f"PASSWD --verify {keygrip}", {"PASSPHRASE": passphrase})

    def sign(self, keygrip: str, passphrase: Secret, digest: bytes, hash_number: int) -> bytes:
        """The signature of the secret key `keygrip` over `digest`, as a canonical S-expression.

        `hash_number` is OpenPGP's of the hash. Raises as `verify` does, and `AgentFailure`.
        """
        self._command("OPTION pinentry-mode=loopback")
        # Key and digest anew each time: the agent would sign the former digest once more.
        self._command(f"SIGKEY {keygrip}")
        self._command(f"SETHASH {hash_number} {digest.hex().upper()}")
        self._command("PKSIGN", {"PASSPHRASE": passphrase})
        signature = bytes(self._data)
        if "PASSPHRASE" not in self._asked:
            # It had the key open already, or needs none: then any passphrase is right.
            self._command(f"PASSWD --verify {keygrip}", {"PASSPHRASE": passphrase})
        return signature

    def kill(self) -> None:
        """End the agent; returns when it has let go of this connection."""
        self._command("KILLAGENT")
        while self._read():
            pass

    def _command(self, line: str, answers: Mapping[str, Secret] | None = None) -> None:
        self._data.clear()
        self._asked.clear()
        try:
            self._send(line.encode("ascii"))
            self._reply(answers or {})
        except OSError as error:
            cure = RAISE_SIGNING_TIMEOUT if isinstance(error, TimeoutError) else "try again"
            raise KeystoreError(f"gpg-agent went silent ({error})", cure) from error

    def _reply(self, answers: Mapping[str, Secret]) -> None:
        while True:
            kind, _, content = self._line().partition(b" ")
            if kind == b"OK":
                return
            if kind == b"D":
                self._data += unquote_to_bytes(content)
                if len(self._data) > _MAX_DATA:
                    raise KeystoreError("gpg-agent says too much", "look for its messages")
                continue
            rest = content.decode("utf-8", "replace")
            if kind == b"ERR":
                number, _, text = rest.partition(" ")
                if error_code(number) in PASSPHRASE_ERRORS:
                    raise WrongPassphrase("the passphrase does not open the secret key")
                if error_code(number) == CORRUPTED_PROTECTION:
                    raise SecretKeyDamaged(
                        f"no passphrase opens the secret key any more ({text})",
                        "restore it from a backup, or import it again",
                    )
                raise AgentFailure(text)
            if kind == b"INQUIRE":
                what = rest.partition(" ")[0]
                self._asked.add(what)
                answer = answers.get(what)
                if answer is None:
                    # PINENTRY_LAUNCHED and the like only inform.
                    self._send(b"END")
                else:
                    self._answer(answer.reveal())

    def _answer(self, data: bytes) -> None:
        for start in range(0, len(data), _DATA_BYTES):
            self._send(b"D " + quote_from_bytes(data[start : start + _DATA_BYTES]).encode("ascii"))
        self._send(b"END")

    def _send(self, line: bytes) -> None:
        self._wait()
        self._socket.sendall(line + b"\n")

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > _MAX_LINE or not self._read():
                raise KeystoreError("gpg-agent broke off", "try again")
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _read(self) -> bool:
        self._wait()
        data = self._socket.recv(_MAX_LINE)
        self._buffer += data
        return bool(data)

    def _wait(self) -> None:
        """Give the next wait what is left of the time."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise KeystoreError("gpg-agent took too long", RAISE_SIGNING_TIMEOUT)
        self._socket.settimeout(left)
