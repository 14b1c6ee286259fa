"""Trying again: what is worth it, the pauses and their limit, and that nothing is sent twice.

Exchanges are with a bridge in memory, as in test_client_exchange; clocks and pauses are the tests'.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from sigul_stack.cli.outcome import BUSY, MAY_HAVE_HAPPENED, AlreadyTold, Failures, exit_code
from sigul_stack.client import core
from sigul_stack.client.core import RequestSender
from sigul_stack.client.retry import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    Retries,
    is_worth_it,
    pause_seconds,
)
from sigul_stack.errors import (
    BridgeRefused,
    DeadlineExceeded,
    LogComplaint,
    NSSError,
    PeerClosed,
    ProtocolError,
    RemoteProtocolError,
    RequestRefused,
    SigulError,
    Status,
    TransportError,
    as_busy,
)
from sigul_stack.protocol.messages import (
    BUSY as BUSY_FIELD,
)
from sigul_stack.protocol.messages import (
    ReplyKeys,
    bridge_refusal,
    read_inner_fields,
    read_request_header,
)
from sigul_stack.protocol.versions import LATEST, VERSIONS
from sigul_stack.transport import dialling, memory, nss
from sigul_stack.transport.chunked import ChunkedStream
from sigul_stack.transport.memory import MemoryStream
from tests.unit.test_client_exchange import (
    LONG,
    SECRET,
    SETTINGS,
    PlainSpeaker,
    plain_inner_as_client,
)
from tests.wire import OUTER_END, outer, plain_inner, reply

REFUSED = TransportError("cannot connect", symbol="ECONNREFUSED")


# --------------------------------------------------------------------------------- what is worth it


@pytest.mark.parametrize(
    "error",
    [
        REFUSED,
        TransportError("no way", symbol="EHOSTUNREACH"),
        TransportError("no name just now", symbol="EAI_AGAIN"),
        PeerClosed("reset", symbol="PR_CONNECT_RESET_ERROR"),
        DeadlineExceeded("the handshake took longer"),
        BridgeRefused("its turn did not come", busy=True),
        as_busy(RequestRefused(Status.UNKNOWN_ERROR, "the spool is full")),
    ],
    ids=str,
)
def test_what_passes_is_tried_again(error: SigulError) -> None:
    assert is_worth_it(error)


@pytest.mark.parametrize(
    "error",
    [
        TransportError("unknown host"),
        TransportError("wrong name", symbol="SSL_ERROR_BAD_CERT_DOMAIN"),
        TransportError("expired", symbol="SEC_ERROR_EXPIRED_CERTIFICATE"),
        BridgeRefused("not in the group"),
        RequestRefused(Status.AUTHENTICATION_FAILED),
        RequestRefused(Status.UNKNOWN_VERSION),
        RemoteProtocolError("nonsense"),
        NSSError("no database"),
        LogComplaint("the log shrank"),
        SigulError("the file was changed"),
    ],
    ids=str,
)
def test_what_stays_is_not(error: SigulError) -> None:
    assert not is_worth_it(error)


# -------------------------------------------------------------------------------------- the pauses


def test_pauses_grow_up_to_a_limit_and_are_spread() -> None:
    longest = [pause_seconds(failures, 1.0) for failures in range(1, 12)]
    assert longest[:4] == [0.5, 1.0, 2.0, 4.0]
    assert longest[0] == FIRST_PAUSE_SECONDS
    assert max(longest) == longest[-1] == LONGEST_PAUSE_SECONDS
    assert [pause_seconds(failures, 0.0) for failures in range(1, 12)] == [
        pause / 2 for pause in longest
    ]
    assert pause_seconds(10**6, 0.5) == 22.5


class Clock:
    """A clock that goes on by what is waited."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def wait(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def retries(self, limit: float) -> Retries:
        return Retries(limit, clock=lambda: self.now, wait=self.wait, spread=lambda: 1.0)


