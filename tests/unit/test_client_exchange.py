"""What the client sends and believes, and whole exchanges through a bridge to a server.

Without TLS: connections are memory streams and the inner session lies bare (tests/wire.py).
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator

import pytest

from sigul_stack.bridge.session import BridgeResources, RequestSession
from sigul_stack.client import core
from sigul_stack.client.core import MAX_MEMORY_REPLY, Reply, RequestSender
from sigul_stack.config.bridge import BridgeSettings
from sigul_stack.config.client import ClientSettings
from sigul_stack.config.server import ServerSettings
from sigul_stack.config.shared import NSSSettings
from sigul_stack.errors import (
    DeadlineExceeded,
    LocalProtocolError,
    PeerClosed,
    ProtocolError,
    RequestRefused,
    SigulError,
    Status,
    TransportError,
)
from sigul_stack.protocol.chunks import END_OF_INNER, Stream
from sigul_stack.protocol.codec import Fields, read_fields
from sigul_stack.protocol.messages import ReplyKeys, read_inner_fields, read_request_header
from sigul_stack.protocol.versions import LATEST, VERSIONS
from sigul_stack.secret import Secret
from sigul_stack.server.handlers import NEEDS_BYTES
from sigul_stack.server.payload import Intake
from sigul_stack.server.request import (
    Answer,
    Refused,
    Request,
    receive,
    send_answer,
    send_error,
)
from sigul_stack.transport import dialling, memory, nss
from sigul_stack.transport.chunked import ChunkedStream
from sigul_stack.transport.memory import MemoryStream
from tests.wire import (
    INNER_END,
    LIST_USERS,
    OUTER_END,
    SampleRequest,
    byte_by_byte,
    in_background,
    of_stream,
    outer,
    parse_whole,
    plain_inner,
    reply,
    reply_parts,
    sha512,
    sign_text,
    u32,
    u64,
)

LONG = 10.0
NSS = NSSSettings(directory="sql:/does/not/exist")
SETTINGS = ClientSettings(
    bridge_hostname="bridge.example", server_hostname="server.example", user_name="root", nss=NSS,
    # Who is cut off looks whether the bridge still listens; of this name no name server is asked.
    bridge_address="no..name",
)  # fmt: skip
SECRET = Secret("secret")


@contextlib.contextmanager
def plain_inner_as_client(
    chunked: ChunkedStream, *_settings: object, **_more: object
) -> Iterator[PlainSpeaker]:
    """Stands in for `transport.nested.inner_session` on the client's side."""
    yield PlainSpeaker(chunked)
    chunked.stream.write(END_OF_INNER, chunked.timeout)
    chunked.drop_inner()


class PlainSpeaker:
    """What a client needs of an inner session."""

    def __init__(self, chunked: ChunkedStream) -> None:
        self._chunked = chunked
        self.peer = memory.nobody("server")

    def write(self, data: bytes) -> None:
        """Say `data` to the server."""
        self._chunked.write_inner(data)


Dial = Callable[[MemoryStream], RequestSender]


@pytest.fixture
def dial(monkeypatch: pytest.MonkeyPatch) -> Dial:
    """Makes a client that finds the given stream where it dials the bridge, and no NSS."""

    def made(stream: MemoryStream) -> RequestSender:
        monkeypatch.setattr(nss, "open_database", lambda *_args, **_more: None)
        monkeypatch.setattr(nss, "load_identity", lambda *_args, **_more: None)
        monkeypatch.setattr(dialling, "dial", lambda *_args, **_more: stream)
        monkeypatch.setattr(core, "inner_session", plain_inner_as_client)
        return RequestSender(SETTINGS)

    return made


Answered = Callable[..., Reply]


@pytest.fixture
def answered(dial: Dial) -> Answered:
    """Calls `list-users` of a bridge that answers with what `say` makes of the reply's keys."""

    def called(
        say: Callable[[ReplyKeys], bytes],
        *,
        output: io.BytesIO | None = None,
        split: int | None = None,
    ) -> Reply:
        near, far = memory.pair()
        near.split = split

        def bridge() -> None:
            chunked = ChunkedStream(far, LONG)
            chunked.parse(read_request_header(VERSIONS))
            assert chunked.parse(LATEST.read_length()) == 0
            with plain_inner(chunked) as session:
                keys = session.parse(read_inner_fields()).keys
            far.write(say(keys), LONG)
            far.end_writing()

        with in_background(bridge):
            return dial(near).call("list-users", {}, {"password": Secret("secret")}, output=output)

    return called


