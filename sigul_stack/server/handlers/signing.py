"""Signing and decrypting with OpenPGP keys, whatever it is that is signed."""

from __future__ import annotations

import time

from ...database import Key
from ...errors import RequestRefused, Status
from ...formats import commitmeta
from ...secret import Secret
from ...signing import container, git, openpgp, ostree
from ..request import Answer
from ..services import Work


def opened_key(work: Work) -> tuple[Key, Secret]:
    """The key that the request's passphrase opened; refused where the operation is not for it."""
    key, passphrase = work.granted.opened()
    if key.keytype not in work.request.operation.key_types:
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


def _sign_git_tag(work: Work) -> Answer:
    key, passphrase = opened_key(work)
    output = work.services.scratch()
    git.sign_tag(
        work.services.keystore.gnupg, key.fingerprint, passphrase, work.request.payload, output
    )
    return Answer(payload=output)


def _sign_container(work: Work) -> Answer:
    key, passphrase = opened_key(work)
    output = work.services.scratch()
    container.sign_manifest(
        work.services.keystore.gnupg,
        key.fingerprint,
        passphrase,
        work.request.payload,
        work.request.text("docker-reference"),
        int(time.time()),
        output,
    )
    return Answer(payload=output)


def _sign_ostree(work: Work) -> Answer:
    key, passphrase = opened_key(work)
    signature = ostree.sign_commit(
        work.services.keystore.gnupg,
        key.fingerprint,
        passphrase,
        work.request.payload,
        work.request.text("ostree-hash"),
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
