"""Signing and decrypting with OpenPGP keys, whatever it is that is signed but RPMs."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

from ...formats import commitmeta
from ...signing import objects
from ...signing.openpgp import OpenPGPKey
from ..phases import Phase
from ..request import Answer
from ..services import RequestContext

#: Looks at what `_with_output` has made.
_Check = Callable[[OpenPGPKey, BinaryIO, BinaryIO], None]


def _detached(key: OpenPGPKey, payload: BinaryIO, output: BinaryIO) -> None:
    key.check(output, payload)


def _whole(key: OpenPGPKey, _payload: BinaryIO, output: BinaryIO) -> None:
    key.check(output)


def _with_output(
    context: RequestContext,
    make: Callable[[OpenPGPKey, BinaryIO, BinaryIO], None],
    check: _Check | None,
) -> Answer:
    """An answer with what `make` writes, given the key, the payload and a file for the output.

    `check` is given the same three, and raises where what was made is not to be sent.
    """
    key, output = context.openpgp_key(), context.services.scratch()
    try:
        with context.phases.measured(Phase.SIGN):
            make(key, context.request.payload.file, output)
            if check is not None:
                check(key, context.request.payload.file, output)
    except BaseException:
        output.close()
        raise
    return Answer(payload=output)


def _sign_text(context: RequestContext) -> Answer:
    return _with_output(context, OpenPGPKey.clear_sign, _whole)


def _sign_data(context: RequestContext) -> Answer:
    return _with_output(
        context,
        partial(OpenPGPKey.detach_sign, armor=bool(context.request.flag("armor"))),
        _detached,
    )


def _decrypt(context: RequestContext) -> Answer:
    return _with_output(context, OpenPGPKey.decrypt, None)


def _sign_git_tag(context: RequestContext) -> Answer:
    return _with_output(context, objects.sign_tag, _detached)


def _sign_container(context: RequestContext) -> Answer:
    return _with_output(
        context,
        partial(
            objects.sign_manifest,
            reference=context.request.text("docker-reference"),
            timestamp=int(time.time()),
        ),
        _whole,
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

NEEDS_BYTES = frozenset(HANDLERS)