# ------------------------------------------------------------------------------------------ sending


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_a_request_goes_out_in_whole_chunks(dial: Dial, size: int) -> None:
    near, far = memory.pair()
    payload = bytes(index & 0xFF for index in range(size))
    source = io.BytesIO(b"before" + payload)
    source.seek(6)
    far.end_writing()
    with pytest.raises(PeerClosed):
        dial(near).call("sign-text", {"key": "k1"}, {"passphrase": SECRET}, payload=source)
    # In the order of their names, as 1.2 clients send them.
    request = SampleRequest({"key": b"k1", "op": b"sign-text", "user": b"root"}, payload)
    sent = b""
    with contextlib.suppress(PeerClosed):
        while True:
            sent += far.read(10**6, 1)
    pieces = of_stream(sent, Stream.OUTER)
    # Cut as by a client that listens to a bridge's own word.
    assert pieces[:3] == [request.head[:1], request.head[1:4], request.head[4:]]
    assert b"".join(pieces[3:]) == payload
    assert all(pieces)
    hidden, end = of_stream(sent, Stream.INNER)
    fields = dict(parse_whole(read_fields(), hidden))
    assert end == b""
    assert fields.pop("header-auth-sha512") == sha512(request.header)
    assert fields.pop("payload-auth-sha512") == sha512(payload)
    assert fields.pop("passphrase") == b"secret"
    assert fields.pop("knows") == b"log,notes"
    assert len({*fields.values()}) == 2
    assert {name: len(value) for name, value in fields.items()} == {
        "header-auth-key": 64, "payload-auth-key": 64
    }  # fmt: skip


def test_a_file_that_becomes_shorter_is_noticed(dial: Dial) -> None:
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            self.truncate(10)
            return super().read(size)

    near, far = memory.pair()
    with pytest.raises(SigulError, match="became shorter"):
        dial(near).call(
            "sign-text", {"key": "k1"}, {"passphrase": SECRET}, payload=Shrinking(bytes(100))
        )
    # The connection is broken off: a close-notify would look like the payload's end.
    with pytest.raises(PeerClosed):
        while far.read(1000, 1):
            pass


@pytest.mark.parametrize(
    ("op", "fields", "payload", "told"),
    [
        ("sign-text", {}, b"", "'key' is missing"),
        ("list-users", {"key": "k1"}, b"", "no field 'key'"),
        ("list-users", {}, b"x", "limit of 0 bytes"),
        ("user-info", {"name": "x" * 256}, b"", "256 bytes"),
        ("user-info", {"name": "a\nb"}, b"", "'name' holds an unprintable character"),
        ("user-info", {"name": "undecodable \udcff"}, b"", "not valid UTF-8"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_opened(
    op: str, fields: dict[str, str | bool], payload: bytes, told: str
) -> None:
    with pytest.raises(LocalProtocolError, match=told):
        RequestSender(SETTINGS).call(op, fields, payload=payload)


# ---------------------------------------------------------------------------------------- receiving


@pytest.mark.parametrize("split", [None, 1, 5])
def test_a_reply_is_returned_once_it_is_authentic(answered: Answered, split: int | None) -> None:
    fields = {"num-users": u32(2), "admin": b"\1"}
    found = answered(
        lambda keys: outer(reply(0, fields, b"alice\0root\0", keys)) + OUTER_END, split=split
    )
    assert found.fields.integer("num-users") == 2
    assert found.fields.boolean("admin") is True
    assert found.names("num-users") == ["alice", "root"]


def test_an_outputs_reply_goes_there(answered: Answered) -> None:
    output = io.BytesIO()
    found = answered(
        lambda keys: outer(*reply_parts(0, {}, b"signed", keys)) + OUTER_END, output=output
    )
    assert output.getvalue() == b"signed"
    assert found.payload == b""


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "cut off"])
def test_a_reply_that_is_not_complete_is_none(answered: Answered, ended: bool) -> None:
    whole = len(reply(0, {"admin": b"\1"}, b"payload"))
    for size in range(1, whole):
        with pytest.raises(PeerClosed):
            answered(
                lambda keys, size=size: (
                    outer(reply(0, {"admin": b"\1"}, b"payload", keys)[:size])
                    + (OUTER_END if ended else b"")
                )
            )
    answered(lambda keys: outer(reply(0, {"admin": b"\1"}, b"payload", keys)))


def test_a_reply_with_any_byte_changed_is_none(answered: Answered) -> None:
    def changed(keys: ReplyKeys, at: int) -> bytes:
        data = reply(0, {"admin": b"\1"}, b"payload", keys)
        return outer(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])

    for at in range(len(reply(0, {"admin": b"\1"}, b"payload"))):
        with pytest.raises((ProtocolError, PeerClosed, RequestRefused)) as caught:
            answered(lambda keys, at=at: changed(keys, at))
        if isinstance(caught.value, RequestRefused):
            # The version's own error stands before anything that could authenticate it.
            assert caught.value.status == Status.UNKNOWN_VERSION


