"""The kinds of configuration values: a function each, from an entry's text to its value.

Each raises `ConfigurationError` for a text that cannot be right, naming the entry, what is wrong
and what would be right. None looks at the machine (files, accounts, names) except `secret_file`:
a configuration can be checked on another machine than its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from ..errors import ConfigurationError
from ..secret import Secret
from .ini import ConfigEntry
from .reading import read_small
from .tolerance import is_quoted

T = TypeVar("T")

#: More than any secret a file may sensibly hold (bytes).
MAX_SECRET_FILE_SIZE = 64 * 1024

_TRUTH = {
    "1": True, "yes": True, "true": True, "on": True,
    "0": False, "no": False, "false": False, "off": False,
}  # fmt: skip

_HOST_NAME = r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?"


def text(entry: ConfigEntry) -> str:
    """One line of text, not empty and not in quotation marks."""
    if not entry.text:
        raise entry.error("is empty", "give it a value or remove the line")
    _check_marks(entry)
    if "\n" in entry.text:
        raise entry.error(
            "is of several lines: a line that begins with a blank continues the one above it",
            "begin each option at the margin",
        )
    if not entry.text.isprintable():
        raise entry.error("holds a line break or control character", "write it as one line of text")
    return entry.text


def _check_marks(entry: ConfigEntry) -> None:
    if is_quoted(entry.text):
        raise entry.error(f"{entry.text!r} is in quotation marks", "leave the quotation marks out")


def optional_text(entry: ConfigEntry) -> str | None:
    """One line of text; None where it is empty."""
    return text(entry) if entry.text else None


def boolean(entry: ConfigEntry) -> bool:
    """`yes`, `true`, `on`, `1`, or `no`, `false`, `off`, `0`, in any case."""
    try:
        return _TRUTH[entry.text.lower()]
    except KeyError:
        raise entry.error(f"{entry.text!r} is neither yes nor no", "write `yes` or `no`") from None


def integer(minimum: int, maximum: int, unit: str = "") -> Callable[[ConfigEntry], int]:
    """A whole number from `minimum` to `maximum`; `unit` is for the message."""

    def parse(entry: ConfigEntry) -> int:
        wanted = f"a whole number from {minimum} to {maximum}" + (f" ({unit})" if unit else "")
        if not re.fullmatch(r"[0-9]{1,20}", entry.text):
            raise entry.error(f"{entry.text!r} is not a number", f"write {wanted}")
        value = int(entry.text)
        if not minimum <= value <= maximum:
            raise entry.error(f"{value} is out of range", f"write {wanted}")
        return value

    return parse


def integer_or_auto(minimum: int, maximum: int) -> Callable[[ConfigEntry], int | None]:
    """A whole number from `minimum` to `maximum`; None for `auto`."""
    number = integer(minimum, maximum, "or auto")

    def parse(entry: ConfigEntry) -> int | None:
        return None if entry.text.lower() == "auto" else number(entry)

    return parse


port = integer(1, 65535, "a TCP port")
#: A size in bytes, from one byte to what the protocol can carry.
size = integer(1, (1 << 63) - 1, "bytes")
count = integer(1, 65536)
byte_rate = integer(1, (1 << 63) - 1, "bytes a second")


def seconds(entry: ConfigEntry) -> float:
    """A time in seconds, more than 0 and at most a week; a fraction may be given."""
    try:
        value = float(entry.text)
    except ValueError:
        raise entry.error(
            f"{entry.text!r} is not a number", "write a number of seconds, without a unit"
        ) from None
    if not (math.isfinite(value) and 0 < value <= 7 * 24 * 3600):
        raise entry.error(
            f"{entry.text} is out of range", "write a number of seconds, more than 0, up to 604800"
        )
    return value


def host(entry: ConfigEntry) -> str:
    """A host name or an IP address, without a port."""
    return _check_host(entry, text(entry))


def optional_host(entry: ConfigEntry) -> str | None:
    """A host name or an IP address; None where it is empty."""
    return host(entry) if entry.text else None


def hosts(entry: ConfigEntry) -> tuple[str, ...]:
    """Host names or IP addresses between commas or blanks, at least one."""
    names = words(entry)
    if not names:
        raise entry.error("is empty", "name at least one address, or remove the line")
    return tuple(_check_host(entry, name) for name in names)


def _check_host(entry: ConfigEntry, name: str) -> str:
    if len(name) <= 253 and re.fullmatch(_HOST_NAME, name):
        # DNS's way to write a whole name. No certificate has it, nor has a hosts file.
        return name.removesuffix(".")
    if ":" in name:
        import ipaddress

        try:
            return str(ipaddress.IPv6Address(name))
        except ValueError:
            raise entry.error(
                f"{name!r} is neither a host name nor an IP address",
                "write the bare name; a port has an option of its own",
            ) from None
    raise entry.error(f"{name!r} is not a host name", "write a name as DNS has it, or an address")


#: Longest name of a server in its signing log's name, in characters: that has more behind it.
_MAX_LOG_NAME = 150


def log_name(entry: ConfigEntry) -> str:
    """A server's name in the name of its signing log: one word without a plus sign."""
    name = text(entry)
    if " " in name or "+" in name or len(name) > _MAX_LOG_NAME:
        raise entry.error(
            "is no name for a signing log",
            f"write one word of at most {_MAX_LOG_NAME} characters, without '+'",
        )
    return name


