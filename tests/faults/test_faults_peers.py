"""Faults 1 to 5 (docs/known-faults.md): peers that come late, lie, are silent, vanish, or crash."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from sigul_stack.pki import Authority, LeafRequest, NSSDatabase, Permissions, Role
from sigul_stack.pki import make_password_file as new_password
from sigul_stack.pki.contents import put_authority, put_leaf
from sigul_stack.pki.password_files import read_password
from tests.faults.conftest import KEY, KEY_PASSPHRASE, PeerFactory
from tests.faults.malformed import ANSWERED, AT_SERVER, PASSWORD
from tests.faults.networks import HERE, network
from tests.faults.observe import (
    SETTLE_SECONDS,
    children,
    half_closed,
    stop_process,
    storm,
    workers,
    works,
)
from tests.faults.proxies import Proxy
from tests.site import Process, Site, module, nul, popen, wait_until
from tests.wire import u32

pytestmark = pytest.mark.once("our own order of messages, and limits")

Served = tuple[Site, Process, Process]
USERS = {"fields": {"num-users": u32(1)}, "payload": b"admin\0"}
#: A ClientHello's record head and the beginning of it; the rest never comes.
HALF_A_GREETING = bytes.fromhex("16030100c8010000c40303") + bytes(40)


def connect(port: int) -> socket.socket:
    """A bare TCP connection."""
    return socket.create_connection(("127.0.0.1", port), timeout=10)


@contextmanager
def silent(*ports: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections to each port that never say anything."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(port)) for port in ports for _ in range(count)]


def ended(tcp: socket.socket) -> bool:
    """Whether the other side has ended the connection."""
    tcp.settimeout(0)
    try:
        return tcp.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@contextmanager
def client_in_background(site: Site) -> Iterator[Process]:
    """`sigul list-users` that has been started and will have its reply by the end of the block."""
    secrets = site.path("secrets")
    secrets.write_bytes(nul(site.admin_password))
    log = site.path("log/background")
    with secrets.open("rb") as stdin, log.open("wb") as output:
        started = popen(
            [*module("sigul"), "--batch", "-c", str(site.path("client.conf")), "list-users"],
            stdin=stdin, stdout=output, stderr=output, env=site.environment,
        )  # fmt: skip
    try:
        yield Process(started, log)
        assert started.wait(60) == 0, log.read_text()
        assert log.read_text() == "admin\n"
    finally:
        started.kill()
        started.wait(10)


# -------------------------------------------------------------- 1: the handshake with the server


def test_fault_01_the_handshake_is_done_at_accept(with_limits: Site, peer: PeerFactory) -> None:
    """The server's handshake is over although no client has ever come."""
    bridge = with_limits.start_bridge()
    server = peer(with_limits, "server")
    server.start(**USERS)
    server.wait_for("waiting")
    assert "Client connected" not in bridge.text
    bridge.wait_for("[BRIDGE_TLS] Server TLS handshake completed")
    works(with_limits)


def test_fault_01_a_client_that_comes_before_the_server(with_limits: Site) -> None:
    bridge = with_limits.start_bridge()
    with client_in_background(with_limits):
        bridge.wait_for("Request 'list-users'")
        with_limits.start("server")


def test_fault_01_a_client_that_comes_much_later(with_limits: Site) -> None:
    """Later than every limit of bridge and server."""
    with_limits.extra["bridge"] = {
        "bridge": "handshake-timeout: 1\nheader-timeout: 1\nidle-timeout: 2\n"
    }
    with_limits.extra["server"] = {"server": "handshake-timeout: 2\nidle-timeout: 2\n"}
    with_limits.configure()
    with with_limits.running() as (bridge, server):
        server.wait_for("Waiting for a request at the bridge", 4)
        time.sleep(6)
        works(with_limits)
        assert "gone" not in bridge.text
        assert "next attempt" not in server.text


def through(site: Site, program: str, port: int, proxy: Proxy) -> None:
    """Let a program's configuration lead through `proxy` instead of straight to `port`."""
    path = site.path(f"{program}.conf")
    path.write_text(path.read_text().replace(f"bridge-port: {port}", f"bridge-port: {proxy.port}"))


def test_fault_01_with_latency_everywhere(site: Site) -> None:
    """0.6 s of round trip on both connections; a client comes in the middle of the handshake."""
    site.extra = {"server": {"server": "workers: 1\n"}}
    site.configure()
    bridge = site.start_bridge()
    with Proxy(site.server_port, 0.3) as far_server, Proxy(site.client_port, 0.3) as far_client:
        through(site, "server", site.server_port, far_server)
        through(site, "client", site.client_port, far_client)
        site.start("server")
        bridge.wait_for("[BRIDGE_TLS] Starting TLS handshake with server")
        assert "Server TLS handshake completed" not in bridge.text
        works(site)
        site.stop_all()


