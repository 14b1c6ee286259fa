"""The server's events of the log: see `logevents`. A name, once there, stays."""

from __future__ import annotations

from ..logevents import DEBUG, ERROR, INFO, WARNING, LogEvent

# Each event in few lines: ruff would have five of each.
# fmt: off


_GUESSES = (
    "Wrong secrets came before from {who!t}: refused for another {seconds} s (refusal {count})"
)


class ServerLog(LogEvent):
    """The server's lines."""

    RPMS_ANSWERED = "rpms-answered", INFO, "{count} RPMs answered"
    RPM_SIGNED = "rpm-signed", INFO, "{rpm!t} signed"
    REFUSAL_NOT_LOGGED = "refusal-not-logged", ERROR, "A refusal is not in the signing log: {why!t}"
    REQUEST_NOT_BEGUN = "request-not-begun", WARNING, "{what!t}: {why!t}; it does not begin"
    REQUEST_WATCH_FAILED = "request-watch-failed", ERROR, (
        "Watching the request failed in an unforeseen way"
    )
    RIGHTS_UNKNOWN = "rights-unknown", WARNING, (
        "Whether the request's rights last cannot be told just now: {why!t}"
    )
    REQUEST_ENDED_EARLY = "request-ended-early", WARNING, "{what!t}: {why!t}; the request is ended"
    CLIENT_NOT_TOLD = "client-not-told", INFO, "The client did not hear why: {why!t}"
    PASSPHRASE_BINDING_TOLD = "passphrase-binding-told", INFO, (
        "The client says that it binds the passphrase with {method!q}"
    )
    FOREIGN_KEY_DELETED = "foreign-key-deleted", WARNING, (
        "Key {key!q} ({keytype}) is deleted from the database; what it names is not this "
        "server's to delete, and stays: {fingerprint!q}"
    )
    KEY_CHANGE_REPAIRED = "key-change-repaired", WARNING, (
        "A change of keys was cut off; store and database are brought in step"
    )
    KEY_REMOVED_FROM_STORE = "key-removed-from-store", INFO, (
        "Removing key {fingerprint} from the store: the database does not have it"
    )
    KEY_NOT_REMOVED = "key-not-removed", ERROR, (
        "Key {fingerprint} is not deleted from the store: {why!t}"
    )
    SIGNED_BY = "signed-by", INFO, "Signed by {signer!t} of key {key!q}"
    REQUEST_WARNING = "request-warning", WARNING, "{why!t}"
    PROSPECT_UNKNOWN = "prospect-unknown", WARNING, (
        "What becomes of key {key!q} is not known: {why!t}"
    )
    REQUEST_REFUSED = "request-refused", INFO, "{what!t} refused: {why!t}"
    REQUEST_CRASHED = "request-crashed", ERROR, "{what!t} failed in an unforeseen way"
    REQUEST_FAILED = "request-failed", ERROR, "{what!t} failed: {why!t}"
    AUTHENTICATION_FAILED = "authentication-failed", WARNING, "Authentication failed: {why!t}"
    ACCESS_LEFT_AS_IT_IS = "access-left-as-it-is", WARNING, (
        "{what!t} is left as Sigul 0.x wrote it, without integrity protection: {why!t}"
    )
    ACCESS_WRITTEN_ANEW = "access-written-anew", INFO, (
        "{what!t} was written anew: Sigul 0.x wrote it without integrity protection"
    )
    SPOOL_REFUSED = "spool-refused", WARNING, (
        "A request with {bytes} bytes in the spool gets no more: {why!t}"
    )
    SPOOL_SHARE_EXCEEDED = "spool-share-exceeded", WARNING, (
        "{user!q} has too much in the spool: {why!t}"
    )
    SPOOL_FAILED = "spool-failed", ERROR, "Storing the payload failed: {why!t}"
    TOOL_MISSING = "tool-missing", WARNING, "{problem!t}; until then not available: {lost!t}"
    FEATURE_MISSING = "feature-missing", WARNING, "{problem!t}; {cure!t}"
    DATABASE_UNPROVEN = "database-unproven", WARNING, "{problem!t}; {cure!t}"
    DATABASE_MIGRATED = "database-migrated", WARNING, (
        "The database was migrated; as it was before, it is in {backup!q}"
    )
    DATABASE_ODDITY = "database-oddity", WARNING, "The database: {problem!t}; {cure!t}"
    OPTION_NOT_FOLLOWED = "option-not-followed", WARNING, (
        "gpg.conf in {path!p} has what no signature here follows: {option!t}"
    )
    STORE_FINDING = "store-finding", WARNING, "{why!t}"
    DATABASE_HAS_KEYS = "database-has-keys", INFO, "The database has {count} keys"
    SIGNING_LOG_MADE = "signing-log-made", WARNING, (
        "A new signing log was made in {path!q}; where there was one before, witnesses will "
        "complain"
    )
    SIGNING_LOG_OPENED = "signing-log-opened", INFO, (
        "The signing log {origin!q} has {leaves} leaves"
    )
    REQUESTS_OF_USER_ENDED = "requests-of-user-ended", WARNING, (
        "{count} requests of {user!q} are ended, as was asked for"
    )
    CLIENT_DISTRUSTED = "client-distrusted", WARNING, (
        "The certificate of {name!q} is no longer good"
    )
    CONFIGURATION_TAKEN = "configuration-taken", INFO, (
        "The configuration is taken; new workers take the old ones' places"
    )
    PROCESS_FAILED = "process-failed", ERROR, "{why!t}"
    SIGNING_LOG_PROCESS_ENDED = "signing-log-process-ended", ERROR, (
        "The signing log's process has ended ({how!t}); another one is started, and a request "
        "that it was just writing down is refused"
    )
    SHUTDOWN_WAITS = "shutdown-waits", INFO, "Waiting up to {seconds:g} s for {requests} requests"
    CONNECT_FAILED = "connect-failed", WARNING, "{why!t}; next attempt in {seconds:.1f} s"
    WAITING_FOR_REQUEST = "waiting-for-request", INFO, "Waiting for a request at the bridge"
    WAITING_CONNECTION_ENDED = "waiting-connection-ended", WARNING, (
        "The connection that waited at the bridge has ended: {why!t}"
    )
    INNER_REQUEST_REFUSED = "inner-request-refused", WARNING, "The request was refused: {why!t}"
    REPLY_INCOMPLETE = "reply-incomplete", WARNING, (
        "The request ended without a complete reply: {why!t}"
    )
    INNER_TLS_ACCEPTING = "inner-tls-accepting", INFO, "[DOUBLE_TLS] Starting TLS handshake"
    INNER_TLS_ACCEPTED = "inner-tls-accepted", INFO, (
        "[DOUBLE_TLS] TLS handshake completed successfully (client {name!q})"
    )
    REQUEST_BROKEN = "request-broken", WARNING, "{why!t}"
    REQUEST_DONE = "request-done", INFO, (
        "Request {op!q} of user {user!q} done, protocol version {version}"
    )
    GUESSES_REFUSED = "guesses-refused", WARNING, _GUESSES
    #: Of many in a row not every one is a warning.
    MORE_GUESSES_REFUSED = "more-guesses-refused", DEBUG, _GUESSES
    WORKER_KILLED = "worker-killed", ERROR, (
        "Worker {process} was ended by signal {signal}; the server goes on"
    )
    WORKER_KILLED_IN_REQUEST = "worker-killed-in-request", ERROR, (
        "Worker {process} was ended by signal {signal} in the middle of a request; the server"
        " goes on"
    )
    METRICS_FAIL = "metrics-fail", ERROR, "Metrics cannot be given: {reason!t}; the server goes on"
    METRICS_WRITTEN = "metrics-written", INFO, "The metrics' file is written again"
