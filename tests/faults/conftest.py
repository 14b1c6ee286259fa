"""Sites and scripted peers for the tests here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.scripted import Peer
from tests.integration.conftest import site, template
from tests.site import Process, Site

__all__ = ["site", "template"]

#: Limits that a test can wait for. They bound hostile peers only: honest ones are far quicker.
SHORT_LIMITS = {
    "bridge": {"bridge": "handshake-timeout: 3\nheader-timeout: 3\nclose-timeout: 3\n"},
    "server": {"server": "handshake-timeout: 10\nidle-timeout: 20\n"},
}
KEY, KEY_PASSPHRASE = "k1", "k1-pw"

PeerFactory = Callable[..., Peer]


@pytest.fixture
def peer() -> Iterator[PeerFactory]:
    """Starts scripted peers, which are ended with the test."""
    with contextlib.ExitStack() as stack:

        def start(of: Site, kind: str, **options: object) -> Peer:
            return stack.enter_context(Peer(of, kind, **options))  # type: ignore[arg-type]

        yield start


@pytest.fixture(scope="module")
def served(
    template: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, Process, Process]]:
    """A running site with a key, and its bridge and server; short limits."""
    served_site = Site.copy(template, tmp_path_factory.mktemp("served") / "site")
    served_site.extra = SHORT_LIMITS
    served_site.configure()
    with served_site.running() as (bridge, server):
        secrets = [served_site.admin_password, KEY_PASSPHRASE]
        served_site.sigul("new-key", KEY, secrets=secrets)
        # One more has answered the bridge, which looks at the signing log after the first reply.
        server.wait_for("Waiting for a request at the bridge", 6)
        yield served_site, bridge, server


@pytest.fixture
def with_limits(template: Site, tmp_path: Path) -> Iterator[Site]:
    """A new site with short limits, not running."""
    fresh = Site.copy(template, tmp_path / "site")
    fresh.extra = {name: dict(lines) for name, lines in SHORT_LIMITS.items()}
    fresh.configure()
    yield fresh
    fresh.stop_all()
