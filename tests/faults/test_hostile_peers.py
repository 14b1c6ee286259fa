"""Peers that send what they should not. After each storm the same site serves on, nothing is left.

Malformed requests of every kind are in `malformed`; here they reach the bridge.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sigul_stack.cli.outcome import BUSY, MAY_HAVE_HAPPENED
from sigul_stack.errors import Status
from sigul_stack.pki import NSSDatabase, put_leaf
from sigul_stack.pki.leaf import Leaf
from sigul_stack.pki.password_files import read_password
from tests.faults.conftest import KEY, KEY_PASSPHRASE, PeerFactory
from tests.faults.malformed import ANSWERED, AT_BOTH, AT_BRIDGE, PASSWORD
from tests.faults.observe import SETTLE_SECONDS, descriptors, storm, threads, works
from tests.faults.scripted import Peer
from tests.site import Process, Site, wait_until
from tests.wire import field_map, in_background, u32, u64

pytestmark = pytest.mark.once("our own framing and limits")

Served = tuple[Site, Process, Process]
USERS: dict[str, Any] = {"fields": {"num-users": u32(1)}, "payload": b"admin\0"}
TEXT = b"0123456789abcde\n" * 20
SIGN: dict[str, Any] = {
    "op": "sign-text", "fields": {"key": KEY.encode()}, "payload": TEXT,
    "secrets": {"passphrase": KEY_PASSPHRASE.encode()},
}  # fmt: skip
TIB = 1024**4
#: An idle bridge has its main thread, the watches on waiting servers and logs, and the watchdog.
_IDLE_THREADS = 4
HOWS = ("abort", "reset", "notify")


def got_nothing(outcome: dict[str, Any]) -> bool:
    """Whether a scripted client got no reply that says that all went well."""
    said = outcome["result"]
    return said.get("status") != Status.OK and not said.get("payload")


# ------------------------------------------------------------------------------ malformed requests


def test_malformed_requests_are_refused_by_the_bridge(served: Served, peer: PeerFactory) -> None:
    site, bridge, server = served
    client = peer(site, "client")
    called = bridge.text.count("Paired with server")
    with storm(site, bridge, server) as weather:
        for name, script in AT_BRIDGE.items():
            assert got_nothing(client.attempt(**{"secrets": PASSWORD, **script})), name
        # No server has seen any of them.
        assert bridge.text.count("Paired with server") == called
        weather.memory_is_small()


def test_malformed_inner_fields_are_refused_by_the_server(
    served: Served, peer: PeerFactory
) -> None:
    """Wrong hashes, short keys, missing and repeated fields: none can be answered."""
    site, bridge, server = served
    client = peer(site, "client")
    with storm(site, bridge, server):
        for name, script in AT_BOTH.items():
            outcome = client.attempt(**script)
            assert got_nothing(outcome), name
            assert outcome["error"] is not None, name


def test_requests_that_can_be_answered_are(served: Served, peer: PeerFactory) -> None:
    site, bridge, server = served
    client = peer(site, "client")
    with storm(site, bridge, server):
        for name, (script, status) in ANSWERED.items():
            told = client.run(**{"secrets": PASSWORD, **script})
            assert told["status"] == status, name
            assert told["fields"] == {}, name


def test_a_refusal_names_its_reason_in_the_log(served: Served, peer: PeerFactory) -> None:
    site, bridge, _server = served
    client = peer(site, "client")
    for script, reason in (
        (AT_BRIDGE["repeated key"], "field 'op' is repeated"),
        (AT_BRIDGE["unknown op"], "operation 'sign-everything' is unknown"),
        (AT_BRIDGE["unknown field"], "operation 'list-users' has no field 'colour'"),
        (AT_BRIDGE["version 3"], "protocol version 3 is unknown"),
        (AT_BRIDGE["2^63 bytes announced"], "a payload of 9223372036854775808 bytes is over"),
    ):
        client.attempt(**{"secrets": PASSWORD, **script})
        bridge.wait_for(reason)


def test_nonsense_on_both_ports_before_tls(served: Served) -> None:
    site, bridge, server = served
    random = os.urandom(3000)
    with storm(site, bridge, server):
        for port in (site.client_port, site.server_port):
            for nonsense in (
                b"GET / HTTP/1.1\r\nHost: bridge\r\n\r\n", b"\0" * 20_000, b"\xff" * 20_000, random,
                b"\x16\x03\x01\xff\xff" + random, b"\x16\x03\x01\x00\x05\x01\0\0\x01\0",
                b"\x15\x03\x03\x00\x02\x02\x28", b"\x17\x03\x03\x00\x05hello", b"\x80\x2e\x01\0\2",
            ):  # fmt: skip
                with socket.create_connection(("127.0.0.1", port), timeout=10) as tcp:
                    tcp.sendall(nonsense)
                    with contextlib.suppress(OSError):  # it may have been reset by then
                        tcp.shutdown(socket.SHUT_WR)
                    drain(tcp)


def drain(tcp: socket.socket) -> None:
    """Read until the other side ends the connection."""
    try:
        while tcp.recv(65536):
            pass
    except ConnectionError:
        return


def test_nonsense_within_tls(served: Served, peer: PeerFactory) -> None:
    site, bridge, server = served
    client = peer(site, "client")
    with storm(site, bridge, server):
        for nonsense in (bytes(300), b"\xff" * 300, *(os.urandom(300) for _ in range(5))):
            assert got_nothing(client.attempt(header=nonsense))


# -------------------------------------------------------------------------------- sizes and speeds


@pytest.mark.long("sigul_stack/bridge", "sigul_stack/server", "sigul_stack/transport")
def test_a_tebibyte_announced_takes_neither_memory_nor_disk(
    served: Served, peer: PeerFactory
) -> None:
    """The largest payload that any operation allows; a few bytes of it come."""
    site, bridge, server = served
    with storm(site, bridge, server) as weather:
        client = peer(site, "client")
        client.start(**{**SIGN, "op": "sign-data", "length": TIB, "stop": "request"})
        client.wait_for("stalled")
        # One more has answered the bridge, which looks at the signing log after the first reply.
        server.wait_for("Waiting for a request at the bridge", 6)
        weather.memory_is_small()
        assert sum(path.stat().st_size for path in site.path("server/spool").iterdir()) == 0
        works(site)
        client.go()
        assert got_nothing({"result": client.result()})


@pytest.mark.parametrize("place", ["header", "payload"])
def test_a_flood_of_the_inner_stream_before_its_turn(
    served: Served, peer: PeerFactory, place: str
) -> None:
    """A mebibyte is kept for its turn, and no more, wherever it waits."""
    site, bridge, server = served
    script = {**SIGN, "length": 10_000_000, "stop": "request"} if place == "payload" else {}
    with storm(site, bridge, server) as weather:
        client = peer(site, "client")
        client.start(flood=64 * 1024**2, **script)
        assert got_nothing(client.outcome())
        bridge.wait_for("before the other's end")
        weather.memory_is_small()


def test_a_client_that_sends_one_byte_at_a_time(served: Served, peer: PeerFactory) -> None:
    """A chunk and a TLS record for each byte; others are served in between."""
    site, bridge, server = served
    with storm(site, bridge, server):
        client = peer(site, "client")
        client.start(**{**SIGN, "payload": TEXT * 10}, chunk=1, record=1)
        works(site)
        told = client.result()
        assert (told["status"], told["ended"]) == (Status.OK, True)


def test_a_client_that_never_reads_its_reply(served: Served, peer: PeerFactory) -> None:
    """The reply is larger than all buffers on its way; as many such clients as servers wait."""
    site, bridge, server = served
    large = (b"x" * 63 + b"\n") * 131_072
    with storm(site, bridge, server) as weather:
        clients = [peer(site, "client") for _ in range(4)]
        for client in clients:
            client.start(**{**SIGN, "payload": large}, hold=True, stop="reply")
        for client in clients:
            client.wait_for("whispered")
        for _ in range(4):
            works(site)
        weather.memory_is_small()
        for client in clients:
            client.go()
            client.result()


def test_clients_that_leave_in_the_inner_session_keep_no_server(
    with_limits: Site, peer: PeerFactory
) -> None:
    """More of them than requests may be served at once, and the server itself would wait long."""
    site = with_limits
    site.extra["server"] = {"server": "handshake-timeout: 300\nidle-timeout: 300\n"}
    site.configure()
    with site.running() as (bridge, _server):
        client = peer(site, "client")
        told = client.run(secrets=PASSWORD)["sent"]
        length = sum(4 + count for _stream, count in told)
        for number in range(24):
            # Within the greeting, the certificate, the secrets, the close-notify.
            position = (150, 1000, length - 200, length - 20)[number % 4]
            client.attempt(secrets=PASSWORD, cut=position, how=HOWS[number % 3])
        works(site)
        wait_until(
            lambda: bridge.text.count("the client left") >= 18, SETTLE_SECONDS, "the end of all"
        )


# -------------------------------------------------------------------------------------- truncation


# More than 5 s: some hundred connections, each with its handshakes.
def test_requests_that_end_at_every_byte(served: Served, peer: PeerFactory) -> None:
    """Each byte of the header, then positions all over payload and inner session; in three ways."""
    site, bridge, server = served
    whole = b"".join((u32(1), field_map({"op": b"sign-text", "user": b"admin", "key": b"k1"})))
    # Chunk heads and the payload length included.
    head = len(whole) + 4 + 8
    with storm(site, bridge, server):
        client = peer(site, "client")
        told = client.run(**SIGN)
        assert told["status"] == Status.OK
        length = sum(4 + count for _stream, count in told["sent"])
        positions = [*range(head + 2), *range(head + 3, length - 100, 83)]
        for number, position in enumerate(positions):
            outcome = client.attempt(**SIGN, cut=position, how=HOWS[number % 3])
            assert got_nothing(outcome), position
            assert outcome["error"] is None or position > head, (position, outcome)


def through(server: Peer, client: Peer, **script: object) -> dict[str, Any]:
    """One request of a scripted client, served by a scripted server that follows `script`."""
    server.start(**script)
    server.wait_for("waiting")
    outcome = client.attempt(secrets=PASSWORD)
    server.outcome()
    return outcome


@contextmanager
def bridge_alone(site: Site, peer: PeerFactory) -> Iterator[tuple[Process, Peer, Peer]]:
    """The site's bridge, a scripted server and a client; afterwards it is as it was before."""
    bridge = site.start_bridge()
    server, client = peer(site, "server"), peer(site, "client")
    pid, ports = bridge.serving, (site.client_port, site.server_port)

    def now() -> tuple[int, int]:
        return descriptors(pid, *ports), threads(pid)

    assert through(server, client, **USERS)["result"]["ended"]
    # What the bridge opens for its first request stays; the request's own is gone soon.
    wait_until(lambda: "loop completed normally" in bridge.text, SETTLE_SECONDS, "the request")
    wait_until(lambda: now()[1] <= _IDLE_THREADS, SETTLE_SECONDS, "the end of its threads")
    before = now()
    yield bridge, server, client
    assert through(server, client, **USERS)["result"]["ended"]
    wait_until(
        lambda: all(new <= old for new, old in zip(now(), before, strict=True)),
        SETTLE_SECONDS,
        f"the end of all connections and threads (there were {before}, now {now()})",
    )
    assert "Traceback" not in bridge.text
    assert "unforeseen" not in bridge.text


