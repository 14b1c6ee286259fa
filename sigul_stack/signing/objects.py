"""Signatures of git tags, OSTree commits and container images.

Each is an OpenPGP signature whose form and content its programs know. The key that signs them is
often one that signs other things as well, so what is signed is looked at first.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from typing import IO, Final

from .. import __version__
from ..errors import RequestRefused, Status
from .openpgp import OpenPGPKey

#: More than the first four lines of any tag, in bytes.
_MAX_TAG_HEADER: Final = 1 << 16
_TAG_HEADER: Final = re.compile(
    rb"object (?:[0-9a-f]{40}|[0-9a-f]{64})\ntype commit\ntag [^\n\0]+\ntagger [^\n\0]+\n"
)
_COMMIT_ID: Final = re.compile(r"[0-9a-f]{64}")


def sign_tag(key: OpenPGPKey, source: IO[bytes], target: IO[bytes]) -> None:
    """Write an armoured detached signature over the git tag object in `source` to `target`.

    In git's format that signature is the tag's end. Raises `RequestRefused` for what is no
    annotated tag of a commit; `WrongPassphrase`, `KeystoreError`.
    """
    start = source.tell()
    header = source.read(_MAX_TAG_HEADER)
    source.seek(start)
    if not _TAG_HEADER.match(header):
        raise RequestRefused(
            Status.UNKNOWN_ERROR,
            "this is not an annotated tag of a commit (object, type commit, tag, tagger); make one"
            " with git tag -a",
        )
    key.detach_sign(source, target, armor=True)


def sign_commit(key: OpenPGPKey, commit: IO[bytes], commit_id: str) -> bytes:
    """A binary detached signature over the OSTree commit object `commit_id`, its SHA-256 in hex.

    How signatures are kept beside a commit is `formats.commitmeta`'s. Raises `RequestRefused` where
    the object has another name; `WrongPassphrase`, `KeystoreError`.
    """
    if not _COMMIT_ID.fullmatch(commit_id):
        raise RequestRefused(
            Status.UNKNOWN_ERROR, "a commit's name is a SHA-256 in lower-case hexadecimal digits"
        )
    start = commit.tell()
    digest = hashlib.file_digest(commit, "sha256").hexdigest()  # type: ignore[arg-type]
    if digest != commit_id:
        raise RequestRefused(
            Status.UNKNOWN_ERROR,
            f"the SHA-256 of the commit object is {digest}, not {commit_id}; name the commit that"
            " it is",
        )
    commit.seek(start)
    return key.detached_signature(commit)


def sign_manifest(
    key: OpenPGPKey, manifest: IO[bytes], target: IO[bytes], *, reference: str, timestamp: int
) -> None:
    """Write a signature of a container image's `manifest`, published as `reference`, to `target`.

    The format is "simple signing", as containers/image and skopeo have it: a binary OpenPGP signed
    message over JSON that names the manifest's digest and the reference. The manifest itself is
    hashed and not looked at. `timestamp` is in seconds since 1970. Raises `WrongPassphrase`,
    `KeystoreError`.
    """
    digest = hashlib.file_digest(manifest, "sha256").hexdigest()  # type: ignore[arg-type]
    claim = {
        "critical": {
            "type": "atomic container signature",
            "image": {"docker-manifest-digest": f"sha256:{digest}"},
            "identity": {"docker-reference": reference},
        },
        "optional": {"creator": f"sigul-stack {__version__}", "timestamp": timestamp},
    }
    key.message(io.BytesIO(json.dumps(claim).encode("utf-8")), target)
