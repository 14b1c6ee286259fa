"""Decryption with OpenPGP keys of a GnuPG home, by gpg.

gpg reads its input from the caller's file and writes to the caller's file, so size costs no
memory. Each run of gpg has the home's time limit (`signing-timeout`) and a second for each
`BYTES_PER_SECOND` of input besides: the input is there completely before a request is served,
so that this is the time for work on it, and no peer has a part in it. A pipe as source does not
tell its size, and has to keep to the home's limit.

Decrypting uses the given key and no other. gpg is shown a key ring that holds it alone, so that
a message for any other key, of this home or of none, takes the same path to the same refusal;
and what gpg says it used is compared with the key afterwards. No clear text reaches the caller
unless gpg has proven the integrity of all of it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from ..errors import RequestRefused, Status, WrongPassphrase
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


@dataclass(frozen=True, slots=True)
class DecryptionKey:
    """A key of the GnuPG home `home`, with the passphrase that opens it.

    `before_use` is called before the key is used, each time, and raises where it is not to be any
    more.
    """

    home: GnuPG
    fingerprint: str
    passphrase: Secret
    before_use: Callable[[], None] = lambda: None


def decrypt(
    key: DecryptionKey,
    source: IO[bytes],
    target: IO[bytes],
    *,
    max_output: int = MAX_CLEAR_TEXT,
    refusal_seconds: float = REFUSAL_SECONDS,
) -> None:
    """Write what `source`, a message encrypted to `key`, says to `target`.

    A message of more than `max_output` bytes of clear text is refused like any other that
    cannot be decrypted: `RequestRefused` (decryption failed).

    A refusal takes `refusal_seconds` and what the message's size adds, whatever is wrong with
    it: gpg is twice as fast with a message for another key as with a damaged one.

    Raises `WrongPassphrase` where the passphrase is not the key's, and `KeystoreError` where gpg or
    the key store failed.
    """
    began = time.monotonic()
    with (
        memory_file(key.home.export(key.fingerprint, armor=False)) as ring,
        input_descriptor(source) as stdin,
        output_descriptor(target) as stdout,
    ):
        size = bytes_left(stdin)

        def run(message: int) -> GnuPGResult:
            key.before_use()
            return key.home.run(
                [
                    *("--keyring", f"/proc/self/fd/{ring}"),
                    # Signatures inside are not what was asked about; who made them is unknown.
                    *("--skip-verify", "--no-auto-key-retrieve", "--no-symkey-cache"),
                    *("--max-output", str(max_output), "--decrypt"),
                ],
                passphrase=key.passphrase,
                stdin=message,
                stdout=stdout,
                inherit=[ring],
                time_limit=key.home.time_limit + bytes_left(message) / BYTES_PER_SECOND,
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
            raise WrongPassphrase(
                f"the passphrase does not open key {key.fingerprint} in the GnuPG home"
            )
        if not _is_decrypted(outcome, key.fingerprint):
            said = outcome.messages.strip() or "nothing"
            tell(_log, SigningEvents.DECRYPTION_FAILED, fingerprint=key.fingerprint, said=said)
            if _agent_has_no_memory(outcome):
                # Not the message's doing: the same one may be decrypted a moment later.
                raise failure(key.home, key.fingerprint, outcome, "decrypting", "try again")
            enough = refusal_seconds + size / BYTES_PER_SECOND
            time.sleep(max(0.0, began + enough - time.monotonic()))
            raise RequestRefused(Status.DECRYPT_FAILED)


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
