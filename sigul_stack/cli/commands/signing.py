"""Commands that sign or decrypt a file."""

from __future__ import annotations

from .execution import Invocation


def sign_text(call: Invocation) -> None:
    """`sigul sign-text KEY FILE`."""
    call.client.sign_text(call.arguments.key, call.secrets["passphrase"], call.payload, call.output)


def sign_data(call: Invocation) -> None:
    """`sigul sign-data KEY FILE`."""
    call.client.sign_data(
        call.arguments.key,
        call.secrets["passphrase"],
        call.payload,
        call.output,
        armor=call.arguments.armor,
    )


def decrypt(call: Invocation) -> None:
    """`sigul decrypt KEY FILE`."""
    call.client.decrypt(call.arguments.key, call.secrets["passphrase"], call.payload, call.output)