def test_an_error_is_told_with_its_message(answered: Answered) -> None:
    fields = {"message": "Ü is no RPM".encode()}
    # Nothing behind the header is waited for.
    with pytest.raises(RequestRefused, match=r"^The RPM file is corrupt: Ü is no RPM$") as caught:
        answered(lambda keys: outer(reply_parts(11, fields, b"", keys)[0]))
    assert caught.value.status == Status.CORRUPT_RPM


@pytest.mark.parametrize(
    ("status", "fields", "text"),
    [
        (3, {}, "Authentication failed"),
        (3, {"message": b""}, "Authentication failed"),
        (99, {}, "Error 99"),
        (9, {"message": b"\xff"}, r"Unknown error: \xff"),
        (2**32 - 1, {"other": b"field"}, "Error 4294967295"),
    ],
)
def test_an_error_is_told_as_its_code_says(
    answered: Answered, status: int, fields: dict[str, bytes], text: str
) -> None:
    with pytest.raises(RequestRefused) as caught:
        answered(lambda keys: outer(reply(status, fields, b"", keys)))
    assert str(caught.value) == text


def test_an_error_that_is_not_authentic_is_not_believed(answered: Answered) -> None:
    with pytest.raises(ProtocolError, match="the reply's header"):
        answered(lambda _keys: outer(reply_parts(3)[0]))


def test_a_servers_ignorance_of_the_version_is_told(answered: Answered) -> None:
    with pytest.raises(RequestRefused) as caught:
        answered(lambda _keys: outer(u32(1)) + OUTER_END)
    assert str(caught.value) == "Unknown protocol version"


@pytest.mark.parametrize("said", [b"", OUTER_END])
def test_no_reply_at_all_says_where_to_look(answered: Answered, said: bytes) -> None:
    with pytest.raises(PeerClosed, match="the bridge's log says who ended the request"):
        answered(lambda _keys: said)


@pytest.mark.parametrize("length", [MAX_MEMORY_REPLY + 1, 2**64 - 1])
def test_an_endless_reply_is_not_gathered_in_memory(answered: Answered, length: int) -> None:
    def say(keys: ReplyKeys) -> bytes:
        return outer(reply_parts(0, {}, b"", keys)[0], u64(length), b"") + INNER_END

    with pytest.raises(ProtocolError, match="need an output file"):
        answered(say)
    with pytest.raises(PeerClosed, match="before its payload did"):
        answered(say, output=io.BytesIO())


@pytest.mark.parametrize(
    ("count", "payload"),
    [(1, b""), (0, b"a\0"), (2, b"a\0"), (1, b"a"), (1, b"a\0b"), (1, b"\xff\0"), (1, b"a\0\0")],
)
def test_a_list_has_as_many_names_as_it_says(count: int, payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="list"):
        Reply(Fields({"num-users": u32(count)}), payload).names("num-users")


