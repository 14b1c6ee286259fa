"""Signing and decrypting with OpenPGP keys, whatever it is that is signed but RPMs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import BinaryIO

from ...database import Key
from ...errors import RequestRefused, Status
from ...formats import commitmeta
from ...secret import Secret
from ...signing import objects
from ...signing.openpgp import OpenPGPKey
from ..request import Answer
from ..services import Work


def opened_key(work: Work) -> tuple[Key, Secret]:
    """The key that the request's passphrase opened; refused where the operation is not for it."""
    key, passphrase = work.granted.opened()
    if key.keytype not in work.request.operation.key_types:
        raise RequestRefused(Status.UNSUPPORTED_KEYTYPE)
    return key, passphrase


def openpgp_key(work: Work) -> OpenPGPKey:
    """The key that the request's passphrase opened, for an operation of OpenPGP keys alone."""
    key, passphrase = opened_key(work)
    return OpenPGPKey(work.services.keystore.gnupg, key.fingerprint, passphrase)


def _with_output(work: Work, make: Callable[[OpenPGPKey, BinaryIO, BinaryIO], None]) -> Answer:
    """An answer with what `make` writes, given the key, the payload and a file for the output."""
    output = work.services.scratch()
    make(openpgp_key(work), work.request.payload, output)
    return Answer(payload=output)


def _sign_text(work: Work) -> Answer:
    return _with_output(work, OpenPGPKey.clear_sign)


def _sign_data(work: Work) -> Answer:
    armor = bool(work.request.flag("armor"))
    return _with_output(
        work, lambda key, payload, output: key.detach_sign(payload, output, armor=armor)
    )


def _decrypt(work: Work) -> Answer:
    return _with_output(work, OpenPGPKey.decrypt)


def _sign_git_tag(work: Work) -> Answer:
    return _with_output(work, objects.sign_tag)


def _sign_container(work: Work) -> Answer:
    reference = work.request.text("docker-reference")

    def sign(key: OpenPGPKey, manifest: BinaryIO, output: BinaryIO) -> None:
        objects.sign_manifest(key, manifest, reference, int(time.time()), output)

    return _with_output(work, sign)


def _sign_ostree(work: Work) -> Answer:
    signature = objects.sign_commit(
        openpgp_key(work), work.request.payload, work.request.text("ostree-hash")
    )
    return Answer(payload=commitmeta.with_signatures(b"", [signature]))


HANDLERS = {
    "sign-text": _sign_text,
    "sign-data": _sign_data,
    "decrypt": _decrypt,
    "sign-git-tag": _sign_git_tag,
    "sign-container": _sign_container,
    "sign-ostree": _sign_ostree,
}
