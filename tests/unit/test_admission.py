"""Who gets in: room for handshakes, and which certificate may play which part."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from sigul_stack.bridge.admission import Handshakes, OnlyLooked, Roles, network_of
from sigul_stack.errors import DeadlineExceeded, TransportError
from sigul_stack.transport.stream import Deadline, Peer


@dataclass
class Connections:
    """Makes connections, and closes them when the test is over."""

    pairs: list[tuple[socket.socket, socket.socket]]

    def make(self) -> socket.socket:
        """The bridge's end of a new connection."""
        self.pairs.append(socket.socketpair())
        return self.pairs[-1][0]

    def ended(self) -> list[bool]:
        """Which connections have been ended, in the order in which they were made."""
        found = []
        for _near, far in self.pairs:
            far.setblocking(False)
            try:
                found.append(far.recv(1) == b"")
            except BlockingIOError:
                found.append(False)
        return found


@pytest.fixture
def connections() -> Iterator[Connections]:
    """Connections of the test."""
    found = Connections([])
    yield found
    for near, far in found.pairs:
        near.close()
        far.close()


def test_up_to_the_limit_all_may_stay(connections: Connections) -> None:
    handshakes = Handshakes(3)
    for host in ("a", "a", "b"):
        handshakes.enter(host, connections.make())
    assert connections.ended() == [False, False, False]


def test_the_oldest_of_the_most_crowded_address_makes_room(connections: Connections) -> None:
    handshakes = Handshakes(4)
    for host in ("honest", "crowd", "crowd", "other"):
        handshakes.enter(host, connections.make())
    handshakes.enter("new", connections.make())
    assert connections.ended() == [False, True, False, False, False]


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:c000:207", "192.0.2.7"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("memory", "memory"),
    ],
)
def test_an_address_counts_for_its_network(host: str, network: str) -> None:
    assert network_of(host) == network


def test_one_that_opens_connections_by_the_hundred_pushes_out_its_own(
    connections: Connections,
) -> None:
    handshakes = Handshakes(8)
    for host in ("honest", "other"):
        handshakes.enter(host, connections.make())
    for _ in range(100):
        handshakes.enter("flood", connections.make())
    late = handshakes.enter("late", connections.make())
    ended = connections.ended()
    assert ended[:2] == [False, False]
    assert ended[-1] is False
    assert ended[2:-1] == [True] * 95 + [False] * 5
    handshakes.leave(late)


def test_where_no_address_is_crowded_the_oldest_makes_room(connections: Connections) -> None:
    handshakes = Handshakes(3)
    for host in ("a", "b", "c", "d"):
        handshakes.enter(host, connections.make())
    assert connections.ended() == [True, False, False, False]


def test_who_has_left_takes_no_room_and_is_not_ended(connections: Connections) -> None:
    handshakes = Handshakes(2)
    first = handshakes.enter("a", connections.make())
    handshakes.enter("a", connections.make())
    handshakes.leave(first)
    handshakes.enter("a", connections.make())
    assert connections.ended() == [False, False, False]
    handshakes.enter("a", connections.make())
    assert connections.ended() == [False, True, False, False]


def test_leaving_twice_or_after_being_ended_is_no_error(connections: Connections) -> None:
    handshakes = Handshakes(1)
    first = handshakes.enter("a", connections.make())
    second = handshakes.enter("b", connections.make())
    for pending in (first, second, second):
        handshakes.leave(pending)
    handshakes.enter("c", connections.make())
    assert connections.ended() == [True, False, False]


def test_making_room_survives_a_connection_that_is_closed_already(connections: Connections) -> None:
    handshakes = Handshakes(1)
    closed = connections.make()
    handshakes.enter("a", closed)
    closed.close()
    handshakes.enter("b", connections.make())
    handshakes.end_all()
    assert connections.ended() == [True, True]


