"""A GnuPG home as a directory: its configuration, its permissions, its path's length.

Settings that existing sites made are theirs: they are checked and reported, never changed. What
else is in a home, and who writes it: docs/storage.md, "OpenPGP keys".
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import socket
import stat
import tempfile
from pathlib import Path

from ...errors import KeystoreError
from ...logevents import tell
from ...system.files import opened, write_whole
from ..log_events import KeystoreLog

_log = logging.getLogger(__name__)

#: What an agent has of memory that is never swapped out is enough for a dozen signatures with a
#: long RSA key at the same time; with this line it takes more, which may be swapped.
EXPANDING = "auto-expand-secmem"

#: Nothing is cached, nobody else can ask the agent for it, and no smart card is looked for.
#: (No s2k-count here: gpg also takes it from the agent for what it encrypts with a passphrase, and
#: those may be people's. See `SCRATCH_AGENT_CONFIGURATION`.)
AGENT_CONFIGURATION = """\
allow-loopback-pinentry
no-allow-external-cache
ignore-cache-for-signing
default-cache-ttl 0
max-cache-ttl 0
disable-scdaemon
auto-expand-secmem
"""

#: Where keys are made: they are protected with passphrases that are random and long, so the
#: fewest rounds that GnuPG allows do, and each signature is ten times as fast.
SCRATCH_AGENT_CONFIGURATION = AGENT_CONFIGURATION + "s2k-count 65536\n"

AGENT_CONFIGURATION_NAME = "gpg-agent.conf"

#: What tells that a directory is in use as a GnuPG home.
_SIGNS_OF_USE = (
    AGENT_CONFIGURATION_NAME,
    "gpg.conf",
    "private-keys-v1.d",
    "pubring.gpg",
    "pubring.kbx",
    "secring.gpg",
)

#: The longest path of a home in which the agent's sockets have paths of at most 106 bytes, which
#: is what libassuan makes of the system's 107.
_LONGEST_PATH = 106 - len("/S.gpg-agent.browser")
#: Where short names for long paths are kept, in a directory that belongs to the user alone.
_SHORT_NAMES = Path("/tmp")  # noqa: S108 - see _private_directories
#: Seconds that an agent may take to answer.
_AGENT_SECONDS = 5


def prepare_directory(path: Path) -> None:
    """Make `path` a GnuPG home with our configuration, or check the one that is there.

    Raises `KeystoreError` where it cannot be used, and `OSError`.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = not any((path / name).exists() for name in _SIGNS_OF_USE)
    found = path.stat()
    if new and found.st_uid == os.geteuid():
        with opened(path) as descriptor:
            os.fchmod(descriptor, 0o700)
        found = path.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise KeystoreError(
            f"GnuPG home {path} must belong to user {os.geteuid()} and nobody else may use it:"
            f" chown -R {os.geteuid()} '{path}' && chmod 700 '{path}'"
        )
    if new:
        write_whole(path / AGENT_CONFIGURATION_NAME, AGENT_CONFIGURATION.encode(), replace=False)
    else:
        _check_configuration(path)


