"""The programs' own events of the log: see `logevents`. A name, once there, stays."""

from __future__ import annotations

from ..logevents import CRITICAL, DEBUG, ERROR, INFO, WARNING, LogEvent

# Each event in few lines: ruff would have five of each.
# fmt: off


_MEMORY = (
    "Memory that holds secrets is not kept from swap: there is a limit on locked memory"
    " (RLIMIT_MEMLOCK); give the service LimitMEMLOCK=infinity, or a container --ulimit"
    " memlock=-1:-1, or have no swap that is not encrypted"
)


class ProgramLog(LogEvent):
    """The programs' own lines."""

    NEW_PASSPHRASE_KEPT = "new-passphrase-kept", WARNING, (
        "{path!q} is kept: whether the server took its passphrase is not known; try it, and "
        "remove the file if it does not work"
    )
    COMMAND_NOTE = "command-note", WARNING, "{why!t}"
    PASSPHRASE_FILE_UNUSED = "passphrase-file-unused", WARNING, (
        "-f has no use here: {command} does not ask for a key passphrase"
    )
    TEXT_HAS_CARRIAGE_RETURN = "text-has-carriage-return", WARNING, (
        "the text has a carriage return inside a line: gpg verifies its signature, Sequoia (sq)"
        " does not; end lines with LF or CR LF, or use sign-data"
    )
    MANIFEST_WARNING = "manifest-warning", WARNING, "{path!p}: {why!t}"
    DAEMON_STARTS = "daemon-starts", INFO, "{name} starts"
    DAEMON_ENDS = "daemon-ends", INFO, "{name} ends"
    DAEMON_FAILED = "daemon-failed", ERROR, "{why!t}"
    DAEMON_CRASHED = "daemon-crashed", CRITICAL, "{name} failed unexpectedly"
    DAEMON_CONFIGURATION_WARNING = "daemon-configuration-warning", WARNING, "{why!t}"
    COMMAND_FAILED = "command-failed", DEBUG, "where it failed:"
    COMMAND_CRASHED = "command-crashed", DEBUG, "where it failed:"
    STALE_PID_FILE = "stale-pid-file", INFO, (
        "replacing the stale PID file {path!q} of process {process}"
    )
    TOKEN_URI_AMBIGUOUS = "token-uri-ambiguous", WARNING, (
        "The URI means {count} private keys; which of them signs an image is told by its "
        "certificate's label alone"
    )
    TOOL_CONFIGURATION_WARNING = "tool-configuration-warning", WARNING, "{why!t}"
    CLIENT_CONFIGURATION_WARNING = "client-configuration-warning", WARNING, "{why!t}"
    FILES_LIMITED = "files-limited", WARNING, (
        "This process may open {limit} files, and needs {wanted} for its workers; {cure!t}"
    )
    STORE_MADE = "store-made", INFO, "Made {path!q} for user {user_id}"
    TAG_SIGNED = "tag-signed", INFO, "Tag {tag!q} was {old}, now is {new}"
    TAG_SIGNED_ANEW = "tag-signed-anew", INFO, (
        "Tag {tag!q} was {old} (signed already; that signature was replaced), now is {new}"
    )
    LOG_LINES_LOST = "log-lines-lost", WARNING, (
        "{count} lines before this one were lost: the system's log did not take them"
    )
    #: Where the machine swaps.
    MEMORY_SWAPS = "memory-swaps", WARNING, _MEMORY
    MEMORY_NOT_LOCKED = "memory-not-locked", INFO, _MEMORY
    METRICS_FAILED = "metrics-failed", ERROR, (
        "Metrics cannot be given: {why!t}; the bridge goes on"
    )
