"""The pool of waiting servers, over real sockets: only live ones are handed out, in order."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import socket
import threading
import weakref
from collections.abc import Iterator

import pytest

from sigul_stack.bridge import waiting
from sigul_stack.bridge.server_versions import MAX_LEARNT, ServerVersions
from sigul_stack.bridge.waiting import WaitingServers
from sigul_stack.errors import DeadlineExceeded, TransportError
from sigul_stack.metrics import BridgeCount, Counters
from sigul_stack.transport import memory
from sigul_stack.transport.nested import loopback_pair
from sigul_stack.transport.stream import ByteStream, Deadline
from tests.wire import SocketStream, eventually, in_background, socket_pair

LONG = 10.0


class Ends:
    """Makes streams, and closes both ends of each when the test is over."""

    def __init__(self) -> None:
        self.made: list[tuple[SocketStream, socket.socket]] = []

    def make(self, name: str = "server") -> tuple[SocketStream, socket.socket]:
        """A stream for the pool or a request, and its far end."""
        self.made.append(socket_pair(memory.nobody(name)))
        return self.made[-1]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Streams of the test."""
    found = Ends()
    yield found
    for near, far in found.made:
        near.end.close()
        far.close()


@pytest.fixture
def pool(ends: Ends) -> Iterator[WaitingServers]:
    """A pool with room for three, which is closed before the streams in it are."""
    found = WaitingServers(3, Counters(BridgeCount))
    yield found
    found.close()


def soon() -> Deadline:
    """A limit that a test meets only where something is wrong."""
    return Deadline(LONG, "the test")


def at_once() -> Deadline:
    """A limit that leaves no time to wait."""
    return Deadline(0.05, "the test")


def waiting_requests(pool: WaitingServers, count: int) -> bool:
    """Whether so many requests wait."""
    return len(pool._line) == count


# ------------------------------------------------------------------------------------------ looking


def test_a_silent_peer_is_told_from_one_that_spoke_or_left(ends: Ends) -> None:
    quiet, _far = ends.make()
    assert not quiet.has_input()
    assert not quiet.has_gone()

    speaking, far = ends.make()
    far.send(b"x")
    assert speaking.has_input()
    assert not speaking.has_gone()

    decrypted, _far = ends.make()
    decrypted.unread = b"x"
    assert decrypted.has_input()
    assert not decrypted.has_gone()

    gone, far = ends.make()
    far.send(b"x")
    far.close()
    assert gone.has_input()
    assert gone.has_gone()

    half, far = ends.make()
    far.shutdown(socket.SHUT_WR)
    assert half.has_input()
    assert half.has_gone()


def test_a_stream_without_a_descriptor_tells_by_what_is_pending() -> None:
    near, far = memory.pair()
    assert not near.has_input()
    far.write(b"x", 1)
    assert near.has_input()


def test_data_that_the_peers_machine_has_taken_has_been_received() -> None:
    near, far = loopback_pair()
    with near, far:
        stream = SocketStream(near)
        assert stream.is_acknowledged(LONG)
        near.sendall(b"a request's head")
        # Its machine has it, though nobody there has read it yet.
        assert stream.is_acknowledged(LONG)

        near.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                near.send(bytes(100_000))
        # More than its machine takes unless somebody reads.
        assert not stream.is_acknowledged(0.1)
        drained = threading.Event()
        far.settimeout(0.1)

        def read() -> None:
            while not drained.is_set():
                with contextlib.suppress(TimeoutError):
                    far.recv(1_000_000)

        with in_background(read):
            received = stream.is_acknowledged(LONG)
            drained.set()
        assert received


def test_where_no_machine_acknowledges_all_counts_as_received(ends: Ends) -> None:
    near, _far = memory.pair()
    near.write(b"head", 1)
    assert near.is_acknowledged(0)
    stream, _other = ends.make()
    stream.write(b"head", 1)
    assert stream.is_acknowledged(0)


# --------------------------------------------------------------------------------- handing them out