def test_an_empty_list_has_no_names() -> None:
    assert Reply(Fields({"num-users": u32(0)}), b"").names("num-users") == []


# ----------------------------------------------------------------- failures before there is a reply


def test_a_server_that_did_not_know_the_version_is_heard_after_a_failure(dial: Dial) -> None:
    near, far = memory.pair()

    def say_so(_written: bytes) -> None:
        # A new server answers and ends as soon as it has read the version.
        if far.has_input():
            return
        far.write(outer(u32(1)) + OUTER_END, LONG)

    near.on_write = say_so
    with pytest.raises(RequestRefused) as caught:
        dial(near).call("list-users", {}, {"password": SECRET})
    assert caught.value.status == Status.UNKNOWN_VERSION


def test_a_request_that_was_cut_off_says_where_to_look(dial: Dial) -> None:
    near, far = memory.pair()
    far.abort()
    with pytest.raises(PeerClosed, match="their logs say which"):
        dial(near).call("list-users", {}, {"password": SECRET})


# ---------------------------------------------------------------------------------- whole exchanges


class Site:
    """A bridge's part in requests, and a client and a server on it."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self.bridge = BridgeResources(
            BridgeSettings(nss=NSS, idle_timeout=LONG, close_timeout=LONG)
        )
        self.errors: list[SigulError] = []

    def exchange(
        self,
        request: SampleRequest,
        answer: Callable[[Request], Answer | RequestRefused],
        *,
        split: int | None = None,
        output: io.BytesIO | None = None,
    ) -> Reply:
        """What the client gets for `request` where the server says `answer` to it."""
        client_end, bridge_client = memory.pair()
        server_end, bridge_server = memory.pair()
        for end in (client_end, bridge_client, server_end, bridge_server):
            end.split = split
        self.bridge.waiting.add(bridge_server)
        client = self._dial(client_end)
        client.version = VERSIONS.get(request.version, LATEST)
        client._version_word = request.version
        fields = {
            name: value[-1:] == b"\1" if name == "return-data" else value.decode()
            for name, value in request.fields.items()
            if name not in ("op", "user")
        }
        with in_background(
            lambda: self._bridge(bridge_client, bridge_server),
            lambda: self._serve(server_end, answer),
        ):
            try:
                return client.call(
                    request.fields["op"].decode(),
                    fields,
                    {name: Secret(value) for name, value in request.secrets.items()},
                    payload=request.payload,
                    output=output,
                )
            finally:
                client_end.close()

    def _bridge(self, client_end: MemoryStream, server_end: MemoryStream) -> None:
        try:
            RequestSession(client_end, self.bridge, lambda: None).run()
        except SigulError as error:
            self.errors.append(error)
            client_end.abort()
            server_end.abort()

    def _serve(
        self, end: MemoryStream, answer: Callable[[Request], Answer | RequestRefused]
    ) -> None:
        chunked = ChunkedStream(end, LONG)
        settings = ServerSettings(
            bridge_hostname="bridge.example.org",
            nss=NSSSettings(directory="sql:/nonexistent"),
            max_file_payload_size=None,
            max_memory_payload_size=1000,
            spool_directory=None,
            idle_timeout=LONG,
        )
        try:
            request = receive(chunked, plain_inner, settings, intake=Intake(NEEDS_BYTES))
        except (TransportError, ProtocolError) as error:
            self.errors.append(error)
            end.abort()
            return
        if isinstance(request, Refused):
            send_error(chunked, request, request.reason)
        else:
            with request.payload:
                found = answer(request)
                if isinstance(found, Answer):
                    send_answer(chunked, request, found)
                else:
                    send_error(chunked, request, found)
        chunked.wait_for_close(LONG)
        end.close()


@pytest.fixture
def site(dial: Dial) -> Iterator[Site]:
    """A site, without errors unless a test takes them away."""
    found = Site(dial)
    yield found
    found.bridge.close()
    assert found.errors == []


@pytest.mark.parametrize("split", [None, 1, 7])
def test_a_list_of_users(site: Site, split: int | None) -> None:
    def users(request: Request) -> Answer:
        assert request.op == "list-users"
        assert request.text("user") == "root"
        assert request.secret("password") == Secret("secret")
        return Answer({"num-users": 2}, b"alice\0root\0")

    found = site.exchange(LIST_USERS, users, split=split)
    assert found.names("num-users") == ["alice", "root"]


@pytest.mark.parametrize("size", [0, 1, 4096, 1_000_000])
def test_a_signature(site: Site, size: int) -> None:
    text = bytes(index * 7 & 0xFF for index in range(1000)) * (size // 1000 + 1)
    text = text[:size]
    output = io.BytesIO()
    site.exchange(
        sign_text(text),
        lambda request: Answer(payload=request.payload.file.read() * 2),
        output=output,
    )
    assert output.getvalue() == text * 2


def test_a_refusal(site: Site) -> None:
    with pytest.raises(RequestRefused, match=r"^Unknown error: why$"):
        site.exchange(LIST_USERS, lambda _request: RequestRefused(Status.UNKNOWN_ERROR, "why"))


def test_data_that_the_client_does_not_want_back(site: Site) -> None:
    # Length 0, and the server's code, which is read and not checked (docs/protocol.md, "A reply").
    request = SampleRequest(
        {"op": b"sign-rpm", "user": b"root", "key": b"k1", "return-data": b"\0"}, b"an RPM"
    )
    output = io.BytesIO()
    site.exchange(request, lambda _request: Answer(payload=b"signed"), output=output)
    assert output.getvalue() == b""


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (SampleRequest({"op": b"no-such-op", "user": b"root"}), "'no-such-op' is unknown"),
        (SampleRequest({"op": b"sign-text", "user": b"root"}), "'key' is missing"),
        (SampleRequest({"op": b"list-users", "user": b"root", "key": b"k"}), "no field 'key'"),
        (SampleRequest(LIST_USERS.fields, b"payload"), "over the limit of 0 bytes"),
        (SampleRequest(LIST_USERS.fields, version=2), "version 2 is unknown"),
        (SampleRequest({"op": b"decrypt"}, version=0), "'decrypt' is unknown"),
        (SampleRequest({}), "'op' is missing"),
    ],
)
def test_a_bridge_takes_no_server_for_a_request_that_it_refuses(
    site: Site, request_: SampleRequest, told: str
) -> None:
    near, far = memory.pair()
    server, _server_far = memory.pair()
    site.bridge.waiting.add(server)
    far.write(outer(request_.head) + OUTER_END, 1)
    # Else the session waits two seconds for the client to take what it is told.
    far.end_writing()
    with pytest.raises(ProtocolError, match=told):
        RequestSession(near, site.bridge, lambda: None).run()
    assert len(site.bridge.waiting) == 1


def test_a_header_that_trickles_is_cut_off() -> None:
    bridge = BridgeResources(BridgeSettings(nss=NSS, header_timeout=0.3))
    near, far = memory.pair()
    stop = threading.Event()

    def trickle() -> None:
        # Each byte comes well within the limit, but the whole header would take half a minute.
        for byte in byte_by_byte(header):
            far.write(outer(byte), 1)
            if stop.wait(0.02):
                return

    header = SampleRequest({f"field {number}": b"" for number in range(150)}).header
    try:
        with in_background(trickle):
            try:
                with pytest.raises(DeadlineExceeded, match="sending the request's header"):
                    RequestSession(near, bridge, lambda: None).run()
            finally:
                stop.set()
    finally:
        bridge.close()


def test_a_bridge_refuses_a_version_that_it_does_not_know(site: Site) -> None:
    request = SampleRequest(LIST_USERS.fields, secrets=LIST_USERS.secrets, version=2)
    with pytest.raises(RequestRefused, match="Unknown protocol version"):
        site.exchange(request, lambda _request: pytest.fail("the server got it"))
    assert "version 2 is unknown" in " ".join(str(error) for error in site.errors)
    site.errors.clear()


def test_inner_end_is_what_the_protocol_says() -> None:
    assert END_OF_INNER == INNER_END == b"\x80\0\0\0"
