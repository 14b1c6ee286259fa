"""What is in which image, as data: Debian packages, Python extras, and what is taken out again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: The Debian release, and the Python that it has.
SUITE: Final = "trixie"
PYTHON: Final = "3.13"
#: The newest C library that wheels may ask for: that of SUITE.
GLIBC_MINOR: Final = 41

#: Where the programs are in an image.
PREFIX: Final = "opt/sigul-stack"
#: The package list of an image.
SBOM: Final = "usr/share/sigul-stack/sbom.json"

#: In every image: an init that passes signals on, Python, NSS and its tools.
BASE_PACKAGES: Final = ("tini", "python3", "libnss3", "libnss3-tools")

#: The bindings of passphrases start these: openssl with its PKCS#11 engine, keyctl, tpm2-tools.
_BINDINGS: Final = (
    *("openssl", "libengine-pkcs11-openssl", "p11-kit-modules"),
    *("keyutils", "tpm2-tools"),
)

#: What Kerberos and LDAP of Koji and group checks load; the client has the former alone.
_KERBEROS: Final = ("libgssapi-krb5-2",)
_LDAP: Final = ("libldap2",)

#: Distributions that have no wheels for Linux, the extras that need one of them, and the packages
#: that compile them. These are in no image.
COMPILED: Final = ("gssapi", "python-ldap")
COMPILED_FOR: Final = frozenset({"koji", "fasjson", "ldap"})
COMPILED_WITH: Final = (
    *("ca-certificates", "gcc", "libc6-dev", "libkrb5-dev", "libldap-dev", "libsasl2-dev"),
    "python3-dev",
)


@dataclass(frozen=True, slots=True)
class Component:
    """An image on top of `base`."""

    name: str
    packages: tuple[str, ...]
    extras: tuple[str, ...]


COMPONENTS: Final = {
    component.name: component
    for component in (
        Component("bridge", (*_KERBEROS, *_LDAP), ("nss", "koji", "fasjson", "ldap")),
        Component(
            "server",
            ("gpg", "gpg-agent", "rpm", "osslsigncode", *_BINDINGS),
            ("nss", "postgresql"),
        ),
        Component(
            "client",
            ("git", "gpg", "gpg-agent", *_BINDINGS, *_KERBEROS),
            ("nss", "koji"),
        ),
    )
}

#: What scripts and probes of Helm charts start besides, in images of their own: bash, ss, pgrep and
#: sqlite3.
CHART_PACKAGES: Final = ("bash", "iproute2", "procps", "sqlite3")
#: Those images, and the components that they are made on.
CHARTS: Final = {f"{name}-chart": name for name in COMPONENTS}

#: Packages that installing needs, or that others ask for without a use here. Removed at the end, in
#: this order, each group in one step: PAM's scripts still need debconf. (util-linux is needed: its
#: prlimit and setpriv start each program.)
UNWANTED: Final = (
    ("libpam-modules", "libpam-runtime", "libpam-modules-bin", "libpam0g"),
    (
        *("adduser", "bash", "bsdutils", "debconf", "diffutils", "dmsetup", "git-man", "hostname"),
        *("init-system-helpers", "liberror-perl", "libperl5.40", "login", "login.defs", "mawk"),
        *("mount", "ncurses-bin", "passwd", "perl", "perl-base", "perl-modules-5.40"),
        *("pinentry-curses", "systemd", "systemd-sysv", "sysvinit-utils", "tpm-udev", "udev"),
    ),
)
