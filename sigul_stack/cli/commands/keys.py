"""Commands about keys, for administrators."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ..outcome import print_bytes, print_lines, say
from ..shared_arguments import argument
from .arguments import ADMIN_PASSWORD, KEY, date
from .command import CommandGroup, SecretPrompt
from .planning import Arguments, Call, Planning, Run

COMMANDS = CommandGroup()

_KEY_ADMIN = argument(
    "--key-admin", metavar="USER", help="the key's first administrator (default: yourself)"
)
_KEY_TYPE = argument(
    "--key-type", choices=("gnupg", "ECC", "RSA"), help="the key's type (default: gnupg)"
)


def _idle_options_of_new_key(arguments: Arguments) -> Iterator[str]:
    if arguments.key_type in (None, "gnupg"):
        return
    for name in ("name_real", "name_comment", "name_email", "expire_date"):
        if getattr(arguments, f"gnupg_{name}") is not None:
            option = f"--gnupg-{name.replace('_', '-')}"
            yield f"{option} has no effect: {arguments.key_type} keys have neither name nor expiry"


@COMMANDS.request("list-keys", "List keys", secrets=[ADMIN_PASSWORD])
def list_keys(call: Call) -> None:
    """Print `NAME (TYPE)` lines; of a site of protocol 0, where all are of one type, names."""
    found = call.client.list_keys(call.secrets["password"])
    typed = call.client.version.lists_key_types
    print_lines(str(key) if typed else key.name for key in found)


@COMMANDS.request(
    "new-key",
    "Make a key and print its public part",
    KEY,
    _KEY_ADMIN,
    _KEY_TYPE,
    argument(
        "--gnupg-name-real",
        "--name-real",
        metavar="NAME",
        help="real name in a gnupg key's user ID",
    ),
    argument(
        "--gnupg-name-comment",
        "--name-comment",
        metavar="TEXT",
        help="comment in a gnupg key's user ID",
    ),
    argument(
        "--gnupg-name-email",
        "--name-email",
        metavar="EMAIL",
        help="address in a gnupg key's user ID",
    ),
    argument(
        "--gnupg-expire-date",
        "--expire-date",
        metavar="YYYY-MM-DD",
        type=date,
        help="date at which a gnupg key expires (default: never)",
    ),
    secrets=[ADMIN_PASSWORD, SecretPrompt("passphrase", "New key passphrase", new=True)],
    idle=_idle_options_of_new_key,
)
def new_key(call: Call) -> None:
    """Print the new key's public part."""
    arguments = call.arguments
    public = call.client.new_key(
        call.secrets["password"],
        arguments.key,
        call.secrets["passphrase"],
        key_admin=arguments.key_admin,
        key_type=arguments.key_type,
        name_real=arguments.gnupg_name_real,
        name_comment=arguments.gnupg_name_comment,
        name_email=arguments.gnupg_name_email,
        expire_date=arguments.gnupg_expire_date,
    )
    print_bytes(public)
    _warn(public)


def _warn(data: bytes) -> None:
    """Tell what is to be known of the OpenPGP key in `data`; of anything else nothing is known."""
    from ...formats.key_remarks import remarks_for_rpm, remarks_on_state
    from ...formats.openpgp_keys import read_keys
    from ...formats.openpgp_packets import MalformedPacket

    try:
        keys = read_keys(data)
    except MalformedPacket:
        return
    for key in keys:
        for remark in remarks_on_state(key, time.time()):
            say(f"Warning: {remark}", error=True)
        for remark in remarks_for_rpm(key) if key.signs else ():
            say(f"Warning: for RPMs: {remark}", error=True)


@COMMANDS.planned(
    "import-key",
    "Import a key",
    KEY,
    argument("file", help="file with the secret key"),
    _KEY_ADMIN,
    _KEY_TYPE,
    secrets=[
        ADMIN_PASSWORD,
        SecretPrompt("passphrase", "Passphrase of the key in the file"),
        SecretPrompt("new_passphrase", "New key passphrase", new=True),
    ],
)
def import_key(planning: Planning) -> Run:
    """Open the file with the secret key."""
    from ...protocol.operations import OPERATIONS

    source = planning.open_input(planning.arguments.file)
    # A byte more than may be sent, so that a longer file is refused and not cut off.
    limit = OPERATIONS["import-key"].max_payload + 1

    def run(call: Call) -> None:
        data = source.seekable().read(limit)
        call.client.import_key(
            call.secrets["password"],
            call.arguments.key,
            data,
            call.secrets["passphrase"],
            call.secrets["new_passphrase"],
            key_admin=call.arguments.key_admin,
            key_type=call.arguments.key_type,
        )
        _warn(data)

    return run


@COMMANDS.request("delete-key", "Delete a key", KEY, secrets=[ADMIN_PASSWORD])
def delete_key(call: Call) -> None:
    """Delete the key."""
    call.client.delete_key(call.secrets["password"], call.arguments.key)


@COMMANDS.request(
    "modify-key",
    "Modify a key",
    KEY,
    argument("--new-name", metavar="NAME", help="rename the key"),
    secrets=[ADMIN_PASSWORD],
)
def modify_key(call: Call) -> None:
    """Rename the key."""
    call.client.modify_key(
        call.secrets["password"], call.arguments.key, new_name=call.arguments.new_name
    )
