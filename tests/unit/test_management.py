"""The management address: what it answers, to whom, and what it puts up with.

With real sockets, and a bridge that has no peers. tests/integration has it in a running bridge.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sigul_stack.bridge import management as module
from sigul_stack.bridge.management import MAX_PEERS, MAX_REQUEST_BYTES, Management
from sigul_stack.bridge.session import BridgeResources
from sigul_stack.config import load_bridge
from sigul_stack.config.management import ManagementAddress
from sigul_stack.errors import ConfigurationError
from sigul_stack.observe.page import CSP
from sigul_stack.observe.view import decode_view
from sigul_stack.transport.unix_socket import UnixListener
from tests.unit.test_measures import SETTINGS, sight
from tests.wire import eventually

SECONDS = 10.0


@contextlib.contextmanager
def served(listener: socket.socket) -> Iterator[Management]:
    """The address is served in the block."""
    resources = BridgeResources(SETTINGS)
    listener.setblocking(False)
    made = Management(listener, sight(resources))
    made.start()
    try:
        yield made
    finally:
        made.close()
        resources.close()


@pytest.fixture(name="port")
def _port() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    with served(listener):
        yield listener.getsockname()[1]


def connect(port: int) -> socket.socket:
    """A connection to the address."""
    return socket.create_connection(("127.0.0.1", port), SECONDS)


def said(peer: socket.socket) -> bytes:
    """What comes up to the end; nothing more where it is a reset."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := peer.recv(100_000):
            data += piece
    return data


def exchange(port: int, request: bytes) -> bytes:
    """The answer to a request as it is."""
    with connect(port) as peer:
        peer.sendall(request)
        return said(peer)


def get(
    port: int, path: str, method: str = "GET", host: str = "localhost"
) -> tuple[int, dict[str, str], bytes]:
    """The status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    with contextlib.closing(connection):
        connection.request(method, path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


def test_each_of_its_pages(port: int) -> None:
    status, headers, body = get(port, "/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'sigul_bridge_connections{state="waiting_server"} 0.0\n' in body
    status, headers, body = get(port, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert body.startswith(b"<!DOCTYPE html>")
    status, headers, body = get(port, "/status.json?whatever")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert decode_view(body).connections["waiting_server"] == 0
    assert json.loads(body)["pid"] == os.getpid()


@pytest.mark.parametrize("path", ["/metrics", "/", "/nothing"])
def test_what_browsers_are_told_with_every_answer(port: int, path: str) -> None:
    _status, headers, _body = get(port, path)
    assert (
        headers.items()
        >= {
            "Content-Security-Policy": CSP,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Connection": "close",
            "Server": "sigul-bridge",
        }.items()
    )


def test_head_has_the_headers_alone(port: int) -> None:
    status, headers, body = get(port, "/status.json", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 100


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9101", 200),
        ("127.0.0.1:9101", 200),
        ("[::1]:9101", 200),
        ("[::1]", 200),
        ("192.0.2.7:80", 200),  # no name that could lead here
        ("evil.example.org", 421),
        ("evil.example.org:9101", 421),
        ("localhost.evil.example.org", 421),
        ("127.0.0.1.evil.example.org", 421),
        ("", 421),
    ],
)
def test_a_page_from_elsewhere_reads_nothing(port: int, host: str, status: int) -> None:
    """By a name of its own that leads here (DNS rebinding)."""
    found, _headers, body = get(port, "/status.json", host=host)
    assert found == status
    assert (b"pid" in body) == (status == 200)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 421),
        (b"GET /../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET //localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"DELETE /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\r\n", 417),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        (b"GET / HTTP/x\r\nHost: localhost\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nx: " + b"x" * MAX_REQUEST_BYTES, 431),
        (b"G" * (MAX_REQUEST_BYTES + 1), 431),
    ],
)
def test_what_is_none_of_its_requests(port: int, request_: bytes, status: int) -> None:
    answer = exchange(port, request_)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"\r\nX-Content-Type-Options: nosniff\r\n" in answer
    assert b"abc" not in answer
    assert b"pid" not in answer
    assert get(port, "/")[0] == 200


def test_one_request_a_connection(port: int) -> None:
    one = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert exchange(port, one * 3).count(b"HTTP/1.1 404") == 1


def test_a_request_may_come_in_pieces(port: int) -> None:
    with connect(port) as peer:
        for byte in b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n":
            peer.sendall(bytes([byte]))
        assert said(peer).startswith(b"HTTP/1.1 404 ")


def test_who_is_slow_has_his_end_and_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """His time is for all of it, not for each byte."""
    monkeypatch.setattr(module, "SECONDS", 0.5)
    listener = socket.create_server(("127.0.0.1", 0))
    with served(listener), connect(listener.getsockname()[1]) as slow:
        begin = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begin < SECONDS:
                slow.sendall(b"x")
                time.sleep(0.05)
        assert 0.4 < time.monotonic() - begin < 3
        assert get(listener.getsockname()[1], "/")[0] == 200


def test_who_does_not_read_has_his_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.5)
    monkeypatch.setattr(module._Page, "data", lambda _self: b"x" * 50_000_000)
    listener = socket.create_server(("127.0.0.1", 0))
    with served(listener) as made, connect(listener.getsockname()[1]) as lazy:
        lazy.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert eventually(lambda: len(made._peers) == 1)
        assert eventually(lambda: not made._peers)
        assert len(said(lazy)) < 50_000_000


def test_of_many_the_oldest_makes_room(port: int) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(port)) for _ in range(MAX_PEERS)]
        begin = time.monotonic()
        assert get(port, "/")[0] == 200
        assert time.monotonic() - begin < 2
        assert said(silent[0]) == b""


def test_who_asks_all_the_time_is_paced(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else he would have most of what a process of threads can do."""
    monkeypatch.setattr(module, "RATE", 50.0)
    begin = time.monotonic()
    for _ in range(60):
        assert get(port, "/nothing")[0] == 404
    assert time.monotonic() - begin > (60 - 20 - 2) / 50


