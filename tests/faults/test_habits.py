"""Habits of peers (docs/protocol.md, "Habits of peers"), each played by a scripted peer.

What an old peer would fail on is a `Violation` there, which fails the test here.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sigul_stack.errors import Status
from tests.faults.conftest import KEY, KEY_PASSPHRASE, PeerFactory
from tests.faults.observe import SETTLE_SECONDS, storm
from tests.faults.proxies import ALERT, DATA, Proxy
from tests.faults.scripted import Peer
from tests.site import Process, Site, wait_until
from tests.wire import u32

pytestmark = pytest.mark.once("our own framing and order of messages")

PASSWORD = {"password": b"admin-pw"}
USERS = {"fields": {"num-users": u32(1)}, "payload": b"admin\0"}
#: How long a peer waits here, in seconds: for twice as long as the limits of those that it waits
#: for; and, in the long run, for as long as peers in the field do.
WAIT, FIELD_WAIT = 10.0, 60.0

Served = tuple[Site, Process, Process]


# -------------------------------------------------------------------------- waits in the background


@dataclass
class Waiting:
    """A site whose server waits while other tests run, since `since` (monotonic seconds)."""

    site: Site
    waiting: Peer
    since: float

    def wait(self, seconds: float) -> None:
        """Wait until so many seconds have passed in all."""
        time.sleep(max(0.0, self.since + seconds - time.monotonic()))


@contextlib.contextmanager
def server_that_waits(template: Site, directory: Path) -> Iterator[Waiting]:
    """An old server that has connected to a bridge of its own and waits."""
    site = Site.copy(template, directory / "site")
    site.extra = {
        "bridge": {"bridge": "handshake-timeout: 3\nheader-timeout: 3\nidle-timeout: 5\n"}
    }
    site.configure()
    try:
        site.start_bridge()
        with Peer(site, "server") as server:
            server.start(**USERS)
            server.wait_for("waiting")
            yield Waiting(site, server, time.monotonic())
    finally:
        site.stop_all()


@contextlib.contextmanager
def bridge_that_waits(template: Site, directory: Path) -> Iterator[Waiting]:
    """An old bridge to which our server has connected, and no client yet."""
    site = Site.copy(template, directory / "site")
    site.extra = {"server": {"server": "workers: 2\nhandshake-timeout: 3\n"}}
    site.configure()
    try:
        with Peer(site, "bridge") as bridge:
            bridge.start(requests=2, both_ends=True)
            bridge.wait_for("listening")
            server = site.start("server")
            bridge.wait_for("server")
            yield Waiting(site, bridge, time.monotonic())
            assert server.popen.poll() is None
    finally:
        site.stop_all()


@pytest.fixture(scope="module", autouse=True)
def waiting_server(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Waiting]:
    """One that waits while other tests run."""
    with server_that_waits(template, tmp_path_factory.mktemp("waits")) as waiting:
        yield waiting


@pytest.fixture(scope="module", autouse=True)
def waiting_bridge(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Waiting]:
    """One that waits while other tests run."""
    with bridge_that_waits(template, tmp_path_factory.mktemp("late")) as waiting:
        yield waiting


# --------------------------------------------------------------------------------- towards clients


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 300_000])
def test_a_client_that_insists_on_exact_reply_chunks(
    served: Served, peer: PeerFactory, size: int
) -> None:
    """Header with code in one chunk, 8 bytes of length, payload to its end, 64 bytes, the end."""
    site, bridge, server = served
    text = (b"0123456789abcde\n" * (size // 16 + 1))[:size]
    with storm(site, bridge, server):
        told = peer(site, "client").run(
            op="sign-text", fields={"key": KEY.encode()}, payload=text,
            secrets={"passphrase": KEY_PASSPHRASE.encode()},
        )  # fmt: skip
    assert told["status"] == Status.OK
    assert text in told["payload"]
    assert told["ended"]


def test_a_reply_without_a_payload_has_no_payload_chunk(served: Served, peer: PeerFactory) -> None:
    site, _bridge, _server = served
    client = peer(site, "client")
    for op in ("new-user", "delete-user"):
        told = client.run(op=op, fields={"name": b"nobody"}, secrets=PASSWORD)
        assert (told["status"], told["payload"], told["ended"]) == (Status.OK, b"", True)


def test_an_error_reply_has_the_same_full_shape(served: Served, peer: PeerFactory) -> None:
    site, _bridge, _server = served
    told = peer(site, "client").run(secrets={"password": b"wrong"})
    assert told["status"] == Status.AUTHENTICATION_FAILED
    assert (told["payload"], told["ended"]) == (b"", True)


@pytest.mark.parametrize("cuts", [[1, 2, 3, 5, 7], [100_000], list(range(1, 90))], ids=str)
def test_a_server_may_cut_its_reply_anywhere(
    site: Site, peer: PeerFactory, cuts: list[int]
) -> None:
    """The bridge cuts it again, as the strict client wants it."""
    site.start_bridge()
    server = peer(site, "server")
    server.start(**USERS, cuts=cuts, chunk=200_000)
    told = peer(site, "client").run(secrets=PASSWORD)
    assert (told["status"], told["payload"], told["ended"]) == (Status.OK, b"admin\0", True)
    assert server.result()[0]["secrets"]["password"] == b"admin-pw"


def test_a_client_that_stops_reading_after_an_error_headers_code(
    served: Served, peer: PeerFactory
) -> None:
    site, bridge, server = served
    client = peer(site, "client")
    with storm(site, bridge, server):
        for leave in ("abort", "reset", "notify"):
            told = client.run(secrets={"password": b"wrong"}, stop="error", leave=leave)
            assert told["status"] == Status.AUTHENTICATION_FAILED


def test_a_client_that_never_ends_its_inner_stream(served: Served, peer: PeerFactory) -> None:
    """Neither inner close-notify nor inner end; and never a half-close or close-notify outside."""
    site, bridge, server = served
    client = peer(site, "client")
    with storm(site, bridge, server):
        for _ in range(3):
            told = client.run(secrets=PASSWORD, finish="never", leave="abort")
            assert told["payload"] == b"admin\0"
            assert ["inner", 0] not in told["sent"]
            assert ["outer", 0] not in told["sent"]


def test_a_client_whose_inner_close_notify_comes_after_its_inner_end(
    served: Served, peer: PeerFactory
) -> None:
    site, bridge, server = served
    with storm(site, bridge, server):
        told = peer(site, "client").run(secrets=PASSWORD, finish="late")
    assert told["payload"] == b"admin\0"
    assert told["sent"][-2] == ["inner", 0]
    assert told["sent"][-1][0] == "inner"


def test_a_client_may_end_its_outer_stream_or_not(served: Served, peer: PeerFactory) -> None:
    site, _bridge, _server = served
    client = peer(site, "client")
    for outer_end in (True, False):
        assert client.run(secrets=PASSWORD, outer_end=outer_end)["payload"] == b"admin\0"


def test_the_servers_inner_close_notify_and_inner_end_are_separate_records(
    served: Served, peer: PeerFactory
) -> None:
    """From our server to an old bridge, and through our bridge to an old client."""
    site, _bridge, _server = served
    records = peer(site, "client").run(secrets=PASSWORD)["records"]
    (end,) = [index for index, heads in enumerate(records) if ["inner", 0] in heads]
    assert records[end] == [["inner", 0]]
    assert [kind for kind, _length in records[end - 1]] == ["inner"]


def test_each_chunk_begins_a_tls_record(served: Served, peer: PeerFactory) -> None:
    """Also where the reply's payload is of many chunks, and its chunks are of many records."""
    site, _bridge, _server = served
    text = b"0123456789abcde\n" * 65536
    told = peer(site, "client").run(
        op="sign-text", fields={"key": KEY.encode()}, payload=text,
        secrets={"passphrase": KEY_PASSPHRASE.encode()},
    )  # fmt: skip
    assert text in told["payload"]
    chunks = [length for heads in told["records"] for stream, length in heads if stream == "outer"]
    # Header, length, payload, code, and the end.
    assert len(chunks) > 10
    assert sum(chunks) > len(text)
    assert len(told["records"]) > len(chunks)
    assert [offsets for offsets in told["offsets"] if offsets not in ([], [0])] == []


