"""`sigul_server_add_pkcs11_token`: has a server sign with a private key on a PKCS#11 token.

No request makes such a key: this program adds its row, and one user's access to it, which holds the
token's PIN in place of a key's own passphrase. Nothing is written to the token. All that it makes
belongs to the server's user, and so the token is tried as that user.
"""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from ..errors import ConfigurationError, RequestRefused, SigulError, Status, shortened
from ..logevents import tell
from ..secret import Secret
from .hardening import harden_process
from .log_events import ProgramLog
from .outcome import run_program
from .server_tools import (
    become_the_server,
    checked_name,
    load_configuration,
    run_tool,
    tool_parser,
)
from .shared_arguments import argument

if TYPE_CHECKING:
    from ..database import Writer

log = logging.getLogger(__name__)

#: Most bytes of a file with a PIN or passphrase that are read.
_MAX_FILE: Final = 4096
#: What of a URI's query a row must not have, and why.
_NOT_STORED: Final = {
    "pin-value": "a PIN in it would be shown in logs",
    "pin-source": "the PIN is in each user's access",
    "module-path": "modules are those of the system's p11-kit",
    "module-name": "modules are those of the system's p11-kit",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Add a key on a token; returns the exit code."""
    harden_process()
    parser = tool_parser(
        "sigul_server_add_pkcs11_token",
        "Adds a private key on a PKCS#11 token to the server's keys, for sign-pe.",
        argument(
            *("-a", "--initial-key-admin"),
            metavar="USER",
            required=True,
            help="the user who may use the key and administer it; there must be one of that name",
        ),
        argument(
            *("-k", "--key-uri"),
            metavar="URI",
            required=True,
            help="the private key's URI, pkcs11:token=…;object=…;type=private (RFC 7512)",
        ),
        argument(
            *("-n", "--key-name"), metavar="NAME", required=True, help="the name that clients use"
        ),
        argument(
            *("-t", "--token-pin-file"),
            metavar="FILE",
            type=Path,
            required=True,
            help="a file with the token's user PIN in its first line",
        ),
        argument(
            *("-p", "--passphrase-file"),
            metavar="FILE",
            type=Path,
            required=True,
            help="a file with the user's passphrase for the key in its first line",
        ),
        argument(
            "--no-token-check",
            action="store_true",
            help="do not try whether PIN and key open on the token, which need not be there",
        ),
    )
    return run_tool(_run, parser.parse_args(argv))


def _run(options: Namespace) -> None:
    from ..database import Database, ensure_usable
    from ..keystore.passwords import require_length
    from ..keystore.store import new_access
    from ..server.services import database_url, make_services

    settings = load_configuration(options.config_file).settings
    url = database_url(settings)
    shown = shortened(repr(options.key_name), 100)
    name = checked_name(options.key_name, f"--key-name: {shown} is no name of a key")
    _check_uri(options.key_uri)
    # Before the rights are given up: the files are who knows whose.
    pin = _first_line(options.token_pin_file, "--token-pin-file")
    passphrase = _first_line(options.passphrase_file, "--passphrase-file")
    if pin.reveal()[:1] in (b"{", b"["):
        raise ConfigurationError(
            "--token-pin-file: a PIN that begins with '{' or '[' would be taken for a bound value",
            "give the token another PIN",
        )
    become_the_server(settings)
    ensure_usable(url, clock=lambda: datetime.now(UTC))
    require_length(passphrase, settings.min_secret_length)
    with closing(Database(url, lock_wait=settings.database_lock_timeout)) as database:
        with database.read() as reader:
            if reader.user(options.initial_key_admin) is None:
                raise _unknown_user(options.initial_key_admin)
            keys = reader.keys()
        taken = {key.name: key.fingerprint for key in keys}
        if name in taken:
            raise ConfigurationError(
                f"there is a key '{name}' already", "choose another --key-name"
            )
        for other, fingerprint in taken.items():
            if fingerprint == options.key_uri:
                raise ConfigurationError(
                    f"the key '{other}' has that URI already", "grant access to that one"
                )
        services = make_services(settings, database)
        if not options.no_token_check:
            found = services.keystore.tokens.find(options.key_uri, pin)
            if len(found) > 1:
                tell(log, ProgramLog.TOKEN_URI_AMBIGUOUS, count=len(found))
        sealed = new_access(pin, passphrase, services.policy.only_forced(), services.registry)
        with database.write() as writer:
            _add(writer, options, name, sealed)


def _add(writer: Writer, options: Namespace, name: str, sealed: bytes) -> None:
    from ..database import KeyType

    try:
        writer.add_key(name, KeyType.PKCS11, options.key_uri)
        writer.add_access(options.initial_key_admin, name, sealed, key_admin=True)
    except RequestRefused as error:
        # What was looked at before has changed since.
        if error.status == Status.ALREADY_EXISTS:
            raise ConfigurationError(
                f"there is a key '{name}' or that URI already", "look again"
            ) from None
        if error.status == Status.USER_NOT_FOUND:
            raise _unknown_user(options.initial_key_admin) from None
        raise


def _unknown_user(name: str) -> SigulError:
    return ConfigurationError(
        f"--initial-key-admin: there is no user {shortened(repr(name), 100)}",
        "make one with `sigul new-user`, or name another",
    )


def _check_uri(uri: str) -> None:
    from ..formats import pkcs11_uri

    try:
        found = pkcs11_uri.parse(uri)
    except pkcs11_uri.InvalidURI as error:
        raise ConfigurationError(
            f"--key-uri is no URI of a private key on a token: {error.problem}", error.cure
        ) from None
    for name in sorted(found.query):
        if name in _NOT_STORED:
            raise ConfigurationError(
                f"--key-uri has {name}, which is not stored: {_NOT_STORED[name]}",
                f"leave {name} out",
            )


def _first_line(path: Path, option: str) -> Secret:
    """The first line of a file, without white space around it. Raises `ConfigurationError`."""
    try:
        with path.open("rb") as file:
            line = file.readline(_MAX_FILE + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{option}: '{path}' cannot be read ({error.strerror})", "name another file"
        ) from None
    text = line.strip()
    if not text or len(line) > _MAX_FILE:
        raise ConfigurationError(
            f"{option}: the first line of '{path}' is {'too long' if text else 'empty'}",
            "write it there, and nothing else",
        )
    return Secret(text)


def program() -> NoReturn:
    """The installed program: `main`, whatever its standard streams are."""
    sys.exit(run_program(main))


if __name__ == "__main__":
    program()