def test_servers_are_handed_out_in_the_order_in_which_they_came(
    pool: WaitingServers, ends: Ends
) -> None:
    servers = [ends.make()[0] for _ in range(3)]
    for server in servers:
        pool.add(server)
    assert len(pool) == 3
    client, _far = ends.make("client")
    assert [pool.take(soon(), client) for _ in servers] == servers
    assert len(pool) == 0


def test_a_server_that_speaks_the_requests_version_is_preferred(
    pool: WaitingServers, ends: Ends
) -> None:
    servers = [ends.make()[0] for _ in range(3)]
    for server in servers:
        pool.add(server)
    client, _far = ends.make("client")
    last = pool.take(soon(), client, prefers=lambda server: server is servers[2])
    # Of the others none is preferred: any is better than none, for it may have learnt to.
    first = pool.take(soon(), client, prefers=lambda server: server is servers[2])
    assert (last, first) == (servers[2], servers[0])


def test_what_is_known_of_servers_versions() -> None:
    versions = ServerVersions([("told", 0), ("both", 0), ("both", 1)])
    assert [versions.may_speak("told", number) for number in (0, 1)] == [True, False]
    assert [versions.may_speak("both", number) for number in (0, 1)] == [True, True]
    # What is told stands against what is learnt.
    versions.learn("both", 1, speaks=False)
    assert versions.may_speak("both", 1)
    assert versions.may_speak("new", 0)
    versions.learn("new", 0, speaks=False)
    assert [versions.may_speak("new", number) for number in (0, 1)] == [False, True]
    versions.learn("new", 1, speaks=False)
    versions.learn("new", 0, speaks=True)
    assert [versions.may_speak("new", number) for number in (0, 1)] == [True, False]


def test_of_many_servers_the_oldest_knowledge_is_forgotten() -> None:
    versions = ServerVersions()
    for number in range(MAX_LEARNT + 1):
        versions.learn(f"server-{number}", 0, speaks=False)
    assert versions.may_speak("server-0", 0)
    assert not versions.may_speak("server-1", 0)
    assert not versions.may_speak(f"server-{MAX_LEARNT}", 0)


def test_a_request_waits_until_a_server_comes(pool: WaitingServers, ends: Ends) -> None:
    client, _far = ends.make("client")
    server, _server_far = ends.make()
    got: list[ByteStream] = []
    with in_background(lambda: got.append(pool.take(soon(), client))):
        assert eventually(lambda: len(pool._changed._waiters) == 1)  # type: ignore[attr-defined]
        pool.add(server)
    assert got == [server]


