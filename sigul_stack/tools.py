"""The programs and libraries beside Python that operations need, and the packages they come in.

One table: the modules that run a program name it from here, a server tells at start what its
machine lacks, and `sigul-stack doctor` lists all. A missing one is an error of the operations that
need it, and of no others.

Not here because nothing runs them: rpmsign, ostree, evmctl, skopeo. RPM headers, OSTree commits,
container manifests and IMA signatures are written by `signing` itself.
"""

from __future__ import annotations

import enum
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import KeystoreError, ToolMissing

#: How long a program may take to tell its version, in seconds.
VERSION_SECONDS: Final = 5.0

_VERSION: Final = re.compile(r"\d+(?:\.\d+)+(?:[a-z]+\d*|-\d+)?")


class Kind(enum.Enum):
    """The ways to find a tool."""

    PROGRAM = "a program on PATH"
    OPENSSL_ENGINE = "an engine of OpenSSL"
    LIBRARY = "a shared library"


@dataclass(frozen=True, slots=True)
class Tool:
    """One program or library. `needed_for` names operations, or what else needs it.

    `users` are the components that run it. `binding` is the binding method that alone needs it,
    empty for none. `version_arguments` make it tell its version, empty where it has no way.
    """

    name: str
    package: str
    needed_for: tuple[str, ...]
    users: frozenset[str]
    binding: str = ""
    version_arguments: tuple[str, ...] = ("--version",)
    kind: Kind = Kind.PROGRAM

    def find(self) -> Path | None:
        """Its path on this machine, or None."""
        if self.kind is Kind.OPENSSL_ENGINE:
            return _find_engine(self.name)
        if self.kind is Kind.LIBRARY:
            return _find_library(self.name)
        found = shutil.which(self.name)
        return Path(found) if found else None

    def missing(self) -> ToolMissing:
        """The error of an operation that needs it and does not find it."""
        is_engine = self.kind is Kind.OPENSSL_ENGINE
        what = f"OpenSSL's engine {self.name}" if is_engine else self.name
        return ToolMissing(f"{what} is not installed", f"install the package {self.package}")

    @property
    def unavailable(self) -> str:
        """The operations that need it, in one phrase."""
        return ", ".join(self.needed_for)

    def version(self) -> str:
        """The version that it tells, such as `2.4.7`; empty where it tells none in time."""
        if not self.version_arguments or (path := self.find()) is None:
            return ""
        found = _VERSION.search(_output(str(path), *self.version_arguments))
        return found[0] if found else ""


#: What needs a token's key, in lists of what a missing tool makes unavailable.
_TOKENS: Final = "PKCS11 keys"
_SERVER: Final = frozenset({"server"})
_BOTH: Final = frozenset({"server", "client"})

GPG: Final = Tool(
    "gpg",
    "gnupg",
    (
        "gnupg keys", "sign-text", "sign-data", "decrypt", "sign-git-tag", "sign-container",
        "sign-ostree", "sign-rpm", "sign-rpms",
    ),
    _SERVER,
)  # fmt: skip
GPGCONF: Final = Tool("gpgconf", "gnupg", GPG.needed_for, _SERVER)
GPG_AGENT: Final = Tool("gpg-agent", "gnupg", GPG.needed_for, _SERVER)
RPMKEYS: Final = Tool("rpmkeys", "rpm", ("sign-rpm", "sign-rpms"), _SERVER)
OSSLSIGNCODE: Final = Tool("osslsigncode", "osslsigncode", (_TOKENS,), _SERVER)
GPG_VERIFY: Final = Tool("gpg", "gnupg", ("verify",), frozenset({"client"}))
GIT: Final = Tool("git", "git", ("sign-git-tag",), frozenset({"client"}))
OPENSSL: Final = Tool("openssl", "openssl", ("binding with pkcs11",), _BOTH, "pkcs11", ("version",))
OPENSSL_PKCS11: Final = Tool(
    "pkcs11",
    "libengine-pkcs11-openssl",
    ("binding with pkcs11", _TOKENS),
    _BOTH,
    "pkcs11",
    (),
    Kind.OPENSSL_ENGINE,
)
#: Every token that the system has set up, in one module.
P11_KIT: Final = Tool(
    "p11-kit-proxy.so", "p11-kit-modules", (_TOKENS,), _SERVER, "", (), Kind.LIBRARY
)
#: One of the programs of tpm2-tools, all of which come together.
TPM2_TOOLS: Final = Tool("tpm2_unseal", "tpm2-tools", ("binding with tpm",), _BOTH, "tpm")
KEYCTL: Final = Tool("keyctl", "keyutils", ("binding with keyring",), _BOTH, "keyring")
_EVERYBODY: Final = frozenset({"bridge", "server", "client"})
CERTUTIL: Final = Tool(
    "certutil", "libnss3-tools", ("sigul-stack pki", "sigul-stack doctor"), _EVERYBODY, "", ()
)
PK12UTIL: Final = Tool(
    "pk12util", "libnss3-tools", ("sigul-stack pki", "sigul_setup_client"), _EVERYBODY, "", ()
)

#: What to do where a tool of a server ran out of the time that it is given.
RAISE_SIGNING_TIMEOUT: Final = "raise the server's signing-timeout if it has more work than that"

#: Every tool there is, in the order in which reports show them.
TOOLS: Final = (
    GPG, GPGCONF, GPG_AGENT, RPMKEYS, OSSLSIGNCODE, GPG_VERIFY, GIT, OPENSSL, OPENSSL_PKCS11,
    TPM2_TOOLS, KEYCTL, CERTUTIL, PK12UTIL,
)  # fmt: skip

#: Names of binding methods that are other names of one.
_SAME_METHOD: Final = {"keyctl": "keyring"}


def tools_of(component: str, bindings: tuple[str, ...] = ()) -> tuple[Tool, ...]:
    """The tools of `bridge`, `server` or `client`, where these binding methods are enabled."""
    enabled = {_SAME_METHOD.get(name, name) for name in bindings}
    return tuple(
        tool
        for tool in TOOLS
        if component in tool.users and (not tool.binding or tool.binding in enabled)
    )


def _find_engine(name: str) -> Path | None:
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    # `ENGINESDIR: "/usr/lib/x86_64-linux-gnu/engines-3"`
    directory = re.search(r'"(.+)"', _output(openssl, "version", "-e"))
    path = Path(directory[1]) / f"{name}.so" if directory else None
    return path if path is not None and path.is_file() else None


def _find_library(name: str) -> Path | None:
    for directory in _LIBRARIES:
        for path in sorted(Path("/").glob(directory)):
            if (path / name).is_file():
                return path / name
    return None


#: Directories of libraries on Debian and Fedora, from the root.
_LIBRARIES: Final = ("usr/lib/*-linux-gnu", "usr/lib64", "usr/lib", "usr/local/lib")


def _output(*command: str) -> str:
    """The output of a program about itself; empty where it does not end or cannot be run."""
    from .system.programs import run  # a client that only signs has no use for it

    try:
        done = run(
            command,
            package="",
            time_limit=VERSION_SECONDS,
            environment={"HOME": "/nonexistent"},
        )
    except KeystoreError:
        return ""
    return done.stdout.decode("utf-8", "replace") + done.stderr