# More than 5 s: some hundred connections, each with its handshakes.
def test_replies_that_end_at_every_byte(with_limits: Site, peer: PeerFactory) -> None:
    """Each byte of the reply; and positions in the inner session before it; in three ways."""
    with bridge_alone(with_limits, peer) as (_bridge, server, client):
        outcome = through(server, client, **USERS)
        assert outcome["result"]["payload"] == b"admin\0"
        inner = sum(
            4 + length
            for heads in outcome["result"]["records"]
            for stream, length in heads
            if stream == "inner"
        )
        # Status, fields, code, length, payload, code: in one chunk, as this server sends it.
        reply = 4 + 4 + len(field_map(USERS["fields"])) + 64 + 8 + len(USERS["payload"]) + 64
        positions = [*range(0, inner, 211), *range(inner, inner + reply)]
        for number, position in enumerate(positions):
            outcome = through(server, client, **USERS, cut=position, how=HOWS[number % 3])
            assert "payload" not in outcome["result"], position
            assert "ended" not in outcome["result"], position


def test_our_client_writes_no_output_unless_the_reply_is_whole(
    with_limits: Site, peer: PeerFactory
) -> None:
    """A server that ends in the middle, whose codes are wrong, or that sends something else."""
    site = with_limits
    site.path("text").write_bytes(TEXT)
    output = site.path("output")
    header = u32(0) + field_map({})
    scripts: list[dict[str, Any]] = [
        {"cut": 3000, "how": "abort"}, {"cut": 100_000, "how": "reset"},
        {"cut": 200_000, "how": "notify"}, {"forge": "header"}, {"forge": "payload"},
        {"announce": 300_001}, {"announce": 299_999}, {"announce": 2**63}, {"announce": 2**64 - 1},
        {"reply": b""}, {"reply": bytes(64)}, {"reply": header + bytes(64) + u64(0) + bytes(64)},
        {"reply": os.urandom(1000)}, {"reply": u32(2**32 - 1) + field_map({}) + bytes(136)},
        {"reply": u32(0) + b"\1\1a\0\1a\0" + bytes(200)}, {"status": 77},
    ]  # fmt: skip
    with bridge_alone(site, peer) as (_bridge, server, _client):
        for script in scripts:
            server.start(zeros=300_000, **script)
            server.wait_for("waiting")
            failed = site.sigul(
                "sign-text",
                "k",
                str(site.path("text")),
                "-o",
                str(output),
                secrets=["pw"],
                code=None,
            )
            assert failed.returncode in (1, MAY_HAVE_HAPPENED)
            assert failed.stderr.startswith(b"Error: "), script
            assert failed.stdout == b"", script
            assert not output.exists(), script
            if "status" in script:
                assert failed.stderr == b"Error: Error 77\n"
            if "forge" in script:
                assert b"does not match its authentication code" in failed.stderr
            server.outcome()
        assert [path for path in site.directory.iterdir() if path.name.startswith(".sigul")] == []
        server.start(zeros=300_000)
        server.wait_for("waiting")
        site.sigul("sign-text", "k", str(site.path("text")), "-o", str(output), secrets=["pw"])
        assert output.read_bytes() == bytes(300_000)
        server.result()


