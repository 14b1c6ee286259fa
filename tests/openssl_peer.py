"""Peers that speak TLS by OpenSSL, as no part of the package does.

`handshake` does one with a port of a bridge. `InnerWay` is a request's outer part, and a local TCP
port whose first connection is carried in the inner stream: what connects there, such as `openssl
s_client`, talks to the signing server. `list_users` is a whole request.
"""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from sigul_stack.pki import NSSDatabase, read_password
from sigul_stack.protocol.chunks import Stream
from tests.site import Site
from tests.wire import SampleRequest, chunk, field_map, whole_chunks

#: Seconds that any step of a peer may take.
STEP_SECONDS = 30.0
#: OpenSSL's own limits are lifted, so that whatever is refused is refused by the other side.
UNLIMITED = "@SECLEVEL=0"
MODERN = "ECDHE+AESGCM:ECDHE+CHACHA20"


@functools.cache
def _pem(directory: Path, nickname: str) -> bytes:
    database = NSSDatabase(directory, read_password(directory / "nss-password"))
    (named,) = [item for item in database.certificates() if item.nickname == nickname]
    return database.export_key(nickname).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + named.certificate.public_bytes(serialization.Encoding.PEM)


def identity(site: Site, who: str = "clients/admin", nickname: str = "sigul-client-cert") -> Path:
    """A PEM file with somebody's key and certificate."""
    path = site.path(f"{who.replace('/', '-')}.pem")
    if not path.exists():
        path.write_bytes(_pem(site.path("pki") / who, nickname))
    return path