def words(entry: ConfigEntry) -> tuple[str, ...]:
    """Words between commas, blanks or line breaks; may be none; a repeated one counts once."""
    _check_marks(entry)
    found = tuple(dict.fromkeys(entry.text.replace(",", " ").split()))
    if not all(word.isprintable() for word in found):
        raise entry.error("holds a control character", "write words with commas between them")
    return found


#: The versions of the protocol that may be named; `protocol.versions` has their tables.
PROTOCOL_VERSIONS = (0, 1)


def protocol_versions(entry: ConfigEntry) -> tuple[int, ...]:
    """Versions of the protocol between commas or blanks, at least one."""
    found = tuple(sorted(_protocol_version(entry, word) for word in words(entry)))
    if not found:
        raise entry.error("is empty", "name at least one version, such as `1`")
    return found


def named_versions(entry: ConfigEntry) -> tuple[tuple[str, int], ...]:
    """Words `NAME=VERSION`, of a peer's common name and a version of the protocol."""
    found = []
    for word in words(entry):
        name, sign, version = word.rpartition("=")
        if not (name and sign):
            raise entry.error(f"{word!r} is not `NAME=VERSION`", "write such as `sigul-old=0`")
        found.append((name, _protocol_version(entry, version)))
    return tuple(found)


def _protocol_version(entry: ConfigEntry, word: str) -> int:
    if word not in map(str, PROTOCOL_VERSIONS):
        known = " or ".join(map(str, PROTOCOL_VERSIONS))
        raise entry.error(f"{word!r} is no version of the protocol", f"write {known}")
    return int(word)


def lines(entry: ConfigEntry) -> tuple[str, ...]:
    """The lines that are not empty, without surrounding blanks."""
    return tuple(line.strip() for line in entry.text.splitlines() if line.strip())


def choice(*allowed: str) -> Callable[[ConfigEntry], str]:
    """One of `allowed`, in any case; given back as it is written there."""

    return lambda entry: _choose(entry, entry.text, allowed)


def choices(*allowed: str) -> Callable[[ConfigEntry], tuple[str, ...]]:
    """A list of `allowed` words (see `words`), in any case."""

    return lambda entry: tuple(_choose(entry, word, allowed) for word in words(entry))


def _choose(entry: ConfigEntry, word: str, allowed: tuple[str, ...]) -> str:
    for candidate in allowed:
        if candidate.lower() == word.lower():
            return candidate
    raise entry.error(f"{word!r} is not possible here", "write one of: " + ", ".join(allowed))


def algorithm(entry: ConfigEntry) -> str:
    """The name or number of an OpenPGP algorithm or usage as GnuPG's parameters take it."""
    if not re.fullmatch(r"[A-Za-z0-9_., -]*", entry.text):
        raise entry.error(
            f"{entry.text!r} is no name that GnuPG takes",
            "write letters, digits and `-` only, for example RSA",
        )
    return entry.text


#: The algorithms of public keys that GnuPG takes for a new key, by name (with those of its 2.5) and
#: by OpenPGP's number, and the curves that stand for an algorithm here; all in lower case.
_PUBLIC_KEY_ALGORITHMS = frozenset(
    {
        *("default", "rsa", "elg", "elg-e", "dsa", "ecdh", "ecdsa", "eddsa", "ecc", "kyber"),
        *("openpgp-rsa", "openpgp-dsa", "1", "8", "16", "17", "18", "19", "22"),
        *("ed25519", "cv25519", "nistp256", "nistp384", "nistp521"),
    }
)


