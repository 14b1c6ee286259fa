"""Commands that sign a certificate, and with one: `sign-certificate` and `sign-pe`."""

from __future__ import annotations

from typing import BinaryIO

from ...protocol.operations import CERTIFICATE_TYPES
from ..outcome import print_bytes
from ..shared_arguments import argument
from . import log_proofs
from .arguments import KEY, OUTPUT, PASSPHRASE, matching
from .command import CommandGroup, SecretPrompt
from .planning import Arguments, Call
from .signing import with_files

COMMANDS = CommandGroup()

_SUBJECT_PARTS = {
    "common-name": "NAME",
    "organizational-unit": "UNIT",
    "organization": "NAME",
    "locality": "PLACE",
    "state": "STATE",
    "country-name": "XX",
}


def _subject_parts(arguments: Arguments) -> dict[str, str | None]:
    names = [part.replace("-", "_") for part in _SUBJECT_PARTS]
    return {name: getattr(arguments, f"subject_{name}") for name in names}


def _subject_misuse(arguments: Arguments) -> str | None:
    parts = any(part is not None for part in _subject_parts(arguments).values())
    if (arguments.subject is None) != parts:
        return "give the subject, either with -s/--subject or with --subject-... options"
    return None


_CERTIFICATE_NAME = matching("[A-Za-z]+", "a certificate's name: ASCII letters")


@COMMANDS.request(
    "sign-certificate",
    "Issue an X.509 certificate for a key and print it",
    argument("issuer_key", help="the key that signs the certificate"),
    argument("subject_key", help="the key that the certificate is for"),
    argument(
        "--issuer-certificate-name",
        metavar="NAME",
        type=_CERTIFICATE_NAME,
        help="which of the issuer key's certificates issues (default: a self-signed one is made)",
    ),
    argument(
        "--subject-certificate-name",
        metavar="NAME",
        type=_CERTIFICATE_NAME,
        required=True,
        help="the name under which the server keeps the certificate with the subject key",
    ),
    argument(
        "--validity",
        metavar="Ny",
        type=matching("(?!0+y)[0-9]+y", "a number of years such as 10y"),
        required=True,
        help="how long the certificate is valid: a number of years, such as 10y",
    ),
    argument(
        "--certificate-type",
        choices=CERTIFICATE_TYPES,
        required=True,
        help="what the certificate is for",
    ),
    argument(
        "-s", "--subject", metavar="NAME", help="the subject, as in CN=Name,O=Organization,C=XX"
    ),
    *(
        argument(f"--subject-{part}", metavar=metavar, help=f"the subject's {part}")
        for part, metavar in _SUBJECT_PARTS.items()
    ),
    log_proofs.WRITE,
    secrets=[
        SecretPrompt("passphrase", PASSPHRASE.prompt, "of the issuer's key", from_file=True),
    ],
    misuse=_subject_misuse,
)
def sign_certificate(call: Call) -> None:
    """Print the certificate."""
    from ...client.distinguished_name import DistinguishedName

    arguments = call.arguments
    certificate = call.client.sign_certificate(
        arguments.issuer_key,
        call.secrets["passphrase"],
        arguments.subject_key,
        subject=arguments.subject or str(DistinguishedName(**_subject_parts(arguments))),
        validity=arguments.validity,
        certificate_type=arguments.certificate_type,
        subject_certificate_name=arguments.subject_certificate_name,
        issuer_certificate_name=arguments.issuer_certificate_name,
    )
    if call.proof is not None:
        call.proof.check()
    print_bytes(certificate)


@COMMANDS.planned(
    "sign-pe",
    "Sign a PE image",
    KEY,
    argument("cert_name", help="the name of the key's certificate"),
    argument("file", help="file with the image"),
    OUTPUT,
    log_proofs.WRITE,
    secrets=[PASSPHRASE],
    dials_at_once=True,
)
@with_files(binary=True)
def sign_pe(call: Call, image: BinaryIO, output: BinaryIO) -> None:
    """Write the signed image."""
    call.client.sign_pe(
        call.arguments.key, call.secrets["passphrase"], call.arguments.cert_name, image, output
    )
