"""The command line of `sigul-stack pki`: each command's options, help and example.

What the commands do is in `pki`, which hands the functions in; nothing is done here.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    # A subparsers action is generic in the type checker's eyes alone.
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

Run = Callable[[argparse.Namespace], int]

_ROLES: Final = ("bridge", "server", "client")
_DAYS_A_YEAR: Final = 365
_WIDTH: Final = 80

#: Long enough for any CA. Certificates for centuries are never renewed, nor is renewal practised.
_LONGEST: Final = timedelta(days=30 * _DAYS_A_YEAR)


def declare(subparsers: Subparsers, runs: Mapping[str, Run]) -> None:
    """Add the parsers of `pki` and of each command in `runs`, which becomes its `func`."""
    parser = subparsers.add_parser(
        "pki",
        help="make, renew and check certificates in NSS databases",
        description="Makes a CA and leaf certificates, each in an NSS database that holds only what"
        " its owner needs; imports, lists, renews and checks them.",
    )
    commands = parser.add_subparsers(dest="pki_command", required=True, metavar="COMMAND")
    for name, run in runs.items():
        _COMMANDS[name](commands).set_defaults(func=run)


def _site(commands: Subparsers) -> argparse.ArgumentParser:
    parser = _command(
        commands,
        "site",
        "make all of a new site's certificates in one go",
        "sigul-stack pki site --dir /srv/sigul-pki --bridge sigul-bridge.example.org"
        " --server sigul-server.example.org --user admin alice",
        "Makes DIR/ca, DIR/bridge, DIR/server and DIR/clients/USER. What is there and good is kept;"
        " certificates that run out or lack a name are renewed. DIR/ca stays on this machine.",
    )
    parser.add_argument("--dir", required=True, type=Path, help="where everything is made")
    parser.add_argument("--bridge", required=True, metavar="NAME", help="the bridge's host name")
    parser.add_argument("--server", required=True, metavar="NAME", help="the server's name")
    parser.add_argument(
        "--user", nargs="+", action="extend", default=[], metavar="NAME", help="Sigul users"
    )
    _names(parser, "--bridge-san", "a further name or address by which the bridge is reached")
    _names(parser, "--server-san", "a further name of the server")
    _years(parser, "--years", 2, "how long leaf certificates are valid")
    _years(parser, "--ca-years", 10, "how long the CA is valid")
    _password(parser, "--ca-password-file", "of the CA's database (default: random, beside it)")
    _owner(parser)
    _json(parser)
    return parser


def _init_ca(commands: Subparsers) -> argparse.ArgumentParser:
    parser = _command(
        commands,
        "init-ca",
        "make a CA",
        "sigul-stack pki init-ca --dir /srv/sigul-pki/ca",
        "Makes an NSS database with the CA's certificate (nickname sigul-ca) and private key, and"
        " ca.pem beside it. Without --password-file the password is random, in DIR/nss-password.",
    )
    parser.add_argument("--dir", required=True, type=Path, help="the CA's own directory")
    parser.add_argument("--name", help="the CA's name (default: Sigul CA and a random number)")
    _years(parser, "--years", 10, "how long the CA is valid")
    _password(parser)
    _owner(parser)
    return parser


def _issue(commands: Subparsers) -> argparse.ArgumentParser:
    parser = _command(
        commands,
        "issue",
        "issue a leaf certificate into its owner's database",
        "sigul-stack pki issue --ca /srv/sigul-pki/ca --into /srv/sigul-pki/bridge --role bridge"
        " --name sigul-bridge.example.org --san sigul-bridge --san 192.0.2.7",
        "Makes the database where it is missing, and puts the CA's certificate, the new"
        " certificate and its private key into it, nothing else. Take the directory to its owner;"
        " the CA's stays.",
    )
    _ca(parser)
    _into(parser)
    parser.add_argument("--role", required=True, choices=_ROLES, help="whose certificate it is")
    parser.add_argument(
        "--name", required=True, metavar="CN", help="host name; for a client its user's name"
    )
    _names(parser, "--san", "a further host name or IP address by which it is reached")
    _years(parser, "--years", 2, "how long it is valid, but no longer than the CA")
    parser.add_argument("--nickname", help="default: sigul-ROLE-cert")
    parser.add_argument(
        "--key-bits", type=int, default=2048, choices=(2048, 3072, 4096), help="RSA (default: 2048)"
    )
    _password(parser)
    _owner(parser)
    return parser


def _import(commands: Subparsers) -> argparse.ArgumentParser:
    parser = _command(
        commands,
        "import",
        "bring a certificate and key, or a CA's certificate, of a CA of your own",
        "sigul-stack pki import --into /etc/sigul/nss --cert bridge.pem --key bridge.key"
        " --ca site-ca.pem --nickname sigul-bridge-cert",
        "Puts an existing certificate with its private key into an NSS database, which is made"
        " where it is missing. With --ca alone, only CA certificates are added and trusted.",
    )
    _into(parser)
    parser.add_argument("--pkcs12", type=Path, metavar="FILE", help="PKCS#12 with both")
    _password(parser, "--pkcs12-password-file", "of the PKCS#12 file")
    parser.add_argument("--cert", type=Path, metavar="PEM", help="certificate, or its whole chain")
    parser.add_argument("--key", type=Path, metavar="PEM", help="private key")
    _password(parser, "--key-password-file", "of the private key")
    trust = "CA certificates to trust"
    parser.add_argument("--ca", type=Path, nargs="+", default=[], metavar="PEM", help=trust)
    parser.add_argument("--nickname", help="the certificate's; with --ca alone the CA's")
    parser.add_argument("--replace", action="store_true", help="instead of the one there")
    own = "it is a CA, and this is the CA's own database"
    parser.add_argument("--as-ca", action="store_true", help=own)
    _password(parser)
    _owner(parser)
    return parser


def _list(commands: Subparsers) -> argparse.ArgumentParser:
    parser = _command(
        commands,
        "list",
        "show what databases hold, with days left",
        "sigul-stack pki list /srv/sigul-pki/bridge /srv/sigul-pki/server",
        "Exit status 1 if any certificate has expired; which is said on standard error. The"
        " password (--password-file, or DIRECTORY/nss-password) only makes the private keys sure.",
    )
    parser.add_argument("directories", nargs="+", metavar="DIRECTORY", type=Path)
    _password(parser)
    _warn_days(parser)
    _json(parser)
    return parser


def _check(commands: Subparsers) -> argparse.ArgumentParser:
    parser = _command(
        commands,
        "check",
        "check that a database is what its component needs, and holds nothing else",
        "sigul-stack pki check /etc/sigul/nss --role bridge --name sigul-bridge.example.org",
        "Password, private key, dates, names, usage, CA, and that no CA's or other's private key is"
        " in there. Exit status 1 if anything is wrong.",
    )
    parser.add_argument("directory", metavar="DIRECTORY", type=Path)
    parser.add_argument("--role", required=True, choices=_ROLES, help="whose database it is")
    parser.add_argument("--nickname", help="default: sigul-ROLE-cert")
    _names(parser, "--name", "a name that has to be in the certificate; for a client the user")
    _password(parser)
    _warn_days(parser)
    _json(parser)
    return parser


def _renew(commands: Subparsers) -> argparse.ArgumentParser:
    parser = _command(
        commands,
        "renew",
        "renew one leaf certificate",
        "sigul-stack pki renew --ca /srv/sigul-pki/ca /srv/sigul-pki/bridge --nickname"
        " sigul-bridge-cert",
        "The subject, names and nickname stay, and so does the key without --new-key. Programs that"
        " run keep what they opened; send them SIGHUP to have the new one used. To change the CA:"
        " pki rollover.",
    )
    _ca(parser)
    parser.add_argument("directory", metavar="DIRECTORY", type=Path)
    parser.add_argument("--nickname", required=True)
    _names(parser, "--san", "a name to add")
    _years(parser, "--years", 2, "how long it is valid, but no longer than the CA")
    parser.add_argument("--new-key", action="store_true", help="with a new private key, too")
    _password(parser)
    return parser


def _renew_ca(commands: Subparsers) -> argparse.ArgumentParser:
    parser = _command(
        commands,
        "renew-ca",
        "renew the CA's own certificate, with the same name and key",
        "sigul-stack pki renew-ca --dir /srv/sigul-pki/ca",
        "All certificates that it issued stay valid. Take the new ca.pem to every database (pki"
        " import --ca, or pki site again) before the old one expires.",
    )
    parser.add_argument("--dir", required=True, type=Path, dest="ca", help="the CA's directory")
    parser.add_argument("--ca-nickname", help="where the directory holds several CAs")
    _years(parser, "--years", 10, "how long the CA is valid")
    _password(parser, "--password-file", dest="ca_password_file")
    return parser


def _rollover(commands: Subparsers) -> argparse.ArgumentParser:
    parser = _command(
        commands,
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
    )
    parser.add_argument("step", choices=("begin", "issue", "finish", "status"))
    _ca(parser)
    parser.add_argument(
        "--into",
        metavar="DIRECTORY",
        nargs="+",
        action="extend",
        default=[],
        type=Path,
        help="components' databases (default: those that take part already)",
    )
    parser.add_argument("--name", help="begin: the new CA's name (default: with a random number)")
    _years(parser, "--years", 10, "begin: how long the new CA is valid")
    parser.add_argument("--new-key", action="store_true", help="issue: with new private keys, too")
    _json(parser)
    return parser


def _remove(commands: Subparsers) -> argparse.ArgumentParser:
    parser = _command(
        commands,
        "remove",
        "remove a certificate, and its private key, from a database",
        "sigul-stack pki remove /srv/sigul-pki/bridge --nickname old-ca",
        "A CA whose certificates are still in the database is not removed.",
    )
    parser.add_argument("directory", metavar="DIRECTORY", type=Path)
    parser.add_argument("--nickname", required=True)
    _password(parser)
    return parser


def _convert(commands: Subparsers) -> argparse.ArgumentParser:
    parser = _command(
        commands,
        "convert",
        "convert a database of the old format (cert8.db, key3.db)",
        "sigul-stack pki convert /var/lib/sigul/nss --password-file pw",
        "Makes cert9.db and key4.db beside the old files, which stay. Needs an NSS that still reads"
        " the old format, as Debian 12's and 13's do.",
    )
    parser.add_argument("directory", metavar="DIRECTORY", type=Path)
    _password(parser)
    return parser


def _command(
    commands: Subparsers,
    name: str,
    summary: str,
    example: str,
    description: str,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        # Wrapped here, because an example is to be copied as it stands.
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=textwrap.fill(description, _WIDTH),
        epilog=f"Example:\n  {example}",
    )


def _years(parser: argparse.ArgumentParser, option: str, default: int, help: str) -> None:
    parser.add_argument(
        option,
        type=_lifetime,
        default=_lifetime(str(default)),
        metavar="YEARS",
        help=f"{help} (default: {default})",
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


def _ca(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ca", required=True, metavar="DIR", type=Path, help="the CA's directory")
    parser.add_argument("--ca-nickname", help="where the directory holds several CAs")
    _password(parser, "--ca-password-file", "of the CA's database (default: CA-DIR/nss-password)")


def _into(parser: argparse.ArgumentParser) -> None:
    help = "the NSS database's directory"
    parser.add_argument("--into", required=True, metavar="DIRECTORY", type=Path, help=help)


def _names(parser: argparse.ArgumentParser, option: str, help: str) -> None:
    help = f"{help} (repeatable)"
    parser.add_argument(option, action="append", default=[], metavar="NAME", help=help)


def _password(
    parser: argparse.ArgumentParser,
    option: str = "--password-file",
    help: str = "of the NSS database (default: nss-password in its directory)",
    dest: str | None = None,
) -> None:
    parser.add_argument(option, type=Path, metavar="FILE", dest=dest, help=f"password {help}")


def _owner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--owner", metavar="USER[:GROUP]", help="owner of what is made")
    parser.add_argument("--mode", metavar="MODE", help="of the files made (default: 0600)")


def _warn_days(parser: argparse.ArgumentParser) -> None:
    warn = "warn this early (default: 30)"
    parser.add_argument("--warn-days", type=int, default=30, metavar="DAYS", help=warn)


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="JSON instead of text")


_COMMANDS: Final[Mapping[str, Callable[[Subparsers], argparse.ArgumentParser]]] = {
    "site": _site,
    "init-ca": _init_ca,
    "issue": _issue,
    "import": _import,
    "list": _list,
    "check": _check,
    "renew": _renew,
    "renew-ca": _renew_ca,
    "rollover": _rollover,
    "remove": _remove,
    "convert": _convert,
}
