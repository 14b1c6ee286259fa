"""The benchmark's harness works: it measures requests of a site that runs."""

from __future__ import annotations

from pathlib import Path

from tests.bench.measuring import client_kib, load, watched
from tests.bench.rows import Requests
from tests.bench.sites import OURS, BenchSite
from tests.site import ADMIN_PASSWORD, Site


def test_requests_are_measured_with_cpu_and_memory(running_site: Site, tmp_path: Path) -> None:
    bridge, server = running_site.processes
    site = BenchSite(
        running_site.directory, OURS, ADMIN_PASSWORD,
        {"bridge": bridge.popen, "server": server.popen},
    )  # fmt: skip
    requests = Requests(site, tmp_path)
    with watched(site) as seen:
        found = load([lambda: requests.do(requests.list_users())], 2, 0.1)
    assert found.rate > 0
    assert 0 < found.p95 <= found.seconds
    assert 5 * 1024 < client_kib(site, *requests.list_users()) < 200 * 1024
    assert 5 * 1024 < seen.worker_kib < 500 * 1024
    assert set(seen.cpu) == {"bridge", "server"}
