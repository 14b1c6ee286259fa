"""A site with default limits, who works there, and who attacks it.

    def test_an_attack(ground, honest, attacker):
        crowd = attacker(ground.site, "mallory", "crowd")
        with honest.during("40 silent connections"):
            crowd.start(scripts=[{"stop": "connected"}], each=40)
            …                   the attack, and that the attacker is refused with its reason

While the block lasts, honest users sign with `sigul`: the test fails where a request of theirs
does, and their latency is printed beside that without an attack (`work`).

* `ground` is a module's: for tests that leave it as it was. `quiet` is a test's own, and is not
  running: for tests that need other options (`extra`) or change what the site has.
* Of its people (certificates, each with a database below `pki/clients`), `alice` and `bob` are
  honest and sign with the key `KEY`; `trent` has a user and a key, `TRENTS_KEY`, and may turn
  hostile; `mallory` has a certificate and is no user. `gateway` has a certificate that may speak
  for others where a test says so (`proxy-usernames`).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.scripted import Peer
from tests.hostile.work import Honest
from tests.site import Process, Site

HONEST = ("alice", "bob")
CERTIFICATES = ("admin", *HONEST, "trent", "mallory", "gateway")
KEY, TRENTS_KEY = "k1", "trents"


def passphrase(user: str, key: str = KEY) -> str:
    """A user's passphrase for a key."""
    return f"{user}-{key}-passphrase"


@dataclass(frozen=True)
class Ground:
    """A running site, and its daemons."""

    site: Site
    bridge: Process
    server: Process


@pytest.fixture(scope="session")
def hostile_template(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site with its people and their keys, which is made once and does not run."""
    site = Site.make(tmp_path_factory.mktemp("hostile") / "site", CERTIFICATES, secret_delay=None)
    password = site.admin_password
    with site.running():
        for user in (*HONEST, "trent"):
            site.sigul("new-user", user, secrets=[password])
        for key, owner in ((KEY, HONEST[0]), (TRENTS_KEY, "trent")):
            secrets = [password, passphrase("admin", key)]
            site.sigul("new-key", key, secrets=secrets)
            site.sigul(
                "grant-key-access", key, owner,
                secrets=[passphrase("admin", key), passphrase(owner, key)],
            )  # fmt: skip
        site.sigul(
            "grant-key-access", KEY, HONEST[1],
            secrets=[passphrase("admin"), passphrase(HONEST[1])],
        )  # fmt: skip
    return site


def copied(template: Site, directory: Path) -> Site:
    """A site like `hostile_template`, with a configuration for each of its people."""
    site = Site.copy(template, directory)
    for user in CERTIFICATES:
        site.client_configuration(user, user)
    return site


@pytest.fixture(scope="module")
def ground(hostile_template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A running site with the limits of its programs."""
    site = copied(hostile_template, tmp_path_factory.mktemp("ground") / "site")
    with site.running() as (bridge, server):
        server.wait_for("Waiting for a request at the bridge", 4)
        yield Ground(site, bridge, server)
    shutil.rmtree(site.directory)


@pytest.fixture
def quiet(hostile_template: Site, tmp_path: Path) -> Iterator[Site]:
    """A test's own site, which is not running yet."""
    site = copied(hostile_template, tmp_path / "site")
    yield site
    site.stop_all()
    shutil.rmtree(site.directory)


AttackerFactory = Callable[..., Peer]


@pytest.fixture
def attacker() -> Iterator[AttackerFactory]:
    """Starts scripted peers with somebody's certificate; they are ended with the test."""
    with contextlib.ExitStack() as stack:

        def start(site: Site, who: str = "mallory", kind: str = "client", **how: object) -> Peer:
            options = {"database": f"clients/{who}", **how}
            return stack.enter_context(Peer(site, kind, **options))  # type: ignore[arg-type]

        yield start


HonestFactory = Callable[[Site], Honest]


@pytest.fixture(scope="module")
def calm() -> list[float]:
    """The latency of a site that nobody attacks, in seconds, once it has been measured."""
    return []


@pytest.fixture
def honest_at(request: pytest.FixtureRequest, calm: list[float]) -> HonestFactory:
    """The honest users of any site."""
    passphrases = {user: passphrase(user) for user in HONEST}
    return lambda site: Honest(site, KEY, passphrases, request.node.user_properties, before=calm)


@pytest.fixture
def honest(ground: Ground, honest_at: HonestFactory) -> Honest:
    """The honest users of `ground`."""
    return honest_at(ground.site)