def test_payload_chunks_come_in_pieces_of_any_size(served: Served, peer: PeerFactory) -> None:
    """Chunks of 1, 4096 and 1 MiB; TLS records of one byte."""
    site, bridge, server = served
    client = peer(site, "client")
    text = b"0123456789abcde\n" * 16
    script = {
        "op": "sign-text", "fields": {"key": KEY.encode()},
        "secrets": {"passphrase": KEY_PASSPHRASE.encode()},
    }  # fmt: skip
    with storm(site, bridge, server):
        for chunk, record, payload in (
            (1, None, text), (4096, None, text * 128), (1024**2, None, text * 8192), (16, 1, text),
        ):  # fmt: skip
            told = client.run(**script, chunk=chunk, record=record, payload=payload)
            assert told["status"] == Status.OK
            assert payload in told["payload"]


def test_chunks_of_both_streams_in_any_order(served: Served, peer: PeerFactory) -> None:
    """The inner session's first message between, before and after pieces of header and payload."""
    site, bridge, server = served
    client = peer(site, "client")
    with storm(site, bridge, server):
        told = client.run(secrets=PASSWORD, order="interleaved")
        assert told["payload"] == b"admin\0"
        told = client.run(
            op="sign-text", fields={"key": KEY.encode()}, payload=b"some text\n" * 2000,
            secrets={"passphrase": KEY_PASSPHRASE.encode()}, order="interleaved",
        )  # fmt: skip
        assert told["status"] == Status.OK
    kinds = [kind for kind, _length in told["sent"][:40]]
    assert kinds[:4] == ["outer", "inner", "outer", "inner"]