def public_key_algorithm(entry: ConfigEntry) -> str:
    """The name or number of an algorithm of GnuPG's for public keys, or a curve, in any case."""
    name = algorithm(entry)
    if name.lower() not in _PUBLIC_KEY_ALGORITHMS:
        raise entry.error(
            f"{name!r} is no algorithm of GnuPG's for public keys",
            "write RSA, DSA, ELG or a curve: ed25519, cv25519, nistp256, nistp384, nistp521",
        )
    return name


def optional_public_key_algorithm(entry: ConfigEntry) -> str:
    """As `public_key_algorithm`, or nothing."""
    return public_key_algorithm(entry) if entry.text else ""


def path(entry: ConfigEntry) -> Path:
    """A file or directory, made absolute: `~` is expanded, a relative one starts where we run.

    Or where `relative_to` says.
    """
    return Path(absolute(text(entry), entry))


def metrics_file(entry: ConfigEntry) -> Path:
    """A file for node_exporter's textfile collector, which takes `*.prom`, as `path`."""
    found = path(entry)
    if found.suffix != ".prom":
        raise entry.error(
            f"'{found}' does not end in .prom: node_exporter's textfile collector passes it over",
            "name such as /var/lib/prometheus/node-exporter/sigul_server.prom",
        )
    return found


def database_file(entry: ConfigEntry) -> Path:
    """The path of an SQLite file, as `path`, and no URL."""
    if "://" in entry.text:
        problem = "is a URL, and has to be the path of an SQLite file"
        raise entry.error(problem, "write the path; a URL for PostgreSQL goes into database-url")
    return path(entry)


#: Longest path of a Unix socket, in bytes, less what a temporary name needs.
_MAX_SOCKET_PATH = 100


def optional_socket(entry: ConfigEntry) -> Path | None:
    """The absolute path of a Unix socket; None where it is empty."""
    if not entry.text:
        return None
    found = Path(text(entry))
    if not found.is_absolute():
        raise entry.error(f"{entry.text!r} is not an absolute path", "begin it with `/`")
    if len(os.fsencode(found)) > _MAX_SOCKET_PATH:
        raise entry.error(
            f"is longer than {_MAX_SOCKET_PATH} bytes, the most for a socket's path",
            "name a path in another directory, for example in /run/sigul",
        )
    return found


#: Where relative paths start; None: in the current directory.
_start: ContextVar[Path | None] = ContextVar("start", default=None)


@contextlib.contextmanager
def relative_to(directory: Path) -> Iterator[None]:
    """Let relative paths that are read in the block start in `directory`."""
    token = _start.set(directory)
    try:
        yield
    finally:
        _start.reset(token)


def absolute(name: str, entry: ConfigEntry | None = None) -> str:
    """`name` as an absolute path, `~` expanded; `entry` is for the message."""
    expanded = os.path.expanduser(name)  # noqa: PTH111 - of Path's, "~x" without a home raises
    if expanded.startswith("~"):
        problem = f"{name!r} names a home directory, and this user has none"
        cure = "write the whole path"
        if entry is not None:
            raise entry.error(problem, cure)
        raise ConfigurationError(problem, f"{cure} (or set HOME)")
    start = _start.get()
    return str(Path(expanded).absolute() if start is None else start / expanded)


def any_secret(entry: ConfigEntry) -> Secret:
    """The text itself as a secret, or for an option `…-file` the contents of the file it names.

    An empty text is a secret too: the empty password.
    """
    return secret_file(entry) if entry.option.endswith("-file") else Secret(entry.text)


def secret_file(entry: ConfigEntry) -> Secret:
    """The secret in the file that the entry names.

    Exactly one line end (LF or CR LF) or one NUL at the end of the file is taken for what
    an editor, `echo` or a provisioning script put there, and removed: a secret that really ends
    with one has to be written twice. Everything else in the file belongs to the secret.
    """
    file = path(entry)
    try:
        data = read_small(file, MAX_SECRET_FILE_SIZE)
    except OSError as error:
        raise entry.error(
            f"{str(file)!r} cannot be read: {error.strerror}",
            "name a file that holds nothing but the secret and that this user may read",
        ) from error
    if len(data) > MAX_SECRET_FILE_SIZE:
        raise entry.error(
            f"{str(file)!r} is larger than {MAX_SECRET_FILE_SIZE} bytes",
            "name a file that holds nothing but the secret",
        )
    return Secret(strip_one_end(data))


def strip_one_end(data: bytes) -> bytes:
    """`data` without one CR LF, LF or NUL at its end, if there is one."""
    for end in (b"\r\n", b"\n", b"\0"):
        if data.endswith(end):
            return data[: -len(end)]
    return data