def context(
    site: Site,
    ciphers: str = MODERN,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    who: tuple[str, str] = ("clients/admin", "sigul-client-cert"),
) -> ssl.SSLContext:
    """A client's context for one TLS version; `ciphers` are those of TLS 1.2."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = made.maximum_version = version
    made.set_ciphers(f"{ciphers}:{UNLIMITED}")
    made.load_verify_locations(site.path("pki/ca/ca.pem"))
    made.load_cert_chain(identity(site, *who))
    return made


def handshake(
    site: Site, port: int, how: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    """A connection to a port of the bridge, resuming a `session` if it may.

    Raises `ssl.SSLError` where there is no handshake.
    """
    tcp = socket.create_connection(("127.0.0.1", port), STEP_SECONDS)
    try:
        return how.wrap_socket(tcp, server_hostname=site.bridge_name, session=session)
    except BaseException:
        tcp.close()
        raise


class InnerWay:
    """The way to a signing server's inner session, once the outer part of `request` is sent.

    Who connects to `port` of 127.0.0.1 first is carried. `suite` is the outer session's.
    """

    def __init__(self, site: Site, request: SampleRequest, how: ssl.SSLContext) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(STEP_SECONDS)
        self.port: int = self._listener.getsockname()[1]
        self.received = bytearray()
        #: What was carried to the server in the inner stream.
        self.sent = bytearray()
        self._tls = handshake(site, site.client_port, how)
        self._tls.sendall(chunk(Stream.OUTER, request.outer))
        self.suite = suite(self._tls)
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def __enter__(self) -> InnerWay:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._tls.shutdown(socket.SHUT_RDWR)
        self._thread.join(STEP_SECONDS)
        self._tls.close()
        self._listener.close()

    def _carry(self) -> None:
        near, _ = self._listener.accept()
        told = 0
        with near, contextlib.suppress(OSError):
            while True:
                ready = select.select([near, self._tls], [], [], STEP_SECONDS)[0]
                if not ready:
                    return
                if near in ready:
                    data = near.recv(4096)
                    self.sent += data
                    # Its end is the inner stream's; the reply is still to come.
                    self._tls.sendall(chunk(Stream.INNER, data))
                    if not data:
                        break
                if self._tls in ready:
                    told = self._receive(near, told)
        with contextlib.suppress(OSError):
            while (Stream.OUTER, b"") not in self.chunks() and (data := self._tls.recv(65536)):
                self.received += data
            # As peers of 1.x: without a close-notify.
            self._tls.shutdown(socket.SHUT_RDWR)

    def _receive(self, near: socket.socket, told: int) -> int:
        """Read once; pass on the whole chunks of the inner stream beyond `told` bytes of it."""
        data = self._tls.recv(65536)
        while self._tls.pending():
            data += self._tls.recv(65536)
        if not data:
            raise ConnectionResetError
        self.received += data
        arrived = b"".join(piece for stream, piece in self.chunks() if stream is Stream.INNER)
        near.sendall(arrived[told:])
        return len(arrived)

    def chunks(self) -> list[tuple[Stream, bytes]]:
        """The whole chunks that came."""
        data, end = bytes(self.received), 0
        while end + 4 <= len(data):
            length = int.from_bytes(data[end : end + 4], "big") & 0x7FFF_FFFF
            if end + 4 + length > len(data):
                break
            end += 4 + length
        return whole_chunks(data[:end])

    def reply(self) -> bytes:
        """The outer stream of the reply, once the connection has ended."""
        self._thread.join(STEP_SECONDS)
        assert not self._thread.is_alive(), "the reply did not end"
        return b"".join(piece for stream, piece in self.chunks() if stream is Stream.OUTER)


def list_users(site: Site, outer: ssl.SSLContext, inner: ssl.SSLContext) -> tuple[bytes, str, str]:
    """The reply to a `list-users` of the administrator's, and the suites of both sessions.

    Raises `ssl.SSLError` where the server takes no inner session.
    """
    request = SampleRequest(
        {"op": b"list-users", "user": site.admin.encode()},
        secrets={"password": site.admin_password.encode()},
    )
    with InnerWay(site, request, outer) as way:
        tcp = socket.create_connection(("127.0.0.1", way.port), STEP_SECONDS)
        with inner.wrap_socket(tcp, server_hostname=site.server_name) as session:
            session.sendall(field_map(request.inner_fields()))
            suites = way.suite, suite(session)
            with contextlib.suppress(ssl.SSLError, OSError):
                session.unwrap()
        return way.reply(), *suites


def suite(tls: ssl.SSLSocket) -> str:
    """OpenSSL's name of a connection's cipher suite."""
    used = tls.cipher()
    assert used is not None
    return used[0]


class Program:
    """An `openssl s_client` or `s_server`, which shows its handshakes' states and takes letters.

    `R` asks for another handshake, `K` for new keys of TLS 1.3 on both sides.
    """

    def __init__(self, site: Site, *arguments: str) -> None:
        self._log = site.path(f"log/openssl-{id(self):x}")
        with self._log.open("wb") as log:
            self._program = subprocess.Popen(
                ["openssl", *arguments, "-state"],
                stdin=subprocess.PIPE, stdout=log, stderr=log, bufsize=0,
            )  # fmt: skip

    @classmethod
    def client(cls, site: Site, port: int, who: tuple[str, str], version: str) -> Program:
        """One that dials a port of 127.0.0.1 with somebody's certificate; handshake done."""
        made = cls(
            site, "s_client", "-connect", f"127.0.0.1:{port}", f"-{version}",
            "-cert", str(identity(site, *who)), "-servername", site.bridge_name,
        )  # fmt: skip
        made.wait_for("SSL_connect:SSLv3/TLS read finished")
        return made

    @property
    def text(self) -> str:
        """What it said."""
        return self._log.read_text(errors="replace")

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._program.poll() is not None

    def type(self, letter: str) -> None:
        """Give it a command of one letter."""
        assert self._program.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._program.stdin.write(f"{letter}\n".encode())

    def says(self, text: str, count: int = 1) -> bool:
        """Wait until it has said `text` so many times; False where it ends before."""
        end = time.monotonic() + STEP_SECONDS
        while self.text.count(text) < count:
            if self.has_ended:
                return self.text.count(text) >= count
            assert time.monotonic() < end, f"openssl does not say {text!r}:\n{self.text}"
            time.sleep(0.01)
        return True

    def wait_for(self, text: str) -> None:
        """Wait until it has said `text`."""
        assert self.says(text), self.text

    def renegotiates(self, most: int) -> int:
        """Ask for up to so many handshakes beyond the first; how many of them were finished."""
        for done in range(most):
            self.type("R")
            if not self.says("SSL_connect:SSLv3/TLS read finished", 2 + done):
                return done
        return most

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._program.kill()
        self._program.wait(10)
        assert self._program.stdin is not None
        self._program.stdin.close()