def test_fault_01_the_server_is_restarted_while_a_client_waits(with_limits: Site) -> None:
    with_limits.start_bridge()
    server = with_limits.start_server()
    works(with_limits)
    assert server.stop() == 0
    bridge = with_limits.processes[0]
    with client_in_background(with_limits):
        bridge.wait_for("Request 'list-users'", 2)
        with_limits.start("server")
    works(with_limits)


def test_fault_01_no_half_closed_connections_pile_up(served: Served) -> None:
    """Connections that end before, within and after the handshake; none stays in CLOSE_WAIT."""
    site, bridge, server = served
    with storm(site, bridge, server):
        for port in (site.server_port, site.client_port):
            for greeting in (b"", HALF_A_GREETING, b"GET / HTTP/1.0\r\n\r\n"):
                for _ in range(10):
                    with connect(port) as tcp:
                        tcp.sendall(greeting)
        wait_until(lambda: not half_closed(site), SETTLE_SECONDS, "the end of all of them")


# ------------------------------------------------------------------------------- 2: who is who


def refusals(bridge: Process, text: str) -> int:
    """How often the bridge's log holds `text`."""
    return bridge.text.count(text)


def test_fault_02_a_clients_certificate_on_the_server_port_is_refused(
    served: Served, peer: PeerFactory
) -> None:
    site, bridge, server = served
    impostor = peer(site, "server", database="clients/alice", nickname="sigul-client-cert")
    with storm(site, bridge, server):
        impostor.start(**USERS, say_first=b"\0")
        bridge.wait_for("'alice' is not a signing server's name")
        for _ in range(6):  # more than workers wait: the impostor's turn would have come
            works(site)
        impostor.outcome()
    assert "Server authenticated with CN: 'alice'" not in bridge.text


def test_fault_02_a_servers_certificate_on_the_client_port_is_refused(
    served: Served, peer: PeerFactory
) -> None:
    site, bridge, server = served
    impostor = peer(site, "client", database="server", nickname="sigul-server-cert")
    before = refusals(bridge, "Paired with server")
    with storm(site, bridge, server):
        outcome = impostor.attempt(secrets=PASSWORD)
        assert "status" not in outcome["result"]
        bridge.wait_for("which may not be a client")
        assert refusals(bridge, "Paired with server") == before


def add_server(site: Site, name: str) -> str:
    """A further signing server's database below the site's `pki`, certificate and all."""
    ca = site.path("pki/ca")
    authority = Authority.open(ca, read_password(ca / "nss-password"))
    directory = site.path("pki") / name
    database = NSSDatabase(directory)
    database.password = new_password(directory, Permissions())
    leaf = authority.issue(LeafRequest(Role.SERVER, name))
    with database.making(Permissions()) as store:
        put_authority(store, authority.certificate)
        put_leaf(store, leaf, Role.SERVER.nickname)
    return name


def test_fault_02_without_server_cn_there_is_a_warning_and_any_name_will_do(
    with_limits: Site, peer: PeerFactory
) -> None:
    """As an old configuration has it; but whoever has played the server may not be a client."""
    site = with_limits
    path = site.path("bridge.conf")
    path.write_text(path.read_text().replace(f"server-cn: {site.server_name}\n", ""))
    other = add_server(site, "sigul-other.example.org")
    for _ in range(2):
        bridge = site.start_bridge()
        assert "WARNING" in bridge.text
        assert "server-cn is not set: any certificate of the CA may play" in bridge.text
        if len(site.processes) == 1:
            assert bridge.stop() == 0
    server = peer(site, "server", database=other, nickname="sigul-server-cert")
    server.start(**USERS)
    server.wait_for("waiting")
    site.path("client.conf").write_text(
        site.path("client.conf").read_text().replace(site.server_name, other)
    )
    works(site)
    assert "Server authenticated with CN: 'sigul-other.example.org'" in bridge.text
    as_client = peer(site, "client", database=other, nickname="sigul-server-cert")
    assert "status" not in as_client.attempt(secrets=PASSWORD)["result"]
    bridge.wait_for("which may not be a client")


def test_fault_02_server_cn_may_be_a_list(with_limits: Site, peer: PeerFactory) -> None:
    site = with_limits
    path = site.path("bridge.conf")
    other = add_server(site, "sigul-other.example.org")
    path.write_text(
        path.read_text().replace(f"server-cn: {site.server_name}", f"server-cn: nobody, {other}")
    )
    bridge = site.start_bridge()
    for database, welcome in ((other, True), ("server", False)):
        server = peer(site, "server", database=database)
        server.start(**USERS)
        server.wait_for("waiting")
        bridge.wait_for(
            "Server authenticated with CN: 'sigul-other.example.org'"
            if welcome
            else f"'{site.server_name}' is not a signing server's name"
        )


