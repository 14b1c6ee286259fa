"""OpenPGP signatures: detached ones, clear-signed text and signed messages.

They are made here, of a hash of the content and the key's signature over the digest (`signer`); gpg
has no part in them. So content is hashed as it comes, and need not be kept. Each signature is
verified with the public key before anybody gets it: what a failing processor or key store made must
not leave, and of some kinds of keys it would give the key away.

Where the key is, and which part of it signs, a `signer.OpenPGPSigner` knows. The digest is SHA-512,
unless the site's options have another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature

from ..errors import KeystoreError, RequestRefused, Status
from ..formats.openpgp_hashes import HASHES
from ..formats.openpgp_public_keys import verify
from ..formats.openpgp_signatures import (
    USUAL_OPTIONS,
    SignatureKind,
    SignatureOptions,
    SignatureParameters,
    literal,
    new_hash,
)
from ..formats.openpgp_text import ClearText, LineTooLong, armored
from .signer import OpenPGPSigner

if TYPE_CHECKING:
    from hashlib import _Hash

_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class OpenPGPKey:
    """A key that makes OpenPGP signatures as a site's `options` have them.

    `open_signer` gives the part of it that signs now, and is called for each signature: keys expire
    and are revoked. A source or target is a binary file object; a source is read from its present
    position on. Every method that signs raises `WrongPassphrase` if the passphrase is not the
    key's, and `KeystoreError` where the key cannot sign, or its store failed. Safe to use from
    several threads. `before_use` is called before the key is used, each time, and raises where it
    is not to be any more.
    """

    open_signer: Callable[[], OpenPGPSigner]
    options: SignatureOptions = USUAL_OPTIONS
    before_use: Callable[[], None] = lambda: None
    #: Called after each signature, with the fingerprint of the part that made it.
    after_use: Callable[[str], None] = lambda _signer: None

    def detached(self, state: _Hash) -> bytes:
        """A binary detached signature over content whose hash is `state`.

        That is of the site's hash (`options`); it stays as it is.
        """
        return self._signature(state, SignatureKind.BINARY)[1]

    def detached_signature(self, source: IO[bytes]) -> bytes:
        """A binary detached signature over what `source` has."""
        state = new_hash(self.options.hash)
        for piece in _pieces(source):
            state.update(piece)
        return self._signature(state, SignatureKind.BINARY)[1]

    def armored(self, signature: bytes) -> bytes:
        """A binary detached signature as text."""
        return armored("SIGNATURE", signature, self.options.headers)

    def detach_sign(self, source: IO[bytes], target: IO[bytes], *, armor: bool = False) -> None:
        """Write a detached signature over `source` to `target`."""
        signature = self.detached_signature(source)
        target.write(self.armored(signature) if armor else signature)

    def clear_sign(self, source: IO[bytes], target: IO[bytes]) -> None:
        """Write the text in `source`, clear-signed, to `target`.

        Raises `RequestRefused` for a line of more than 19,993 bytes, which the format as gpg has it
        cannot hold. Where anything fails, nothing of it is left in a `target` that can be cut.
        """
        options = self.options
        state = new_hash(options.hash)
        start = target.tell() if target.seekable() else None
        try:
            text = ClearText(
                target.write,
                state,
                options.hash_name.upper(),
                escape_from=options.escape_from,
            )
            for piece in _pieces(source):
                text.feed(piece)
            text.finish()
            signature = self._signature(state, SignatureKind.TEXT)[1]
        except BaseException as error:
            if start is not None:
                target.seek(start)
                target.truncate()
            if isinstance(error, LineTooLong):
                raise RequestRefused(
                    Status.UNKNOWN_ERROR,
                    "a line of the text is too long to be clear-signed; break it up, or use"
                    " sign-data",
                ) from None
            raise
        target.write(armored("SIGNATURE", signature, options.headers))

    def message(self, source: IO[bytes], target: IO[bytes]) -> None:
        """Write a binary signed message with what `source` holds, which is small, to `target`."""
        content = source.read()
        state = new_hash(self.options.hash)
        state.update(content)
        parameters, signature = self._signature(state, SignatureKind.BINARY)
        target.write(parameters.one_pass() + literal(content) + signature)

    def _signature(self, state: _Hash, kind: SignatureKind) -> tuple[SignatureParameters, bytes]:
        """A signature packet over content whose hash is `state`, and what is in it."""
        self.before_use()
        signer, options = self.open_signer(), self.options
        parameters = SignatureParameters(
            kind,
            signer.algorithm,
            options.hash,
            int(time.time()),
            signer.fingerprint,
            options.remarks,
        )
        digest = parameters.digest(state)
        made = signer.sign_digest(digest, HASHES[options.hash])
        try:
            verify(signer.public_key, options.hash_name, digest, made)
        except InvalidSignature:
            raise KeystoreError(
                "the key store made a signature that its public key does not take; it is not sent",
                "have the server's administrator look at the machine, and restore the key from a"
                " backup",
            ) from None
        self.after_use(signer.fingerprint.hex().upper())
        return parameters, parameters.packet(digest, made)


def _pieces(source: IO[bytes]) -> Iterator[bytes]:
    """All that `source` has from its present position on."""
    while piece := source.read(_PIECE):
        yield piece
