"""The keystore's events of the log: see `logevents`. A name, once there, stays."""

from __future__ import annotations

from ..logevents import ERROR, INFO, WARNING, LogEvent

# Each event in few lines: ruff would have five of each.
# fmt: off


class KeystoreLog(LogEvent):
    """The keystore's lines."""

    KEYRING_KEY_MISSING = "keyring-key-missing", ERROR, "Unable to find key with keyname {name!p}"
    UNBIND_FAILED = "unbind-failed", INFO, "cannot unbind with {method}: {why!t}"
    UNBIND_IMPOSSIBLE = "unbind-impossible", WARNING, (
        "Failed to unbind with any of the following: {tried!t}"
    )
    AGENT_KEEPS_PASSPHRASES = "agent-keeps-passphrases", WARNING, (
        "{path!p} lets gpg-agent keep passphrases in its memory; add: max-cache-ttl 0"
    )
    AGENT_MEMORY_SMALL = "agent-memory-small", WARNING, "{problem!t}; {cure!t}"
    SHORT_PATH_TAKEN = "short-path-taken", WARNING, (
        "{path!p} is not for user {user_id} alone: another name is used"
    )
    IMPORT_REFUSED = "import-refused", INFO, "refusing a key to import: {said!q}"
    GNUPG_KEY_WAS_ABSENT = "gnupg-key-was-absent", WARNING, (
        "key {fingerprint} was not in {path!p} when it was deleted"
    )
    KEY_HASTENED = "key-hastened", INFO, (
        "key {fingerprint} is written anew under its passphrase, so that it opens quickly"
    )
    KEY_STAYS_SLOW = "key-stays-slow", WARNING, (
        "key {fingerprint} takes as long to open as before: {why!t}"
    )
    KEY_MADE_AGAIN = "key-made-again", WARNING, "A key is made or imported once more: {why!t}"
    LOCK_IN_THE_WAY = "lock-in-the-way", ERROR, "{problem!t}; {cure!t}"
    LOCK_REMOVED = "lock-removed", WARNING, (
        "removing the lock {path!q}: its owner, process {process} of host {host!q}, is gone"
    )
    SCRATCH_AGENT_LEFT = "scratch-agent-left", WARNING, (
        "the agent of scratch home {path!p} may be left running: {why!t}"
    )
    SCRATCH_HOME_LEFT = "scratch-home-left", ERROR, (
        "cannot remove scratch home {path!p}; remove it by hand"
    )
    GNUPG_KEY_TAKEN_OVER = "gnupg-key-taken-over", WARNING, (
        "key {fingerprint}, which was left in the store, is taken over"
    )
    SCRATCH_HOME_REMOVED = "scratch-home-removed", WARNING, (
        "removing {path!p}, left by a process that was killed"
    )
    PEM_KEY_WAS_ABSENT = "pem-key-was-absent", WARNING, (
        "key {fingerprint} was not in {path!p} when it was deleted"
    )
    PEM_KEY_TAKEN_OVER = "pem-key-taken-over", WARNING, (
        "key {fingerprint}, which was left in the store, is taken over"
    )
