"""Commands about keys themselves."""

from __future__ import annotations

from ...protocol.operations import OPERATIONS
from .execution import Invocation
from .printing import print_bytes, print_lines


def list_keys(call: Invocation) -> None:
    """`sigul list-keys`: `NAME (TYPE)` lines."""
    print_lines(map(str, call.client.list_keys(call.secrets["password"])))


def new_key(call: Invocation) -> None:
    """`sigul new-key KEY`: prints the public key."""
    arguments = call.arguments
    print_bytes(
        call.client.new_key(
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
    )


def import_key(call: Invocation) -> None:
    """`sigul import-key KEY FILE`."""
    call.client.import_key(
        call.secrets["password"],
        call.arguments.key,
        # A byte more than may be sent, so that a longer file is refused and not cut off.
        call.payload.read(OPERATIONS["import-key"].max_payload + 1),
        call.secrets["passphrase"],
        call.secrets["new_passphrase"],
        key_admin=call.arguments.key_admin,
        key_type=call.arguments.key_type,
    )


def delete_key(call: Invocation) -> None:
    """`sigul delete-key KEY`."""
    call.client.delete_key(call.secrets["password"], call.arguments.key)


def modify_key(call: Invocation) -> None:
    """`sigul modify-key KEY`."""
    call.client.modify_key(
        call.secrets["password"], call.arguments.key, new_name=call.arguments.new_name
    )


def get_public_key(call: Invocation) -> None:
    """`sigul get-public-key KEY`: prints the public key."""
    print_bytes(call.client.get_public_key(call.arguments.key, **call.secrets))


def change_key_expiration(call: Invocation) -> None:
    """`sigul change-key-expiration KEY`."""
    call.client.change_key_expiration(
        call.arguments.key,
        call.secrets["passphrase"],
        expire_date=call.arguments.expire_date,
        subkey=call.arguments.subkey,
    )
