"""Commands about certificates of keys."""

from __future__ import annotations

import dataclasses

from ...client.subject import Subject
from .execution import Invocation
from .printing import print_bytes


def sign_certificate(call: Invocation) -> None:
    """`sigul sign-certificate ISSUER-KEY SUBJECT-KEY`: prints the certificate."""
    arguments = call.arguments
    subject = arguments.subject
    if subject is None:
        parts = [field.name for field in dataclasses.fields(Subject)]
        subject = str(Subject(**{name: getattr(arguments, f"subject_{name}") for name in parts}))
    print_bytes(
        call.client.sign_certificate(
            arguments.issuer_key,
            call.secrets["passphrase"],
            arguments.subject_key,
            subject=subject,
            validity=arguments.validity,
            certificate_type=arguments.certificate_type,
            subject_certificate_name=arguments.subject_certificate_name,
            issuer_certificate_name=arguments.issuer_certificate_name,
        )
    )
