"""Every error this package raises on purpose, under one root.

A caller that catches `SigulError` has caught everything foreseen; what else escapes is a bug.
Foreign errors (NSPR, SQLAlchemy, OSError, a tool's exit code) are translated once, where the
foreign library is called. No message here may hold a secret.

Imports nothing of the package.
"""

from __future__ import annotations

import enum
import re
from typing import ClassVar, Final


class Status(enum.IntEnum):
    """Status codes of a reply (docs/protocol.md, "Status codes")."""

    OK = 0
    UNKNOWN_VERSION = 1
    UNKNOWN_OP = 2
    AUTHENTICATION_FAILED = 3
    ALREADY_EXISTS = 4
    USER_NOT_FOUND = 5
    USER_HAS_KEY_ACCESSES = 6
    KEY_USER_NOT_FOUND = 7
    KEY_NOT_FOUND = 8
    UNKNOWN_ERROR = 9
    ONLY_ONE_KEY_USER = 10
    CORRUPT_RPM = 11
    UNAUTHENTICATED_RPM = 12
    INVALID_IMPORT = 13
    IMPORT_PASSPHRASE_ERROR = 14
    DECRYPT_FAILED = 15
    UNSUPPORTED_KEYTYPE = 16


_STATUS_TEXT = {
    Status.OK: "No error",
    Status.UNKNOWN_VERSION: "Unknown protocol version",
    Status.UNKNOWN_OP: "Unknown operation",
    Status.AUTHENTICATION_FAILED: "Authentication failed",
    Status.ALREADY_EXISTS: "The specified object already exists",
    Status.USER_NOT_FOUND: "The specified user was not found",
    Status.USER_HAS_KEY_ACCESSES: "The specified user can access one or more keys",
    Status.KEY_USER_NOT_FOUND: "The specified user can not access this key",
    Status.KEY_NOT_FOUND: "The specified key was not found",
    Status.UNKNOWN_ERROR: "Unknown error",
    Status.ONLY_ONE_KEY_USER: "This is the only user with access to this key",
    Status.CORRUPT_RPM: "The RPM file is corrupt",
    Status.UNAUTHENTICATED_RPM: "Missing RPM file authentication by client",
    Status.INVALID_IMPORT: "Invalid import file",
    Status.IMPORT_PASSPHRASE_ERROR: "Import passphrase does not match",
    Status.DECRYPT_FAILED: "Decryption failed",
    Status.UNSUPPORTED_KEYTYPE: "Unsupported keytype for operation",
}


def status_text(code: int) -> str:
    """The text a user is shown for a reply's status `code`; `Error N` for an unknown one."""
    try:
        return _STATUS_TEXT[Status(code)]
    except ValueError:
        return f"Error {code}"


#: Longest message of a reply, in bytes of UTF-8: what a field of the protocol holds.
MAX_MESSAGE_BYTES: Final = 255
#: What of it a cure may take.
MAX_CURE_BYTES: Final = 160
_LEFT_OUT: Final = "..."


def shortened(text: str, limit: int = MAX_MESSAGE_BYTES) -> str:
    """`text` in at most `limit` bytes of UTF-8; where that leaves some out, it ends in `...`.

    For what a message quotes of others' words, and for a message as a whole.
    """
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data.decode("utf-8")
    return data[: limit - len(_LEFT_OUT)].decode("utf-8", "ignore") + _LEFT_OUT


