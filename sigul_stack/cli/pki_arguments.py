"""The command line of `sigul-stack pki`: a table of commands, each with help, example and options.

What the commands do is in `pki`, which hands the functions in; nothing is done here.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from .shared_arguments import Argument, Subparsers, add_command, argument

Run = Callable[[argparse.Namespace], int | None]

_ROLES: Final = ("bridge", "server", "client")
_DAYS_A_YEAR: Final = 365
_WIDTH: Final = 80

#: Long enough for any CA. Certificates for centuries are never renewed, nor is renewal practised.
_LONGEST: Final = timedelta(days=30 * _DAYS_A_YEAR)


@dataclass(frozen=True, slots=True)
class PKICommand:
    """A row of the table. `example` is shown as it stands."""

    name: str
    summary: str
    example: str
    description: str
    arguments: tuple[Argument, ...]


def declare(subparsers: Subparsers, runs: Mapping[str, Run]) -> None:
    """Add the parsers of `pki` and of its commands; each command's `func` is the one in `runs`."""
    commands = subparsers.add_parser(
        "pki",
        help="make, renew and check certificates in NSS databases",
        description="Makes a CA and leaf certificates, each in an NSS database that holds only what"
        " its owner needs; imports, lists, renews and checks them.",
    ).add_subparsers(dest="pki_command", required=True, metavar="COMMAND")
    for row in _COMMANDS:
        add_command(
            commands,
            row.name,
            runs[row.name],
            *row.arguments,
            help=row.summary,
            # Wrapped here, because an example is to be copied as it stands.
            formatter_class=argparse.RawDescriptionHelpFormatter,
            description=textwrap.fill(row.description, _WIDTH),
            epilog=f"Example:\n  {row.example}",
        )


def _lifetime(text: str) -> timedelta:
    """A lifetime from a number of years of 365 days, which may be a fraction."""
    try:
        lifetime = timedelta(days=float(text) * _DAYS_A_YEAR)
    except (ValueError, OverflowError):
        lifetime = timedelta(0)
    if not timedelta(0) < lifetime <= _LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of years up to 30; write for example 2"
        )
    return lifetime


def _years(option: str, default: int, help: str) -> Argument:
    return argument(
        option,
        type=_lifetime,
        default=_lifetime(str(default)),
        metavar="YEARS",
        help=f"{help} (default: {default})",
    )


def _names(option: str, help: str) -> Argument:
    return argument(
        option, action="append", default=[], metavar="NAME", help=f"{help} (repeatable)"
    )


def _password(
    option: str = "--password-file",
    help: str = "of the NSS database (default: nss-password in its directory)",
    dest: str | None = None,
) -> Argument:
    return argument(option, type=Path, metavar="FILE", dest=dest, help=f"password {help}")


_PASSWORD: Final = _password()
_CA: Final = (
    argument("--ca", required=True, metavar="DIR", type=Path, help="the CA's directory"),
    argument("--ca-nickname", help="where the directory holds several CAs"),
    _password("--ca-password-file", "of the CA's database (default: CA-DIR/nss-password)"),
)
_INTO: Final = argument(
    "--into", required=True, metavar="DIRECTORY", type=Path, help="the NSS database's directory"
)
_DIRECTORY: Final = argument(
    "directory", metavar="DIRECTORY", type=Path, help="the database's directory"
)
_OWNER: Final = (
    argument("--owner", metavar="USER[:GROUP]", help="owner of what is made"),
    argument("--mode", metavar="MODE", help="of the files made (default: 0600)"),
)
_WARN_DAYS: Final = argument(
    "--warn-days", type=int, default=30, metavar="DAYS", help="warn this early (default: 30)"
)
_JSON: Final = argument("--json", action="store_true", help="JSON instead of text")

_KEY_TYPE: Final = argument(
    "--key-type",
    choices=("rsa", "p256"),
    default="rsa",
    help="rsa, which every peer takes, or p256, which costs each handshake less (default: rsa)",
)