def test_a_server_that_says_more_than_its_reply(with_limits: Site, peer: PeerFactory) -> None:
    with bridge_alone(with_limits, peer) as (_bridge, server, client):
        for extra in (b"\0", bytes(5000), bytes(3_000_000)):
            outcome = through(server, client, **USERS, extra=extra)
            # What was genuine may have arrived; nothing else has.
            assert outcome["result"].get("payload", b"admin\0") == b"admin\0"


# ----------------------------------------------------------- a bridge that alters what passes it


def behind(site: Site, bridge: Peer, **script: object) -> None:
    """Have a scripted bridge ready to serve one request in its own way."""
    bridge.start(**script)
    bridge.wait_for("listening")


@pytest.mark.long("sigul_stack/bridge", "sigul_stack/server", "sigul_stack/transport")
def test_a_bridge_that_alters_a_request_is_noticed_by_the_server(
    with_limits: Site, peer: PeerFactory
) -> None:
    """A bit of header, payload or inner session: the server does nothing of what was asked."""
    site = with_limits
    bridge = peer(site, "bridge")
    behind(site, bridge, requests=1)
    server = site.start("server")
    site.sigul("list-users", secrets=["admin-pw"])
    bridge.result()
    # u32 1, u8 3, "admin" 0, "name" "eve" …: a bit in the version, a name, a value, a length.
    header = u32(1) + field_map(
        {"admin": b"\0", "name": b"eve", "op": b"new-user", "user": b"admin"}
    )
    name = header.index(b"eve")
    end = len(header)
    places = {
        "request": (3, 4, 6, header.index(b"\0", 11), name, name + 2, end - 1, end, end + 7),
        "secrets": (0, 5, 300, 1300, 1600, 1800),
    }
    alterations = [(stream, offset) for stream in places for offset in places[stream]]
    for stream, offset in alterations:
        behind(site, bridge, alter=stream, offset=offset)
        refused = site.sigul("new-user", "eve", secrets=["admin-pw"], code=None)
        assert refused.returncode in (1, MAY_HAVE_HAPPENED)
        assert refused.stderr.startswith(b"Error: "), (stream, offset)
        bridge.outcome()
    behind(site, bridge)
    assert site.sigul("list-users", secrets=["admin-pw"]).stdout == b"admin\n"
    bridge.result()
    assert server.popen.poll() is None
    assert "Traceback" not in server.text