def _options(path: Path) -> dict[str, str]:
    """The options in a configuration file of GnuPG; none if it does not exist."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.strip().partition(" ") for line in lines)
    return {name: value.strip() for name, _, value in pairs if name and not name.startswith("#")}


def _check_configuration(path: Path) -> None:
    if "use-keyboxd" in _options(path / "common.conf"):
        raise KeystoreError(
            f"{path / 'common.conf'} has use-keyboxd, which a signing server does not support",
            "export the public keys, remove that line and import them again",
        )
    agent = _options(path / AGENT_CONFIGURATION_NAME)
    if "no-allow-loopback-pinentry" in agent:
        raise KeystoreError(
            f"{path / AGENT_CONFIGURATION_NAME} has no-allow-loopback-pinentry, so that no"
            " passphrase can be given to GnuPG",
            f"remove that line, then: gpgconf --homedir '{path}' --kill gpg-agent",
        )
    if agent.get("max-cache-ttl") not in ("0", "1"):
        tell(_log, KeystoreLog.AGENT_KEEPS_PASSPHRASES, path=str(path / AGENT_CONFIGURATION_NAME))
    if (lack := small_memory(path)) is not None:
        tell(_log, KeystoreLog.AGENT_MEMORY_SMALL, problem=lack[0], cure=lack[1])


def small_memory(path: Path) -> tuple[str, str] | None:
    """Return what a home's agent lacks for many signatures at once, and the cure, or None."""
    file = path / AGENT_CONFIGURATION_NAME
    if EXPANDING in _options(file) or not any((path / name).exists() for name in _SIGNS_OF_USE):
        return None
    return (
        f"{file} keeps gpg-agent at its first 64 KiB of secure memory, so that many signatures at"
        " once fail, of long RSA keys even a few",
        f"add: {EXPANDING}, then: gpgconf --homedir '{path}' --kill gpg-agent",
    )


def short_path(path: Path) -> Path:
    """A name of the home `path` that is short enough for the agent's sockets in it.

    Where it is too long itself, that is a symbolic link in a directory that this user alone may
    use, and the same for all processes. Raises `KeystoreError` where that cannot be made.
    """
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    try:
        directories = _private_directories()
        for directory in directories:
            if (directory / name).is_symlink():
                return directory / name
        link = (directories[0] if directories else _new_private_directory()) / name
        # Others may be doing the same: all of them make the same link.
        temporary = link.with_name(f"{name}.{secrets.token_hex(8)}")
        temporary.symlink_to(path)
        temporary.replace(link)
    except OSError as error:
        raise KeystoreError(
            f"cannot make a short name in {_SHORT_NAMES} ({error.strerror}), which a gnupg-home"
            f" with a path of more than {_LONGEST_PATH - len('/.new-12345678')} bytes needs",
            "use a shorter one",
        ) from error
    if link.parent != _known_directory():
        _end_agent(link)
    return link


def forget_short_path(path: Path) -> None:
    """Remove the short name of a home that is no more."""
    short = short_path(path)
    if short != path:
        short.unlink(missing_ok=True)


def _known_directory() -> Path:
    return _SHORT_NAMES / f"sigul-gnupg-{os.geteuid()}"


def _private_directories() -> list[Path]:
    """The directories for short names that nobody but this user may use, in one order.

    In a directory that anybody may write to, others may have come first to each name that they
    know: what is not this user's alone is passed over.
    """
    known = _known_directory()
    with contextlib.suppress(FileExistsError):
        known.mkdir(mode=0o700)
    if _is_ours_alone(known):
        return [known]
    with os.scandir(_SHORT_NAMES) as entries:
        names = sorted(entry.name for entry in entries if entry.name.startswith(f"{known.name}."))
    return [found for name in names if _is_ours_alone(found := _SHORT_NAMES / name)]


def _is_ours_alone(directory: Path) -> bool:
    try:
        found = directory.lstat()
    except FileNotFoundError:
        return False
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid == os.geteuid()
        and not stat.S_IMODE(found.st_mode) & 0o077
    )


def _new_private_directory() -> Path:
    """A directory with a name that nobody knew before it was there."""
    known = _known_directory()
    tell(_log, KeystoreLog.SHORT_PATH_TAKEN, path=str(known), user_id=os.geteuid())
    return Path(tempfile.mkdtemp(prefix=f"{known.name}.", dir=known.parent))


def _end_agent(link: Path) -> None:
    """End an agent that was started with another name of this home, which somebody has taken."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as agent:
        agent.settimeout(_AGENT_SECONDS)
        agent.connect(str(link / "S.gpg-agent"))
        agent.recv(1000)  # its greeting
        agent.sendall(b"KILLAGENT\n")
        agent.recv(1000)