@pytest.mark.parametrize("how", ["abort", "notify", "reset"])
def test_a_broken_reply_is_never_ended_with_a_close_notify(
    site: Site, peer: PeerFactory, how: str
) -> None:
    """Some clients spin on a close-notify in the middle of a payload."""
    site.start_bridge()
    server = peer(site, "server")
    # The inner session takes less than 3000 bytes of what the server sends.
    server.start(zeros=200_000, cut=100_000, how=how)
    with Proxy(site.client_port) as proxy:
        outcome = peer(site, "client", port=proxy.port).attempt(secrets=PASSWORD)
        assert "ended" in outcome["error"]
        (records,) = proxy.down
    assert sum(length for kind, length in records if kind == DATA) > 50_000
    assert ALERT not in [kind for kind, _length in records]
    server.result()


def test_a_complete_reply_is_ended_with_a_close_notify(served: Served, peer: PeerFactory) -> None:
    """The other side of the test before: the proxy does see them."""
    site, _bridge, _server = served
    with Proxy(site.client_port) as proxy:
        peer(site, "client", port=proxy.port).run(secrets=PASSWORD, leave="notify")
        (records,) = proxy.down
        wait_until(lambda: records[-1][0] == ALERT, SETTLE_SECONDS, "a close-notify")


# ---------------------------------------------------------------------------------------- servers


def test_an_old_server_that_dials_again_after_each_request(site: Site, peer: PeerFactory) -> None:
    site.start_bridge()
    server = peer(site, "server")
    server.start(**USERS, requests=3)
    client = peer(site, "client")
    for _ in range(2):
        assert client.run(secrets=PASSWORD)["payload"] == b"admin\0"
    assert site.sigul("list-users", secrets=["admin-pw"]).stdout == b"admin\n"
    assert len(server.result()) == 3