def printable(text: str) -> str:
    """`text` as one line: what a terminal or log would take for more than text is escaped.

    That is every control character, line and paragraph separators, what changes the direction of
    writing or has no width, and lone surrogates. Other text stays as it is.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def quoted(text: str, limit: int | None = None) -> str:
    """A name of others, in quotes that nothing in it can end: `'alice'`.

    For what peers say, wherever a message or a line of a log has it. In at most about `limit`
    bytes, where that is given (`shortened`).
    """
    escaped = printable(text.replace("\\", "\\\\").replace("'", "\\'"))
    return f"'{escaped if limit is None else shortened(escaped, limit)}'"


def as_word(text: str) -> str:
    """A name of others without quotes, where it is one plain word; else it is `quoted`."""
    return text if _WORD.fullmatch(text) else quoted(text)


_WORD: Final = re.compile(r"[A-Za-z0-9._@:+-]+")


class SigulError(Exception):
    """Root of all errors raised on purpose.

    `problem` is what failed and where, in one sentence without a full stop; `cure` what the person
    who meets it can do about it, empty where the problem says it all; `symbol` the name that the
    library or kernel underneath gives the fault (`SSL_ERROR_BAD_CERT_DOMAIN`, `ECONNREFUSED`), for
    code that tells faults apart. `str()` is problem and cure, with a semicolon between them.
    """

    #: Whether the same call may succeed later without anybody changing anything.
    retryable: ClassVar[bool] = False
    #: Whether it is an answer, and no fault: what led to it explains nothing, and scripts compare
    #: the line.
    is_answer: ClassVar[bool] = False
    #: The id in the logs (`protocol.hello`) of the request that failed with it, as the client sets
    #: it; empty where there was none.
    request: str = ""

    def __init__(self, problem: str = "", cure: str = "", symbol: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.cure = cure
        self.symbol = symbol

    def __str__(self) -> str:
        return f"{self.problem}; {self.cure}" if self.cure else self.problem


class ConfigurationError(SigulError):
    """A setting is missing or cannot be right; the problem names the file, section and option."""


class ProtocolError(SigulError):
    """Bytes are not, or would not be, what the protocol allows."""


class RemoteProtocolError(ProtocolError):
    """A peer sent bytes that the protocol does not allow."""


class LocalProtocolError(ProtocolError):
    """We were asked to send what the protocol does not allow; nothing of it was sent."""


class TransportError(SigulError):
    """A connection failed: refused, reset, TLS failure, name not resolved."""

    retryable = True


class PeerClosed(TransportError):
    """The peer ended the connection where more was due."""


class DeadlineExceeded(TransportError):
    """A wait reached its limit; the message says for what, and how long it was in seconds."""


class BridgeRefused(TransportError):
    """The bridge ended a request, or failed one RPM of it, and said why. It cannot prove it.

    The text is the bridge's own or that of whoever sits in its place: to be shown, not acted on.
    """

    retryable = False

    def __init__(self, message: str) -> None:
        super().__init__(f"the bridge says: {message or 'it does not do that'}")


class NSSError(SigulError):
    """The NSS database, its password or a certificate in it cannot be used."""


class WrongNSSPassword(NSSError):
    """The password does not open the NSS database."""


class DatabaseError(SigulError):
    """The server's database cannot be opened, is of an unknown schema, or failed.

    `str()` has a colon before the cure, as these messages always had.
    """

    def __str__(self) -> str:
        return f"{self.problem}: {self.cure}" if self.cure else self.problem


class KeystoreError(SigulError):
    """A key's storage or a tool working on it failed."""


class WrongPassphrase(KeystoreError):
    """A passphrase does not unlock what it was given for."""


class ToolMissing(KeystoreError):
    """A program that an operation needs is not installed; the message names its package."""


class BackupError(SigulError):
    """A backup cannot be made, is not whole, or cannot be put in place."""


class LogComplaint(SigulError):
    """A server's signing log is not what was known of it, or is missing: somebody has to look.

    It comes again at each request until a person accepts what is there (docs/security.md).
    """


class RequestRefused(SigulError):
    """A request ends with a `Status` other than OK.

    Raised by handlers on the server to send that reply, and by the client API on receiving one.
    `message` always fits into a reply; `problem` has all of it. `reason` is for the server's
    signing log alone, where that is told more than whoever asked.
    """

    is_answer = True

    def __init__(self, status: int, message: str | None = None, *, reason: str = "") -> None:
        self.status = status
        self.reason = reason
        self.message = None if message is None else shortened(message)
        text = status_text(status)
        super().__init__(f"{text}: {message}" if message else text)

    @classmethod
    def because(
        cls, error: SigulError, status: int = Status.UNKNOWN_ERROR, before: str = ""
    ) -> RequestRefused:
        """The refusal that tells of `error`, with `before` in front.

        Where its problem is long, that is shortened, so that the cure is not.
        """
        cure = f"; {shortened(error.cure, MAX_CURE_BYTES)}" if error.cure else ""
        room = MAX_MESSAGE_BYTES - len(cure.encode())
        return cls(status, shortened(before + error.problem, room) + cure)
