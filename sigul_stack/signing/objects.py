"""Signatures of git tags, OSTree commits and container images.

Each is an OpenPGP signature whose form and content its programs know. The key that signs them is
often one that signs other things as well, so what is signed is looked at first.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
from typing import IO, Final

from .. import __version__
from ..errors import ProtocolError, RequestRefused, Status
from ..formats.container_manifest import MAX_MANIFEST, InvalidManifest, read_claim
from ..formats.ostree_commit import check_commit
from ..logevents import tell
from ..system.memory import mapped
from .descriptors import descriptor_of
from .log_events import SigningEvents
from .openpgp import OpenPGPKey

_log = logging.getLogger(__name__)

#: More than the first four lines of any tag, in bytes.
_MAX_TAG_HEADER: Final = 1 << 16
_TAG_HEADER: Final = re.compile(
    rb"object (?:[0-9a-f]{40}|[0-9a-f]{64})\ntype commit\ntag [^\n\0]+\ntagger [^\n\0]+\n"
)
_OTHER_SIGNATURE: Final = re.compile(rb"^gpgsig(?:-sha256)? ", re.MULTILINE)
_COMMIT_ID: Final = re.compile(r"[0-9a-f]{64}")


def sign_tag(key: OpenPGPKey, source: IO[bytes], target: IO[bytes]) -> None:
    """Write an armoured detached signature over the git tag object in `source` to `target`.

    In git's format that signature is the tag's end, where it has to begin a line. `source` is read
    from its start. Raises `RequestRefused` for what is no annotated tag of a commit;
    `WrongPassphrase`, `KeystoreError`.
    """
    source.seek(0)
    header = source.read(_MAX_TAG_HEADER)
    if not _TAG_HEADER.match(header):
        raise RequestRefused(
            Status.UNKNOWN_ERROR,
            "this is not an annotated tag of a commit (object, type commit, tag, tagger); make one"
            " with git tag -a",
        )
    if _OTHER_SIGNATURE.search(header.partition(b"\n\n")[0]):
        raise RequestRefused(
            Status.UNKNOWN_ERROR,
            "the tag has a header gpgsig, without which git would verify it; take that off (a"
            " client of today does)",
        )
    source.seek(-1, os.SEEK_END)
    if source.read(1) != b"\n":
        raise RequestRefused(
            Status.UNKNOWN_ERROR,
            "the tag does not end with a line end, so that git would not find the signature behind"
            " it; add one",
        )
    source.seek(0)
    key.detach_sign(source, target, armor=True)


def sign_commit(key: OpenPGPKey, commit: IO[bytes], commit_id: str) -> bytes:
    """A binary detached signature over the OSTree commit object `commit_id`, its SHA-256 in hex.

    How signatures are kept beside a commit is `formats.commitmeta`'s. `commit` is read from its
    start. Raises `RequestRefused` where it is none, or has another name; `WrongPassphrase`,
    `KeystoreError`.
    """
    if not _COMMIT_ID.fullmatch(commit_id):
        raise RequestRefused(
            Status.UNKNOWN_ERROR, "a commit's name is a SHA-256 in lower-case hexadecimal digits"
        )
    commit.seek(0)
    digest = hashlib.file_digest(commit, "sha256").hexdigest()  # type: ignore[arg-type]
    if digest != commit_id:
        raise RequestRefused(
            Status.UNKNOWN_ERROR,
            f"the SHA-256 of the commit object is {digest}, not {commit_id}; name the commit that"
            " it is",
        )
    descriptor = descriptor_of(commit) if commit.tell() else None  # nothing cannot be mapped
    commit.seek(0)
    try:
        check_commit(commit.read() if descriptor is None else mapped(descriptor))
    except ProtocolError as error:
        raise RequestRefused.because(error) from None
    commit.seek(0)
    return key.detached_signature(commit)


def sign_manifest(
    key: OpenPGPKey, manifest: IO[bytes], target: IO[bytes], *, reference: str, timestamp: int
) -> None:
    """Write a signature of a container image's `manifest`, published as `reference`, to `target`.

    The format is "simple signing", as containers/image and skopeo have it: a binary OpenPGP signed
    message over JSON that names the manifest's digest and the reference. `timestamp` is in seconds
    since 1970. Raises `RequestRefused` for what no consumer takes; `WrongPassphrase`,
    `KeystoreError`.
    """
    try:
        read = read_claim(manifest.read(MAX_MANIFEST + 1), reference)
    except InvalidManifest as error:
        raise RequestRefused.because(error) from None
    for warning in read.warnings:
        tell(_log, SigningEvents.CONTAINER_WARNING, why=str(warning))
    digest = hashlib.sha256(read.digested).hexdigest()
    claim = {
        "critical": {
            "type": "atomic container signature",
            "image": {"docker-manifest-digest": f"sha256:{digest}"},
            "identity": {"docker-reference": reference},
        },
        "optional": {"creator": f"sigul-stack {__version__}", "timestamp": timestamp},
    }
    key.message(io.BytesIO(json.dumps(claim).encode("utf-8")), target)