def test_an_old_server_that_was_refused_comes_back_in_5_seconds(
    site: Site, peer: PeerFactory
) -> None:
    """It was there before the bridge; a client that is there before the server waits for it."""
    server = peer(site, "server")
    server.start(**USERS, retry=5)
    server.wait_for("refused")
    site.start_bridge()
    assert site.sigul("list-users", secrets=["admin-pw"]).stdout == b"admin\n"
    server.result()


def test_an_old_server_that_leaves_its_streams_open(site: Site, peer: PeerFactory) -> None:
    """No outer end, no inner end: the reply's last byte is enough."""
    site.start_bridge()
    server = peer(site, "server")
    server.start(**USERS, outer_end=False, finish="never")
    told = peer(site, "client").run(secrets=PASSWORD)
    assert (told["payload"], told["ended"]) == (b"admin\0", True)
    server.result()


# ----------------------------------------------------------------------------------- old bridges


@pytest.mark.parametrize("early", [False, True], ids=["late handshake", "early handshake"])
@pytest.mark.parametrize("wait_for_close", [False, True], ids=["outer end", "server's close"])
def test_our_server_and_client_through_an_old_bridge(
    site: Site, peer: PeerFactory, early: bool, wait_for_close: bool
) -> None:
    """Serial, chunks of 4096 bytes, waits for both inner ends, perhaps for the server to close."""
    bridge = peer(site, "bridge")
    bridge.start(requests=3, both_ends=True, early=early, wait_for_close=wait_for_close)
    bridge.wait_for("listening")
    site.start("server")
    text = site.path("text")
    text.write_text("some text\n" * 1000)
    for _ in range(2):
        done = site.sigul("list-users", secrets=["admin-pw"])
        assert (done.stdout, done.stderr) == (b"admin\n", b"")
    refused = site.sigul("sign-text", "nokey", str(text), secrets=["x"], code=1)
    assert refused.stderr == b"Error: Authentication failed\n"
    # A client, old or new, may leave once it has read an error's header.
    for told in bridge.result()[:2]:
        assert "errors" not in told, told
        assert sorted(told["ended"]) == ["answers", "reply", "secrets"]


def test_our_server_keeps_inner_close_notify_and_end_in_separate_records(
    site: Site, peer: PeerFactory
) -> None:
    bridge = peer(site, "bridge")
    bridge.start()
    bridge.wait_for("listening")
    site.start("server")
    site.sigul("list-users", secrets=["admin-pw"])
    (told,) = bridge.result()
    for records in (told["reply-records"], told["request-records"]):
        assert [["inner", 0]] in records
        # One chunk a record: heads are whole, and nobody waits for a second one.
        assert all(len(heads) == 1 for heads in records if heads)


def test_an_old_client_through_an_old_bridge_to_our_server(site: Site, peer: PeerFactory) -> None:
    bridge = peer(site, "bridge")
    bridge.start(requests=2)
    bridge.wait_for("listening")
    site.start("server")
    client = peer(site, "client")
    for finish in ("never", "late"):
        assert client.run(secrets=PASSWORD, finish=finish)["status"] == Status.OK
    bridge.result()


@pytest.mark.parametrize("version", [2, 3, 2**32 - 1])
def test_an_unknown_version_through_an_old_bridge(
    site: Site, peer: PeerFactory, version: int
) -> None:
    """The server answers `u32 1` with no fields; a payload on its way does not hide the answer."""
    bridge = peer(site, "bridge")
    bridge.start(requests=2)
    bridge.wait_for("listening")
    site.start("server")
    option = [f"--internal-protocol-version={version}"]
    for command in (["list-users"], ["sign-data", "k", str(site.path("big"))]):
        site.path("big").write_bytes(bytes(3_000_000))
        refused = site.sigul(*command, secrets=["pw"], options=option, code=1)
        assert refused.stderr == b"Error: Unknown protocol version\n"
    bridge.result()