def test_at_the_end_all_are_ended(connections: Connections) -> None:
    handshakes = Handshakes(5)
    left = handshakes.enter("a", connections.make())
    for host in ("a", "b"):
        handshakes.enter(host, connections.make())
    handshakes.leave(left)
    handshakes.end_all()
    assert connections.ended() == [False, True, True]


# -------------------------------------------------------------------------------------------- roles


def peer(common_name: str, fingerprint: str = "") -> Peer:
    """A peer with this certificate."""
    return Peer(common_name, fingerprint or common_name, "192.0.2.1:1")


def test_with_a_list_only_listed_names_are_servers() -> None:
    roles = Roles(("signer.example", "other.example"))
    roles.check_server(peer("signer.example"))
    roles.check_server(peer("other.example"))
    for stranger in (peer("alice"), peer("x.example"), peer("")):
        with pytest.raises(TransportError, match=r"not a signing server's name.*other\.example"):
            roles.check_server(stranger)
        roles.check_client(stranger)


def test_with_a_list_no_listed_name_is_a_client() -> None:
    roles = Roles(("signer.example",))
    with pytest.raises(TransportError, match="may not be a client"):
        roles.check_client(peer("signer.example", fingerprint="another"))


def test_without_a_list_whoever_was_a_server_is_no_client_any_more() -> None:
    roles = Roles(())
    roles.check_client(peer("alice"))
    roles.check_server(peer("signer", fingerprint="f1"))
    with pytest.raises(TransportError, match="may not be a client"):
        roles.check_client(peer("alice", fingerprint="f1"))
    # Its certificate counts, not the name in it.
    roles.check_client(peer("signer", fingerprint="f2"))
    roles.check_server(peer("signer", fingerprint="f1"))


def test_the_bridges_own_certificate_may_look_where_bridge_and_server_have_one_name() -> None:
    roles = Roles(("localhost",), own="f0")
    roles.check_client(peer("localhost", fingerprint="f0"))
    with pytest.raises(TransportError, match="may not be a client"):
        roles.check_client(peer("localhost", fingerprint="f1"))
    with pytest.raises(TransportError, match="not a signing server's name"):
        roles.check_server(peer("alice", fingerprint="f2"))
    # A certificate that both share is a server's, as soon as it has been one.
    roles.check_server(peer("localhost", fingerprint="f0"))
    with pytest.raises(TransportError, match="may not be a client"):
        roles.check_client(peer("localhost", fingerprint="f0"))


def test_a_refused_server_may_still_be_a_client() -> None:
    roles = Roles(("signer.example",))
    with pytest.raises(TransportError):
        roles.check_server(peer("alice"))
    roles.check_client(peer("alice"))


def greeting(seconds: float = 30.0) -> Deadline:
    """The limit on the first byte."""
    return Deadline(seconds, "the handshake")


def test_a_first_byte_is_awaited_and_left(connections: Connections) -> None:
    near = connections.make()
    connections.pairs[0][1].send(b"hello")
    Handshakes(1).enter("a", near).await_greeting(greeting())
    assert near.recv(5) == b"hello"


def test_who_ends_without_a_byte_only_looked(connections: Connections) -> None:
    near = connections.make()
    connections.pairs[0][1].shutdown(socket.SHUT_RDWR)
    with pytest.raises(OnlyLooked):
        Handshakes(1).enter("a", near).await_greeting(greeting())


def test_who_resets_without_a_byte_only_looked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _address = listener.accept()
    # Closing resets then: how some port checks end.
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    with near, pytest.raises(OnlyLooked):
        Handshakes(1).enter("a", near).await_greeting(greeting())


def test_who_makes_room_did_not_only_look(connections: Connections) -> None:
    handshakes = Handshakes(1)
    first = handshakes.enter("a", connections.make())
    handshakes.enter("a", connections.make())
    with pytest.raises(TransportError, match="too many"):
        first.await_greeting(greeting())


def test_a_first_byte_has_a_limit(connections: Connections) -> None:
    with pytest.raises(DeadlineExceeded, match="the handshake"):
        Handshakes(1).enter("a", connections.make()).await_greeting(greeting(0.05))