def test_no_try_begins_behind_the_limit_and_the_last_one_at_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    retries = clock.retries(10)
    failures = 1
    while retries.again(REFUSED, failures):
        failures += 1
    assert clock.pauses == [0.5, 1.0, 2.0, 4.0, 2.5]
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "nothing was done yet: cannot connect; next attempt in 0.5 s"
    assert lines[-1] == "gave up after attempt 6: the limit of 10 s is over (retry-seconds)"
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_without_a_limit_nothing_is_waited_or_said(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    assert not clock.retries(0).again(REFUSED, 1)
    assert clock.pauses == []
    assert caplog.records == []


def test_requests_that_share_a_limit_have_it_once_a_trouble() -> None:
    clock = Clock()
    retries = clock.retries(2)
    while retries.again(REFUSED, 1):
        pass
    # Another request fails at once now.
    assert not retries.again(REFUSED, 1)
    retries.succeeded()
    assert retries.again(REFUSED, 1)


# ---------------------------------------------------------------------------- exchanges in memory

Bridge = Callable[[MemoryStream], None]
#: Whether the handshake of the inner session succeeds, which in memory is none.
HANDSHAKES: queue.Queue[bool] = queue.Queue()


@contextlib.contextmanager
def inner_session(
    chunked: ChunkedStream, *settings: object, **more: object
) -> Iterator[PlainSpeaker]:
    """Stands in for the real one: its handshake fails where the bridge does not let it through."""
    if not HANDSHAKES.get(timeout=LONG):
        raise PeerClosed("the inner handshake: the peer ended the connection")
    with plain_inner_as_client(chunked, *settings, **more) as session:
        yield session


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RequestSender]]:
    """Makes a client whose connections meet the given bridges, one after the other."""
    pauses: list[float] = []
    threads: list[threading.Thread] = []
    monkeypatch.setattr(nss, "open_database", lambda *_args, **_more: None)
    monkeypatch.setattr(nss, "load_identity", lambda *_args, **_more: None)
    monkeypatch.setattr(core, "inner_session", inner_session)
    monkeypatch.setattr(core, "Retries", lambda limit: Retries(limit, wait=pauses.append))

    def made(*bridges: Bridge | TransportError, seconds: float = 60) -> RequestSender:
        left: Sequence[Bridge | TransportError] = list(bridges)

        def dial(*_args: object, **_more: object) -> MemoryStream:
            nonlocal left
            first, *left = left
            if isinstance(first, TransportError):
                raise first
            near, far = memory.pair()
            thread = threading.Thread(target=first, args=(far,), daemon=True)
            threads.append(thread)
            thread.start()
            return near

        monkeypatch.setattr(dialling, "dial", dial)
        client = RequestSender(dataclasses.replace(SETTINGS, retry_seconds=int(seconds)))
        client.left = lambda: len(left)  # type: ignore[attr-defined]
        return client

    yield made
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


def head(far: MemoryStream) -> ChunkedStream:
    """Read a request's head, and its payload of six bytes."""
    chunked = ChunkedStream(far, LONG)
    chunked.parse(read_request_header(VERSIONS))
    length = chunked.parse(LATEST.read_length())
    assert chunked.read_exactly(length) == b"abcdef"
    return chunked


def head_and_secrets(far: MemoryStream) -> ReplyKeys:
    """Read a whole request; the keys for its reply."""
    chunked = head(far)
    HANDSHAKES.put(True)
    with plain_inner(chunked) as session:
        return session.parse(read_inner_fields()).keys


def says_busy(far: MemoryStream) -> None:
    head(far)
    far.write(outer(*bridge_refusal("no turn", LATEST, busy=True)) + OUTER_END, LONG)
    far.end_writing()
    HANDSHAKES.put(False)


def refuses(far: MemoryStream) -> None:
    head(far)
    far.write(outer(*bridge_refusal("not in the group", LATEST)) + OUTER_END, LONG)
    far.end_writing()
    HANDSHAKES.put(False)


def answers(status: int, fields: dict[str, bytes] | None = None) -> Bridge:
    def answer(far: MemoryStream) -> None:
        keys = head_and_secrets(far)
        far.write(outer(reply(status, fields or {}, b"", keys)) + OUTER_END, LONG)
        far.end_writing()

    return answer


def cuts(far: MemoryStream) -> None:
    """Has all, and says nothing."""
    head_and_secrets(far)
    far.end_writing()


def says_busy_too_late(far: MemoryStream) -> None:
    head_and_secrets(far)
    far.write(outer(*bridge_refusal("no turn", LATEST, busy=True)) + OUTER_END, LONG)
    far.end_writing()


