"""Ending what is under way: what a bridge tells whom, what a status socket takes, and the end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from sigul_stack.bridge.register import RequestEnded, Visit
from sigul_stack.cli.stack import main
from sigul_stack.errors import BridgeRefused, PeerClosed, RemoteProtocolError, TransportError
from sigul_stack.metrics import BridgeCount, ServerCount
from sigul_stack.protocol.chunks import Stream
from sigul_stack.protocol.messages import read_reply_header
from sigul_stack.protocol.status import (
    BridgeStatus,
    RequestUnderWay,
    decode_ended,
    decode_status,
    encode_ended,
    encode_status,
)
from sigul_stack.protocol.versions import LATEST
from sigul_stack.server.events import decode_client, encode_client
from sigul_stack.transport.memory import MemoryStream
from sigul_stack.transport.status_socket import (
    MAX_REQUEST_BYTES,
    StatusSocket,
    ask,
    read_status,
    sockets_of,
)
from tests.site import wait_until
from tests.unit.test_session import Desk, client_of, desk, read_rest
from tests.wire import (
    INNER_END,
    LIST_USERS,
    in_background,
    inner,
    listening,
    of_stream,
    outer,
    parse_whole,
    reply,
)

SECONDS = 10.0
REASON = "it was ended by whoever runs the bridge"


def told(client: MemoryStream) -> str:
    """What the bridge tells a client whose request it ends."""
    said = b"".join(of_stream(read_rest(client), Stream.OUTER))
    header = parse_whole(read_reply_header(LATEST), said[: len(said) - 72])
    with pytest.raises(BridgeRefused) as refused:
        header.check_origin()
    return str(refused.value)


def everything(_visit: Visit) -> bool:
    """Whoever it is."""
    return True


HEAD: Final = listening(LIST_USERS.head)


@pytest.mark.parametrize(
    "said",
    [listening(LIST_USERS.head[:9]), HEAD],
    ids=["a part of its header", "its header"],
)
def test_a_client_is_told_wherever_it_waits(said: bytes) -> None:
    with desk() as bridge:
        near, client = client_of(said, name="trent")

        def end() -> None:
            # Once the session reads or waits, and before: both have to do.
            wait_until(bridge.resources.register.visits, SECONDS, "the visit")
            register = bridge.resources.register
            assert register.end(lambda visit: visit.client.peer.common_name == "bob", REASON) == 0
            assert register.end(lambda visit: visit.client.peer.common_name == "trent", REASON) == 1
            assert register.end(everything, REASON) == 0  # it is ending

        with in_background(end), pytest.raises(RequestEnded, match="ended by whoever"):
            bridge.run(near)
        near.close()
        assert REASON in told(client)
        assert bridge.totals()["requests_ended"] == 1
        assert bridge.resources.register.visits() == []


def with_a_server(bridge: Desk, then: Callable[[MemoryStream, MemoryStream], None]) -> bytes:
    """A request that has reached its server is ended, once `then` is done; what the client reads.

    `then` gets the far ends of client and server.
    """
    server = bridge.server()
    near, client = client_of(HEAD + inner(b"hello"))

    def end() -> None:
        assert server.read(100_000, SECONDS)
        then(client, server)
        assert bridge.resources.register.end(everything, REASON) == 1

    with in_background(end), pytest.raises(RequestEnded):
        bridge.run(near)
    assert server.has_gone()
    near.close()
    return read_rest(client)


def test_a_client_is_told_while_its_server_works() -> None:
    with desk() as bridge:

        def finish(client: MemoryStream, _server: MemoryStream) -> None:
            client.write(INNER_END, SECONDS)

        said = b"".join(of_stream(with_a_server(bridge, finish), Stream.OUTER))
        assert REASON.encode() in said


def test_a_reply_that_has_begun_is_cut_off() -> None:
    with desk() as bridge:

        def begin(client: MemoryStream, server: MemoryStream) -> None:
            server.write(INNER_END + outer(reply(payload=b"signed")[:-70]), SECONDS)
            got = b""
            while b"\0\0\0\0\0\0\0\x06" not in got:
                got += client.read(100_000, SECONDS)

        with pytest.raises(PeerClosed, match="close-notify"):
            with_a_server(bridge, begin)


def test_a_thread_that_does_something_else_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A download may last: its client is told meanwhile, and cut off."""
    monkeypatch.setattr("sigul_stack.bridge.register.PATIENCE_SECONDS", 0.1)
    with desk() as bridge:
        near, client = client_of()
        refused: list[str] = []
        downloading = threading.Event()
        register = bridge.resources.register

        def refuse(reason: str) -> None:
            refused.append(reason)

        def end() -> None:
            register.end(everything, REASON)
            wait_until(client.has_gone, SECONDS, "the end of the connection")
            downloading.set()

        with pytest.raises(RequestEnded), register.visit(near, refuse), in_background(end):
            assert downloading.wait(SECONDS)
            raise RemoteProtocolError("what came of it is nobody's")
        assert refused == [REASON]


