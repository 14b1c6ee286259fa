"""Signing and decrypting with OpenPGP keys."""

from __future__ import annotations

from ...database import Key
from ...errors import RequestRefused, Status
from ...secret import Secret
from ...signing import openpgp
from ..request import Answer
from ..services import Work


def opened_key(work: Work) -> tuple[Key, Secret]:
    """The key that the request's passphrase opened; refused where the operation is not for it."""
    key, passphrase = work.granted.opened()
    operation = work.request.operation
    if operation is not None and operation.key_types and key.keytype not in operation.key_types:
        raise RequestRefused(Status.UNSUPPORTED_KEYTYPE)
    return key, passphrase


def _sign_text(work: Work) -> Answer:
    key, passphrase = opened_key(work)
    output = work.services.scratch()
    openpgp.clear_sign(
        work.services.keystore.gnupg, key.fingerprint, passphrase, work.request.payload, output
    )
    return Answer(payload=output)


def _sign_data(work: Work) -> Answer:
    key, passphrase = opened_key(work)
    output = work.services.scratch()
    openpgp.detach_sign(
        work.services.keystore.gnupg,
        key.fingerprint,
        passphrase,
        work.request.payload,
        output,
        armor=bool(work.request.flag("armor")),
    )
    return Answer(payload=output)


def _decrypt(work: Work) -> Answer:
    key, passphrase = opened_key(work)
    output = work.services.scratch()
    openpgp.decrypt(
        work.services.keystore.gnupg, key.fingerprint, passphrase, work.request.payload, output
    )
    return Answer(payload=output)


HANDLERS = {
    "sign-text": _sign_text,
    "sign-data": _sign_data,
    "decrypt": _decrypt,
}