def test_a_bridge_that_alters_a_payload_gets_no_signature(
    with_limits: Site, peer: PeerFactory
) -> None:
    site = with_limits
    bridge = peer(site, "bridge")
    site.path("text").write_bytes(TEXT * 1000)
    header = u32(1) + field_map({"key": b"k1", "op": b"sign-text", "user": b"admin"})
    behind(site, bridge, alter="request", offset=len(header) + 8 + 100_000)
    server = site.start("server")
    refused = site.sigul(
        "sign-text",
        "k1",
        str(site.path("text")),
        "-o",
        str(site.path("output")),
        secrets=["x"],
        code=None,
    )
    assert refused.returncode in (1, MAY_HAVE_HAPPENED)
    bridge.outcome()
    assert refused.stderr.startswith(b"Error: ")
    assert not site.path("output").exists()
    server.wait_for("the request's payload does not match its authentication code")


def test_a_bridge_that_alters_a_reply_is_noticed_by_the_client(
    with_limits: Site, peer: PeerFactory
) -> None:
    """Status, field, code, length, payload, code; and the inner session on its way back."""
    site = with_limits
    bridge = peer(site, "bridge")
    header = len(u32(0) + field_map(USERS["fields"]))
    places = {
        "reply": (
            3, 4, 8, header - 1, header, header + 63, header + 71, header + 72, header + 77,
            header + 78, header + 141,
        ),
        "answers": (0, 5, 1000, 2600),
    }  # fmt: skip
    site.start("server")
    for stream, offset in ((name, offset) for name in places for offset in places[name]):
        behind(site, bridge, alter=stream, offset=offset)
        failed = site.sigul("list-users", secrets=["admin-pw"], code=None)
        assert failed.returncode in (1, MAY_HAVE_HAPPENED)
        assert failed.stdout == b"", (stream, offset)
        assert failed.stderr.startswith(b"Error: "), (stream, offset)
        bridge.outcome()
    behind(site, bridge)
    works(site)
    bridge.result()


