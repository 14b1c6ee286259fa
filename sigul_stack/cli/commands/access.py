"""Commands on a key for those with access to it: who may use it, and with which passphrase."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DeadlineExceeded, PeerClosed, RemoteProtocolError
from ...logevents import tell
from ...secret import Secret
from ..log_events import ProgramLog
from ..outcome import print_bytes, print_lines
from ..shared_arguments import argument
from .arguments import (
    KEY,
    LIMITS,
    PASSPHRASE,
    PASSPHRASE_OR_PASSWORD,
    PASSWORD,
    USER,
    date,
    limits,
    matching,
    named_place,
)
from .command import CommandGroup, SecretPrompt
from .planning import Arguments, Call, Planning, Run

if TYPE_CHECKING:
    from ...client.api import Client
    from ...keystore.bindings import Layer

log = logging.getLogger(__name__)

COMMANDS = CommandGroup()


# ---------------------------------------------------------------------------- new passphrases

_BINDINGS = (
    argument(
        "-b",
        "--server-binding-method",
        metavar="B",
        action="append",
        default=[],
        help="bind the access on the server: METHOD[,KEY=VALUE...][|METHOD...]; repeat for a"
        " further layer",
    ),
    argument(
        "-c",
        "--client-binding-method",
        metavar="B",
        action="append",
        default=[],
        help="bind the passphrase in the file of -w, which is then needed, in the same form; repeat"
        " for a further layer",
    ),
    argument(
        "-w",
        "--write-passphrase-file",
        metavar="FILE",
        type=named_place,
        help="make a random passphrase and write it, bound by -c or as the configuration says, to"
        " the new FILE",
    ),
)


def _new_passphrase(prompt: str) -> SecretPrompt:
    return SecretPrompt(
        "new_passphrase",
        prompt,
        new=True,
        when=lambda arguments: arguments.write_passphrase_file is None,
    )


def _binding_misuse(arguments: Arguments) -> str | None:
    if arguments.client_binding_method and arguments.write_passphrase_file is None:
        # Scripts compare this.
        return "Client-side binding requires a passphrase file"
    return None


def _with_new_passphrase(
    planning: Planning,
    method: Callable[[Client], Callable[..., None]],
    *names: str,
    **further: object,
) -> Run:
    """A run of the client's `method` that gives a new passphrase to the access that `names` name.

    `further` is for that method. The passphrase is the one typed, or a random one in a file. Ends
    the process as a usage error where the random one would not be bound.
    """

    def request(call: Call, new_passphrase: Secret) -> None:
        method(call.client)(
            *names,
            call.secrets["passphrase"],
            new_passphrase,
            server_binding=call.arguments.server_binding_method,
            client_binding=call.arguments.client_binding_method,
            **further,
        )

    path: Path | None = planning.arguments.write_passphrase_file
    if path is None:
        return lambda call: request(call, call.secrets["new_passphrase"])
    from ...keystore.bindings import BindingPolicy, parse_layer

    binding = planning.settings.binding
    wanted = [parse_layer(text) for text in planning.arguments.client_binding_method]
    if not (wanted or binding.forced or binding.default):
        planning.misuse(
            "-w/--write-passphrase-file needs -c/--client-binding-method, where the configuration"
            " has neither forced-binding-methods nor default-binding-methods"
        )
    policy = BindingPolicy.parse(binding.forced, binding.forced_first, binding.default)
    layers = policy.layers(wanted)

    def run(call: Call) -> None:
        with _passphrase_file(path, layers, call) as passphrase:
            request(call, passphrase)

    return run


@contextlib.contextmanager
def _passphrase_file(path: Path, layers: Sequence[Layer], call: Call) -> Iterator[Secret]:
    """A random passphrase, written to the new file `path`, bound with `layers`.

    The file is on disk before the server learns the passphrase, so that it cannot get lost, and
    goes away again where the server certainly did not take it.
    """
    from ...client.output_file import write_new_file
    from ...keystore.bindings import bind, enabled_methods

    binding = call.settings.binding
    passphrase = Secret.random(call.settings.passphrase_length)
    registry = enabled_methods(binding.enabled, binding.parameters, binding.secrets)
    write_new_file(path, bind(passphrase, layers, registry).reveal())
    try:
        yield passphrase
    except (PeerClosed, DeadlineExceeded, RemoteProtocolError):
        tell(log, ProgramLog.NEW_PASSPHRASE_KEPT, path=str(path))
        raise
    except BaseException:
        path.unlink(missing_ok=True)
        raise


# ----------------------------------------------------------------------------------- commands


@COMMANDS.request(
    "list-key-users",
    "List users that can access a key",
    KEY,
    PASSWORD,
    secrets=PASSPHRASE_OR_PASSWORD,
)
def list_key_users(call: Call) -> None:
    """Print the users' names, one a line."""
    print_lines(call.client.list_key_users(call.arguments.key, **call.secrets))


