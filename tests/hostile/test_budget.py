"""One certificate, or two, that ask the bridge for more than their share."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sigul_stack.cli.outcome import BUSY
from sigul_stack.transport.status_socket import read_status
from tests.faults.scripted import Peer
from tests.hostile.conftest import TRENTS_KEY, AttackerFactory, Ground, HonestFactory, passphrase
from tests.hostile.work import Honest
from tests.integration.rpm_support import build
from tests.koji_hub import KojiHub
from tests.site import Site

pytestmark = pytest.mark.once("the bridge's own limits")

#: The files that the long tests here prove something about.
PROVEN = (
    "sigul_stack/bridge",
    "sigul_stack/transport/rate.py",
    "tests/hostile/work.py",
)

#: A request whose payload never comes to its end; twelve of them are within the bytes of a name.
ENDLESS: dict[str, Any] = {
    "op": "sign-data", "fields": {"key": b"k1"}, "length": 1024**3, "stop": "request", "hear": True,
}  # fmt: skip
#: Two certificates: one of a user, one of nobody.
TWO = ("trent", "mallory")


def told(*crowds: Peer, seconds: float = 120.0) -> Counter[str]:
    """What the bridge said to each client of crowds, without what is in quotes; how often."""
    found: Counter[str] = Counter()
    for crowd in crowds:
        for client in crowd.result(seconds):
            found[client["result"].get("bridge") or f"untold: {client['error']}"] += 1
    return found


def count(said: Counter[str], option: str) -> int:
    """How many were told of an option."""
    return sum(number for text, number in said.items() if option in text)


def totals(site: Site) -> dict[str, int]:
    """The bridge's counters."""
    found: dict[str, int] = json.loads(read_status(site.path("run/bridge.status"), 10))["totals"]
    return found


# More than 5 s: a silent client has ten of them.
@pytest.mark.long(*PROVEN)
def test_hundreds_of_connections_of_one_certificate(
    ground: Ground, honest: Honest, attacker: AttackerFactory
) -> None:
    """256 are all that the bridge has; none of the honest is sent away, and each is told."""
    crowds = [attacker(ground.site, "mallory", "crowd") for _ in range(4)]
    with honest.during("256 connections of one certificate", least=5):
        for crowd in crowds:
            crowd.start(scripts=[{**ENDLESS, "patience": 100.0}], each=64)
            crowd.wait_for("stalled")
        said = told(*crowds)
    assert said.total() == 256
    assert count(said, "'mallory' has 64 connections here") >= 150
    assert count(said, "max-connections-per-user") + count(said, "min-payload-rate") == 256, said


# More than 5 s: a byte each 10 s takes as long.
@pytest.mark.long(*PROVEN)
def test_a_byte_now_and_then_from_two_certificates(
    ground: Ground, honest: Honest, attacker: AttackerFactory
) -> None:
    crowds = [attacker(ground.site, name, "crowd") for name in TWO]
    script = {**ENDLESS, "zeros": 4, "trickle": 1, "pause": 10.0, "patience": 60.0}
    with honest.during("two certificates with a byte each 10 s", least=5):
        for crowd in crowds:
            crowd.start(scripts=[script], each=12)
        said = told(*crowds)
    assert count(said, "min-payload-rate") == 24, said


# More than 5 s: the attack is to last longer than any credit.
@pytest.mark.long(*PROVEN)
def test_two_certificates_that_keep_to_the_lowest_rate(
    ground: Ground, honest: Honest, attacker: AttackerFactory
) -> None:
    """They break no rule, and hold what they may hold; others are served all the time."""
    crowds = [attacker(ground.site, name, "crowd") for name in TWO]
    piece, seconds = 18_000, 15
    script = {
        **ENDLESS, "zeros": piece * seconds, "trickle": piece, "pause": 1.0, "patience": 60.0,
    }  # fmt: skip
    with honest.during("two certificates at the lowest rate", least=5):
        for crowd in crowds:
            crowd.start(scripts=[script], each=9)
        said = told(*crowds)
    # Once their bytes are at an end they are too slow.
    assert count(said, "min-payload-rate") == 18, said


# More than 5 s: what the kernel takes on the way has to be used up first.
@pytest.mark.long(*PROVEN)
def test_replies_that_are_read_in_a_trickle(
    quiet: Site, honest_at: HonestFactory, attacker: AttackerFactory
) -> None:
    """They hold their servers until their credit is used up."""
    quiet.extra["bridge"] = {
        "bridge": "min-payload-rate: 8388608\n",
        "daemon": f"status-socket: {quiet.path('run/bridge.status')}\n",
    }
    quiet.configure()
    script = {
        "op": "sign-text", "user": "trent", "fields": {"key": TRENTS_KEY.encode()},
        "secrets": {"passphrase": passphrase("trent", TRENTS_KEY).encode()},
        "payload": b"x" * 63 + b"\n", "zeros": 0, "read_pause": 3.0, "hear": True,
    }  # fmt: skip
    large = {**script, "payload": (b"x" * 63 + b"\n") * 400_000, "chunk": 65_536}
    with quiet.running() as (bridge, _server):
        crowd = attacker(quiet, "trent", "crowd")
        with honest_at(quiet).during("replies read in a trickle", least=5):
            crowd.start(scripts=[large], each=4)
            bridge.wait_for("the client read its reply slower than 8388608 bytes/s", 4, seconds=90)
        assert totals(quiet)["too_slow_total"] == 4