@pytest.mark.parametrize("direction", ["request", "reply"])
def test_a_bridge_that_ends_in_the_middle(
    with_limits: Site, peer: PeerFactory, direction: str
) -> None:
    site = with_limits
    bridge = peer(site, "bridge")
    site.path("text").write_bytes(TEXT)
    output = site.path("output")
    server = site.start("server")
    positions = (
        [0, 3, 30, 60, 300, 700, 1500] if direction == "request" else [0, 3, 2000, 2700, 2760]
    )
    for number, position in enumerate(positions):
        behind(site, bridge, direction=direction, cut=position, how=HOWS[number % 3])
        failed = site.sigul(
            "sign-text",
            "k",
            str(site.path("text")),
            "-o",
            str(output),
            secrets=["x"],
            code=None,
        )
        assert failed.returncode in (1, MAY_HAVE_HAPPENED)
        assert failed.stderr.startswith(b"Error: ")
        assert not output.exists()
        bridge.outcome()
    behind(site, bridge)
    works(site)
    bridge.result()
    assert "Traceback" not in server.text


# ------------------------------------------------------------------------- one user for all servers


@pytest.mark.long("sigul_stack/bridge", "sigul_stack/server", "sigul_stack/transport")
# More than 5 s: one request waits until `server-wait-timeout` is over.
def test_one_certificate_does_not_get_all_servers(with_limits: Site, peer: PeerFactory) -> None:
    """Its third request waits for one of its own; other people's do not."""
    site = with_limits
    lines = site.extra["bridge"]["bridge"]
    site.extra["bridge"]["bridge"] = (
        lines + "max-requests-per-user: 2\nserver-wait-timeout: 5\nmin-payload-rate: 1\n"
    )
    site.extra["server"]["server"] += "max-requests: 4\nmin-payload-rate: 1\n"
    site.configure()
    site.client_configuration("alice", "alice")
    slow = [peer(site, "client") for _ in range(2)]
    with site.running() as (bridge, _server):
        for client in slow:
            client.start(
                op="sign-text", fields={"key": b"k"}, zeros=10**6, cut=100_000, how="stall"
            )
            client.wait_for("stalled")
        bridge.wait_for("Paired with server", 2)
        failed = site.sigul("list-users", config="alice.conf", secrets=["x"], code=1)
        assert b"Authentication failed" in failed.stderr
        failed = site.sigul("list-users", secrets=["admin-pw"], code=BUSY)
        assert failed.stderr.startswith(b"Error: ")
        assert b"'admin' has 2 requests under way, which is all that it may" in failed.stderr
        bridge.wait_for("'admin' has 2 requests under way, which is all that it may")
        with in_background(lambda: works(site)):
            bridge.wait_for("Waiting for another request of 'admin' to end", 2)
            slow[0].go()
        slow[1].go()
        for client in slow:
            client.outcome()
        works(site)


