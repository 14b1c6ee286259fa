"""Commands that sign or decrypt a file."""

from __future__ import annotations

from ...errors import SigulError
from ...protocol import commitmeta
from .execution import Invocation, open_payload
from .model import Arguments


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


def sign_container(call: Invocation) -> None:
    """`sigul sign-container KEY MANIFEST REFERENCE`."""
    call.client.sign_container(
        call.arguments.key,
        call.secrets["passphrase"],
        call.payload,
        call.arguments.reference,
        call.output,
    )


def read_commitmeta(arguments: Arguments) -> bytes:
    """The detached metadata that the commit has, as far as the command line names them."""
    if arguments.commitmeta is None:
        return b""
    with open_payload(arguments.commitmeta) as file:
        # A byte more than may be there, so that a longer file is refused and not cut off.
        metadata = file.read(commitmeta.MAX_BYTES + 1)
    try:
        commitmeta.with_signatures(metadata, [])
    except SigulError as error:
        raise SigulError(f"'{arguments.commitmeta}': {error}") from None
    return metadata


def sign_ostree(call: Invocation) -> None:
    """`sigul sign-ostree KEY HASH FILE`."""
    call.output.write(
        call.client.sign_ostree(
            call.arguments.key,
            call.secrets["passphrase"],
            call.arguments.hash,
            call.payload,
            metadata=call.prepared,
        )
    )


def sign_pe(call: Invocation) -> None:
    """`sigul sign-pe KEY CERT-NAME FILE`."""
    call.client.sign_pe(
        call.arguments.key,
        call.secrets["passphrase"],
        call.arguments.cert_name,
        call.payload,
        call.output,
    )
