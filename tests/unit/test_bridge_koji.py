"""The bridge's filters and a request's Koji session together, without a hub."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from sigul_stack.bridge.head_room import UNCOUNTED_BYTES, HeadRoom
from sigul_stack.bridge.koji import KojiSession
from sigul_stack.bridge.streams import ReplyFilter, RequestFilter
from sigul_stack.config.shared import BridgeKojiSettings
from sigul_stack.errors import ProtocolError
from sigul_stack.formats.rpm_head import Head, Header, HeaderEntry, Region, encode_header, padded
from sigul_stack.protocol.codec import Fields
from sigul_stack.protocol.operations import OPERATIONS
from sigul_stack.protocol.versions import LATEST
from tests.wire import (
    SUBREPLY_KEYS,
    SUBREQUEST_KEYS,
    no_place,
    reply,
    request_filter,
    sub_parts,
    u32,
)

SIGN_RPM, SIGN_RPMS = OPERATIONS["sign-rpm"], OPERATIONS["sign-rpms"]
NO_LIMIT = 2**40
NAMED = {
    "rpm-name": b"lab", "rpm-version": b"1", "rpm-release": b"1", "rpm-arch": b"noarch"
}  # fmt: skip
#: Not a multiple of 8 bytes long.
SIGNATURE = encode_header(Region.SIGNATURE, [HeaderEntry.binary(1004, bytes(13))])


class Recorded(KojiSession):
    """The session of a request with head signing that only keeps what would be stored."""

    def __init__(self) -> None:
        super().__init__(
            BridgeKojiSettings(), Fields({"head-signing": b"\1", "import-signature": b"\1"}), "ann",
            no_place,
        )  # fmt: skip
        self.stored: list[bytes] = []

    def store(self, signature: Header, head: Head | None, number: bytes | None) -> str | None:
        """See `KojiSession.store`."""
        assert head is None
        self.stored.append(signature.raw)
        return None


def subrequest(number: int, payload: bytes = b"head", **fields: bytes) -> bytes:
    """A subrequest that names its RPM."""
    every = {"id": u32(number), **NAMED, **fields}
    return b"".join(sub_parts(number, every, payload, SUBREQUEST_KEYS))


def subreply(number: int, status: int, payload: bytes = b"") -> bytes:
    """Its answer."""
    fields = {"id": u32(number), "status": u32(status)}
    return b"".join(sub_parts(number, fields, payload, SUBREPLY_KEYS))


def test_nothing_is_kept_of_what_has_been_answered_whatever_the_answer() -> None:
    koji = Recorded()
    request = RequestFilter(LATEST, SIGN_RPMS, 0, NO_LIMIT, koji)
    cutter = ReplyFilter(LATEST, SIGN_RPMS, koji)
    request.feed(b"".join(subrequest(number) for number in range(4)))
    assert len(koji._names) == 4
    cutter.feed(reply() + subreply(0, 11) + subreply(2, 0, SIGNATURE) + subreply(1, 9))
    assert list(koji._names) == [u32(3)]
    koji._failures[u32(3)] = "no hub"
    (header, _length, _code) = cutter.feed(subreply(3, 11))
    assert b"no hub" in bytes(header)  # type: ignore[arg-type]
    assert not koji._names
    assert not koji._failures


@pytest.mark.parametrize("sent", [SIGNATURE, padded(SIGNATURE)], ids=["bare", "padded"])
@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
@pytest.mark.parametrize("keep", [False, True], ids=["dropped", "kept"])
def test_a_signature_header_may_be_padded(sent: bytes, many: bool, keep: bool) -> None:
    assert len(SIGNATURE) % 8
    koji = Recorded()
    cutter = ReplyFilter(LATEST, SIGN_RPMS if many else SIGN_RPM, koji, keep_payload=keep)
    data = reply() + subreply(0, 0, sent) if many else reply(payload=sent)
    passed = b"".join(piece for piece in cutter.feed(data) if isinstance(piece, bytes))
    assert koji.stored == [SIGNATURE]
    assert cutter.at_boundary
    assert (passed == data) == keep
    assert (sent in passed) == keep


def test_a_large_head_for_which_there_is_no_room_costs_its_rpm_alone() -> None:
    room = HeadRoom(1)

    class Crowded(Recorded):
        """A session of a bridge that has little room."""

        def head_room(self) -> AbstractContextManager[Callable[[int], None]]:
            """See `KojiSession.head_room`."""
            return room.holding(0)

    koji = Crowded()
    large = encode_header(Region.SIGNATURE, [HeaderEntry.binary(1004, bytes(UNCOUNTED_BYTES + 1))])
    cutter = ReplyFilter(LATEST, SIGN_RPMS, koji)
    with room.holding(0) as take:
        take(UNCOUNTED_BYTES + 1)
        parts = cutter.feed(reply() + subreply(0, 0, large) + subreply(1, 0, SIGNATURE))
    passed = b"".join(piece for piece in parts if isinstance(piece, bytes))
    assert koji.stored == [SIGNATURE]
    assert b"as many RPMs with large heads as it may" in passed
    assert len(passed) < UNCOUNTED_BYTES
    cutter.feed(subreply(2, 0, large))
    assert koji.stored == [SIGNATURE, large]
    assert cutter.at_boundary
    # What was held for it is given back.
    assert room._held == 0


ODD = [{"other": b"1"}, {"rpm-arch": b"\n"}, {"rpm-name": b"\xff"}]


@pytest.mark.parametrize("fields", ODD)
def test_a_subrequest_with_odd_fields_is_the_servers_to_refuse(fields: dict[str, bytes]) -> None:
    koji = Recorded()
    request = RequestFilter(LATEST, SIGN_RPMS, 0, NO_LIMIT, koji)
    # Without a payload, too: none is fetched for it.
    sent = subrequest(0, **fields) + subrequest(1, b"", **fields) + subrequest(2)
    assert b"".join(piece for piece in request.feed(sent) if isinstance(piece, bytes)) == sent
    assert list(koji._names) == [u32(2)]
    assert request.at_boundary


def test_a_subrequest_without_an_id_ends_the_batch() -> None:
    request = request_filter(SIGN_RPMS, 0, NO_LIMIT)
    with pytest.raises(ProtocolError, match="'id' is missing"):
        request.feed(b"".join(sub_parts(0, NAMED, b"", SUBREQUEST_KEYS)))


def test_an_rpm_for_which_there_is_no_room_is_refused_by_the_bridge_alone() -> None:
    """The server gets it without content, so that its subreply has its number; the client a reason.

    What has room is counted while it passes, also where the request ends in the middle of it.
    """
    held: list[int] = []

    @contextlib.contextmanager
    def holding(length: int) -> Iterator[bool]:
        held.append(length)
        try:
            yield length < 100
        finally:
            held.remove(length)

    koji = Recorded()
    request = RequestFilter(LATEST, SIGN_RPMS, 0, NO_LIMIT, koji, holding)
    cutter = ReplyFilter(LATEST, SIGN_RPMS, koji)
    small, large = subrequest(0, bytes(99)), subrequest(1, bytes(100))
    assert b"".join(map(bytes, request.feed(small))) == small  # type: ignore[arg-type]
    passed = b"".join(map(bytes, request.feed(large)))  # type: ignore[arg-type]
    # Its length is 0, and the code of its payload follows.
    assert passed == large[: -64 - 100 - 8] + bytes(8) + large[-64:]
    assert (held, request.subrequests) == ([], 2)
    cutter.feed(reply())
    (header, _length, _code) = cutter.feed(subreply(1, 11))
    assert b"max-bytes-in-flight-per-user" in bytes(header)  # type: ignore[arg-type]
    assert cutter.subreplies == 1
    request.feed(subrequest(2, bytes(50))[:-100])
    assert held == [50]
    request.close()
    assert held == []
