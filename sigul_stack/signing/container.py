"""Signatures of container images: "simple signing", as containers/image and skopeo have it.

A signature is a binary OpenPGP signed message over JSON that names the manifest's digest and the
reference under which the image is published. The manifest itself is hashed and not looked at.
"""

from __future__ import annotations

import hashlib
import io
import json
from typing import IO

from .. import __version__
from ..keystore.gnupg import GnuPG
from ..secret import Secret
from . import openpgp


def sign_manifest(
    home: GnuPG,
    fingerprint: str,
    passphrase: Secret,
    manifest: IO[bytes],
    reference: str,
    timestamp: int,
    target: IO[bytes],
) -> None:
    """Write a signature of `manifest`, published as `reference`, to `target`.

    `timestamp` is in seconds since 1970. Raises `WrongPassphrase`, `KeystoreError`.
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
    message = io.BytesIO(json.dumps(claim).encode("utf-8"))
    openpgp.sign_message(home, fingerprint, passphrase, message, target)
