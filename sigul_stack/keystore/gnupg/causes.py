"""Causes of failed runs of gpg, in words for whoever asked for them.

gpg's last words are the system's or its library's (`Cannot allocate memory`, `Unusable secret
key`), which say neither what was meant nor what helps. What is known of them is here; of a key that
cannot be used `outlook` knows more.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Final

from ...errors import KeystoreError, SigulError
from .agent import AgentFailure
from .outlook import GONE, outlook
from .output import CORRUPTED_PROTECTION_TEXT
from .program import GnuPG, GnuPGResult

#: How gpg says in the end that it has no use for the key that it was told to use.
_OF_THE_KEY: Final = (
    "Unusable secret key",
    "No secret key",
    "Unusable public key",
    "Key expired",
    # That of newer versions for a key of the future.
    "Time conflict",
)

_SPACE: Final = (
    "the server's disk or quota for the GnuPG home is full",
    "have the server's administrator free space there",
)
#: By the system's error: what it means here, and what to do.
_SYSTEM: Final = {
    errno.ENOMEM: (
        "gpg-agent is out of (secure) memory",
        "try again with fewer requests at once; the server's gpg-agent.conf needs the line"
        " auto-expand-secmem, and its agent to be started again",
    ),
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EROFS: (
        "the server's GnuPG home is on a file system that is mounted read-only",
        "have the server's administrator mount it writable; the kernel's log says why it is not",
    ),
    errno.EACCES: (
        "the server's user may not use all of its GnuPG home",
        "have the server's administrator give it that user: chown -R (doctor server checks it)",
    ),
    errno.EIO: (
        "the disk with the server's GnuPG home fails",
        "have the server's administrator look at the disk and the kernel's log",
    ),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE),
        (
            "the server has no more open files for gpg",
            "have the server's administrator raise its limit of open files (LimitNOFILE)",
        ),
    ),
}
_SYSTEM[errno.EPERM] = _SYSTEM[errno.EACCES]
_BY_TEXT: Final = {os.strerror(number): found for number, found in _SYSTEM.items()} | {
    "No agent running": (
        "gpg-agent does not run and cannot be started",
        "have the server's administrator look at gnupg-home and at memory; doctor server helps",
    ),
    "Timeout": (
        "gpg-agent did not answer in time",
        "try again; where it lasts, have the server's administrator look at the machine's load",
    ),
    "Bad secret key": (
        "the key's file in the GnuPG home is damaged",
        "have the server's administrator restore it from a backup",
    ),
    CORRUPTED_PROTECTION_TEXT: (
        "the key's file in the GnuPG home is damaged, so that no passphrase opens it",
        "have the server's administrator restore it from a backup of a time when it could sign",
    ),
    "Checksum error": (
        "the key's file in the GnuPG home is damaged",
        "have the server's administrator restore it from a backup",
    ),
}


def failure(
    home: GnuPG, fingerprint: str, outcome: GnuPGResult, what: str, cure: str
) -> KeystoreError:
    """The error for a run with the key `fingerprint` of `home` that failed in doing `what`.

    Where nothing is known of the reason, gpg's last words and `cure` have to do.
    """
    if (found := known(outcome)) is not None:
        return KeystoreError(f"{what} failed: {found[0]} ({outcome.last_words})", found[1])
    if any(words in outcome.messages for words in _OF_THE_KEY):
        # It is about the key that another answer is looked for: whatever fails now is no reason.
        try:
            key = home.key(fingerprint)
            fault = GONE if key is None else outlook(key, time.time(), 0).fault
        except SigulError:
            fault = None
        if fault is not None:
            return KeystoreError(
                f"{what} failed: {fault.problem} ({outcome.last_words})", fault.cure
            )
    return outcome.failure(what, cure)


def agent_failure(error: AgentFailure, what: str) -> KeystoreError:
    """The error for an agent that refused what was asked of it in doing `what`."""
    if (found := known_text(error.text)) is not None:
        return KeystoreError(f"{what} failed: {found[0]} ({error.text})", found[1])
    return KeystoreError(f"{what} failed: {error.problem}", error.cure)


def cannot_use(home: GnuPG, fingerprint: str, what: str) -> KeystoreError:
    """The error for a key of `home` of which no part may be used in doing `what`."""
    key = home.key(fingerprint)
    fault = GONE if key is None else outlook(key, time.time(), 0).fault
    if fault is None:
        return KeystoreError(
            f"{what} failed: no part of key {fingerprint} can sign",
            "sign with another key; doctor server tells more",
        )
    return KeystoreError(f"{what} failed: {fault.problem}", fault.cure)


def out_of_memory(outcome: GnuPGResult) -> bool:
    """True if a run failed for want of memory, which is no message's doing."""
    return os.strerror(errno.ENOMEM) in outcome.messages


def known(outcome: GnuPGResult) -> tuple[str, str] | None:
    """The meaning and the cure of what made a run fail, where that is the machine's doing."""
    lines = map(known_text, reversed(outcome.messages.splitlines()))
    return next((found for found in lines if found is not None), None)


def known_text(line: str) -> tuple[str, str] | None:
    """The meaning and the cure of one line of gpg's or its agent's, if it has one."""
    for text, found in _BY_TEXT.items():
        # An agent names behind the text whose error it is: "Timeout <Pinentry>".
        if line.rstrip().endswith(text) or f"{text}>" in line or f"{text} <" in line:
            return found
    return None
