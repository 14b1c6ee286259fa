"""Every metric that bridge, server, health check and canary give, in one table.

What makes a metric takes its kind, help and labels from here, and docs/observe.md, the dashboard
and the alert rules are compared with it. Names follow Prometheus' conventions: base units
(seconds, bytes), a total at the end of what only grows, and times in seconds since 1970.

No label has a name of a user, key, certificate or file in it, but for those in `named`, which are
given only where the configuration says `metrics-names = yes`: until then, that label is left out
and what differs in nothing else is summed up (or, for a gauge, the worst of it is given).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Kind(enum.StrEnum):
    """The kinds of metrics of the text format."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Source(enum.StrEnum):
    """The giver of a metric, and the place."""

    #: The bridge's management address (`bridge.management`).
    BRIDGE = "bridge"
    #: The server's text file, and its status socket.
    SERVER = "server"
    #: `sigul-stack health COMPONENT --metrics-file`, for each component.
    HEALTH = "health"
    #: `sigul-stack canary --metrics-file`.
    CANARY = "canary"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric. `labels` are always there, `named` only where names were asked for.

    `buckets` are upper bounds of a histogram, in the unit of its name.
    """

    name: str
    source: Source
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


#: Upper bounds of what takes from a millisecond to minutes, in seconds.
SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip

_B, _S, _H, _C = Source.BRIDGE, Source.SERVER, Source.HEALTH, Source.CANARY
_COUNTER, _GAUGE, _HISTOGRAM = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

METRICS: Final[tuple[Metric, ...]] = (
    # ------------------------------------------------------------------------------------- bridge
    Metric("sigul_bridge_info", _B, _GAUGE, "Always 1; the version that runs.", ("version",)),
    Metric("sigul_bridge_start_time_seconds", _B, _GAUGE, "When the process began, since 1970."),
    Metric(
        "sigul_bridge_connections",
        _B,
        _GAUGE,
        "Connections at this moment: handshake_client, handshake_server, waiting_server (for a"
        " request), header (a client's, before its request is known), queued (for a turn or a"
        " server), forwarded.",
        ("state",),
    ),
    Metric(
        "sigul_bridge_waiting_servers",
        _B,
        _GAUGE,
        "Servers' connections that wait for a request.",
        named=("server",),
    ),
    Metric(
        "sigul_bridge_servers_attached_total",
        _B,
        _COUNTER,
        "Servers' connections that began to wait.",
    ),
    Metric(
        "sigul_bridge_servers_dropped_total",
        _B,
        _COUNTER,
        "Servers' connections that went before a request came for them.",
    ),
    Metric(
        "sigul_bridge_handshake_seconds",
        _B,
        _HISTOGRAM,
        "Outer TLS handshakes that finished.",
        ("side",),
        buckets=SECONDS,
    ),
    Metric(
        "sigul_bridge_handshakes_failed_total",
        _B,
        _COUNTER,
        "Outer TLS handshakes that failed or took too long, and peers that may not play that part.",
        ("side",),
    ),
    Metric(
        "sigul_bridge_probes_total",
        _B,
        _COUNTER,
        "Connections that ended before a byte of a request: port checks and health checks.",
    ),
    Metric(
        "sigul_bridge_queue_seconds",
        _B,
        _HISTOGRAM,
        "From a request's header until a server had it.",
        buckets=SECONDS,
    ),
    Metric("sigul_bridge_queue_length", _B, _GAUGE, "Requests that wait for a turn or a server."),
    Metric(
        "sigul_bridge_queue_oldest_seconds",
        _B,
        _GAUGE,
        "How long the first of them waits; 0: none.",
    ),
    Metric(
        "sigul_bridge_requests_total",
        _B,
        _COUNTER,
        "Requests that are over, by operation, protocol version (both unknown where no header told"
        " them), and result: ok, refused (by the server), refused_by_bridge, ended (by a person or"
        " a certificate), failed.",
        ("op", "version", "result"),
        named=("client",),
    ),
    Metric(
        "sigul_bridge_request_seconds",
        _B,
        _HISTOGRAM,
        "From a request's header to the end of its reply.",
        ("op",),
        buckets=SECONDS,
    ),
    Metric(
        "sigul_bridge_bytes_total",
        _B,
        _COUNTER,
        "Bytes of requests (direction up) and replies (down) that were forwarded.",
        ("direction",),
    ),
    Metric(
        "sigul_bridge_refusals_total",
        _B,
        _COUNTER,
        "What the bridge refused by itself: budget, rate, group, group_source, version, no_server,"
        " protocol, koji, late (its header), other.",
        ("reason",),
    ),
    Metric(
        "sigul_bridge_budget_used_ratio",
        _B,
        _GAUGE,
        "What is in use of a limit, 0 to 1 (a single payload may be over its own): connections,"
        " downloads, handshakes, waiting_servers of what all may have; requests, payloads of what"
        " one name may, of the name that has most.",
        ("budget",),
    ),
    Metric(
        "sigul_bridge_certificate_days_left",
        _B,
        _GAUGE,
        "Days until a certificate ends: bridge (its own), server (the first of those that wait),"
        " client (the first of those that were here in the last 24 hours).",
        ("certificate",),
        named=("name",),
    ),
    Metric(
        "sigul_bridge_signing_log_checkpoints_total",
        _B,
        _COUNTER,
        "Checkpoints of servers' signing logs that were asked for and are good.",
    ),
    Metric(
        "sigul_bridge_signing_log_failures_total",
        _B,
        _COUNTER,
        "Times that a server could not be asked for its log's checkpoint.",
    ),
    Metric(
        "sigul_bridge_signing_log_complaints",
        _B,
        _GAUGE,
        "Signing logs with a complaint that nobody has accepted.",
        named=("server",),
    ),
    Metric(
        "sigul_bridge_signing_log_checked_timestamp_seconds",
        _B,
        _GAUGE,
        "When the log that was not looked at for longest was found good, since 1970; 0: never.",
        named=("server",),
    ),
    # ------------------------------------------------------------------------------------- server
    Metric("sigul_server_info", _S, _GAUGE, "Always 1; the version that runs.", ("version",)),
    Metric("sigul_server_start_time_seconds", _S, _GAUGE, "When the process began, since 1970."),
    Metric(
        "sigul_server_metrics_timestamp_seconds",
        _S,
        _GAUGE,
        "When these numbers were written, since 1970: old ones mean that nothing runs.",
    ),
    Metric(
        "sigul_server_workers",
        _S,
        _GAUGE,
        "Worker processes: attached (wait at the bridge), dialling, busy.",
        ("state",),
    ),
    Metric(
        "sigul_server_workers_started_total", _S, _COUNTER, "Worker processes that were started."
    ),
    Metric("sigul_server_workers_crashed_total", _S, _COUNTER, "Worker processes that crashed."),
    Metric(
        "sigul_server_handshake_seconds",
        _S,
        _HISTOGRAM,
        "Finished outer TLS handshakes with the bridge.",
        buckets=SECONDS,
    ),
    Metric(
        "sigul_server_requests_total",
        _S,
        _COUNTER,
        "Requests that are over, by operation, protocol version, and result: ok, refused, ended,"
        " failed.",
        ("op", "version", "result"),
        named=("user",),
    ),
    Metric(
        "sigul_server_phase_seconds",
        _S,
        _HISTOGRAM,
        "Phases of a request: receive (its header and payload), inner_tls (that handshake), unlock"
        " (a key or an access), sign, store (what changes database or key store), log (until the"
        " signing log has it), reply.",
        ("phase",),
        buckets=SECONDS,
    ),
    Metric(
        "sigul_server_unlock_failures_total",
        _S,
        _COUNTER,
        "Requests with a wrong password or passphrase, or of users who do not have the right.",
    ),
    Metric(
        "sigul_server_delayed_total",
        _S,
        _COUNTER,
        "Requests refused, unseen, because wrong secrets came before them.",
    ),
    Metric(
        "sigul_server_requests_ended_total",
        _S,
        _COUNTER,
        "Requests ended because rights or a certificate were taken back, or by a person.",
    ),
    Metric("sigul_server_spool_bytes", _S, _GAUGE, "Bytes of payloads in the spool."),
    Metric(
        "sigul_server_spool_limit_bytes",
        _S,
        _GAUGE,
        "Bytes that may be there; absent: no max-spool-size.",
    ),
    Metric(
        "sigul_server_spool_refusals_total",
        _S,
        _COUNTER,
        "Times that a request was refused room there.",
    ),
    Metric(
        "sigul_server_signing_log_leaves",
        _S,
        _GAUGE,
        "Leaves of the signing log; absent: it has none.",
    ),
    Metric(
        "sigul_server_signing_log_checkpoint_timestamp_seconds",
        _S,
        _GAUGE,
        "When its last checkpoint was made, since 1970.",
    ),
    Metric(
        "sigul_server_signing_log_failures_total",
        _S,
        _COUNTER,
        "Requests that failed because the signing log could not be written.",
    ),
    # ----------------------------------------------------------------------- health check, canary
    Metric(
        "sigul_check_state",
        _H,
        _GAUGE,
        "What a layer of the health check found: 0 ok, 1 warning, 2 failed, 3 unknown.",
        ("component", "layer"),
    ),
    Metric(
        "sigul_check_timestamp_seconds",
        _H,
        _GAUGE,
        "When it was looked at, since 1970.",
        ("component",),
    ),
    Metric(
        "sigul_certificate_days_left",
        _H,
        _GAUGE,
        "Days until the component's own certificate (own) or its CA's (ca) ends.",
        ("component", "certificate"),
    ),
    Metric(
        "sigul_key_days_left",
        _H,
        _GAUGE,
        "Days until the first of the signing keys expires; absent: none does.",
        named=("key",),
    ),
    Metric(
        "sigul_disk_free_ratio",
        _H,
        _GAUGE,
        "Of a file system's size, what is free, 0 to 1: database, key_store, spool, signing_log,"
        " state.",
        ("component", "volume"),
    ),
    Metric("sigul_signing_log_bytes", _H, _GAUGE, "Bytes of the signing log's files."),
    Metric(
        "sigul_signing_log_pushed_timestamp_seconds",
        _H,
        _GAUGE,
        "When the log was last pushed elsewhere, since 1970; 0: never.",
    ),
    Metric(
        "sigul_canary_success",
        _C,
        _GAUGE,
        "1 where the last test signature was made, verified, and found in the signing log; else 0.",
    ),
    Metric("sigul_canary_timestamp_seconds", _C, _GAUGE, "When it was last tried, since 1970."),
    Metric(
        "sigul_canary_success_timestamp_seconds",
        _C,
        _GAUGE,
        "When it last succeeded, since 1970; 0: never.",
    ),
    Metric(
        "sigul_canary_phase_seconds",
        _C,
        _GAUGE,
        "How long the last one took: sign (the whole request), verify, log.",
        ("phase",),
    ),
)

#: By name.
BY_NAME: Final = {metric.name: metric for metric in METRICS}