@COMMANDS.planned(
    "grant-key-access",
    "Grant a user access to a key",
    KEY,
    USER,
    *LIMITS,
    *_BINDINGS,
    secrets=[PASSPHRASE, _new_passphrase("Key passphrase for the new user")],
    misuse=_binding_misuse,
)
def grant_key_access(planning: Planning) -> Run:
    """Give the user access with a new passphrase."""
    arguments = planning.arguments
    return _with_new_passphrase(
        planning,
        lambda client: client.grant_key_access,
        arguments.key,
        arguments.user,
        **limits(arguments),
    )


@COMMANDS.request(
    "revoke-key-access",
    "Revoke a user's access to a key",
    KEY,
    USER,
    PASSWORD,
    secrets=PASSPHRASE_OR_PASSWORD,
)
def revoke_key_access(call: Call) -> None:
    """Take the user the access to the key."""
    call.client.revoke_key_access(call.arguments.key, call.arguments.user, **call.secrets)


@COMMANDS.request(
    "get-public-key",
    "Print a key's public part",
    KEY,
    PASSWORD,
    secrets=PASSPHRASE_OR_PASSWORD,
)
def get_public_key(call: Call) -> None:
    """Print the public key."""
    print_bytes(call.client.get_public_key(call.arguments.key, **call.secrets))


@COMMANDS.request(
    "change-key-expiration",
    "Change a key's expiration date",
    KEY,
    argument(
        "--expire-date",
        metavar="YYYY-MM-DD",
        type=date,
        help="date at which the key expires (default: never)",
    ),
    argument(
        "--subkey",
        metavar="N",
        type=matching("(?!0+$)[0-9]{1,3}", "the number of a subkey (1, 2, …)"),
        help="number of the subkey to change, from 1 (default: the primary key)",
    ),
    secrets=[PASSPHRASE],
)
def change_key_expiration(call: Call) -> None:
    """Set the date at which the key or one of its subkeys expires."""
    subkey = call.arguments.subkey
    call.client.change_key_expiration(
        call.arguments.key,
        call.secrets["passphrase"],
        expire_date=call.arguments.expire_date,
        subkey=None if subkey is None else int(subkey),
    )


@COMMANDS.request(
    "list-certificates",
    "List a key's certificates",
    KEY,
    PASSWORD,
    secrets=PASSPHRASE_OR_PASSWORD,
)
def list_certificates(call: Call) -> None:
    """Print the certificates, one a line: the name, and what it is."""
    print_lines(map(str, call.client.list_certificates(call.arguments.key, **call.secrets)))


@COMMANDS.request(
    "delete-certificate",
    "Delete a key's certificate",
    KEY,
    argument("cert_name", help="the name of the certificate"),
    PASSWORD,
    secrets=PASSPHRASE_OR_PASSWORD,
)
def delete_certificate(call: Call) -> None:
    """Delete the certificate from the server."""
    call.client.delete_certificate(call.arguments.key, call.arguments.cert_name, **call.secrets)


@COMMANDS.planned(
    "change-passphrase",
    "Change the passphrase that unlocks your access to a key",
    KEY,
    *_BINDINGS,
    secrets=[PASSPHRASE, _new_passphrase("New key passphrase")],
    misuse=_binding_misuse,
)
def change_passphrase(planning: Planning) -> Run:
    """Have a new passphrase unlock the user's access."""
    return _with_new_passphrase(
        planning, lambda client: client.change_passphrase, planning.arguments.key
    )