def test_a_request_ended_before_its_server_is_its_own_goes_no_further() -> None:
    with desk() as bridge:
        near, _client = client_of()
        server, _far = client_of(name="server")
        register = bridge.resources.register
        with (
            pytest.raises(RequestEnded),
            register.visit(near, lambda _reason: None) as visit,
        ):
            register.end(everything, REASON)
            visit.paired(server)


def test_waiting_servers_are_dismissed_by_their_certificate() -> None:
    with desk() as bridge:
        staying, going = bridge.server(), bridge.server()
        (_first, _), (second, _) = bridge.resources.waiting.waiting()
        assert bridge.resources.waiting.dismiss(lambda server: server is second) == 1
        assert going.has_gone()
        assert not staying.has_gone()
        assert len(bridge.resources.waiting) == 1


# --------------------------------------------------------------------------------- status document


def test_what_is_under_way_is_in_the_status() -> None:
    request = RequestUnderWay("cn", "user", "sign-rpms", 3.5, "0123456789abcdef")
    status = BridgeStatus("1", 7, "2026", 0, (), 1, {}, (request,))
    assert decode_status(encode_status(status)) == status
    document = json.loads(encode_status(status))
    del document["requests"][0]["request"]  # daemons of former versions
    former = decode_status(json.dumps(document).encode())
    assert former.requests == (RequestUnderWay("cn", "user", "sign-rpms", 3.5),)
    del document["requests"]
    former = decode_status(json.dumps(document).encode())
    assert former.requests == ()
    document["requests"] = [{"common_name": 1}]
    with pytest.raises(RemoteProtocolError):
        decode_status(json.dumps(document).encode())


def test_how_many_were_ended() -> None:
    assert decode_ended(encode_ended(3)) == 3
    for answer in (
        b"",
        b"[]",
        b'{"ended": "3"}',
        encode_status(BridgeStatus("", 1, "", 0, (), 0, {})),
    ):
        with pytest.raises(RemoteProtocolError, match="older"):
            decode_ended(answer)


def test_ended_requests_are_counted() -> None:
    assert BridgeCount.REQUESTS_ENDED.value == ServerCount.REQUESTS_ENDED.value


@pytest.mark.parametrize("name", ["ann", "ä" * 300, ""])
def test_a_worker_tells_whose_request_it_serves(name: str) -> None:
    for id_ in ("0123456789abcdef", ""):
        common_name, *rest = decode_client(encode_client(name, "user", "sign-data", id_))
        assert name.startswith(common_name.rstrip("\ufffd"))
        assert rest == ["user", "sign-data", id_]


# ----------------------------------------------------------------------------------- status socket


@pytest.fixture
def status(tmp_path: Path) -> Iterator[StatusSocket]:
    """A socket that gives `document`, and answers `end NAME` with the name."""
    made = StatusSocket(tmp_path / "s", lambda: b"document", commands={"end": str.encode})
    made.serve()
    yield made
    made.close()


