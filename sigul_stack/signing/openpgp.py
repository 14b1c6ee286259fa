"""OpenPGP keys of a GnuPG home, at work: signatures and decryption, by gpg.

gpg reads its input from the caller's file and writes to the caller's file, so size costs no
memory. Each run of gpg has the home's time limit (`signing-timeout`) and a second for each
`BYTES_PER_SECOND` of input besides: the input is there completely before a request is served,
so that this is the time for work on it, and no peer has a part in it. A pipe as source does not
tell its size, and has to keep to the home's limit.

The key is named by its fingerprint as Sigul 1.2 did, without a `!`: gpg signs with the newest
subkey that may sign, else with the primary key. The digest is SHA-512. Verifying takes the exported
public key only.

Decrypting uses the given key and no other. gpg is shown a key ring that holds it alone, so that
a message for any other key, of this home or of none, takes the same path to the same refusal;
and what gpg says it used is compared with the key afterwards. No clear text reaches the caller
unless gpg has proven the integrity of all of it.
"""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import IO

from ..errors import KeystoreError, RequestRefused, Status, WrongPassphrase, shortened
from ..formats.openpgp_message import without_passphrases
from ..formats.openpgp_packets import MalformedPacket
from ..keystore.gnupg import GnuPG
from ..keystore.gnupg.causes import failure, out_of_memory
from ..keystore.gnupg.program import GnuPGResult
from ..logevents import tell
from ..secret import Secret
from ..system.programs import memory_file
from .descriptors import bytes_left, input_descriptor, output_descriptor, watch_of
from .log_events import SigningEvents

_log = logging.getLogger(__name__)

#: How much of its input gpg works off in a second on the slowest machine that is supported.
BYTES_PER_SECOND = 10 << 20

#: The largest clear text that is decrypted unless a caller says otherwise, in bytes.
MAX_CLEAR_TEXT = 1 << 30

#: The largest message that is looked through for session keys that passphrases open, in bytes.
MAX_SEARCHED = 16 << 20

#: What it takes to refuse a message of no size, in seconds: several times what gpg needs.
REFUSAL_SECONDS = 0.25

_DIGEST = ["--digest-algo", "SHA512"]

#: What gpg says, and then succeeds, when it drops the rest of a line that it cannot clear-sign.
_CUT_LINE = "input line longer than"