def ask(client: RequestSender, payload: io.BytesIO | bytes = b"abcdef") -> core.Reply:
    return client.call("sign-text", {"key": "k"}, {"passphrase": SECRET}, payload=payload)


def test_a_request_is_sent_again_whole(sender: Callable[..., RequestSender]) -> None:
    client = sender(REFUSED, says_busy, says_busy, answers(0))
    source = io.BytesIO(b"before abcdef")
    source.seek(7)
    ask(client, source)
    assert client.left() == 0  # type: ignore[attr-defined]


def test_a_server_that_proves_that_it_is_busy_is_asked_again(
    sender: Callable[..., RequestSender],
) -> None:
    busy = {"message": b"the spool is full", BUSY_FIELD: b"\1"}
    ask(sender(answers(9, busy), answers(0)))
    client = sender(answers(9, busy), seconds=0)
    with pytest.raises(RequestRefused) as refused:
        ask(client)
    assert exit_code(refused.value) == BUSY


@pytest.mark.parametrize(
    ("bridge", "kind", "code"),
    [
        (cuts, PeerClosed, MAY_HAVE_HAPPENED),
        (says_busy_too_late, BridgeRefused, MAY_HAVE_HAPPENED),
        (refuses, BridgeRefused, 1),
        (answers(3), RequestRefused, 1),
        (answers(9, {"message": b"the spool is full"}), RequestRefused, 1),
    ],
)
def test_what_a_server_may_have_acted_on_or_has_refused_is_sent_once(
    sender: Callable[..., RequestSender], bridge: Bridge, kind: type[SigulError], code: int
) -> None:
    client = sender(bridge, answers(0))
    with pytest.raises(kind) as raised:
        ask(client)
    assert client.left() == 1  # type: ignore[attr-defined]
    assert exit_code(raised.value) == code
    told = "the server may have done it: look there before you ask again"
    assert (told in str(raised.value)) == (code == MAY_HAVE_HAPPENED)


def test_a_reply_that_is_not_authentic_may_be_of_something_done(
    sender: Callable[..., RequestSender],
) -> None:
    def forges(far: MemoryStream) -> None:
        head_and_secrets(far)
        far.write(outer(reply(9, {BUSY_FIELD: b"\1"}, b"")) + OUTER_END, LONG)
        far.end_writing()

    client = sender(forges, answers(0))
    with pytest.raises(ProtocolError) as raised:
        ask(client)
    assert client.left() == 1  # type: ignore[attr-defined]
    assert raised.value.may_have_happened


def test_without_a_limit_a_busy_bridge_is_told_at_once(
    sender: Callable[..., RequestSender],
) -> None:
    client = sender(says_busy, answers(0), seconds=0)
    with pytest.raises(BridgeRefused) as refused:
        ask(client)
    assert client.left() == 1  # type: ignore[attr-defined]
    assert exit_code(refused.value) == BUSY


def test_an_argument_comes_before_the_setting() -> None:
    settings = dataclasses.replace(SETTINGS, retry_seconds=7)
    assert RequestSender(settings)._retry_seconds == 7
    assert RequestSender(settings, retry_seconds=0)._retry_seconds == 0
    shared = RequestSender(settings).retrying_together()
    assert shared._retries is shared.telling(core.no_progress)._retries is not None


# -------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([SigulError("a")], 1),
        ([as_busy(SigulError("a")), as_busy(SigulError("b"))], BUSY),
        ([as_busy(SigulError("a")), SigulError("b")], 1),
    ],
)
def test_many_are_busy_where_all_are(errors: list[SigulError], code: int) -> None:
    failures = Failures()
    for number, error in enumerate(errors):
        failures.tell(str(number), error)
    with pytest.raises(AlreadyTold) as told:
        failures.end("not all", "files", 3)
    assert exit_code(told.value) == code


def test_many_may_have_happened_where_one_may() -> None:
    failures, lost = Failures(), PeerClosed("no reply")
    lost.may_have_happened = True
    for error in (SigulError("a"), lost, as_busy(SigulError("b"))):
        failures.tell("file", error)
    with pytest.raises(AlreadyTold) as told:
        failures.end("not all", "files", 3)
    assert exit_code(told.value) == MAY_HAVE_HAPPENED
    assert len({0, 1, 2, BUSY, MAY_HAVE_HAPPENED}) == 5