def test_a_socket_takes_commands(status: StatusSocket, tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert ask(path, "end a name", SECONDS) == b"a name"
    assert ask(path, "status", SECONDS) == b"document"
    assert ask(path, "", SECONDS) == b"document"
    assert ask(path, "begin it", SECONDS) == b""
    with pytest.raises(TransportError):
        ask(path, "end " + "x" * MAX_REQUEST_BYTES, SECONDS)
    assert status.due() is None


@pytest.mark.parametrize("ends", [False, True])
def test_who_says_nothing_is_given_the_status(
    status: StatusSocket, tmp_path: Path, ends: bool
) -> None:
    """As those do that ask daemons of former versions."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(tmp_path / "s"))
        if ends:
            peer.shutdown(socket.SHUT_WR)
        peer.settimeout(SECONDS)
        assert peer.recv(100) == b"document"
    assert status.fileno() >= 0


def test_half_a_command_is_none(status: StatusSocket, tmp_path: Path) -> None:
    """What came before the silence is a command only where it is whole."""
    with socket.socket(socket.AF_UNIX) as peer, socket.socket(socket.AF_UNIX) as later:
        for item in (peer, later):
            item.connect(str(tmp_path / "s"))
            item.settimeout(SECONDS)
        peer.sendall(b"end bo")
        later.sendall(b"\nbob\n")
        assert peer.recv(100) == b""
        assert later.recv(100) == b"document"
    assert status.due() is None


def test_each_process_of_a_daemon_can_be_asked(tmp_path: Path) -> None:
    path = tmp_path / "s"
    script = (
        "import sys; from pathlib import Path\n"
        "from sigul_stack.transport.status_socket import StatusSocket\n"
        f"made = StatusSocket(Path({str(path)!r}), lambda: b'other', shared=True)\n"
        "made.serve(); print('ready', flush=True); sys.stdin.read(); made.close()"
    )
    mine = StatusSocket(path, lambda: b"mine", shared=True)
    mine.serve()
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        assert read_status(path, SECONDS) == b"other"
        assert {ask(item, "status", SECONDS) for item in sockets_of(path)} == {b"mine", b"other"}
        mine.close()
        assert read_status(path, SECONDS) == b"other"
        other.kill()
    # A killed one's name is removed by the next.
    assert len(sockets_of(path)) == 1
    again = StatusSocket(path, lambda: b"again", shared=True)
    again.serve()
    assert sockets_of(path) == [tmp_path / f"s.{os.getpid()}"]
    assert read_status(path, SECONDS) == b"again"
    again.close()
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------- programs


def test_programs_of_other_threads_are_killed_and_none_is_started_after() -> None:
    """In a process of its own, which can start none any more."""
    script = (
        "import threading, time\n"
        "from sigul_stack.errors import KeystoreError\n"
        "from sigul_stack.system import programs\n"
        "ended = []\n"
        "def run():\n"
        "    ended.append(programs.run(['sleep', '60'], package='coreutils', time_limit=60))\n"
        "thread = threading.Thread(target=run); thread.start()\n"
        "while not programs._running: time.sleep(0.01)\n"
        "programs.end_all(); programs.end_all(); thread.join(10)\n"
        "assert ended[0].returncode == -9, ended\n"
        "try: programs.run(['true'], package='coreutils', time_limit=5)\n"
        "except KeystoreError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=30, check=True
    )
    assert done.stdout == b"true is not started: this process is ending\n"


# ------------------------------------------------------------------------------------ the command


@pytest.fixture
def bridge_file(tmp_path: Path) -> Path:
    """A bridge's configuration, whose daemon's status socket is `s` beside it."""
    file = tmp_path / "bridge.conf"
    file.write_text(
        f"[bridge]\nserver-cn: server.example\n[daemon]\nstatus-socket: {tmp_path / 's'}\n"
        f"[nss]\nnss-dir: {tmp_path}\n"
    )
    return file


def test_the_command_adds_up_what_all_processes_ended(
    bridge_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def document(op: str) -> bytes:
        id_ = "0123456789abcdef" * bool(op)
        requests = (RequestUnderWay("cn\n", "bob" * bool(op), op, 2.0 + len(op), id_),)
        return encode_status(BridgeStatus("1", 7, "2026", 0, (), 1, {}, requests))

    one = StatusSocket(
        tmp_path / "s.1", lambda: document("sign-rpms"), commands={"end": lambda _: encode_ended(2)}
    )
    two = StatusSocket(
        tmp_path / "s.2", lambda: document(""), commands={"end": lambda _: encode_ended(1)}
    )
    for made in (one, two):
        made.serve()
    try:
        assert main(["requests", "end", "bob", "-c", str(bridge_file)]) == 0
        assert main(["requests", "list", "-c", str(bridge_file)]) == 0
    finally:
        one.close()
        two.close()
    assert capfd.readouterr().out == (
        "3 requests of 'bob' were ended\n"
        "11 s: sign-rpms of 'bob' with the certificate of 'cn\\n', request 0123456789abcdef\n"
        "2 s: no request yet, with the certificate of 'cn\\n'\n"
    )


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        (None, "bob", "no daemon answers"),
        (None, "b" * 600, "that is no name"),
        (None, "b\nend c", "that is no name"),
        ("[bridge]\nserver-cn: s\n[nss]\nnss-dir: /\n", "bob", "has no status socket"),
        ("[client]\nbridge-hostname: b\n", "bob", "not the configuration of a bridge or server"),
    ],
)
def test_what_the_command_cannot_do_is_told(
    bridge_file: Path, text: str | None, name: str, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        bridge_file = bridge_file.rename(bridge_file.with_name("own.conf"))
        bridge_file.write_text(text)
    assert main(["requests", "end", name, "-c", str(bridge_file)]) == 1
    assert told in capfd.readouterr().err


def test_a_daemon_of_a_former_version_is_told_from_one_that_ended_nothing(
    bridge_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = StatusSocket(tmp_path / "s", lambda: b"")
    made.serve()
    try:
        assert main(["requests", "end", "bob", "-c", str(bridge_file)]) == 1
    finally:
        made.close()
    assert "older than this program" in capfd.readouterr().err