# ----------------------------------------------------------------- who is who in the inner session


def with_second_identity(site: Site, user: str) -> str:
    """Give the administrator's database the certificate of another user too; its nickname."""
    held = []
    for name in (user, "admin"):
        directory = site.path("pki/clients") / name
        held.append(NSSDatabase(directory, read_password(directory / "nss-password")))
    theirs, ours = held
    leaf = Leaf(
        theirs.find("sigul-client-cert").certificate, theirs.export_key("sigul-client-cert")
    )
    with ours.changing() as store:
        put_leaf(store, leaf, f"cert-of-{user}")
    return f"cert-of-{user}"


def test_the_inner_certificate_decides_who_asks(with_limits: Site, peer: PeerFactory) -> None:
    """Outside the administrator, inside somebody else: the name check is on the inner one."""
    nickname = with_second_identity(with_limits, "alice")
    with with_limits.running() as (_bridge, server):
        client = peer(with_limits, "client")
        for user in ("admin", "alice"):
            told = client.run(secrets=PASSWORD, user=user, inner_nickname=nickname)
            assert told["status"] == Status.AUTHENTICATION_FAILED
        server.wait_for("the certificate of 'alice' does not allow it to speak for 'admin'")
        works(with_limits)


def test_a_client_that_expects_another_server_says_nothing(
    served: Served, peer: PeerFactory
) -> None:
    """The server's certificate has another name than the client expects: no secret is sent."""
    site, bridge, server = served
    with storm(site, bridge, server):
        outcome = peer(site, "client").attempt(secrets=PASSWORD, server_name="signer.example.org")
    assert "SSL_ERROR_BAD_CERT_DOMAIN" in outcome["error"]
    server.wait_for("SSL_ERROR_BAD_CERT_ALERT")


# ---------------------------------------------------------------------------------- all at once


def test_hostile_clients_all_at_once(served: Served, peer: PeerFactory) -> None:
    """Eight of them in parallel, and honest ones between them."""
    site, bridge, server = served
    with storm(site, bridge, server) as weather:
        scripts: list[dict[str, Any]] = [
            {**SIGN, "cut": 200}, {**SIGN, "cut": 1500, "how": "reset"}, {"header": b"\xff" * 50},
            {**SIGN, "inner": {"payload-auth-key": b"short"}}, {"secrets": {"password": b"wrong"}},
            {**AT_BRIDGE["2^63 bytes announced"]}, {"version": 7}, {**SIGN, "finish": "never"},
        ]  # fmt: skip
        clients = [(peer(site, "client"), script) for script in scripts]
        failures: list[BaseException] = []

        def attack(client: Peer, script: dict[str, Any]) -> None:
            try:
                for _ in range(5):
                    client.attempt(**script)
            except BaseException as error:
                failures.append(error)

        attackers = [threading.Thread(target=attack, args=item) for item in clients]
        for attacker in attackers:
            attacker.start()
        for _ in range(5):
            works(site)
        for attacker in attackers:
            attacker.join(60)
        assert not any(attacker.is_alive() for attacker in attackers)
        assert failures == []
        weather.memory_is_small()