@dataclass(frozen=True, slots=True)
class OpenPGPKey:
    """A key of the GnuPG home `home`, with the passphrase that opens it.

    A source or target is a binary file object: see `descriptors`. Every method raises
    `WrongPassphrase` if the passphrase is not the key's, and `KeystoreError` where gpg or the key
    store failed. Safe to use from several threads. `before_use` is called before gpg is, each time,
    and raises where the key is not to be used any more.
    """

    home: GnuPG
    fingerprint: str
    passphrase: Secret
    before_use: Callable[[], None] = lambda: None
    #: Called after each signature, with the fingerprint of the part that made it.
    after_use: Callable[[str], None] = lambda _signer: None

    def clear_sign(self, source: IO[bytes], target: IO[bytes]) -> None:
        """Write the text in `source`, clear-signed, to `target`.

        Raises `RequestRefused` for a line of more than 19,993 bytes, which the format as gpg has it
        cannot hold.
        """
        self._sign(source, target, "--clear-sign")

    def detach_sign(self, source: IO[bytes], target: IO[bytes], *, armor: bool = False) -> None:
        """Write a detached signature over `source` to `target`."""
        self._sign(source, target, *(["--armor"] if armor else []), "--detach-sign")

    def detached_signature(self, source: IO[bytes]) -> bytes:
        """A binary detached signature over `source`."""
        signature = io.BytesIO()
        self.detach_sign(source, signature)
        return signature.getvalue()

    def message(self, source: IO[bytes], target: IO[bytes]) -> None:
        """Write a binary signed message with what `source` holds in it to `target`."""
        self._sign(source, target, "--sign")

    def check(self, signature: IO[bytes], data: IO[bytes] | None = None) -> None:
        """Have gpg verify what was made here with this key, as those will who get it.

        `signature` is a detached one over `data`; or, with None, clear-signed text or a signed
        message. Both are seekable files, looked at from their start. Raises `RequestRefused` where
        gpg does not take it.
        """
        with ExitStack() as cleanup:
            files = []
            for file in filter(None, (signature, data)):
                file.seek(0)
                files.append(cleanup.enter_context(input_descriptor(file)))
            size = sum(map(bytes_left, files))
            outcome = self.home.run(
                [
                    *("--enable-special-filenames", "--verify", "--"),
                    *(f"-&{descriptor}" for descriptor in files),
                ],
                inherit=files,
                agent=False,
                time_limit=self.home.time_limit + size / BYTES_PER_SECOND,
            )
        valid = [line.arguments[-1:] for line in outcome.status.of("VALIDSIG")]
        good = outcome.status.of("GOODSIG")
        if outcome.returncode or len(good) != 1 or valid != [(self.fingerprint,)]:
            said = [line for line in outcome.messages.splitlines() if line.strip()]
            tell(_log, SigningEvents.GPG_REFUSES_ITS_SIGNATURE, said=" | ".join(said))
            raise RequestRefused(
                Status.UNKNOWN_ERROR,
                "gpg made a signature that it does not take itself"
                f" ({shortened(said[-1] if said else 'no reason given', 100)});"
                " it is not sent; see whether the key is valid",
            )

    def _sign(self, source: IO[bytes], target: IO[bytes], *command: str) -> None:
        with input_descriptor(source) as stdin, output_descriptor(target) as stdout:
            outcome = self._run(
                ["--local-user", self.fingerprint, *_DIGEST, *command],
                stdin,
                stdout,
                watch=watch_of(target),
            )
            if outcome.status.says_wrong_passphrase():
                raise self._wrong_passphrase()
            if outcome.returncode or not outcome.status.of("SIG_CREATED"):
                raise failure(
                    self.home,
                    self.fingerprint,
                    outcome,
                    "signing",
                    "check that the key has not expired (change-key-expiration) and may sign",
                )
            if _CUT_LINE in outcome.messages:
                raise RequestRefused(
                    Status.UNKNOWN_ERROR,
                    "a line of the text is too long to be clear-signed; break it up, or use"
                    " sign-data",
                )
            self.after_use((outcome.status.of("SIG_CREATED")[0].arguments[5:6] or ("",))[0])

    def decrypt(
        self,
        source: IO[bytes],
        target: IO[bytes],
        *,
        max_output: int = MAX_CLEAR_TEXT,
        refusal_seconds: float = REFUSAL_SECONDS,
    ) -> None:
        """Write what `source`, a message encrypted to this key, says to `target`.

        A message of more than `max_output` bytes of clear text is refused like any other that
        cannot be decrypted: `RequestRefused` (decryption failed).

        A refusal takes `refusal_seconds` and what the message's size adds, whatever is wrong with
        it: gpg is twice as fast with a message for another key as with a damaged one.
        """
        began = time.monotonic()
        with (
            memory_file(self.home.export(self.fingerprint, armor=False)) as ring,
            input_descriptor(source) as stdin,
            output_descriptor(target) as stdout,
        ):
            size = bytes_left(stdin)

            def run(message: int) -> GnuPGResult:
                return self._run(
                    [
                        *("--keyring", f"/proc/self/fd/{ring}"),
                        # Signatures inside are not what was asked about; who made them is unknown.
                        *("--skip-verify", "--no-auto-key-retrieve", "--no-symkey-cache"),
                        *("--max-output", str(max_output), "--decrypt"),
                    ],
                    message,
                    stdout,
                    ring,
                    watch=watch_of(target),
                    keyring=False,  # a hole in gpg, opened by the message, finds no other keys
                )

            # A pipe has no size, and cannot be read again.
            start = os.lseek(stdin, 0, os.SEEK_CUR) if size else 0
            outcome = run(stdin)
            if 0 < size <= MAX_SEARCHED and _tried_on_passphrase(outcome):
                with suppress(MalformedPacket):
                    to_keys = without_passphrases(os.pread(stdin, size, start))
                    with memory_file(to_keys) as message:
                        outcome = run(message)
            if _says_wrong_key_passphrase(outcome):
                raise self._wrong_passphrase()
            if not _is_decrypted(outcome, self.fingerprint):
                said = outcome.messages.strip() or "nothing"
                tell(_log, SigningEvents.DECRYPTION_FAILED, fingerprint=self.fingerprint, said=said)
                if _agent_has_no_memory(outcome):
                    # Not the message's doing: the same one may be decrypted a moment later.
                    raise failure(self.home, self.fingerprint, outcome, "decrypting", "try again")
                enough = refusal_seconds + size / BYTES_PER_SECOND
                time.sleep(max(0.0, began + enough - time.monotonic()))
                raise RequestRefused(Status.DECRYPT_FAILED)

    def _run(
        self,
        arguments: Sequence[str],
        stdin: int,
        stdout: int,
        *inherit: int,
        watch: Callable[[], None] | None,
        keyring: bool = True,
    ) -> GnuPGResult:
        self.before_use()
        return self.home.run(
            arguments,
            passphrase=self.passphrase,
            stdin=stdin,
            stdout=stdout,
            inherit=inherit,
            time_limit=self.home.time_limit + bytes_left(stdin) / BYTES_PER_SECOND,
            watch=watch,
            keyring=keyring,
        )

    def _wrong_passphrase(self) -> KeystoreError:
        return WrongPassphrase(
            f"the passphrase does not open key {self.fingerprint} in the GnuPG home"
        )


