"""Signing and decrypting with OpenPGP keys, whatever it is that is signed but RPMs."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

from ...errors import RequestRefused, Status
from ...formats import commitmeta
from ...signing import objects
from ...signing.decryption import DecryptionKey, decrypt
from ..phases import Phase
from ..request import Answer
from ..services import RequestContext


def _with_output(context: RequestContext, make: Callable[[BinaryIO, BinaryIO], None]) -> Answer:
    """An answer with what `make` writes, given the payload and a file for the output."""
    output = context.services.scratch()
    try:
        with context.phases.measured(Phase.SIGN):
            make(context.request.payload.file, output)
    except BaseException:
        output.close()
        raise
    return Answer(payload=output)


def _sign_text(context: RequestContext) -> Answer:
    return _with_output(context, context.openpgp_key().clear_sign)


def _sign_data(context: RequestContext) -> Answer:
    """Of the payload only its hash is there: its bytes went by (`server.payload`)."""
    key = context.openpgp_key()
    with context.phases.measured(Phase.SIGN):
        try:
            state = context.request.payload.state(key.options.hash_name)
        except LookupError:
            raise RequestRefused(
                Status.UNKNOWN_ERROR,
                "the server's gpg.conf has another digest now than when the request came; try"
                " again",
                busy=True,
            ) from None
        signature = key.detached(state)
        return Answer(
            payload=key.armored(signature) if context.request.flag("armor") else signature
        )


def _decrypt(context: RequestContext) -> Answer:
    key, passphrase = context.opened_key()
    home = context.services.keystore.gnupg
    opened = DecryptionKey(home, key.fingerprint, passphrase, context.require_still)
    return _with_output(context, partial(decrypt, opened))


def _sign_git_tag(context: RequestContext) -> Answer:
    return _with_output(context, partial(objects.sign_tag, context.openpgp_key()))


def _sign_container(context: RequestContext) -> Answer:
    return _with_output(
        context,
        partial(
            objects.sign_manifest,
            context.openpgp_key(),
            reference=context.request.text("docker-reference"),
            timestamp=int(time.time()),
        ),
    )


def _sign_ostree(context: RequestContext) -> Answer:
    key = context.openpgp_key()
    with context.phases.measured(Phase.SIGN):
        signature = objects.sign_commit(
            key, context.request.payload.file, context.request.text("ostree-hash")
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

NEEDS_BYTES = frozenset(HANDLERS) - {"sign-data"}