# ------------------------------------------------------------------------------ 3: silent peers


@pytest.mark.parametrize("count", [1, 300])
def test_fault_03_silent_connections_hold_up_nobody(served: Served, count: int) -> None:
    """Before the handshake: 300 are more than may be in their handshake at once, on either port."""
    site, bridge, server = served
    with storm(site, bridge, server), silent(site.client_port, site.server_port, count=count):
        for _ in range(6):  # more than there are workers: their successors get in as well
            works(site)


@pytest.mark.parametrize("port", ["client_port", "server_port"])
def test_fault_03_silent_connections_are_ended(served: Served, port: str) -> None:
    """After handshake-timeout, which is 3 s here: silence, and a greeting that comes bytewise."""
    site, bridge, server = served
    number = getattr(site, port)
    with storm(site, bridge, server), silent(number, count=2) as (quiet, slow):
        rest = iter(HALF_A_GREETING)  # 51 bytes last for longer than the limit

        def trickle() -> bool:
            if not ended(slow):
                slow.settimeout(10)
                with suppress(OSError):  # ended since
                    slow.sendall(bytes((next(rest),)))
                time.sleep(0.2)
            return ended(slow)

        wait_until(trickle, SETTLE_SECONDS, "the end of a connection that trickles")
        wait_until(lambda: ended(quiet), SETTLE_SECONDS, "the end of a silent connection")
    kind = "Client" if port == "client_port" else "Server"
    assert f"[BRIDGE_TLS] {kind} handshake failed:" in bridge.text


def test_fault_03_a_client_that_says_nothing_after_its_handshake(
    served: Served, peer: PeerFactory
) -> None:
    site, bridge, server = served
    with storm(site, bridge, server):
        client = peer(site, "client")
        client.start(stop="connected")
        client.wait_for("stalled")
        works(site)
        bridge.wait_for("sending the request's header")  # header-timeout, 3 s here
        client.go()
        client.result()


def test_fault_03_clients_that_fall_silent_in_their_request(
    served: Served, peer: PeerFactory
) -> None:
    """In the header, the payload, before and in the inner session: others are served meanwhile."""
    site, bridge, server = served
    request = {
        "op": "sign-text", "fields": {"key": KEY.encode()}, "payload": b"text\n" * 4000,
        "secrets": {"passphrase": KEY_PASSPHRASE.encode()},
    }  # fmt: skip
    with storm(site, bridge, server):
        stalled = [peer(site, "client") for _cut in (20, 5000, 20_100, 20_400)]
        for client, cut in zip(stalled, (20, 5000, 20_100, 20_400), strict=True):
            client.start(**request, cut=cut, how="stall")
        for client in stalled:
            client.wait_for("stalled")
        for _ in range(6):
            works(site)
        for client in stalled:
            client.go()
            client.outcome()


def test_fault_03_a_server_that_falls_silent_holds_up_its_own_request_only(
    with_limits: Site, peer: PeerFactory
) -> None:
    bridge = with_limits.start_bridge()
    server = peer(with_limits, "server")
    server.start(silent=True)
    server.wait_for("waiting")
    victim = peer(with_limits, "client")
    victim.start(secrets=PASSWORD)
    server.wait_for("called")
    with_limits.start_server()
    works(with_limits)
    server.stop()
    assert "status" not in victim.outcome()["result"]
    bridge.wait_for("the peer ended the connection")
    works(with_limits)


# ------------------------------------------------------- 4: what only looks like a waiting server


def test_fault_04_port_checks_on_the_server_port(served: Served) -> None:
    """Bare TCP connections before and while a client comes, gone or still there."""
    site, bridge, server = served
    with storm(site, bridge, server):
        for _ in range(20):
            connect(site.server_port).close()
        works(site)
        with silent(site.server_port, count=5):
            works(site)


def test_fault_04_a_port_check_is_no_server_for_a_waiting_client(with_limits: Site) -> None:
    bridge = with_limits.start_bridge()
    with client_in_background(with_limits) as client:
        bridge.wait_for("Request 'list-users'")
        connect(with_limits.server_port).close()
        with silent(with_limits.server_port, count=1):
            bridge.wait_for("Server TCP connection accepted", 2)
            assert client.popen.poll() is None
            with_limits.start_server()
            client.popen.wait(60)