def test_a_waiting_server_that_leaves_is_dropped_before_anybody_asks(
    pool: WaitingServers, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    stays, _stays_far = ends.make("stays")
    leaves, leaves_far = ends.make("leaves")
    pool.add(leaves)
    pool.add(stays)
    leaves_far.close()
    assert eventually(lambda: leaves.discarded)
    assert len(pool) == 1
    assert "Waiting server leaves (memory) has gone" in caplog.text
    client, _client_far = ends.make("client")
    assert pool.take(soon(), client) is stays


@pytest.mark.parametrize("how", ["reset", "half-closed", "spoke"])
def test_whatever_a_waiting_server_does_but_wait_is_its_end(
    pool: WaitingServers, ends: Ends, how: str
) -> None:
    server, far = ends.make()
    pool.add(server)
    if how == "reset":
        far.close()
    elif how == "half-closed":
        far.shutdown(socket.SHUT_WR)
    else:
        far.send(b"out of turn")
    assert eventually(lambda: server.discarded)
    assert len(pool) == 0
    with pytest.raises(DeadlineExceeded):
        pool.take(at_once(), ends.make("client")[0])


def test_a_dead_server_is_never_handed_out(pool: WaitingServers, ends: Ends) -> None:
    # It died in the very moment, so the watcher may or may not have seen it yet.
    client, _client_far = ends.make("client")
    for _ in range(50):
        dead, dead_far = ends.make()
        live, live_far = ends.make()
        pool.add(dead)
        pool.add(live)
        dead_far.close()
        assert pool.take(soon(), client) is live
        live_far.close()


def test_what_tls_has_already_decrypted_is_seen_when_a_server_is_handed_out(
    pool: WaitingServers, ends: Ends
) -> None:
    server, _far = ends.make()
    server.unread = b"a close-notify, say"
    pool.add(server)
    with pytest.raises(DeadlineExceeded):
        pool.take(at_once(), ends.make("client")[0])
    assert server.discarded


def test_a_server_that_has_been_handed_out_is_its_requests_alone(
    pool: WaitingServers, ends: Ends
) -> None:
    client, _client_far = ends.make("client")
    for _ in range(50):
        server, far = ends.make()
        pool.add(server)
        assert pool.take(soon(), client) is server
        far.send(b"reply")
        assert server.read(100, LONG) == b"reply"
        assert not server.discarded


# ------------------------------------------------------------------------------------------ waiting


def test_requests_are_served_in_the_order_in_which_they_began_to_wait(
    pool: WaitingServers, ends: Ends
) -> None:
    got: dict[int, ByteStream] = {}
    servers = [ends.make()[0] for _ in range(3)]

    def wait(number: int, client: ByteStream) -> None:
        got[number] = pool.take(soon(), client)

    threads = []
    for number in range(3):
        client, _far = ends.make("client")
        thread = threading.Thread(target=wait, args=(number, client), daemon=True)
        thread.start()
        threads.append(thread)
        assert eventually(functools.partial(waiting_requests, pool, number + 1))
    for server in servers:
        pool.add(server)
    for thread in threads:
        thread.join(LONG)
    assert got == dict(enumerate(servers))


def test_one_that_comes_in_the_very_moment_does_not_overtake(
    pool: WaitingServers, ends: Ends
) -> None:
    first, _first_far = ends.make("client")
    second, _second_far = ends.make("client")
    server, _server_far = ends.make()
    got: list[ByteStream] = []
    with in_background(lambda: got.append(pool.take(soon(), first))):
        assert eventually(functools.partial(waiting_requests, pool, 1))
        # Nobody can wake up between a server's coming and the second request's asking for one.
        with pool._changed:
            pool.add(server)
            with pytest.raises(DeadlineExceeded):
                pool.take(Deadline(0.2, "the test"), second)
    assert got == [server]


def test_one_that_gives_up_leaves_its_place_to_the_next(pool: WaitingServers, ends: Ends) -> None:
    first, _first_far = ends.make("client")
    second, _second_far = ends.make("client")
    server, _server_far = ends.make()
    got: list[ByteStream] = []

    def give_up() -> None:
        with pytest.raises(DeadlineExceeded):
            pool.take(Deadline(0.2, "the test"), first)
        pool.add(server)

    def wait() -> None:
        assert eventually(lambda: len(pool._line) == 1)
        got.append(pool.take(soon(), second))

    with in_background(give_up, wait):
        pass
    assert got == [server]


def test_waiting_in_vain_says_what_is_missing(pool: WaitingServers, ends: Ends) -> None:
    client, _far = ends.make("client")
    with pytest.raises(DeadlineExceeded, match="no signing server became free"):
        pool.take(at_once(), client)


def test_a_client_that_leaves_while_it_waits_is_noticed(
    pool: WaitingServers, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "CLIENT_CHECK_SECONDS", 0.05)
    client, far = ends.make("client")
    # It has sent the rest of its request, which is no reason to think that it is still there.
    far.send(b"payload")

    def leave() -> None:
        assert eventually(lambda: len(pool._line) == 1)
        far.close()

    with in_background(leave), pytest.raises(TransportError, match="client left"):
        pool.take(soon(), client)
    server, _server_far = ends.make()
    pool.add(server)
    assert pool.take(soon(), ends.make("client")[0]) is server


def test_a_client_with_data_to_send_goes_on_waiting(
    pool: WaitingServers, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "CLIENT_CHECK_SECONDS", 0.02)
    client, far = ends.make("client")
    far.send(b"payload")
    looked: list[bool] = []
    has_gone = client.has_gone

    def look() -> bool:
        looked.append(has_gone())
        return looked[-1]

    monkeypatch.setattr(client, "has_gone", look)
    server, _server_far = ends.make()
    got: list[ByteStream] = []
    with in_background(lambda: got.append(pool.take(soon(), client))):
        assert eventually(lambda: len(looked) >= 3)
        pool.add(server)
    assert got == [server]


# ---------------------------------------------------------------------------------------- fairness


def test_of_those_that_wait_the_name_with_the_fewest_servers_is_next(ends: Ends) -> None:
    """However many of one name wait, and for however long: a newcomer is not behind them."""
    pool = WaitingServers(64, Counters(BridgeCount))
    order: list[str] = []
    lock = threading.Lock()

    def wait(name: str) -> None:
        pool.take(soon(), memory.pair(memory.nobody(name))[0])
        with lock:
            order.append(name)

    threads = []
    for number, name in enumerate(["ann"] * 4 + ["bob"] * 3 + ["eve"]):
        threads.append(threading.Thread(target=wait, args=(name,), daemon=True))
        threads[-1].start()
        assert eventually(functools.partial(waiting_requests, pool, number + 1))
    for count in range(1, len(threads) + 1):
        pool.add(ends.make()[0])
        assert eventually(lambda count=count: len(order) == count)
    for thread in threads:
        thread.join(LONG)
    assert order == ["ann", "bob", "eve", "ann", "bob", "ann", "bob", "ann"]
    pool.close()


def test_two_names_do_not_get_all_servers(ends: Ends) -> None:
    """Each leaves as many as it has already, up to the reserve, to those who have fewer."""
    pool = WaitingServers(64, Counters(BridgeCount), reserve=2)
    ann, bob, eve = (memory.pair(memory.nobody(name))[0] for name in ("ann", "bob", "eve"))
    for _ in range(4):
        pool.add(ends.make()[0])
    for client in (ann, ann, bob):
        pool.take(at_once(), client)
    for client in (ann, bob):
        with pytest.raises(DeadlineExceeded):
            pool.take(at_once(), client)
    assert len(pool) == 1
    pool.take(at_once(), eve)
    # One that is free again is left to somebody else, too, until a second one waits.
    pool.give_back(bob)
    pool.add(ends.make()[0])
    with pytest.raises(DeadlineExceeded):
        pool.take(at_once(), ann)
    pool.add(ends.make()[0])
    pool.take(at_once(), eve)
    for client in (ann, ann, eve, eve):
        pool.give_back(client)
    assert not pool._taken
    pool.close()


def test_where_one_server_waits_at_a_time_there_is_no_reserve(ends: Ends) -> None:
    pool = WaitingServers(64, Counters(BridgeCount), reserve=2)
    client = memory.pair(memory.nobody("ann"))[0]
    for _ in range(4):
        pool.add(ends.make()[0])
        pool.take(soon(), client)
    pool.close()


def test_what_the_reserve_goes_by_is_learned_anew_when_nobody_has_a_server(ends: Ends) -> None:
    """A site that has fewer workers than it had is not held up by a reserve of that time."""
    pool = WaitingServers(64, Counters(BridgeCount), reserve=2)
    client = memory.pair(memory.nobody("ann"))[0]
    for _ in range(3):
        pool.add(ends.make()[0])
    pool.take(soon(), client)
    pool.trim(2)
    pool._reserve = 2
    pool.add(ends.make()[0])
    with pytest.raises(DeadlineExceeded):
        pool.take(at_once(), client)
    pool.give_back(client)
    pool.take(soon(), client)
    pool.add(ends.make()[0])
    pool.take(soon(), client)
    pool.close()


def test_a_bridge_that_is_left_keeps_no_server_in_reserve(ends: Ends) -> None:
    pool = WaitingServers(64, Counters(BridgeCount), reserve=2)
    client = memory.pair(memory.nobody("ann"))[0]
    for _ in range(4):
        pool.add(ends.make()[0])
    pool.trim(0)
    for _ in range(4):
        pool.take(at_once(), client)
    pool.close()


# ------------------------------------------------------------------------------------------- limits


def test_a_full_pool_sends_servers_away(pool: WaitingServers, ends: Ends) -> None:
    servers = [ends.make() for _ in range(3)]
    for server, _far in servers:
        pool.add(server)
    with pytest.raises(TransportError, match="max-waiting-servers"):
        pool.add(ends.make()[0])
    assert len(pool) == 3
    # The place of one that has gone is free again.
    servers[1][1].close()
    assert eventually(lambda: len(pool) == 2)
    pool.add(ends.make()[0])


def test_the_end_of_the_pool_is_the_end_of_all_waiting(ends: Ends) -> None:
    pool = WaitingServers(3, Counters(BridgeCount))
    client, _far = ends.make("client")
    server, server_far = ends.make()

    def wait() -> None:
        with pytest.raises(TransportError, match="bridge is ending"):
            pool.take(soon(), client)

    with in_background(wait):
        assert eventually(lambda: len(pool._line) == 1)
        pool.close()
    with pytest.raises(TransportError, match="bridge is ending"):
        pool.add(server)
    with pytest.raises(TransportError, match="bridge is ending"):
        pool.take(soon(), client)
    assert server_far.send(b"still open") == 10


def test_the_end_of_the_pool_closes_servers_in_order(ends: Ends) -> None:
    pool = WaitingServers(3, Counters(BridgeCount))
    server, far = ends.make()
    pool.add(server)
    pool.close()
    assert server.closed
    assert not server.discarded
    assert far.recv(10) == b""
    assert not pool._watcher.is_alive()


def test_nothing_is_kept_of_servers_that_were_sent_away(pool: WaitingServers) -> None:
    kept, first = (memory.pair()[0] for _ in range(2))
    pool.add(kept)
    pool.add(first)
    sent_away = weakref.ref(first)
    del first
    pool.trim(1)
    gc.collect()
    assert [server for server, _arrival in pool.waiting()] == [kept]
    assert sent_away() is None


def test_many_requests_and_servers_at_once_each_get_one(ends: Ends) -> None:
    pool = WaitingServers(64, Counters(BridgeCount))
    count = 24
    servers = [ends.make() for _ in range(count)]
    taken: list[ByteStream] = []
    lock = threading.Lock()

    def take() -> None:
        server = pool.take(soon(), client)
        with lock:
            taken.append(server)

    client, _client_far = ends.make("client")
    dying = [ends.make() for _ in range(count)]

    def bring() -> None:
        for (server, _far), (dead, dead_far) in zip(servers, dying, strict=True):
            dead_far.close()
            pool.add(dead)
            pool.add(server)

    with in_background(bring, *[take] * count):
        pass
    assert len(taken) == len(set(map(id, taken))) == count
    assert {id(server) for server in taken} == {id(server) for server, _far in servers}
    assert eventually(lambda: all(dead.discarded for dead, _far in dying))
    pool.close()


# ------------------------------------------------------------------------------------ ages


@pytest.mark.parametrize(
    ("young_seconds", "order"),
    [(1000.0, ["one", "two", "three"]), (0.0, ["three", "two", "one"])],
    ids=["all of them young", "all of them old"],
)
def test_who_has_waited_long_comes_last(ends: Ends, young_seconds: float, order: list[str]) -> None:
    pool = WaitingServers(3, Counters(BridgeCount), young_seconds=young_seconds)
    try:
        for name in ("one", "two", "three"):
            pool.add(ends.make(name)[0])
        client = ends.make("client")[0]
        assert [pool.take(soon(), client).peer.common_name for _ in range(3)] == order
    finally:
        pool.close()


def test_the_young_are_taken_in_turn_before_the_old(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 10_000.0
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now)
    pool = WaitingServers(4, Counters(BridgeCount))
    try:
        for name, age in (("older", 3000), ("old", 2000), ("first", 1000), ("second", 10)):
            now = 10_000.0 - age
            pool.add(ends.make(name)[0])
        now = 10_000.0
        client = ends.make("client")[0]
        taken = [pool.take(soon(), client).peer.common_name for _ in range(4)]
        assert taken == ["first", "second", "old", "older"]
    finally:
        pool.close()