@pytest.mark.long("sigul_stack/bridge", "sigul_stack/client")
def test_our_client_shows_the_reason_though_it_is_still_sending(
    quiet: Site, attacker: AttackerFactory
) -> None:
    """The refusal is there before the request has begun; the payload is larger than all buffers."""
    quiet.extra["bridge"] = {"bridge": "max-connections-per-user: 1\n"}
    quiet.configure()
    with quiet.path("large").open("wb") as file:
        file.truncate(64 * 1024**2)
    with quiet.running():
        crowd = attacker(quiet, "trent", "crowd")
        crowd.start(scripts=[ENDLESS])
        crowd.wait_for("stalled")
        refused = quiet.sigul(
            "sign-data", "-o", str(quiet.path("signature")), TRENTS_KEY, str(quiet.path("large")),
            secrets=["wrong"], config="trent.conf", code=BUSY,
        )  # fmt: skip
    assert b"'trent' has 1 connections here" in refused.stderr
    assert b"max-connections-per-user" in refused.stderr


# More than 5 s: those that wait for their time do so for up to ten.
@pytest.mark.long(*PROVEN)
def test_more_requests_a_second_than_are_allowed(
    quiet: Site, honest_at: HonestFactory, attacker: AttackerFactory
) -> None:
    """Guesses at a passphrase: so many at once, then so many a second, and the rest is refused."""
    quiet.extra["bridge"] = {
        "bridge": "max-request-rate: 2\nserver-wait-timeout: 10\n",
        "daemon": f"status-socket: {quiet.path('run/bridge.status')}\n",
    }
    quiet.configure()
    guess = {
        "op": "sign-data", "user": "trent", "fields": {"key": TRENTS_KEY.encode()},
        "secrets": {"passphrase": b"wrong"}, "hear": True,
    }  # fmt: skip
    with quiet.running() as (bridge, _server):
        crowd = attacker(quiet, "trent", "crowd")
        honest = honest_at(quiet)
        with honest.during("60 guesses at once", least=3):
            crowd.start(scripts=[guess], each=60)
            said = told(crowd)
        assert count(said, "max-request-rate") >= 15, said
        assert count(said, "'trent' has sent more than 2 requests a second") >= 15
        assert totals(quiet)["over_budget_total"] >= 15
        assert "(max-request-rate)" in bridge.text


# More than 5 s: a hub that takes its time.
@pytest.mark.long(*PROVEN)
def test_more_rpms_from_koji_than_a_name_may_have(
    quiet: Site,
    honest_at: HonestFactory,
    attacker: AttackerFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No more than its share is fetched at once, and nobody waits for the rest."""
    downloads, lock = Counter[str](), threading.Lock()
    with KojiHub(tmp_path / "hub") as hub:
        nevra = hub.add(build(tmp_path))
        name, version, release = nevra.removesuffix(".noarch").rsplit("-", 2)
        pause = hub.pause

        def slowly(seconds: float) -> None:
            with lock:
                downloads["now"] += 1
                downloads["most"] = max(downloads["most"], downloads["now"])
                downloads["all"] += 1
            pause(seconds)
            with lock:
                downloads["now"] -= 1

        monkeypatch.setattr(hub, "pause", slowly)
        hub.state.delay = 1.5
        quiet.path("downloads").mkdir()
        quiet.extra["bridge"] = {
            "bridge": "server-wait-timeout: 5\n",
            "koji": f"koji-config: {hub.configuration()}\nmax-downloads-per-user: 2\n"
            f"download-directory: {quiet.path('downloads')}\n",
        }
        quiet.configure()
        fetch = {
            "op": "sign-rpm", "hear": True, "patience": 60.0,
            "fields": {
                "key": b"k1", "rpm-name": name.encode(), "rpm-version": version.encode(),
                "rpm-release": release.encode(), "rpm-arch": b"noarch",
            },
            "secrets": {"passphrase": b"wrong"},
        }  # fmt: skip
        with quiet.running():
            crowd = attacker(quiet, "mallory", "crowd")
            with honest_at(quiet).during("24 RPMs from Koji at once", least=3):
                crowd.start(scripts=[fetch], each=24)
                said = told(crowd)
        assert downloads["most"] == 2, downloads
        assert count(said, "max-downloads-per-user") >= 1, said
        assert count(said, "max-requests-per-user") >= 1, said
        assert list(quiet.path("downloads").iterdir()) == []