def _is_decrypted(outcome: GnuPGResult, fingerprint: str) -> bool:
    """True if gpg decrypted one message, all of it intact, with our key and no other."""
    order = [
        line.keyword
        for line in outcome.status.of(
            "BEGIN_DECRYPTION", "PLAINTEXT", "DECRYPTION_OKAY", "END_DECRYPTION",
            "DECRYPTION_FAILED", "BADMDC",
        )
    ]  # fmt: skip
    used = [line.arguments[1:2] for line in outcome.status.of("DECRYPTION_KEY")]
    protection = [line.arguments for line in outcome.status.of("DECRYPTION_INFO")]
    return (
        outcome.returncode == 0
        # One message, and no clear text from outside of it.
        and order == ["BEGIN_DECRYPTION", "PLAINTEXT", "DECRYPTION_OKAY", "END_DECRYPTION"]
        and used == [(fingerprint,)]
        # The kind of integrity protection: MDC or AEAD; 0 is none.
        and len(protection) == 1
        and any(number not in ("", "0") for number in protection[0][:1] + protection[0][2:3])
    )


def _tried_on_passphrase(outcome: GnuPGResult) -> bool:
    """True if gpg tried the key's passphrase on a session key that another passphrase opens.

    Once in about 85 times what comes out looks like a session key: then gpg tries no key any more.
    """
    return bool(outcome.status.of("NEED_PASSPHRASE_SYM")) and not outcome.status.of("PLAINTEXT")


def _agent_has_no_memory(outcome: GnuPGResult) -> bool:
    """True if the agent was asked to decrypt, and had no memory for it.

    Nothing else: what a message makes it say must not tell of the message.
    """
    return out_of_memory(outcome) and any(
        line.arguments[:1] == ("pkdecrypt_failed",) for line in outcome.status.of("ERROR")
    )


def _says_wrong_key_passphrase(outcome: GnuPGResult) -> bool:
    """True if the passphrase did not open our key; gpg tries it on passphrases in messages, too."""
    return not outcome.status.of("DECRYPTION_KEY") and any(
        line.arguments[:1] == ("pkdecrypt_failed",) and line.is_wrong_passphrase()
        for line in outcome.status.of("ERROR")
    )