def test_the_word_of_version_0_alone_through_an_old_bridge(site: Site, peer: PeerFactory) -> None:
    """What follows is of version 1: the server reads a length, and bytes that belong to nothing."""
    bridge = peer(site, "bridge")
    bridge.start(requests=2)
    bridge.wait_for("listening")
    server = site.start("server")
    option = ["--internal-protocol-version=0"]
    site.path("file").write_bytes(b"content")
    refused = site.sigul("new-user", "eve", secrets=["admin-pw"], options=option, code=1)
    assert refused.stderr.startswith(b"Error: ")
    assert site.sigul("list-users", secrets=["admin-pw"]).stdout == b"admin\n"
    bridge.result()
    assert "Traceback" not in server.text


@pytest.mark.parametrize("version", [2, 3])
def test_an_unknown_version_through_our_bridge(served: Served, version: int) -> None:
    """The bridge refuses it itself, in the words of servers, and closes."""
    site, bridge, server = served
    site.path("big").write_bytes(bytes(3_000_000))
    with storm(site, bridge, server):
        option = [f"--internal-protocol-version={version}"]
        for command in (["list-users"], ["sign-data", "k", str(site.path("big"))]):
            refused = site.sigul(*command, secrets=["pw"], options=option, code=1)
            assert refused.stderr == b"Error: Unknown protocol version\n"
    assert f"protocol version {version} is unknown" in bridge.text


# ------------------------------------------------------------------------------------ TLS versions


def test_tls_1_3_between_new_peers(site: Site) -> None:
    lines = "nss-max-tls: tls1.3\nnss-min-tls: tls1.3\n"
    site.extra = {name: {"nss": lines} for name in ("bridge", "server", "client")}
    site.configure()
    with site.running() as (_bridge, server):
        for _ in range(6):  # more than there are workers: each has waited for its client
            assert site.sigul("list-users", secrets=["admin-pw"]).stdout == b"admin\n"
        server.wait_for("Waiting for a request at the bridge", 10)


def test_tls_1_2_peers_beside_ones_that_offer_1_3(site: Site, peer: PeerFactory) -> None:
    site.extra = {name: {"nss": "nss-max-tls: tls1.3\n"} for name in ("bridge", "server")}
    site.configure()
    with site.running():
        assert peer(site, "client").run(secrets=PASSWORD)["payload"] == b"admin\0"
        assert peer(site, "client", tls="tls1.3").run(secrets=PASSWORD)["payload"] == b"admin\0"


# ---------------------------------------------------- the waits, which have gone on all this while


def late_handshake(waiting: Waiting, seconds: float) -> None:
    """Our server's handshake-timeout is 3 s, and it waits all the same: so do all its workers."""
    waiting.wait(seconds)
    for _ in range(2):
        assert waiting.site.sigul("list-users", secrets=["admin-pw"]).stdout == b"admin\n"
    waiting.waiting.result()


def late_client(waiting: Waiting, seconds: float) -> None:
    """All limits of the server's bridge are far shorter, and none is for a server that waits."""
    waiting.wait(seconds)
    with Peer(waiting.site, "client") as client:
        told = client.run(secrets=PASSWORD)
    assert (told["payload"], told["ended"]) == (b"admin\0", True)
    waiting.waiting.result()


def test_an_old_bridge_that_begins_the_handshake_late(waiting_bridge: Waiting) -> None:
    late_handshake(waiting_bridge, WAIT)


def test_an_old_server_that_waits(waiting_server: Waiting) -> None:
    late_client(waiting_server, WAIT)


@pytest.mark.long("sigul_stack/server/worker.py", "sigul_stack/transport/nss.py")
def test_an_old_bridge_that_begins_the_handshake_a_minute_late(
    template: Site, tmp_path: Path
) -> None:
    with bridge_that_waits(template, tmp_path) as waiting:
        late_handshake(waiting, FIELD_WAIT)


@pytest.mark.long(
    "sigul_stack/bridge/service.py",
    "sigul_stack/bridge/session.py",
    "sigul_stack/bridge/waiting.py",
)
def test_an_old_server_that_waits_a_minute(template: Site, tmp_path: Path) -> None:
    with server_that_waits(template, tmp_path) as waiting:
        late_client(waiting, FIELD_WAIT)
