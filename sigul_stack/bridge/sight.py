"""A serving bridge as others see it at one moment: its metrics, and its view.

Reads what is known elsewhere (`Measures`, `Budget`, `Register`, the waiting servers, `LogWatch`)
when it is asked, and keeps nothing but since when a condition holds. Must not change or hold up
what it looks at: each lock is held as long as a list takes to be copied.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from .. import __version__
from ..metrics import BridgeCount
from ..observe.conditions import Conditions
from ..observe.exposition import Samples
from ..observe.view import BridgeView, CertificateView
from ..protocol.status import MAX_LISTED, WaitingServer, WatchedLog
from ..transport.stream import Peer
from .admission import Handshakes
from .measures import request_view, shown_name, state_of
from .register import Visit
from .session import BridgeResources

_DAY_SECONDS: Final = 24 * 3600.0
#: States of connections that are counted from the visits of clients.
_VISITS: Final = ("header", "queued", "forwarded")
#: Names of gauges and counters that are the bridge's own counters.
_COUNTERS: Final = {
    "sigul_bridge_servers_attached_total": BridgeCount.SERVERS_ATTACHED,
    "sigul_bridge_servers_dropped_total": BridgeCount.SERVERS_DROPPED,
    "sigul_bridge_probes_total": BridgeCount.PROBES,
    "sigul_bridge_signing_log_checkpoints_total": BridgeCount.LOG_CHECKPOINTS,
    "sigul_bridge_signing_log_failures_total": BridgeCount.LOG_FAILURES,
}


class Sight:
    """A bridge as it is seen; for all threads.

    `own` is the bridge's own certificate's name and end (seconds since 1970); `logs` tells what is
    known of signing logs, all of them.
    """

    def __init__(
        self,
        resources: BridgeResources,
        handshakes: Mapping[str, Handshakes],
        logs: Callable[[float], tuple[WatchedLog, ...]],
        own: tuple[str, float],
        started: datetime,
    ) -> None:
        self._resources = resources
        self._measures = resources.measures
        self._handshakes = handshakes
        self._logs = logs
        self._own = own
        self._started = started
        self._conditions = Conditions()
        #: Another process serves: this one has no conditions any more.
        self.is_old = False

    def view(self) -> BridgeView:
        """The bridge's view at this moment."""
        resources, at, now = self._resources, time.monotonic(), datetime.now(UTC)
        visits = resources.register.visits()
        waiting = resources.waiting.waiting()
        view = BridgeView(
            version=__version__,
            pid=os.getpid(),
            started=self._started.isoformat(timespec="seconds"),
            now=now.isoformat(timespec="seconds"),
            connections=self._connections(visits, len(waiting)),
            totals=resources.counters.values(),
            servers=tuple(
                WaitingServer(
                    shown_name(server.peer),
                    server.peer.address,
                    round(at - arrival.at, 3),
                    round(arrival.handshake_seconds, 6),
                )
                for server, arrival in waiting[:MAX_LISTED]
            ),
            certificates=self._certificates(visits, [server.peer for server, _ in waiting], now),
            under_way=tuple(request_view(visit, at, now, None) for visit in visits[:MAX_LISTED]),
            recent=self._measures.recent(),
            latency=self._measures.latency(),
            budgets={name: round(part, 4) for name, part in self._budgets().items()},
            conditions=(),
            logs=self._logs(at)[:MAX_LISTED],
            log_interval_seconds=float(resources.settings.signing_log_interval),
        )
        return view if self.is_old else self._conditions.added_to(view, at)

    def samples(self) -> Samples:
        """The bridge's metrics at this moment."""
        resources, measures, at = self._resources, self._measures, time.monotonic()
        samples = Samples(names=measures.names)
        visits = resources.register.visits()
        waiting = resources.waiting.waiting()
        samples.add("sigul_bridge_info", 1, version=__version__)
        samples.add("sigul_bridge_start_time_seconds", self._started.timestamp())
        for state, count in self._connections(visits, len(waiting)).items():
            samples.add("sigul_bridge_connections", count, state=state)
        servers = Counter(shown_name(server.peer) for server, _ in waiting)
        for name, labels in self._named(servers, "server"):
            count = servers[name] if labels else len(waiting)
            samples.add("sigul_bridge_waiting_servers", count, **labels)
        totals = resources.counters.values()
        for metric, counter in _COUNTERS.items():
            samples.add(metric, totals[counter.value])
        samples.add_histogram("sigul_bridge_handshake_seconds", measures.handshake_seconds)
        samples.add_tally("sigul_bridge_handshakes_failed_total", measures.handshakes_failed)
        samples.add_histogram("sigul_bridge_queue_seconds", measures.queue_seconds)
        queued = [at - visit.headed_at for visit in visits if state_of(visit) == "queued"]
        samples.add("sigul_bridge_queue_length", len(queued))
        samples.add("sigul_bridge_queue_oldest_seconds", max(queued, default=0.0))
        samples.add_tally("sigul_bridge_requests_total", measures.requests)
        samples.add_histogram("sigul_bridge_request_seconds", measures.request_seconds)
        up, down = measures.moved(resources.register.visits)
        samples.add("sigul_bridge_bytes_total", up, direction="up")
        samples.add("sigul_bridge_bytes_total", down, direction="down")
        samples.add_tally("sigul_bridge_refusals_total", measures.refusals)
        for name, part in self._budgets().items():
            samples.add("sigul_bridge_budget_used_ratio", part, budget=name)
        self._add_certificates(samples, visits, [server.peer for server, _ in waiting])
        self._add_logs(samples, at)
        return samples

    def look(self) -> None:
        """Look at the conditions, so that it is known since when each holds."""
        self.view()

    def _named(
        self, names: Mapping[str, object], label: str
    ) -> Iterator[tuple[str, dict[str, str]]]:
        """Each name with the label of it; where names are not given away or none is there, none."""
        if not (self._measures.names and names):
            yield "", {}
            return
        for name in list(names)[:MAX_LISTED]:
            yield name, {label: name}

    def _connections(self, visits: list[Visit], waiting: int) -> dict[str, int]:
        states = Counter(state_of(visit) for visit in visits)
        return {
            "handshake_client": len(self._handshakes["client"]),
            "handshake_server": len(self._handshakes["server"]),
            "waiting_server": waiting,
            **{state: states[state] for state in _VISITS},
        }

    def _budgets(self) -> dict[str, float]:
        resources = self._resources
        return {
            **resources.budget.used(),
            "handshakes": max(item.used for item in self._handshakes.values()),
            "waiting_servers": len(resources.waiting) / resources.settings.max_waiting_servers,
        }

    def _ends(self, visits: list[Visit], waiting: list[Peer]) -> dict[tuple[str, str], float]:
        """The end of each certificate, by role and common name, in seconds since 1970."""
        paired = [visit.server.peer for visit in visits if visit.server is not None]
        name, end = self._own
        ends = {("bridge", name): end}
        for peer in (*waiting, *paired):
            if peer.not_after:
                key = ("server", shown_name(peer))
                ends[key] = min(ends.get(key, peer.not_after), peer.not_after)
        return ends | {("client", key): value for key, value in self._measures.met().items()}

    def _certificates(
        self, visits: list[Visit], waiting: list[Peer], now: datetime
    ) -> tuple[CertificateView, ...]:
        """Certificates of `_ends`, the first to end first, this bridge's own before all."""
        ends = sorted(
            self._ends(visits, waiting).items(), key=lambda item: (item[0][0] != "bridge", item[1])
        )
        return tuple(
            CertificateView(
                role,
                name,
                datetime.fromtimestamp(end, UTC).isoformat(timespec="seconds"),
                round((end - now.timestamp()) / _DAY_SECONDS, 2),
            )
            for (role, name), end in ends[:MAX_LISTED]
        )

    def _add_certificates(self, samples: Samples, visits: list[Visit], waiting: list[Peer]) -> None:
        now = time.time()
        ends = self._ends(visits, waiting)
        if not self._measures.names:
            worst: dict[str, float] = {}
            for (role, _name), end in ends.items():
                worst[role] = min(worst.get(role, end), end)
            ends = {(role, ""): end for role, end in worst.items()}
        for (role, name), end in ends.items():
            labels = {"name": name} if name else {}
            days = (end - now) / _DAY_SECONDS
            samples.add("sigul_bridge_certificate_days_left", days, certificate=role, **labels)

    def _add_logs(self, samples: Samples, at: float) -> None:
        logs = {item.common_name: item for item in self._logs(at)}
        now = time.time()

        def checked(item: WatchedLog) -> float:
            return now - item.seconds if item.seconds >= 0 else 0.0

        for name, labels in self._named(logs, "server"):
            some = [logs[name]] if labels else list(logs.values())
            complaints = sum(bool(item.complaint) for item in some)
            samples.add("sigul_bridge_signing_log_complaints", complaints, **labels)
            if some:
                samples.add(
                    "sigul_bridge_signing_log_checked_timestamp_seconds",
                    min(map(checked, some)),
                    **labels,
                )
