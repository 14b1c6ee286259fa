"""The bridge's events of the log: see `logevents`. A name, once there, stays."""

from __future__ import annotations

from ..logevents import DEBUG, ERROR, INFO, WARNING, LogEvent

# Each event in few lines: ruff would have five of each.
# fmt: off


class BridgeLog(LogEvent):
    """The bridge's lines."""

    REQUEST_DELAYED = "request-delayed", INFO, (
        "A request of {name!q} waits {seconds:.1f} s (max-request-rate)"
    )
    REQUEST_AWAITS_TURN = "request-awaits-turn", INFO, (
        "Waiting for another request of {name!q} to end (max-requests-per-user)"
    )
    PARENT_ENDED = "parent-ended", ERROR, (
        "The bridge's parent process has ended; so does process {process}"
    )
    FORWARD_COMPLETED = "forward-completed", INFO, (
        "[FORWARD] forward_two_way loop completed normally"
    )
    CLIENT_DID_NOT_CLOSE = "client-did-not-close", INFO, (
        "The client did not close within {seconds:g} s of its reply"
    )
    SERVER_CONNECTION_ENDED = "server-connection-ended", INFO, (
        "The server's connection has ended: {why!t}"
    )
    CLIENT_LEFT_EARLY = "client-left-early", INFO, (
        "The client left before it had read the end of its reply"
    )
    FASJSON_FAILED = "fasjson-failed", DEBUG, "FASJSON failed"
    HEARTBEAT_FAILED = "heartbeat-failed", WARNING, (
        "The heartbeat {path!q} cannot be written: {why!t}"
    )
    KOJI_RPM_FETCHED = "koji-rpm-fetched", INFO, "Fetched {rpm!p} from Koji, {bytes} bytes"
    KOJI_SIGNATURE_STORED = "koji-signature-stored", INFO, (
        "The signature of {rpm!p} is stored in Koji"
    )
    KOJI_SIGNATURE_KEPT = "koji-signature-kept", INFO, (
        "Koji has a signature of {rpm!p} by the same key already; it stays"
    )
    LOG_WATCH_FAILED = "log-watch-failed", ERROR, (
        "Watching signing logs failed in an unforeseen way"
    )
    SIGNING_LOG_COMPLAINT = "signing-log-complaint", ERROR, "[SIGNING_LOG] {why!t}"
    SIGNING_LOG_UNSEEN = "signing-log-unseen", WARNING, (
        "The signing log of {server!q} could not be looked at: {why!t}"
    )
    CLIENTS_LIMITED = "clients-limited", WARNING, (
        "This process may open {limit} files, and needs {wanted} for max-clients {max_clients}:"
        " it takes {clients} clients, {waiting_servers} waiting servers, and {handshakes} peers"
        " of a port in their handshake; {cure!t}"
    )
    PROCESS_TAKES_OVER = "process-takes-over", INFO, (
        "Process {process} serves; process {old} lets its requests finish"
    )
    CERTIFICATE_LOOK_FAILED = "certificate-look-failed", ERROR, (
        "Certificates cannot be looked at again: {why!t}"
    )
    NEXT_PROCESS_FAILED = "next-process-failed", ERROR, (
        "Process {process} {how!t} before it could serve: {why!t}"
    )
    SERVING_PROCESS_ENDED = "serving-process-ended", ERROR, (
        "The serving process {process} {how!t}; another is started"
    )
    OLD_PROCESS_ENDED = "old-process-ended", ERROR, (
        "Process {process} {how!t} while its last requests finished"
    )
    WAITING_FOR_SERVER = "waiting-for-server", INFO, (
        "[BRIDGE_REQUEST] Waiting for the server to connect"
    )
    USER_REQUESTS_ENDED = "user-requests-ended", WARNING, (
        "{count} requests of {user!q} are ended, as was asked for"
    )
    CERTIFICATE_DISTRUSTED = "certificate-distrusted", WARNING, (
        "The certificate with SHA-256 {fingerprint} is no longer good: {requests} requests and "
        "{waiting_servers} waiting servers are ended"
    )
    REQUESTS_CUT_OFF = "requests-cut-off", WARNING, (
        "{count} requests were not finished within {seconds:g} s and are cut off"
    )
    ACCEPT_FAILED = "accept-failed", WARNING, "Accepting a connection failed: {why!t}"
    THREAD_NOT_STARTED = "thread-not-started", ERROR, (
        "No thread could be started for a new connection; it is closed"
    )
    WAITING_FOR_CLIENT = "waiting-for-client", INFO, (
        "[BRIDGE_REQUEST] Waiting for the client to connect"
    )
    PROBE_ENDED = "probe-ended", DEBUG, (
        "The connection ended before it said anything: a check, no request"
    )
    CONNECTION_REFUSED = "connection-refused", WARNING, "{why!t}"
    FILES_EXHAUSTED = "files-exhausted", WARNING, (
        "No more files can be opened: a connection ends; {cure!t}"
    )
    CONNECTION_FAILED = "connection-failed", ERROR, "A connection failed in an unforeseen way"
    PEER_AUTHENTICATED = "peer-authenticated", INFO, (
        "[BRIDGE_TLS] {peer} authenticated with CN: {name!q}"
    )
    HANDSHAKE_BEGINS = "handshake-begins", INFO, "[BRIDGE_TLS] Starting TLS handshake with {peer}"
    HANDSHAKE_COMPLETED = "handshake-completed", INFO, "[BRIDGE_TLS] {peer} TLS handshake completed"
    REQUEST_RECEIVED = "request-received", INFO, (
        "Request {op!q} of user {user!q}, payload {bytes} bytes, protocol version {version}"
    )
    GROUPS_UNKNOWN = "groups-unknown", ERROR, "Groups cannot be looked up: {why!t}"
    WAITING_SERVER_FAILED = "waiting-server-failed", WARNING, (
        "Waiting server {name} failed: {why!t}"
    )
    SERVER_PAIRED = "server-paired", INFO, "Paired with server {name} ({address!t})"
    WAITING_SERVER_GONE = "waiting-server-gone", WARNING, (
        "Waiting server {name} ({address!t}) has gone; dropped"
    )
    KOJI_FAILED = "koji-failed", WARNING, "Koji failed: {why!t}"
    KOJI_FAILED_FOR_RPM = "koji-failed-for-rpm", WARNING, "Koji failed for RPM {number}: {why!t}"
    SERVER_CONNECTED = "server-connected", INFO, (
        "[BRIDGE_REQUEST] Server TCP connection accepted ({address!t})"
    )
    CLIENT_CONNECTED = "client-connected", INFO, "[BRIDGE_REQUEST] Client connected ({address!t})"
    MANAGEMENT_SERVED = "management-served", INFO, (
        "Metrics and page are at {address!t} in process {process}"
    )
    MANAGEMENT_ACCEPT_FAILED = "management-accept-failed", WARNING, (
        "Accepting a connection at the management address failed: {why!t}"
    )
    MANAGEMENT_ANSWER_FAILED = "management-answer-failed", ERROR, (
        "An answer at the management address failed in an unforeseen way"
    )
    CONDITIONS_FAILED = "conditions-failed", ERROR, (
        "Looking at the bridge's conditions failed in an unforeseen way"
    )