_COMMANDS: Final = (
    PKICommand(
        "site",
        "make all of a new site's certificates in one go",
        "sigul-stack pki site --dir /srv/sigul-pki --bridge sigul-bridge.example.org"
        " --server sigul-server.example.org --user admin alice",
        "Makes DIR/ca, DIR/bridge, DIR/server and DIR/clients/USER. What is there and good is kept;"
        " certificates that run out or lack a name are renewed. DIR/ca stays on this machine.",
        (
            argument("--dir", required=True, type=Path, help="where everything is made"),
            argument("--bridge", required=True, metavar="NAME", help="the bridge's host name"),
            argument("--server", required=True, metavar="NAME", help="the server's name"),
            argument(
                "--user", nargs="+", action="extend", default=[], metavar="NAME", help="Sigul users"
            ),
            _names("--bridge-san", "a further name or address by which the bridge is reached"),
            _names("--server-san", "a further name of the server"),
            _KEY_TYPE,
            _years("--years", 2, "how long leaf certificates are valid"),
            _years("--ca-years", 10, "how long the CA is valid"),
            _password("--ca-password-file", "of the CA's database (default: random, beside it)"),
            *_OWNER,
            _JSON,
        ),
    ),
    PKICommand(
        "init-ca",
        "make a CA",
        "sigul-stack pki init-ca --dir /srv/sigul-pki/ca",
        "Makes an NSS database with the CA's certificate (nickname sigul-ca) and private key, and"
        " ca.pem beside it. Without --password-file the password is random, in DIR/nss-password.",
        (
            argument("--dir", required=True, type=Path, help="the CA's own directory"),
            argument("--name", help="the CA's name (default: Sigul CA and a random number)"),
            _years("--years", 10, "how long the CA is valid"),
            _PASSWORD,
            *_OWNER,
        ),
    ),
    PKICommand(
        "issue",
        "issue a leaf certificate into its owner's database",
        "sigul-stack pki issue --ca /srv/sigul-pki/ca --into /srv/sigul-pki/bridge --role bridge"
        " --name sigul-bridge.example.org --san sigul-bridge --san 192.0.2.7",
        "Makes the database where it is missing, and puts the CA's certificate, the new"
        " certificate and its private key into it, nothing else. Take the directory to its owner;"
        " the CA's stays.",
        (
            *_CA,
            _INTO,
            argument("--role", required=True, choices=_ROLES, help="whose certificate it is"),
            argument(
                "--name",
                required=True,
                metavar="CN",
                help="host name; for a client its user's name",
            ),
            _names("--san", "a further host name or IP address by which it is reached"),
            _years("--years", 2, "how long it is valid, but no longer than the CA"),
            argument("--nickname", help="default: sigul-ROLE-cert"),
            _KEY_TYPE,
            argument(
                "--key-bits",
                type=int,
                default=2048,
                choices=(2048, 3072, 4096),
                help="RSA (default: 2048)",
            ),
            _PASSWORD,
            *_OWNER,
        ),
    ),
    PKICommand(
        "import",
        "bring a certificate and key, or a CA's certificate, of a CA of your own",
        "sigul-stack pki import --into /etc/sigul/nss --cert bridge.pem --key bridge.key"
        " --ca site-ca.pem --nickname sigul-bridge-cert",
        "Puts an existing certificate with its private key into an NSS database, which is made"
        " where it is missing. Dates, usage, names and the chain up to a trusted CA are looked at"
        " first, and NSS is asked. With --ca alone, only CA certificates are added and trusted.",
        (
            _INTO,
            argument("--pkcs12", type=Path, metavar="FILE", help="PKCS#12 with both"),
            _password("--pkcs12-password-file", "of the PKCS#12 file"),
            argument("--cert", type=Path, metavar="PEM", help="certificate, or its whole chain"),
            argument("--key", type=Path, metavar="PEM", help="private key"),
            _password("--key-password-file", "of the private key"),
            argument(
                "--ca",
                type=Path,
                nargs="+",
                default=[],
                metavar="PEM",
                help="CA certificates to trust",
            ),
            argument(
                "--nickname",
                help="the certificate's (default: sigul-ROLE-cert, with --role); with --ca alone"
                " the CA's",
            ),
            argument(
                "--role",
                choices=_ROLES,
                help="whose certificate it is (default: whose --nickname has it by default)",
            ),
            _names("--name", "a name that has to be in the certificate; for a client the user"),
            argument("--replace", action="store_true", help="instead of the one there"),
            argument(
                "--as-ca", action="store_true", help="it is a CA, and this is the CA's own database"
            ),
            _PASSWORD,
            *_OWNER,
        ),
    ),
    PKICommand(
        "export",
        "write a certificate, its key and the CAs as PEM, for programs without NSS",
        "sigul-stack pki export /srv/sigul-pki/clients/alice --to /srv/hand-out/alice"
        " --key-password-file pw",
        "Writes NICKNAME.crt (intermediate CAs after it), NICKNAME.key (PKCS#8) and ca.crt, which"
        " holds both CAs while one is rolled over: what OpenSSL-based clients such as siguldry's"
        " take. The database stays as it is.",
        (
            _DIRECTORY,
            argument("--nickname", help="the certificate's (default: the one with a private key)"),
            argument("--to", type=Path, metavar="DIRECTORY", help="where the files go"),
            argument("--cert", type=Path, metavar="PEM", help="another file for the certificate"),
            argument("--key", type=Path, metavar="PEM", help="another file for the private key"),
            argument("--ca", type=Path, metavar="PEM", help="another file for the CAs"),
            _password("--key-password-file", "that the key is encrypted with (default: it is not)"),
            argument(
                "--ask-key-password", action="store_true", help="ask for that password instead"
            ),
            argument("--replace", action="store_true", help="write over files that are there"),
            _PASSWORD,
            argument("--owner", metavar="USER[:GROUP]", help="owner of the files"),
            argument("--mode", metavar="MODE", help="of the key (default: 0600)"),
        ),
    ),
    PKICommand(
        "list",
        "show what databases hold, with days left",
        "sigul-stack pki list /srv/sigul-pki/bridge /srv/sigul-pki/server",
        "Exit status 1 if any certificate has expired; which is said on standard error. The"
        " password (--password-file, or DIRECTORY/nss-password) only makes the private keys sure.",
        (
            argument(
                "directories",
                nargs="+",
                metavar="DIRECTORY",
                type=Path,
                help="the databases' directories",
            ),
            _PASSWORD,
            _WARN_DAYS,
            _JSON,
        ),
    ),
    PKICommand(
        "check",
        "check that a database is what its component needs, and holds nothing else",
        "sigul-stack pki check /etc/sigul/nss --role bridge --name sigul-bridge.example.org",
        "Password, private key, dates, names, usage, CA, and that no CA's or other's private key is"
        " in there. Exit status 1 if anything is wrong.",
        (
            _DIRECTORY,
            argument("--role", required=True, choices=_ROLES, help="whose database it is"),
            argument("--nickname", help="default: sigul-ROLE-cert"),
            _names("--name", "a name that has to be in the certificate; for a client the user"),
            _PASSWORD,
            _WARN_DAYS,
            _JSON,
        ),
    ),
    PKICommand(
        "renew",
        "renew one leaf certificate",
        "sigul-stack pki renew --ca /srv/sigul-pki/ca /srv/sigul-pki/bridge --nickname"
        " sigul-bridge-cert",
        "The subject, names and nickname stay, and so does the key without --new-key. Programs that"
        " run keep what they opened; send them SIGHUP to have the new one used. To change the CA:"
        " pki rollover.",
        (
            *_CA,
            _DIRECTORY,
            argument("--nickname", required=True, help="the certificate's nickname"),
            _names("--san", "a name to add"),
            _years("--years", 2, "how long it is valid, but no longer than the CA"),
            argument("--new-key", action="store_true", help="with a new private key, too"),
            _PASSWORD,
        ),
    ),
    PKICommand(
        "renew-ca",
        "renew the CA's own certificate, with the same name and key",
        "sigul-stack pki renew-ca --dir /srv/sigul-pki/ca",
        "All certificates that it issued stay valid. Take the new ca.pem to every database (pki"
        " import --ca, or pki site again) before the old one expires.",
        (
            argument("--dir", required=True, type=Path, dest="ca", help="the CA's directory"),
            argument("--ca-nickname", help="where the directory holds several CAs"),
            _years("--years", 10, "how long the CA is valid"),
            _password("--password-file", dest="ca_password_file"),
        ),
    ),
    PKICommand(
        "rollover",
        "replace the CA by a new one while the site works",
        "sigul-stack pki rollover begin --ca /srv/sigul-pki/ca --into /srv/sigul-pki/bridge"
        " /srv/sigul-pki/server /srv/sigul-pki/clients/*\n"
        "  (take the databases to their components, send the daemons SIGHUP)\n"
        "  sigul-stack pki rollover issue --ca /srv/sigul-pki/ca\n"
        "  (the same again)\n"
        "  sigul-stack pki rollover finish --ca /srv/sigul-pki/ca",
        "begin: makes the next CA, and has both trusted in all databases. issue: gives the leaf in"
        " each database, or in those named, a certificate of the new CA; names, lifetime and key"
        " stay. finish: has the old CA trusted nowhere, and deletes it. status: how far it has"
        " come. A step that comes too early is refused; one that was cut off is repeated.",
        (
            argument("step", choices=("begin", "issue", "finish", "status"), help="what to do"),
            *_CA,
            argument(
                "--into",
                metavar="DIRECTORY",
                nargs="+",
                action="extend",
                default=[],
                type=Path,
                help="components' databases (default: those that take part already)",
            ),
            argument("--name", help="begin: the new CA's name (default: with a random number)"),
            _years("--years", 10, "begin: how long the new CA is valid"),
            argument("--new-key", action="store_true", help="issue: with new private keys, too"),
            _JSON,
        ),
    ),
    PKICommand(
        "remove",
        "remove a certificate, and its private key, from a database",
        "sigul-stack pki remove /srv/sigul-pki/bridge --nickname old-ca",
        "A CA whose certificates are still in the database is not removed.",
        (
            _DIRECTORY,
            argument("--nickname", required=True, help="the certificate's nickname"),
            argument(
                "--others",
                action="store_true",
                help="of several certificates with this nickname, keep the one that NSS uses: the"
                " newest that is valid",
            ),
            _PASSWORD,
        ),
    ),
    PKICommand(
        "convert",
        "convert a database of the old format (cert8.db, key3.db)",
        "sigul-stack pki convert /var/lib/sigul/nss --password-file pw",
        "Makes cert9.db and key4.db beside the old files, which stay. Needs an NSS that still reads"
        " the old format, as Debian 12's and 13's do.",
        (
            _DIRECTORY,
            _PASSWORD,
        ),
    ),
    PKICommand(
        "tune",
        "have a database's private keys used without needless work",
        "sigul-stack pki tune /etc/sigul/nss",
        "NSS derives a key from the password, in thousands of rounds, each time that a private key"
        " is used. For a random password one round is enough: the keys are written anew so, with"
        " the same password. The keys as they were stay beside, as key4.db.before-tune. A database"
        " whose password may be one that can be guessed is refused. Programs that run keep what"
        " they opened; send them SIGHUP.",
        (
            argument(
                "directories",
                nargs="+",
                metavar="DIRECTORY",
                type=Path,
                help="the databases' directories",
            ),
            _PASSWORD,
        ),
    ),
)
