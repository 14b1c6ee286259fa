"""Sites of protocol 0, of 1 and of both (docs/protocol.md, "Versions"), with scripted peers of 0.x.

No Sigul 0.x is here to be run: the scripted peers are written from the page. What the package's own
programs say to each other in version 0 is held against the computed exchanges in `tests.vectors`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.errors import Status
from sigul_stack.pki import Authority, LeafRequest, NSSDatabase, Role
from sigul_stack.pki.password_files import read_password
from tests.faults.conftest import KEY, KEY_PASSPHRASE, PeerFactory
from tests.faults.observe import storm
from tests.site import Process, Site
from tests.wire import u32

pytestmark = pytest.mark.once("our own framing and order of messages")

PASSWORD, ADMIN = {"password": b"admin-pw"}, "admin-pw"
PASSPHRASE = {"passphrase": KEY_PASSPHRASE.encode()}
USERS = {"fields": {"num-users": u32(1)}, "payload": b"admin\0"}
OLD_SERVER = "sigul-old.example.org"
UNKNOWN = b"Error: Unknown protocol version\n"

Served = tuple[Site, Process, Process]


def speaking(template: Site, directory: Path, **versions: str) -> Site:
    """A site, not running, of whose peers each speaks the versions that are given."""
    site = Site.copy(template, directory / "site")
    options = {"client": "protocol"}
    site.extra = {
        name: {name: f"{options.get(name, 'protocol-versions')}: {text}\n"}
        for name, text in versions.items()
    }
    site.configure()
    return site


@pytest.fixture
def old_client(served: Served) -> Iterator[Path]:
    """The configuration of a client of the running site that speaks version 0."""
    site, _bridge, _server = served
    text = site.path("client.conf").read_text()
    config = site.path("client-0.conf")
    config.write_text(text.replace("[client]\n", "[client]\nprotocol: 0\n"))
    yield config
    config.unlink()


# --------------------------------------------------------------------- a client of 0.x, our others


def test_clients_of_both_versions_are_served_side_by_side(
    served: Served, peer: PeerFactory
) -> None:
    site, bridge, server = served
    with storm(site, bridge, server):
        for version in (0, 1, 0):
            found = peer(site, "client").run(version=version, secrets=PASSWORD)
            assert found["fields"] == {"num-users": u32(1)}
            assert found["payload"] == b"admin\0"
    for program in (bridge, server):
        assert program.text.count("protocol version 0") >= 2
        assert program.text.count("protocol version 1") >= 1


def test_what_version_0_says_in_another_way(served: Served, peer: PeerFactory) -> None:
    site, _bridge, _server = served
    client = peer(site, "client")
    keys = {version: client.run(op="list-keys", version=version, secrets=PASSWORD)
            for version in (0, 1)}  # fmt: skip
    assert keys[0]["payload"] == KEY.encode() + b"\0"
    assert keys[1]["payload"] == f"{KEY} (gnupg)\0".encode()
    fields = {"name": b"admin"}
    for version, true in ((0, u32(1)), (1, b"\1")):
        found = client.run(op="user-info", version=version, fields=fields, secrets=PASSWORD)
        assert found["fields"] == {"admin": true}


@pytest.mark.parametrize(("armor", "begin"), [(1, b"-----BEGIN PGP SIGNATURE"), (0, b"\x89")])
def test_a_boolean_of_four_bytes_is_one(
    served: Served, peer: PeerFactory, armor: int, begin: bytes
) -> None:
    site, _bridge, _server = served
    found = peer(site, "client").run(
        op="sign-data", version=0, payload=b"hello", secrets=PASSPHRASE,
        fields={"key": KEY.encode(), "armor": u32(armor)},
    )  # fmt: skip
    assert found["status"] == Status.OK
    assert found["payload"].startswith(begin)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"op": "decrypt", "fields": {"key": b"k1"}}, "operation 'decrypt' is unknown"),
        ({"op": "sign-pe", "fields": {"key": b"k1", "cert-name": b"c"}}, "'sign-pe' is unknown"),
        ({"op": "list-certificates", "fields": {"key": b"k1"}}, "'list-certificates' is unknown"),
        (
            {"op": "new-key", "fields": {"key": b"k9", "keytype": b"ECC"}},
            "'new-key' has no field 'keytype'",
        ),
        (
            {"op": "sign-rpm", "fields": {"key": b"k1", "head-signing": u32(1)}},
            "'sign-rpm' has no field 'head-signing'",
        ),
        (
            {"op": "sign-data", "fields": {"key": b"k1", "armor": b"\1"}},
            "field 'armor' is not a boolean (4-byte 0 or 1)",
        ),
        ({"op": "new-user", "fields": {"name": b"x", "admin": u32(2)}}, "'admin' is not a boolean"),
        ({"op": "sign-data", "fields": {"key": b"k1"}, "length": 2**30 + 1}, "over the limit of"),
    ],
)  # fmt: skip
def test_our_bridge_refuses_what_version_0_does_not_have(
    served: Served, peer: PeerFactory, request_: dict[str, object], told: str
) -> None:
    site, bridge, server = served
    with storm(site, bridge, server):
        client = peer(site, "client")
        client.start(version=0, secrets=PASSPHRASE, hear=True, stop="request", **request_)
        assert told in client.result()["bridge"]
    assert told in bridge.text


@pytest.mark.parametrize("payload", [b"", b"hello" * 1000])
def test_a_1_x_client_that_changes_the_word_alone_fails_and_harms_nobody(
    served: Served, peer: PeerFactory, payload: bytes
) -> None:
    """Four bytes follow a payload of which the length says that it has ended."""
    site, bridge, server = served
    with storm(site, bridge, server):
        request = {"op": "list-users", "secrets": PASSWORD}
        if payload:
            request = {"op": "sign-text", "fields": {"key": KEY.encode()}, "secrets": PASSPHRASE}
        outcome = peer(site, "client").attempt(
            version=0, widths_of=1, payload=payload, **request  # type: ignore[arg-type]
        )  # fmt: skip
        assert outcome["error"] is not None
        assert outcome["result"].get("payload") is None
        option = ["--internal-protocol-version=0"]
        site.sigul("list-users", secrets=[ADMIN], options=option, code=1)


# -------------------------------------------------------------------------------- our client at 0


def test_our_client_speaks_version_0(served: Served, old_client: Path) -> None:
    site, bridge, server = served
    with storm(site, bridge, server):
        asked = site.sigul("list-keys", secrets=[ADMIN], config=old_client)
        assert asked.stdout == f"{KEY}\n".encode()
        told = site.sigul("user-info", "admin", secrets=[ADMIN], config=old_client).stdout
        assert told == site.sigul("user-info", "admin", secrets=[ADMIN]).stdout
    assert "Request 'user-info' of user 'admin', payload 0 bytes, protocol version 0" in bridge.text


@pytest.mark.parametrize(
    ("command", "secrets", "told"),
    [
        (["decrypt", KEY, "/etc/hostname"], [KEY_PASSPHRASE], "has no operation 'decrypt'"),
        (["new-key", "--key-type", "ECC", "k9"], [ADMIN, "pw"], "has no field 'keytype'"),
        (
            ["modify-key-user", "admin", KEY, "--only", "sign-text"], [ADMIN],
            "has no field 'only'",
        ),
    ],
)  # fmt: skip
def test_our_client_does_not_send_what_version_0_does_not_have(
    served: Served, old_client: Path, command: list[str], secrets: list[str], told: str
) -> None:
    site, bridge, server = served
    with storm(site, bridge, server):
        before = bridge.text.count("Request '")
        refused = site.sigul(*command, secrets=secrets, config=old_client, code=1)
        assert told in refused.stderr.decode()
        assert "protocol: 0" in refused.stderr.decode()
        assert bridge.text.count("Request '") == before


def test_our_client_through_a_bridge_of_0_207_to_our_server(
    template: Site, tmp_path: Path, peer: PeerFactory
) -> None:
    site = speaking(template, tmp_path, client="0")
    bridge = peer(site, "bridge")
    bridge.start(requests=3, speaks=(0,))
    bridge.wait_for("listening")
    site.start("server")
    try:
        for _ in range(2):
            assert site.sigul("list-users", secrets=[ADMIN]).stdout == b"admin\n"
        text = site.path("client.conf").read_text()
        site.path("client-1.conf").write_text(text.replace("protocol: 0\n", ""))
        refused = site.sigul("list-users", secrets=[ADMIN], config="client-1.conf", code=1)
        assert b"the request was cut off" in refused.stderr
        found = bridge.result()
        assert [pair.get("version") for pair in found] == [0, 0, None]
        assert "Unknown protocol version 1" in found[2]["errors"][0]
    finally:
        site.stop_all()


def test_our_client_and_bridge_with_a_server_of_0_207(
    template: Site, tmp_path: Path, peer: PeerFactory
) -> None:
    site = speaking(template, tmp_path, client="0")
    try:
        site.start_bridge()
        server = peer(site, "server")
        server.start(speaks=(0,), **USERS)
        server.wait_for("waiting")
        assert site.sigul("list-users", secrets=[ADMIN]).stdout == b"admin\n"
        (request,) = server.result()
        assert request["version"] == 0
    finally:
        site.stop_all()


# ------------------------------------------------------------------------------------------ mixes


@pytest.mark.long("sigul_stack/bridge", "sigul_stack/protocol")
@pytest.mark.parametrize("version", [0, 1])
def test_a_server_that_does_not_speak_the_version_says_so(
    template: Site, tmp_path: Path, peer: PeerFactory, version: int
) -> None:
    site = speaking(template, tmp_path, server=str(1 - version), client=str(version))
    with site.running() as (_bridge, server):
        assert site.sigul("list-users", secrets=[ADMIN], code=1).stderr == UNKNOWN
        # The strictest client reads four bytes, and nothing behind them.
        found = peer(site, "client").run(
            version=version, secrets=PASSWORD, stop="request", hear=True
        )
        assert found["status"] == Status.UNKNOWN_VERSION
        server.wait_for(f"protocol version {version} is unknown; this peer speaks {1 - version}", 2)
        works = peer(site, "client").run(version=1 - version, secrets=PASSWORD)
        assert works["payload"] == b"admin\0"


@pytest.mark.parametrize("version", [0, 1])
def test_a_version_that_is_switched_off_at_the_bridge(
    template: Site, tmp_path: Path, peer: PeerFactory, version: int
) -> None:
    site = speaking(template, tmp_path, bridge=str(1 - version), client=str(version))
    with site.running() as (bridge, server):
        assert site.sigul("list-users", secrets=[ADMIN], code=1).stderr == UNKNOWN
        bridge.wait_for(f"protocol version {version} is unknown; this peer speaks {1 - version}")
        works = peer(site, "client").run(version=1 - version, secrets=PASSWORD)
        assert works["payload"] == b"admin\0"
        assert "is unknown" not in server.text


def old_server_of(site: Site) -> str:
    """The database of a second server, `sigul-old.example.org`."""
    place = site.path("pki/server-old")
    shutil.copytree(site.path("pki/server"), place)
    ca = site.path("pki/ca")
    leaf = Authority.open(ca, read_password(ca / "nss-password")).issue(
        LeafRequest(Role.SERVER, OLD_SERVER, (site.server_name,))
    )
    NSSDatabase(place, read_password(place / "nss-password")).replace_leaf(
        leaf, "sigul-server-cert"
    )
    return place.name


@pytest.mark.long("sigul_stack/bridge", "sigul_stack/protocol")
@pytest.mark.parametrize("told", [True, False], ids=["told", "learnt"])
def test_a_bridge_with_servers_of_both_versions(
    template: Site, tmp_path: Path, peer: PeerFactory, told: bool
) -> None:
    """Whoever waits longest is taken, but for one that is known not to speak the version."""
    site = speaking(template, tmp_path, server="1")
    site.extra["server"]["server"] += "workers: 2\n"
    site.configure()
    names = f"server-cn: {site.server_name}"
    known = f"\nserver-protocol-versions: {OLD_SERVER}=0" if told else ""
    config = site.path("bridge.conf")
    config.write_text(config.read_text().replace(names, f"{names}, {OLD_SERVER}{known}"))
    try:
        site.start_bridge()
        old = peer(site, "server", database=old_server_of(site))
        old.start(speaks=(0,), requests=1 if told else 2, **USERS)
        old.wait_for("waiting")
        site.start_server(waiting=2)
        if not told:
            # The one that has waited longest, and of which nothing is known, gets it.
            assert site.sigul("list-users", secrets=[ADMIN], code=1).stderr == UNKNOWN
            old.wait_for("waiting")
        for _ in range(3):
            assert site.sigul("list-users", secrets=[ADMIN]).stdout == b"admin\n"
        # Version 0 finds the one that speaks it, though ours are there, too.
        ours_know = peer(site, "client").run(version=0, secrets=PASSWORD)
        assert ours_know["payload"] == b"admin\0"
        assert [request["version"] for request in old.result()] == ([0] if told else [1, 0])
    finally:
        site.stop_all()


def test_a_server_that_is_the_only_one_is_asked_again(
    template: Site, tmp_path: Path, peer: PeerFactory
) -> None:
    """It may be another one by now, or the same that was replaced: its answer is what counts."""
    site = speaking(template, tmp_path)
    try:
        site.start_bridge()
        server = peer(site, "server")
        server.start(speaks=(0,), requests=1)
        server.wait_for("waiting")
        assert site.sigul("list-users", secrets=[ADMIN], code=1).stderr == UNKNOWN
        server.result()
        server.start(speaks=(0, 1), **USERS)
        server.wait_for("waiting")
        assert site.sigul("list-users", secrets=[ADMIN]).stdout == b"admin\n"
    finally:
        site.stop_all()
