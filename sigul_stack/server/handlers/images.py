"""Signatures in PE images."""

from __future__ import annotations

from ...signing import pe, x509
from ..request import Answer
from ..services import Work
from .certificates import named_certificate
from .signing import opened_key


def _sign_pe(work: Work) -> Answer:
    key, passphrase = opened_key(work)
    store, settings = work.services.keystore.pem, work.services.settings
    certificate = named_certificate(work, key, work.request.text("cert-name"))
    # A key that does not open is told apart from an image that cannot be signed.
    store.load(key.fingerprint, passphrase)
    signed = pe.sign_image(
        store.private_file(key.fingerprint),
        passphrase,
        x509.chain_of(certificate, store.all_certificates()),
        work.request.payload,
        directory=settings.spool_directory,
        time_limit=settings.signing_timeout,
    )
    return Answer(payload=signed)


HANDLERS = {"sign-pe": _sign_pe}
