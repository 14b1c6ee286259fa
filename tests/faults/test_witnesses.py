"""A server's signing log that is not what it was: what clients and the bridge make of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.evidence import signing_log
from sigul_stack.evidence.log_reader import LogReader
from sigul_stack.evidence.witness import Witness
from sigul_stack.formats.signed_note import PublicKey, cosignature_time
from tests.faults.conftest import PeerFactory
from tests.site import SERVER_NAME, Process, Site, module, wait_until
from tests.wire import u32

pytestmark = pytest.mark.once("our own log; every peer of it is ours")

ADMIN = "admin-pw"
KEY, KEY_PASSPHRASE = "k1", "k1-pw"


@pytest.fixture
def watched(template: Site, tmp_path: Path) -> Iterator[Site]:
    """A site whose bridge looks at the log each second, and cosigns it; not running."""
    site = Site.copy(template, tmp_path / "site")
    site.path("witness").mkdir(mode=0o700)
    key = site.path("witness/key")
    site.run(*module("stack"), "witness", "key", str(key), "--name", "bridge.example.org/w")
    site.extra = {
        "bridge": {
            "bridge": f"signing-log-interval: 1\nsigning-log-witness-key: {key}\n"
            f"signing-log-state: {site.path('witness/seen.json')}\n",
            "daemon": f"status-socket: {site.path('run/bridge.sock')}\n",
        }
    }
    site.configure()
    yield site
    site.stop_all()


def log_of(site: Site) -> Path:
    return site.path("server/signing-log")


def ask(site: Site, code: int = 0, config: str = "client.conf") -> str:
    """What `list-users` says on standard error."""
    done = site.sigul("list-users", secrets=[ADMIN], code=code, config=config)
    return done.stderr.decode()


def witness(site: Site, *words: str, code: int = 0, config: str = "client.conf") -> str:
    """What `sigul-stack witness` prints, of the client or the bridge."""
    command, *rest = words
    done = site.run(
        *module("stack"), "witness", command, "-c", str(site.path(config)), *rest, code=code
    )
    return done.stdout.decode()


def origin_of(site: Site) -> str:
    return PublicKey.parse((log_of(site) / "key.pub").read_text()).name


def another_client(site: Site) -> str:
    """The configuration of a client with the same certificate and a memory of its own."""
    text = site.path("client.conf").read_text()
    state = f"[client]\nsigning-log-state: {site.path('witness/other.json')}\n"
    site.path("other.conf").write_text(text.replace("[client]\n", state))
    return "other.conf"


def restarted(site: Site, server: Process) -> Process:
    assert server.stop() == 0
    site.processes.remove(server)
    return site.start_server(2)


def put_back(site: Site, old: Path) -> None:
    shutil.rmtree(log_of(site))
    shutil.copytree(old, log_of(site))


def test_a_log_put_back_from_yesterday(watched: Site, tmp_path: Path) -> None:
    site, yesterday = watched, tmp_path / "yesterday"
    bridge, server = site.start_bridge(), site.start_server(2)
    ask(site)
    server.stop()
    shutil.copytree(log_of(site), yesterday)
    server = restarted(site, server)
    site.sigul("new-key", KEY, secrets=[ADMIN, KEY_PASSPHRASE])
    ask(site)
    origin = origin_of(site)
    seen = Witness(site.path("witness/seen.json"))

    def bridge_has_seen() -> bool:
        return any(item.checkpoint.size >= 4 for item in seen.logs())

    wait_until(bridge_has_seen, 20, "the bridge's look at the log")
    server.stop()
    site.processes.remove(server)
    put_back(site, yesterday)
    server = site.start_server(2)
    # The bridge alone sees it: no client has come meanwhile.
    bridge.wait_for(f"[SIGNING_LOG] the signing log of '{SERVER_NAME}'", seconds=20)
    assert "leaves were taken away" in bridge.text
    health = site.run(
        *module("stack"), "health", "bridge", "-c", str(site.path("bridge.conf")), code=2
    ).stdout.decode()
    assert "signing log: the signing log of" in health
    # And the first request of a client does; nothing is put in place.
    data, signature = tmp_path / "data", tmp_path / "data.sig"
    data.write_bytes(b"data")
    words = ("sign-data", "-o", str(signature), KEY, str(data))
    said = site.sigul(*words, secrets=[KEY_PASSPHRASE], code=1).stderr.decode()
    assert "it has 3 leaves and had 4" in said or "leaves were taken away" in said
    assert "sigul-stack witness show" in said
    assert not signature.exists()
    count = len(list(LogReader.open(log_of(site)).entries(0, 3)))
    assert count == 3
    # The next one tells no secret any more.
    said = site.sigul(*words, secrets=[KEY_PASSPHRASE], code=1).stderr.decode()
    assert "leaves were taken away" in said
    assert LogReader.open(log_of(site)).size == 3
    # A person ends it, at each witness.
    for config in ("client.conf", "bridge.conf"):
        shown = witness(site, "show", code=1, config=config)
        assert "COMPLAINT (contradiction)" in shown
        assert shown.count(f"    {origin}\n") >= 2
        assert origin in witness(site, "accept", origin, config=config)
        assert "COMPLAINT" not in witness(site, "show", config=config)
    site.sigul(*words, secrets=[KEY_PASSPHRASE])
    assert signature.exists()
    wait_until(bridge_has_seen, 20, "the bridge's look at the log")
    health = site.run(
        *module("stack"), "health", "bridge", "-c", str(site.path("bridge.conf")), code=None
    ).stdout.decode()
    assert f"ok       signing log: the log of {SERVER_NAME} has" in health
    (known,) = seen.logs()
    assert known.cosigned is not None
    public = PublicKey.parse(site.path("witness/key.pub").read_text())
    assert cosignature_time(known.cosigned, public) > 1_700_000_000


def test_a_forked_log(watched: Site, tmp_path: Path) -> None:
    site, other = watched, another_client(watched)
    server = site.start_bridge() and site.start_server(2)
    ask(site)
    server.stop()
    site.processes.remove(server)
    shutil.copytree(log_of(site), tmp_path / "fork")
    server = site.start_server(2)
    ask(site)
    server.stop()
    site.processes.remove(server)
    put_back(site, tmp_path / "fork")
    site.start_server(2)
    # For one that has not seen the first, the second is as good.
    for _ in range(3):
        ask(site, config=other)
    said = ask(site, code=1)
    assert "do not begin with the" in said
    assert "that were known" in said


@pytest.mark.parametrize("named", [True, False])
def test_another_log_is_not_taken(watched: Site, named: bool) -> None:
    site = watched
    server = site.start_bridge() and site.start_server(2)
    ask(site)
    server.stop()
    site.processes.remove(server)
    previous = LogReader.open(log_of(site)).checkpoint
    shutil.rmtree(log_of(site))
    if named:
        signing_log.create(log_of(site), "new", previous=previous)
    site.start_server(2)
    said = ask(site, code=1)
    assert "it is another log than the known one" in said
    told = "names the very checkpoint that is known" if named else "does not name a log before it"
    assert f"its first leaf {told}" in said
    assert origin_of(site) in said
    ask(site, code=1)
    witness(site, "accept", origin_of(site))
    ask(site)


def test_an_old_server_after_a_known_log(watched: Site, peer: PeerFactory) -> None:
    site = watched
    # So that the scripted server is asked by clients alone.
    site.extra["bridge"]["bridge"] = "signing-log-interval: 3600\n"
    site.configure()
    server = site.start_bridge() and site.start_server(2)
    ask(site)
    origin = origin_of(site)
    server.stop()
    site.processes.remove(server)
    old = peer(site, "server")
    old.start(requests=2, fields={"num-users": u32(1)}, payload=b"admin\0")
    old.wait_for("waiting")
    assert "its reply shows nothing of the log" in ask(site, code=1)
    witness(site, "accept", origin)
    old.wait_for("waiting", 2)
    assert ask(site) == ""
    asked = old.result()
    assert asked[0]["secrets"]["log-seen"].endswith(b" 2")
    assert "log-seen" not in asked[1]["secrets"]


def test_a_log_that_is_required(watched: Site, peer: PeerFactory) -> None:
    site = watched
    site.extra["client"] = {"client": "require-signing-log: yes\n"}
    site.configure()
    site.start_bridge()
    old = peer(site, "server")
    old.start(requests=1, fields={"num-users": u32(1)}, payload=b"admin\0")
    old.wait_for("waiting")
    assert "require-signing-log wants one" in ask(site, code=1)
    old.result()