def test_fault_04_a_waiting_server_that_is_killed_is_dropped(
    with_limits: Site, peer: PeerFactory
) -> None:
    """It would have been next: those that wait longest are taken first."""
    bridge = with_limits.start_bridge()
    dead = peer(with_limits, "server")
    dead.start(**USERS)
    dead.wait_for("waiting")
    with_limits.start_server()
    dead.popen.send_signal(signal.SIGKILL)
    dead.popen.wait(10)
    works(with_limits)
    bridge.wait_for("has gone; dropped")


def test_fault_04_a_waiting_server_that_speaks_is_dropped(
    with_limits: Site, peer: PeerFactory
) -> None:
    """A waiting server has nothing to say; what it says would be taken for a reply."""
    bridge = with_limits.start_bridge()
    odd = peer(with_limits, "server")
    odd.start(say_first=b"\0\0\0\4\0\0\0\0")
    odd.wait_for("waiting")
    bridge.wait_for("has gone; dropped")
    assert odd.result() == [{"sent-away": True}]
    with_limits.start_server()
    works(with_limits)


def test_fault_04_a_waiting_server_whose_machine_vanished_is_not_handed_out(
    with_limits: Site, peer: PeerFactory
) -> None:
    """Frozen, then cut off: no end of its connection ever arrives, and it would have been next."""
    site = with_limits
    with network() as net:
        site.prefix = net.here.prefix
        path = site.path("bridge.conf")
        path.write_text(
            path.read_text().replace("listen-address: 127.0.0.1", "listen-address: 0.0.0.0")
        )
        bridge = site.start_bridge()
        gone = peer(site, "server", address=HERE, prefix=net.there.prefix)
        gone.start(**USERS)
        gone.wait_for("waiting")
        site.start_server()
        stop_process(gone.popen.pid)
        net.pull_cable()
        works(site)
        assert "its machine does not answer any more" in bridge.text
        site.stop_all()


# ------------------------------------------------------------------- 5: requests that crash workers


def workers_of(server: Process) -> set[int]:
    """The server's worker processes."""
    return set(workers(server.popen.pid))


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_fault_05_a_worker_that_crashes_costs_its_request_only(
    with_limits: Site, peer: PeerFactory, number: signal.Signals
) -> None:
    with_limits.extra["server"]["server"] += "workers: 1\n"
    with_limits.configure()
    with with_limits.running() as (_bridge, server):
        (busy,) = workers_of(server)
        client = peer(with_limits, "client")
        request = {"op": "sign-text", "fields": {"key": b"k"}, "payload": b"x\n" * 5000}
        client.start(**request, cut=5000, how="stall")
        client.wait_for("stalled")
        wait_until(lambda: len(workers_of(server)) == 2, SETTLE_SECONDS, "a second worker")
        os.kill(busy, number)
        server.wait_for(f"was ended by signal {int(number)} in the middle of a request")
        for _ in range(3):
            works(with_limits)
        client.go()
        assert "status" not in client.outcome()["result"]
        assert server.popen.poll() is None
        assert list(with_limits.path("server/spool").iterdir()) == []


def test_fault_05_idle_workers_that_crash_are_replaced(with_limits: Site) -> None:
    with with_limits.running() as (_bridge, server):
        server.wait_for("Waiting for a request at the bridge", 4)
        killed = workers_of(server)
        for pid in killed:
            os.kill(pid, signal.SIGSEGV)
        wait_until(
            lambda: len(workers_of(server) - killed) == 4, SETTLE_SECONDS, "four new workers"
        )
        works(with_limits)
        wait_until(lambda: "Z" not in children(server.popen.pid).values(), 5, "no zombie")


@pytest.mark.long("sigul_stack/server", "sigul_stack/protocol")
def test_fault_05_malformed_requests_of_every_kind_reach_the_server(
    with_limits: Site, peer: PeerFactory
) -> None:
    """Through a bridge that checks nothing. The server answers or ends, and serves on."""
    bridge = peer(with_limits, "bridge")
    count = len(AT_SERVER) + len(ANSWERED) + 1
    bridge.start(requests=count)
    bridge.wait_for("listening")
    server = with_limits.start("server")
    client = peer(with_limits, "client")
    for name, script in AT_SERVER.items():
        outcome = client.attempt(**script)
        assert outcome["result"].get("status") != 0, name
        assert "payload" not in outcome["result"] or outcome["result"]["payload"] == b"", name
    for name, (script, status) in ANSWERED.items():
        outcome = client.attempt(**{"secrets": PASSWORD, **script})
        assert outcome["result"].get("status") == status, (name, outcome)
    assert client.run(secrets=PASSWORD)["payload"] == b"admin\0"
    bridge.result()
    assert server.popen.poll() is None
    assert "Traceback" not in server.text
    assert "unforeseen" not in server.text
    assert "ended by signal" not in server.text
    assert list(Path(with_limits.path("server/spool")).iterdir()) == []
