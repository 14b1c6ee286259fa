"""One request at the bridge, whole, in memory: no sockets, no TLS, no threads but its own."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.bridge import forward
from sigul_stack.bridge.admission import OnlyLooked
from sigul_stack.bridge.budget import REFUSALS_PER_USER, OverBudget
from sigul_stack.bridge.refusal import refuse
from sigul_stack.bridge.session import BridgeResources, RequestSession
from sigul_stack.config.bridge import BridgeSettings, GroupSettings
from sigul_stack.config.shared import NSSSettings
from sigul_stack.errors import (
    BridgeRefused,
    DeadlineExceeded,
    PeerClosed,
    ProtocolError,
    RemoteProtocolError,
    SigulError,
    TransportError,
)
from sigul_stack.protocol.chunks import Stream
from sigul_stack.protocol.messages import UnknownVersion, read_reply_header
from sigul_stack.protocol.versions import LATEST
from sigul_stack.transport import memory
from sigul_stack.transport.chunked import ChunkedStream
from sigul_stack.transport.memory import MemoryStream
from sigul_stack.transport.rate import TooSlow
from tests.wire import (
    INNER_END,
    LIST_USERS,
    OUTER_END,
    eventually,
    field_map,
    in_background,
    inner,
    listening,
    of_stream,
    outer,
    parse_whole,
    reply,
    sign_text,
    u32,
    u64,
)

LONG = 10.0
SETTINGS = BridgeSettings(
    nss=NSSSettings(directory="sql:/nonexistent"),
    header_timeout=LONG,
    idle_timeout=LONG,
    close_timeout=LONG,
    server_wait_timeout=LONG,
)


class Desk:
    """What requests share, and peers that speak before the session reads: one thread is enough."""

    def __init__(self, settings: BridgeSettings) -> None:
        self.resources = BridgeResources(settings)
        self.paired = 0

    def server(self) -> MemoryStream:
        """The far end of a server that waits."""
        near, far = memory.pair(memory.nobody("server"))
        self.resources.waiting.add(near)
        return far

    def run(self, client: MemoryStream) -> None:
        """Serve the request of the client at this near end."""
        RequestSession(client, self.resources, self._pair).run()

    def _pair(self) -> None:
        self.paired += 1
        assert self.resources.budget.in_flight == 1

    def totals(self) -> dict[str, int]:
        """The counters that are not 0, without `_total`."""
        return {
            name.removesuffix("_total"): count
            for name, count in self.resources.counters.values().items()
            if count
        }


@contextlib.contextmanager
def desk(settings: BridgeSettings = SETTINGS) -> Iterator[Desk]:
    """A desk, of which nothing is left in the end."""
    found = Desk(settings)
    try:
        yield found
        assert (found.resources.budget.in_flight, found.resources.budget.connected) == (0, 0)
        assert not found.resources.budget._counts
    finally:
        found.resources.close()


def client_of(*said: bytes, name: str = "ann") -> tuple[MemoryStream, MemoryStream]:
    """The two ends of a client that has said this."""
    near, far = memory.pair(memory.nobody(name))
    for piece in said:
        far.write(piece, LONG)
    return near, far


def read_rest(stream: MemoryStream) -> bytes:
    """What comes up to the orderly end."""
    data = b""
    while piece := stream.read(100_000, LONG):
        data += piece
    return data


def test_a_whole_request() -> None:
    request = sign_text(b"text" * 5000)
    with desk() as bridge:
        server = bridge.server()
        near, client = client_of(
            outer(request.outer[:7], request.outer[7:]), inner(request.inner) + INNER_END
        )
        got: dict[str, bytes] = {}

        def serve() -> None:
            data = b""
            while INNER_END not in data:
                data += server.read(100_000, LONG)
            got["request"] = data
            server.write(INNER_END + outer(reply(payload=b"signed")), LONG)
            assert server.read(1, LONG) == b""
            server.close()

        def receive() -> None:
            data = b""
            while not data.endswith(OUTER_END):
                data += client.read(100_000, LONG)
            got["reply"] = data
            client.close()

        with in_background(serve, receive):
            bridge.run(near)
        assert b"".join(of_stream(got["request"], Stream.OUTER)) == request.outer
        assert of_stream(got["request"], Stream.INNER) == [request.inner, b""]
        assert b"".join(of_stream(got["reply"], Stream.OUTER)) == reply(payload=b"signed")
        assert bridge.paired == 1
        assert bridge.totals() == {
            "requests": 1, "requests_protocol_1": 1, "servers_attached": 1,
        }  # fmt: skip


def test_who_says_nothing_only_looked() -> None:
    with desk() as bridge:
        near, client = client_of()
        client.close()
        with pytest.raises(OnlyLooked):
            bridge.run(near)
        assert bridge.totals() == {}


def test_who_is_in_no_group_is_told_and_no_server_hears_of_it(tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    groups.write_text("signers: bob\n")
    settings = dataclasses.replace(
        SETTINGS, required_fas_group="signers", groups=GroupSettings(source="file", file=groups)
    )
    with desk(settings) as bridge:
        server = bridge.server()
        near, client = client_of(listening(LIST_USERS.outer))
        client.end_writing()
        with pytest.raises(RemoteProtocolError, match="request is refused: user 'ann' is not in"):
            bridge.run(near)
        header = of_stream(read_rest(client), Stream.OUTER)[0]
        with pytest.raises(BridgeRefused, match="not in the group 'signers'"):
            parse_whole(read_reply_header(LATEST), header).check_origin()
        assert not server.has_input()
        assert bridge.totals() == {
            "requests": 1, "requests_protocol_1": 1, "requests_failed": 1,
            "group_refusals": 1, "servers_attached": 1,
        }  # fmt: skip


def test_a_server_that_goes_in_the_very_moment_is_none() -> None:
    with desk() as bridge:
        server, other = bridge.server(), bridge.server()
        near, client = client_of(outer(LIST_USERS.outer) + inner(LIST_USERS.inner) + INNER_END)
        taken = bridge.resources.waiting.take

        def take(*arguments: object) -> object:
            found = taken(*arguments)  # type: ignore[arg-type]
            # The first one ends once it has been handed out.
            server.close()
            return found

        bridge.resources.waiting.take = take  # type: ignore[assignment,method-assign]

        def serve() -> None:
            other.read(100_000, LONG)
            other.write(INNER_END + outer(reply()), LONG)
            other.close()

        def receive() -> None:
            data = b""
            while not data.endswith(OUTER_END):
                data += client.read(100_000, LONG)
            client.close()

        with in_background(serve, receive):
            bridge.run(near)
        with pytest.raises(PeerClosed):
            read_rest(server)
        assert bridge.paired == 1


def test_without_a_server_the_client_is_not_kept_for_ever() -> None:
    with desk(dataclasses.replace(SETTINGS, server_wait_timeout=0.1)) as bridge:
        near, _client = client_of(outer(LIST_USERS.outer))
        with pytest.raises(DeadlineExceeded, match="no signing server became free"):
            bridge.run(near)
        assert bridge.paired == 0
        assert bridge.totals() == {
            "requests": 1, "requests_protocol_1": 1, "requests_failed": 1,
        }  # fmt: skip


# --------------------------------------------------------------------------- whoever is refused


def told(client: MemoryStream) -> str:
    """What the bridge itself said to a client before it ended the connection."""
    data = b""
    with contextlib.suppress(PeerClosed):
        while piece := client.read(100_000, LONG):
            data += piece
    (header, *_rest) = of_stream(data, Stream.OUTER)
    with pytest.raises(BridgeRefused) as refused:
        parse_whole(read_reply_header(LATEST), header).check_origin()
    return str(refused.value)


def test_who_waits_for_a_server_in_vain_is_told() -> None:
    with desk(dataclasses.replace(SETTINGS, server_wait_timeout=0.1)) as bridge:
        near, client = client_of(listening(LIST_USERS.outer))
        with pytest.raises(DeadlineExceeded):
            bridge.run(near)
        assert "no signing server became free in time" in told(client)


def test_who_has_too_many_connections_is_told_before_its_request_is_read() -> None:
    with desk(dataclasses.replace(SETTINGS, max_connections_per_user=1)) as bridge:
        held, _held_client = client_of()
        # No version is known by then, nor a whole header: it listens, and no more is needed.
        near, client = client_of(listening(b"no request")[:9])
        client.end_writing()
        with bridge.resources.budget.connection(held):
            with pytest.raises(OverBudget):
                bridge.run(near)
            assert "'ann' has 1 connections here" in told(client)
            assert bridge.totals() == {"over_budget": 1}
            # Whoever it is whose place is free: not this one's.
            other, other_client = client_of(name="bob")
            other_client.close()
            with pytest.raises(OnlyLooked):
                bridge.run(other)


def test_who_waits_while_the_bridge_ends_is_told() -> None:
    with desk() as bridge:
        near, client = client_of(listening(LIST_USERS.outer))

        def end() -> None:
            assert eventually(lambda: len(bridge.resources.waiting._line) == 1)
            bridge.resources.close()

        with in_background(end), pytest.raises(TransportError, match="bridge is ending"):
            bridge.run(near)
        assert "the bridge is ending" in told(client)


def test_whose_header_is_invalid_or_late_is_told() -> None:
    with desk(dataclasses.replace(SETTINGS, header_timeout=0.2)) as bridge:
        for said, reason in (
            (listening(u32(1) + field_map({"op": b"sign-everything", "user": b"ann"}) + u64(0)),
             "operation 'sign-everything' is unknown"),
            (listening(u32(1) + b"\2"), "sending the request's header took longer"),
        ):  # fmt: skip
            near, client = client_of(said)
            with pytest.raises((ProtocolError, DeadlineExceeded)):
                bridge.run(near)
            assert reason in told(client)


def test_whose_version_is_unknown_is_not_told_in_the_words_of_another() -> None:
    with desk() as bridge:
        near, client = client_of(listening(u32(7) + bytes(100)))
        with pytest.raises(UnknownVersion):
            bridge.run(near)
        # As servers say it, which is the same in each version; then the end of the stream.
        answer = b""
        while client.has_input() and (piece := client.read(100, 1.0)):
            answer += piece
        assert answer == bytes.fromhex("00000004 00000001 00000000")
        # As all that a bridge says by itself, it is for who listens.
        near, client = client_of(outer(u32(7) + bytes(100)))
        with pytest.raises(UnknownVersion):
            bridge.run(near)
        assert client.read(100, 1.0) == b""


def test_who_sends_too_slowly_is_told_and_counted() -> None:
    request = sign_text(b"text" * 5000)
    settings = dataclasses.replace(SETTINGS, min_payload_rate=2**40, idle_timeout=60)
    with desk(settings) as bridge:
        server = bridge.server()
        near, client = client_of(listening(request.outer[:200]))
        slow = forward.RateMeter
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(forward, "RateMeter", lambda rate, doing: slow(rate, doing, 0.2))
            with pytest.raises(TooSlow):
                bridge.run(near)
        assert "slower than 1099511627776 bytes/s (min-payload-rate)" in told(client)
        assert bridge.totals() == {
            "requests": 1, "requests_protocol_1": 1, "requests_failed": 1,
            "servers_attached": 1, "too_slow": 1,
        }  # fmt: skip
        assert not bridge.resources.waiting._taken
        with pytest.raises(PeerClosed):
            read_rest(server)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        outer(LIST_USERS.outer),
        outer(*(bytes((byte,)) for byte in LIST_USERS.outer)),
        inner(b"x", b"xxx") + listening(LIST_USERS.outer),
        outer(b"\0", b"\0\0", LIST_USERS.outer[3:]),
    ],
    ids=["nothing", "whole", "byte by byte", "behind the inner stream", "another cut"],
)
def test_who_does_not_listen_hears_nothing(said: bytes) -> None:
    """Some clients fail on a word before the inner session's end; an orderly end they know."""
    settings = dataclasses.replace(SETTINGS, server_wait_timeout=0.1, header_timeout=0.2)
    with desk(settings) as bridge:
        near, client = client_of(*([said] if said else []))
        if not said:
            client.end_writing()
        held = bridge.resources.budget
        with contextlib.suppress(SigulError):
            if said:
                bridge.run(near)
            else:
                refuse(ChunkedStream(near, LONG), "refused", held)
        assert read_rest(client) == b""


def test_one_of_many_refused_is_not_waited_for() -> None:
    """The fifth of one name at a time is told and ended at once; nobody waits for it to close."""
    with desk() as bridge:
        budget = bridge.resources.budget
        near, client = client_of(listening(LIST_USERS.outer))
        with contextlib.ExitStack() as stack:
            for _ in range(REFUSALS_PER_USER):
                assert stack.enter_context(budget.refusal(near))
            refuse(ChunkedStream(near, LONG), "too many", budget)
        near.discard()
        assert "too many" in told(client)