def test_an_answer_is_made_once_a_second() -> None:
    count = iter(range(100))
    page = module._Page("text/plain", lambda: str(next(count)).encode())
    assert page.data() == page.data() == b"0"
    page._until = time.monotonic()
    assert page.data() == b"1"


def test_an_answer_that_is_much_work_is_kept_longer() -> None:
    def work() -> bytes:
        end = time.thread_time() + 0.1
        while time.thread_time() < end:
            pass
        return b"x"

    page = module._Page("text/plain", work)
    page.data()
    assert 1.5 < page._until - time.monotonic() < 20


def test_an_answer_that_cannot_be_made_costs_that_alone(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(module._Page, "data", lambda _self: 1 // 0)
        assert exchange(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
    assert "An answer at the management address failed" in caplog.text
    assert get(port, "/")[0] == 200


def test_its_end_ends_all_of_it() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with served(listener) as made, connect(port) as peer:
        assert eventually(lambda: len(made._peers) == 1)
        made.close()
        assert said(peer) == b""
        with pytest.raises(ConnectionRefusedError):
            connect(port)
        assert not made._thread.is_alive()


# ------------------------------------------------------------------------------------ Unix sockets


def over_unix(path: Path, request: bytes) -> bytes:
    """The answer to a request at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(SECONDS)
        peer.connect(str(path))
        peer.sendall(request)
        return said(peer)


def test_at_a_unix_socket_any_host_will_do(tmp_path: Path) -> None:
    """What is in front of it has the name that it has; a browser comes to no Unix socket."""
    path = tmp_path / "m"
    listener = UnixListener(path, "[management] listen", None, None)
    with served(listener.socket):
        for host in (b"", b"Host: sigul.example.org\r\n"):
            answer = over_unix(path, b"GET /metrics HTTP/1.1\r\n" + host + b"\r\n")
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    listener.close()
    assert not path.exists()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_sockets_mode_is_for_its_group(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        listener = UnixListener(tmp_path / "m", "[management] listen", None, os.getgid())
    finally:
        os.umask(before)
    found = (tmp_path / "m").stat()
    assert stat.S_IMODE(found.st_mode) == 0o660
    assert found.st_gid == os.getgid()
    listener.close()


def test_a_socket_that_was_left_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "m"
    first = UnixListener(path, "[management] listen", None, None)
    second = UnixListener(path, "[management] listen", None, None)
    first.close()  # its name is another's by now
    assert path.exists()
    second.close()
    path.write_text("mine")
    with pytest.raises(ConfigurationError, match=r"'.*m' is there and no socket; name another"):
        UnixListener(path, "[management] listen", None, None)
    assert path.read_text() == "mine"


def test_a_directory_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"\[management\] listen: '.*' cannot be made: No"):
        UnixListener(tmp_path / "none" / "m", "[management] listen", None, None)


# -------------------------------------------------------------------------------- its configuration


def loaded(tmp_path: Path, lines: str) -> Callable[[], ManagementAddress | None]:
    """Read the address from a configuration that has these lines."""
    file = tmp_path / "bridge.conf"
    file.write_text(f"[bridge]\nserver-cn: s\n[management]\n{lines}\n[nss]\nnss-dir: /x\n")
    return lambda: load_bridge(file, system_directory=tmp_path / "none").settings.management.listen


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("127.0.0.1:9101", ManagementAddress("127.0.0.1", 9101)),
        ("127.1.2.3:1", ManagementAddress("127.1.2.3", 1)),
        ("[::1]:9101", ManagementAddress("::1", 9101)),
        ("unix:/run/sigul/m.sock", ManagementAddress(path=Path("/run/sigul/m.sock"))),
    ],
)
def test_addresses_of_this_machine(
    tmp_path: Path, text: str, address: ManagementAddress | None
) -> None:
    found = loaded(tmp_path, f"listen: {text}")()
    assert found == address
    assert found is None or str(found) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0.0.0.0:9101", "can be reached from other machines, and whoever reaches it is let in"),
        ("[::]:9101", "can be reached from other machines"),
        ("192.0.2.1:9101", "can be reached from other machines"),
        ("[2001:db8::1]:9101", "can be reached from other machines"),
        ("9101", "is no address of this machine's own"),
        ("localhost:9101", "is no address of this machine's own"),
        ("::1:9101", "is no address of this machine's own"),
        ("[127.0.0.1]:9101", "is no address of this machine's own"),
        ("unix:", "is no address of this machine's own"),
        ("127.0.0.1:0", "0 is out of range"),
        ("127.0.0.1:", "is not a number"),
        ("unix:m.sock", "is not an absolute path"),
        ("unix:/" + "x" * 200, "is longer than 100 bytes"),
    ],
)
def test_addresses_that_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, f"listen: {text}")()
    assert "[management] listen: " in str(caught.value)
    assert problem in str(caught.value)
    if "machine" in problem:
        assert "a reverse proxy" in caught.value.cure


@pytest.mark.parametrize(
    ("lines", "option"),
    [
        ("metrics-names: yes", "metrics-names"),
        ("socket-group: sigul", "socket-group"),
        ("listen: 127.0.0.1:9101\nsocket-group: sigul", "socket-group"),
    ],
)
def test_what_has_no_effect_is_told(tmp_path: Path, lines: str, option: str) -> None:
    file = tmp_path / "bridge.conf"
    file.write_text(f"[bridge]\nserver-cn: s\n[management]\n{lines}\n[nss]\nnss-dir: /x\n")
    (warning,) = load_bridge(file, system_directory=tmp_path / "none").warnings
    assert f"[management] {option} has no effect" in warning
